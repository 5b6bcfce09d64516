/*
 * flush_policy.c
 *	  What to flush next.
 */
#include "flush_policy.h"

/* Has the ratio's limit been reached, and is not yet left behind far enough? */
static bool
ratio_asks(flush_policy *policy, const flush_policy_options *options, const flush_figures *figures)
{
	uint64_t limit = figures->granted_pages * options->dirty_percent / 100;

	if (figures->dirty_pages >= limit)
		policy->draining = true;
	else if (figures->dirty_pages <= limit - limit / 4)
		policy->draining = false;
	return policy->draining;
}

static bool
age_asks(flush_policy *policy, uint64_t age_ms, const flush_figures *figures)
{
	if (figures->oldest_age_ms >= age_ms)
		policy->aging = true;
	else if (figures->oldest_age_ms < age_ms / 2)
		policy->aging = false;
	return policy->aging;
}

static bool
imbalance_asks(const flush_policy_options *options, const flush_figures *figures)
{
	uint64_t limit = figures->granted_pages * options->dirty_percent / 100;

	return figures->largest_file_pages >= FLUSH_POLICY_FILE_MIN &&
		   figures->largest_file_pages > figures->dirty_pages / 2 &&
		   figures->dirty_pages > limit / 2;
}

flush_decision
flush_policy_decide(flush_policy *policy, const flush_policy_options *options,
					const flush_figures *figures)
{
	uint64_t age_ms = (uint64_t) options->age_s * 1000;
	bool ratio;
	bool age;

	if (figures->dirty_pages == 0)
	{
		*policy = (flush_policy){0};
		return (flush_decision){.kind = FLUSH_NOTHING};
	}
	ratio = ratio_asks(policy, options, figures);
	age = age_asks(policy, age_ms, figures);
	if (figures->requested || ratio)
		return (flush_decision){.kind = FLUSH_EVERYTHING};
	if (age)
		return (flush_decision){.kind = FLUSH_AGED, .older_than_ms = age_ms / 2};
	if (imbalance_asks(options, figures))
		return (flush_decision){.kind = FLUSH_FILE, .file = figures->largest_file};
	return (flush_decision){.kind = FLUSH_NOTHING};
}
