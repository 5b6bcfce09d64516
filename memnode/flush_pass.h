/*
 * flush_pass.h
 *	  One pass over a tenant's dirty pages: which there are, in the order of files and blocks.
 *
 *	  begin -> collect until it says that it is complete -> next until there is none -> end
 *
 * Collecting goes in small pieces, so that the event loop serves others in between. Each piece is sorted by itself; next merges
 * them. Pages that become dirty while a pass collects must be added to it: their slot may be one that was passed already,
 * while the slot of their older version is emptied.
 *
 * A pass remembers names only. Whether a page is still dirty, where it is, and in which version, is looked up when its turn comes.
 */
#ifndef MEMNODE_FLUSH_PASS_H
#define MEMNODE_FLUSH_PASS_H

#include <stdbool.h>
#include <stdint.h>
#include "flush_policy.h"
#include "slot_table.h"

typedef struct flush_run
{
	uint32_t next; /* index of its first page that was not taken yet */
	uint32_t end;
} flush_run;

typedef struct flush_pass
{
	bool active;
	bool collecting;
	flush_decision decision;
	uint32_t now_s;     /* when it began */
	uint32_t next_slab; /* where collecting goes on */
	uint32_t next_page;

	uint32_t sorted; /* pages that belong to a run */
	uint32_t count;
	uint32_t capacity;
	lb_page_tag *pages;
	uint32_t run_count;
	uint32_t run_capacity;
	flush_run *runs;
} flush_pass;

/* The pass was all zero, or ended. */
extern void flush_pass_begin(flush_pass *pass, const flush_decision *decision, uint32_t now_s);

/* Look at some more slots. True: all of them were looked at. */
extern bool flush_pass_collect(flush_pass *pass, const slot_table *table);

/* A page has become dirty while the pass collects. */
extern void flush_pass_add(flush_pass *pass, const lb_page_tag *tag);

/* The next page, in order; a page may come more than once. False: none is left. */
extern bool flush_pass_next(flush_pass *pass, lb_page_tag *tag);

/* Over, at any time. Also for a pass that never began. */
extern void flush_pass_end(flush_pass *pass);

#endif /* MEMNODE_FLUSH_PASS_H */
