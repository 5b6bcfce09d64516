/*
 * lb_page.c
 *	  Checksums of pages and hashes of page tags.
 *
 * The packaged libxxhash is built for the oldest processor of its architecture; on x86-64 its "dispatch" entry points
 * choose AVX2 or AVX-512 at run time, which makes the checksum of a page about twice as fast. The result is the same.
 */
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include "lb_page.h"

uint64_t
lb_page_checksum(const void *page)
{
	return XXH3_64bits(page, LB_PAGE_SIZE);
}

uint64_t
lb_page_tag_hash(const lb_page_tag *tag)
{
	return XXH3_64bits(tag, sizeof(lb_page_tag));
}
