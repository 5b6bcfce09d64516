/*
 * flush_policy.h
 *	  When the memory node writes a tenant's dirty pages to storage, and which. A pure function of figures.
 *
 * In the order in which they are looked at:
 *
 * - *requested*: a checkpoint of the server waits for it (R1). Everything.
 * - *ratio*: dirty slots can't be evicted, so a pool full of them makes the server's processes wait for memory. From
 *   dirty_percent of what is granted, until three quarters of that limit are reached: a pass for every few pages above the
 *   limit would sync many files for little.
 * - *age*: a page that stays dirty for long is work left to the next checkpoint, more redo if memory is lost, and a reason
 *   to PANIC where a clean page would be a cache miss. A page older than age_s starts a pass, which goes on until none is
 *   older than half of that, so that the next one is half the age away.
 * - *imbalance*: one file has more than half of all dirty pages, and they are more than half of the ratio's limit. Writing
 *   that file alone gives the longest runs of neighbours and costs a single sync; waiting for the ratio would mix it with the
 *   pages of many others. Not below FLUSH_POLICY_FILE_MIN pages: a small file is not worth a pass of its own.
 */
#ifndef MEMNODE_FLUSH_POLICY_H
#define MEMNODE_FLUSH_POLICY_H

#include <stdbool.h>
#include <stdint.h>
#include "lb_page.h"

#define FLUSH_POLICY_DIRTY_PERCENT 50 /* defaults of the options */
#define FLUSH_POLICY_AGE_S 300
#define FLUSH_POLICY_FILE_MIN 1024 /* pages */

typedef struct flush_policy_options
{
	uint32_t dirty_percent; /* of the granted pages, 0 to 100 */
	uint32_t age_s;
} flush_policy_options;

typedef struct flush_figures
{
	uint64_t dirty_pages; /* published, dirty, in no round */
	uint64_t granted_pages;
	uint64_t
		oldest_age_ms; /* how long the oldest of the dirty pages has been dirty; 0 if none is */
	lb_page_tag largest_file;    /* any page of the file that has most dirty pages */
	uint64_t largest_file_pages; /* how many; 0 if none is known */
	bool requested;              /* a FLUSH is not yet satisfied */
} flush_figures;

typedef enum flush_kind
{
	FLUSH_NOTHING,
	FLUSH_FILE, /* those of one file */
	FLUSH_AGED, /* those that have been dirty for older_than_ms or longer */
	FLUSH_EVERYTHING
} flush_kind;

typedef struct flush_decision
{
	flush_kind kind;
	lb_page_tag file;       /* FLUSH_FILE: any page of it (storage_same_file) */
	uint64_t older_than_ms; /* FLUSH_AGED */
} flush_decision;

/* What is remembered from one decision to the next; one a tenant, zero at first. */
typedef struct flush_policy
{
	bool aging; /* a page had reached the age, and not all older than half of it are written yet */
	bool draining; /* the ratio's limit was reached, and three quarters of it not yet again */
} flush_policy;

/* Ask again after each round: a decision is about what is dirty now, not about the many rounds it may take. */
extern flush_decision flush_policy_decide(flush_policy *policy, const flush_policy_options *options,
										  const flush_figures *figures);

#endif /* MEMNODE_FLUSH_POLICY_H */
