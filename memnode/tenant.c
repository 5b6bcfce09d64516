/*
 * tenant.c
 *	  One PostgreSQL instance and the memory it has here.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "log.h"
#include "rdma_memory.h"
#include "tenant.h"

void
tenant_table_init(tenant_table *table)
{
	TAILQ_INIT(&table->all);
	table->count = 0;
}

static void
forget(tenant_table *table, tenant *forgotten, slab_pool *pool)
{
	tenant_discard_slabs(forgotten, pool);
	TAILQ_REMOVE(&table->all, forgotten, link);
	table->count--;
	flushing_free(&forgotten->flushing);
	slot_table_free(&forgotten->slots);
	free(forgotten->slabs);
	free(forgotten);
}

void
tenant_table_free(tenant_table *table, slab_pool *pool)
{
	while (!TAILQ_EMPTY(&table->all))
		forget(table, TAILQ_FIRST(&table->all), pool);
}

tenant *
tenant_find(const tenant_table *table, const uint8_t uuid[LB_UUID_SIZE])
{
	tenant *found;

	for (found = TAILQ_FIRST(&table->all); found; found = TAILQ_NEXT(found, link))
		if (memcmp(found->uuid, uuid, LB_UUID_SIZE) == 0)
			return found;
	return NULL;
}

static void
name_by_uuid(tenant *tenant)
{
	char *at = tenant->name;

	for (int i = 0; i < LB_UUID_SIZE; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*at++ = '-';
		at += snprintf(at, 3, "%02x", tenant->uuid[i]);
	}
}

/* Make room for a record by forgetting one whose instance has nothing here: no agent, no backends, no memory. */
static bool
forget_one(tenant_table *table)
{
	tenant *candidate;

	for (candidate = TAILQ_FIRST(&table->all); candidate; candidate = TAILQ_NEXT(candidate, link))
	{
		if (candidate->agent || candidate->held_pages > 0 || candidate->flushing.in_round ||
			!TAILQ_EMPTY(&candidate->backends))
			continue;
		forget(table, candidate, NULL);
		return true;
	}
	return false;
}

tenant *
tenant_create(tenant_table *table, const lb_hello *hello, uint64_t quota_pages)
{
	tenant *created;

	if (table->count >= TENANTS_MAX && !forget_one(table))
		return NULL;
	created = calloc(1, sizeof(tenant));
	if (!created || !slot_table_init(&created->slots))
	{
		free(created);
		return NULL;
	}
	flushing_init(&created->flushing);
	TAILQ_INIT(&created->backends);
	memcpy(created->uuid, hello->uuid, LB_UUID_SIZE);
	created->system_identifier = hello->system_identifier;
	created->quota_pages = quota_pages;
	name_by_uuid(created);
	TAILQ_INSERT_TAIL(&table->all, created, link);
	table->count++;
	return created;
}

bool
tenant_begin_session(tenant_table *table, tenant *tenant, slab_pool *pool, const lb_hello *hello,
					 attachment attachment, lb_status *status)
{
	uint64_t token = 0;

	/*
	 * A holder keeps its token as long as it lives, over broken connections and restarts of this node: if a WELCOME is lost
	 * on the way, the holder must not look like one that was replaced. 0 is what a HELLO has that knows no token.
	 */
	if (tenant->token == 0 || tenant_token_matches(tenant, hello->token))
		token = hello->token;
	while (token == 0)
		if (getrandom(&token, sizeof(token), 0) != sizeof(token) && errno != EINTR)
			return lb_fail_errno(status, "cannot make a session token");
	if (attachment == ATTACH_EMPTY)
	{
		tenant_discard_slabs(tenant, pool);
		tenant->life++;
		tenant->alive = true;
	}
	if (attachment != ATTACH_RESUME)
		tenant->life_epoch = hello->epoch;
	/* a new life of the server learns from RELOAD what is flushed already */
	tenant->flushing.untold = attachment == ATTACH_RESUME;
	tenant->token = token;
	tenant->epoch = hello->epoch;
	memcpy(tenant->holder, hello->holder, sizeof(tenant->holder));
	TAILQ_REMOVE(&table->all, tenant, link);
	TAILQ_INSERT_TAIL(&table->all, tenant, link);
	return true;
}

