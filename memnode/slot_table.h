/*
 * slot_table.h
 *	  What each slot of one slab holds: which page, in which version, with which checksum.
 *
 * The rules of publishing:
 *	- A slot is emptied before a byte of it changes, and gets its new identity only when the whole page is there and its
 *	  checksum is right. So an identity is never attached to a page that is damaged or half copied.
 *	- R9: a page in the same or a newer version stays; a late or repeated push changes nothing.
 *
 * Page numbers are below 'pages'; callers check that. Only the event loop's thread uses a table.
 */
#ifndef MEMNODE_SLOT_TABLE_H
#define MEMNODE_SLOT_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include "lb_page.h"

typedef enum slot_state
{
	SLOT_EMPTY = 0, /* holds nothing of worth */
	SLOT_CLEAN = 1  /* holds a published page that the compute node's storage has too */
} slot_state;

typedef struct slot
{
	lb_page_tag tag;
	uint32_t state; /* a slot_state */
	uint64_t version;
	uint64_t checksum;
} slot;

_Static_assert(sizeof(slot) <= 48, "slot metadata is to stay below 0.6 % of the pool");

typedef struct slot_table
{
	uint32_t pages;
	uint32_t used; /* slots that are not empty */
	slot *slots;
} slot_table;

/* All slots empty. False if memory is short. */
extern bool slot_table_init(slot_table *table, uint32_t pages);
extern void slot_table_free(slot_table *table);

/*
 * Prepare a slot for this version of this page. False: it holds the page in that or a newer version, and stays as it is.
 * True: it is empty now and may be written.
 */
extern bool slot_table_begin(slot_table *table, uint32_t page, const lb_page_tag *tag,
							 uint64_t version);

/* The slot, emptied by slot_table_begin, now holds this page. */
extern void slot_table_publish(slot_table *table, uint32_t page, const lb_page_tag *tag,
							   uint64_t version, uint64_t checksum);

/* Empty the slot if it holds this version. */
extern bool slot_table_release(slot_table *table, uint32_t page, uint64_t version);

#endif /* MEMNODE_SLOT_TABLE_H */
