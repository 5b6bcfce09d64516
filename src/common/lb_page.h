/*
 * lb_page.h
 *	  What a page is to compute and memory nodes alike: its size, its name, its checksum.
 */
#ifndef LB_PAGE_H
#define LB_PAGE_H

#include <stdint.h>
#include <string.h>

/* The block size of the PostgreSQL servers that are served (BLCKSZ); the extension asserts that they agree. */
#define LB_PAGE_SIZE 8192

/* Which page: the fields of PostgreSQL's BufferTag, with fixed widths. No padding: compared and hashed as bytes. */
typedef struct lb_page_tag
{
	uint32_t tablespace;
	uint32_t database;
	uint32_t relation; /* the relfilenode */
	uint32_t fork;
	uint32_t block;
} lb_page_tag;

_Static_assert(sizeof(lb_page_tag) == 20,
			   "lb_page_tag is hashed as bytes and must have no padding");

static inline int
lb_page_tag_equal(const lb_page_tag *a, const lb_page_tag *b)
{
	return memcmp(a, b, sizeof(lb_page_tag)) == 0;
}

/*
 * XXH3 (64 bits) of one page. It detects damage and mix-ups between versions; it is no defence against forgery.
 * page: LB_PAGE_SIZE bytes, any alignment.
 */
extern uint64_t lb_page_checksum(const void *page);

/* XXH3 of a page tag: the hash that the page directory uses. */
extern uint64_t lb_page_tag_hash(const lb_page_tag *tag);

#endif /* LB_PAGE_H */
