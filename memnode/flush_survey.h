/*
 * flush_survey.h
 *	  What the flush policy wants to know of a tenant's dirty pages: how old the oldest is, and whether one file has most of them.
 *
 * It walks through the slots a piece at a time, round after round. So its figures are as old as the walk before, which matters
 * little to a policy that thinks in minutes. The file is found by majority vote (Boyer and Moore, "MJRTY: A Fast Majority
 * Vote Algorithm", 1991) in one walk and counted in the next: a file that has more than half of the pages is surely found.
 */
#ifndef MEMNODE_FLUSH_SURVEY_H
#define MEMNODE_FLUSH_SURVEY_H

#include <stdbool.h>
#include <stdint.h>
#include "flush_policy.h"
#include "slot_table.h"

typedef struct flush_survey
{
	uint32_t next_slab; /* where the walk goes on */
	uint32_t next_page;

	/* this walk */
	uint32_t oldest_s; /* dirty_since_s of the oldest; UINT32_MAX: none so far */
	lb_page_tag vote;
	uint64_t votes;
	uint64_t file_pages; /* of "file" */

	/* what the walk before elected */
	bool has_file;
	lb_page_tag file;

	/* the result of the last complete walk */
	uint32_t known_oldest_s; /* UINT32_MAX: none is known */
	lb_page_tag known_file;
	uint64_t known_file_pages; /* 0: none is known */
} flush_survey;

/* Nothing is known: at the start, and after a pass, which has changed everything. */
extern void flush_survey_reset(flush_survey *survey);

/* Look at some more slots. */
extern void flush_survey_step(flush_survey *survey, const slot_table *table);

/* What is known goes into the figures. */
extern void flush_survey_tell(const flush_survey *survey, uint32_t now_s, flush_figures *figures);

#endif /* MEMNODE_FLUSH_SURVEY_H */