bool
tenant_token_matches(const tenant *tenant, uint64_t token)
{
	const volatile uint8_t *a = (const volatile uint8_t *) &tenant->token;
	const volatile uint8_t *b = (const volatile uint8_t *) &token;
	uint8_t difference = 0;

	for (size_t i = 0; i < sizeof(token); i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

/* When no slab is left, the next ones may have another size. */
static void
forget_slab_numbers(tenant *tenant)
{
	slot_table_clear(&tenant->slots);
	free(tenant->slabs);
	tenant->slabs = NULL;
	tenant->slab_numbers = 0;
	rdma_memory_release(tenant);
}

/* Neither in the array nor in the table of slots any more. */
static void
doom_slab(tenant *tenant, slab_pool *pool, slab *slab)
{
	tenant->held_pages -= slab->pages;
	slab_doom(pool, slab);
	if (tenant->held_pages == 0)
		forget_slab_numbers(tenant);
}

void
tenant_grant_cancel(tenant *tenant, slab_pool *pool)
{
	slab *filling = tenant->grant.filling;

	tenant->grant = (grant){.active = false};
	if (filling)
		doom_slab(tenant, pool, filling);
}

lb_control
tenant_control(const tenant *tenant)
{
	return tenant->doubtful ? (lb_control){.completed = 0} : tenant->control;
}

void
tenant_discard_slabs(tenant *tenant, slab_pool *pool)
{
	tenant_grant_cancel(tenant, pool);
	tenant->alive = tenant->doubtful = false;
	tenant->control = (lb_control){.completed = 0};
	for (uint32_t i = 0; i < tenant->slab_numbers; i++)
		if (tenant->slabs[i])
			slab_doom(pool, tenant->slabs[i]);
	tenant->held_pages = 0;
	forget_slab_numbers(tenant);
}

uint64_t
tenant_free_pages(const tenant *tenant, const slab_pool *pool)
{
	uint64_t in_pool = slab_pool_free_pages(pool);
	uint64_t in_quota = tenant->quota_pages - tenant->held_pages;

	return in_pool < in_quota ? in_pool : in_quota;
}

slab *
tenant_slab(const tenant *tenant, uint32_t number)
{
	return number < tenant->slab_numbers ? tenant->slabs[number] : NULL;
}

uint8_t *
tenant_page(const tenant *tenant, uint32_t number, uint32_t page)
{
	const slab *found = tenant_slab(tenant, number);

	return found && page < found->pages ? slab_page(found, page) : NULL;
}

/* Out of the array already. */
static void
give_up_slab(tenant *tenant, slab_pool *pool, uint32_t number, slab *slab)
{
	slot_table_remove_slab(&tenant->slots, number);
	doom_slab(tenant, pool, slab);
}

bool
tenant_return_slabs(tenant *tenant, slab_pool *pool, const lb_slab_list *list)
{
	slab *returned[LB_SLABS_PER_FRAME];
	uint32_t taken = 0;

	/* each is taken out of the array as it is found, so that the second of two equal numbers is not found */
	for (; taken < list->count; taken++)
	{
		returned[taken] = tenant_slab(tenant, list->slabs[taken]);
		if (!returned[taken])
			break;
		tenant->slabs[list->slabs[taken]] = NULL;
	}
	if (taken < list->count)
	{
		while (taken-- > 0)
			tenant->slabs[list->slabs[taken]] = returned[taken];
		return false;
	}
	tenant->returned += taken;
	for (uint32_t i = 0; i < taken; i++)
		give_up_slab(tenant, pool, list->slabs[i], returned[i]);
	return true;
}

uint32_t
tenant_keep_slabs(tenant *tenant, slab_pool *pool, const lb_slab_keep *keep)
{
	uint32_t freed = 0;

	assert(!tenant->grant.active);
	for (uint32_t i = 0; i < tenant->slab_numbers; i++)
	{
		slab *slab = tenant->slabs[i];

		if (!slab || (i / 8 < keep->bytes && (keep->bits[i / 8] & 1 << i % 8)))
			continue;
		tenant->slabs[i] = NULL;
		give_up_slab(tenant, pool, i, slab);
		freed++;
	}
	return freed;
}

/* The lowest number that is not in use, so that numbers stay dense. */
static uint32_t
free_slab_number(const tenant *tenant)
{
	uint32_t number = 0;

	while (number < tenant->slab_numbers && tenant->slabs[number])
		number++;
	return number;
}

/* False if memory is short. */
static bool
add_slab(tenant *tenant, slab *added, uint32_t *number)
{
	*number = free_slab_number(tenant);
	if (*number == tenant->slab_numbers)
	{
		slab **longer = realloc(tenant->slabs, (*number + 1) * sizeof(slab *));

		if (!longer)
			return false;
		tenant->slabs = longer;
		tenant->slabs[*number] = NULL;
		tenant->slab_numbers++;
	}
	if (!slot_table_add_slab(&tenant->slots, *number, added->slots, added->pages))
		return false;
	tenant->slabs[*number] = added;
	return true;
}

void
tenant_grant_begin(tenant *tenant, uint64_t sequence, const lb_slab_request *request)
{
	assert(!tenant->grant.active);
	tenant->grant = (grant){.active = true,
							.sequence = sequence,
							.slab_pages = request->slab_pages,
							.wanted = request->count};
}

/* Nothing more can be had: the answer is what there is. */
static bool
grant_end(tenant *tenant)
{
	tenant->grant.active = false;
	return true;
}

static bool
grant_start_slab(tenant *tenant, slab_pool *pool)
{
	uint32_t pages = tenant->grant.slab_pages;
	lb_status status;

	assert(!pool->doomed);
	if (tenant_free_pages(tenant, pool) < pages ||
		!slot_table_numbers_suffice(free_slab_number(tenant), pages))
		return grant_end(tenant);
	tenant->grant.filling = slab_create(pool, pages, &status);
	if (!tenant->grant.filling)
	{
		log_limited(LOG_WARNING, "instance %s: no further slab: %s", tenant->name, status.message);
		return grant_end(tenant);
	}
	tenant->held_pages += pages;
	return false;
}

static void
grant_drop_slab(tenant *tenant, slab_pool *pool, const char *reason)
{
	log_limited(LOG_WARNING, "instance %s: no further slab: %s", tenant->name, reason);
	doom_slab(tenant, pool, tenant->grant.filling);
	tenant->grant.filling = NULL;
}

bool
tenant_grant_step(tenant *tenant, slab_pool *pool)
{
	grant *grant = &tenant->grant;
	lb_status status;
	uint32_t number;

	if (!grant->filling)
		return grant_start_slab(tenant, pool);
	switch (slab_fill(pool, grant->filling, &status))
	{
		case SLAB_FILLING:
			return false;
		case SLAB_FAILED:
			grant_drop_slab(tenant, pool, status.message);
			return grant_end(tenant);
		case SLAB_READY:
			break;
	}
	if (tenant->domain && !slab_register(pool, grant->filling, tenant->domain, &status))
	{
		grant_drop_slab(tenant, pool, status.message);
		return grant_end(tenant);
	}
	if (!add_slab(tenant, grant->filling, &number))
	{
		grant_drop_slab(tenant, pool, "out of memory");
		return grant_end(tenant);
	}
	grant->filling = NULL;
	grant->granted.slabs[grant->granted.count++] = number;
	grant->wanted--;
	return grant->wanted == 0 ? grant_end(tenant) : false;
}
