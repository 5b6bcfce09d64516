/*
 * flusher.c
 *	  The flush daemon. Telling the agents is in flush_tell.c.
 */
#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fence.h"
#include "flush_tell.h"
#include "flush_worker.h"
#include "flusher.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "log.h"
#include "node.h"
#include "session.h"

#define MS UINT64_C(1000000)
#define ROUND_PAGES_MAX 2048
#define ROUND_PAGES_MIN 256
#define ROUND_PAGES_LEAST 32 /* on slow storage */
#define ROUND_LONG_NS (1000 * MS)
#define ROUND_SHARE 32      /* a round is no more than this part of the pool */
#define PAGES_IN_ONE_GO 128 /* copied before others have their turn */
#define LOOK_AGAIN_MS 100   /* while anything is dirty */
#define RETRY_NS (500 * MS) /* after a failed round */

struct flusher
{
	node *node;
	flush_worker *worker; /* null: no storage */
	struct event *work;
	struct event *finished;
	uint64_t turn;      /* rounds begun so far */
	uint64_t looked_ns; /* when surveys went on last */

	/* The round that is being filled, or is with the worker. */
	flush_round *round; /* null: none */
	tenant *owner;
	uint64_t life; /* the owner's, when it began */
	bool submitted;
	bool damaged;              /* a page was left out, because it is not what was pushed */
	uint32_t round_pages;      /* at most */
	uint32_t next_round_pages; /* fewer, when the last round took long */
	uint8_t *copies;
	uint64_t versions[ROUND_PAGES_MAX];
	bool fenced[ROUND_PAGES_MAX]; /* not to be told of */
};

static uint32_t
now_in_s(void)
{
	return (uint32_t) (lb_now_ns() / (1000 * MS));
}

void
flusher_wake(flusher *flusher)
{
	static const struct timeval now = {0, 0};

	event_add(flusher->work, &now);
}

static void
wake_within(flusher *flusher, int ms)
{
	struct timeval after = {ms / 1000, (ms % 1000) * 1000};

	event_add(flusher->work, &after);
}

void
flusher_note_dirty(flusher *flusher, tenant *tenant, const lb_page_tag *tag)
{
	if (tenant->flushing.pass.collecting)
		flush_pass_add(&tenant->flushing.pass, tag);
	if (!evtimer_pending(flusher->work, NULL))
		wake_within(flusher, LOOK_AGAIN_MS);
}

/* Something of a tenant's flushing failed: it is told, and tried again after a while. */
static void
note_failure(flusher *flusher, tenant *tenant, const char *reason)
{
	flushing *flushing = &tenant->flushing;

	if (flushing->figures.error[0] == '\0')
		log_line(LOG_WARNING, "instance %s: dirty pages can't be written to storage: %s",
				 tenant->name, reason);
	snprintf(flushing->figures.error, sizeof(flushing->figures.error), "%s", reason);
	flushing->figures.failures++;
	flushing->pass_failed = true;
	flushing->tell_turn = true;
	flushing->not_before_ns = lb_now_ns() + RETRY_NS;
	flusher->node->flush_failures++;
}

/* Filling a round. */

static bool
begin_round(flusher *flusher, tenant *tenant)
{
	flushing *flushing = &tenant->flushing;

	assert(!flusher->round);
	if (!clean_queue_reserve(&flushing->clean, flusher->round_pages))
		return false;
	flusher->round = flush_round_create(flusher->next_round_pages);
	if (!flusher->round)
		return false;
	memcpy(flusher->round->root, flushing->root, sizeof(flushing->root));
	memcpy(flusher->round->version_folder, flushing->version_folder,
		   sizeof(flushing->version_folder));
	flusher->round->epoch = tenant->epoch;
	flusher->round->owner = tenant;
	flusher->owner = tenant;
	flusher->life = tenant->life;
	flusher->submitted = flusher->damaged = false;
	flushing->in_round = true;
	flushing->turn = ++flusher->turn;
	return true;
}

/* The round's page is over, one way or the other. Nothing, if its slot was given up or has another version meanwhile. */
static void
settle_slot(const flusher *flusher, uint32_t index, slot_state state)
{
	slot_table *slots = &flusher->owner->slots;
	uint32_t id = slot_table_find(slots, &flusher->round->pages[index].tag);
	const slot *slot;

	if (flusher->life != flusher->owner->life || id == SLOT_NONE)
		return;
	slot = slot_table_slot(slots, id);
	if (slot->state == SLOT_WRITING && slot->version == flusher->versions[index])
		slot_table_set_state(slots, id, state);
}

static void
forget_round(flusher *flusher)
{
	flusher->owner->flushing.in_round = false;
	flush_round_free(flusher->round);
	flusher->round = NULL;
	flusher->owner = NULL;
}

/*
 * Copy a page's newest version, if it is dirty. What is damaged in memory must not get to storage: whoever reads the page
 * finds that out too.
 */
static void
add_page(flusher *flusher, const lb_page_tag *tag)
{
	tenant *tenant = flusher->owner;
	slot_table *slots = &tenant->slots;
	flush_round *round = flusher->round;
	uint8_t *copy = flusher->copies + (size_t) round->count * LB_PAGE_SIZE;
	uint32_t id = slot_table_find(slots, tag);
	const slot *slot;

	if (id == SLOT_NONE)
		return;
	slot = slot_table_slot(slots, id);
	if (slot->state != SLOT_DIRTY ||
		(round->count > 0 && lb_page_tag_equal(&round->pages[round->count - 1].tag, tag)))
		return;
	memcpy(copy, tenant_page(tenant, slot_table_slab_of(slots, id), slot_table_page_of(slots, id)),
		   LB_PAGE_SIZE);
	if (lb_page_checksum(copy) != slot->checksum)
	{
		char reason[LB_MESSAGE_MAX];

		snprintf(reason, sizeof(reason),
				 "block %u of relation %u/%u/%u is damaged in the memory node's memory", tag->block,
				 tag->tablespace, tag->database, tag->relation);
		note_failure(flusher, tenant, reason);
		tenant->flushing.figures.damaged_pages++;
		flusher->damaged = true;
		return;
	}
	slot_table_set_state(slots, id, SLOT_WRITING);
	flusher->versions[round->count] = slot->version;
	flusher->fenced[round->count] = false;
	round->pages[round->count++] = (flush_page){.tag = *tag, .data = copy};
}

/* A round that is filled and can't be submitted: its pages are dirty, as before. */
static void
give_up_round(flusher *flusher)
{
	tenant *owner = flusher->owner;
	lb_status status;

	lb_fail_errno(&status, "cannot duplicate the descriptor of the agent's connection");
	note_failure(flusher, owner, status.message);
	for (uint32_t i = 0; i < flusher->round->count; i++)
		settle_slot(flusher, i, SLOT_DIRTY);
	forget_round(flusher);
	flush_tell_fenced(owner);
}

static void
submit_round(flusher *flusher)
{
	flush_round *round = flusher->round;

	/* The worker has to see by itself that the connection has ended: this process may be stopped, and go on after that. */
	round->agent_fd = fcntl(lb_stream_fd(flusher->owner->agent->stream), F_DUPFD_CLOEXEC, 0);
	if (round->agent_fd < 0)
	{
		give_up_round(flusher);
		return;
	}
	flusher->submitted = true;
	flush_pace_begin(&flusher->owner->flushing.pace, lb_now_ns());
	flush_worker_submit(flusher->worker, round);
}

static void
fill_round(flusher *flusher)
{
	flushing *flushing = &flusher->owner->flushing;
	flush_round *round = flusher->round;
	bool more = flushing->pass.active;
	lb_page_tag tag;

	for (int i = 0; i < PAGES_IN_ONE_GO && round->count < round->capacity && more; i++)
	{
		more = flush_pass_next(&flushing->pass, &tag);
		if (more)
			add_page(flusher, &tag);
	}
	if (more && round->count < round->capacity)
		return;
	if (round->count > 0)
	{
		submit_round(flusher);
		return;
	}
	flushing_end_pass(flushing, &flusher->owner->slots, true);
	forget_round(flusher);
}

/* The end of a round. */

static void
count_round(flusher *flusher, const flush_round *round)
{
	tenant *tenant = flusher->owner;
	lb_flush_state *figures = &tenant->flushing.figures;

	figures->flushed_pages += round->pages_durable;
	figures->write_calls += round->write_calls;
	figures->syncs += round->syncs;
	if (round->sync_failed)
	{
		figures->sync_failures++;
		tenant->doubtful = true;
	}
	flusher->node->flushed_pages += round->pages_durable;
	if (tenant->flushing.pace.under_way)
		flush_pace_end(&tenant->flushing.pace, round->pages_written, lb_now_ns());
}

/* A fence may have to wait for the round: on slow storage, or with pages of very many files, rounds become smaller. */
static void
size_next_round(flusher *flusher, const flush_round *round)
{
	uint32_t pages = flusher->next_round_pages;

	if (round->elapsed_ns > ROUND_LONG_NS && round->count <= pages)
		pages = round->count / 2;
	else if (round->elapsed_ns < ROUND_LONG_NS / 4)
		pages *= 2;
	if (pages < ROUND_PAGES_LEAST)
		pages = ROUND_PAGES_LEAST;
	flusher->next_round_pages = pages < flusher->round_pages ? pages : flusher->round_pages;
}

static void
judge_round(flusher *flusher, const flush_round *round)
{
	tenant *tenant = flusher->owner;
	flushing *flushing = &tenant->flushing;

	switch (round->outcome)
	{
		case FLUSH_DONE:
			if (flushing->figures.error[0] == '\0' || flusher->damaged)
				return;
			log_line(LOG_NOTE, "instance %s: dirty pages are written to storage again",
					 tenant->name);
			flushing->figures.error[0] = '\0';
			flushing->tell_turn = true;
			return;
		case FLUSH_FAILED:
			note_failure(flusher, tenant, round->error.message);
			return;
		case FLUSH_STOPPED:
			flushing->pass_failed = true;
			return;
		case FLUSH_FENCED:
			if (round->epoch != tenant->epoch)
				return;
			note_failure(flusher, tenant, round->error.message);
			flushing->barred = true;
			flushing->proven = false;
			return;
	}
}

/*
 * Pages that are durable are told of, also those of which a newer version was published meanwhile. Where storage is not
 * proven (any more, or yet again) that waits: the agent is told of all that is FLUSHED when it has resumed.
 *
 * If a new life of the server began while the round was under way, it has found these pages dirty, or finds some
 * of them flushed; or it has dropped them, and the same version of such a page may be another page by now. So it is
 * told by what the slots say, not by what the round says.
 */
static void
settle_pages(flusher *flusher, const flush_round *round)
{
	tenant *tenant = flusher->owner;
	flushing *flushing = &tenant->flushing;
	bool of_former_life = round->epoch < tenant->life_epoch;

	for (uint32_t i = 0; i < round->count; i++)
	{
		settle_slot(flusher, i, round->pages[i].durable ? SLOT_FLUSHED : SLOT_DIRTY);
		if (!round->pages[i].durable || flusher->fenced[i] || flusher->life != tenant->life)
			continue;
		if (flushing->proven && !of_former_life)
			clean_queue_add(&flushing->clean, &round->pages[i].tag, flusher->versions[i]);
		else
			flushing->untold = true;
	}
	if (flushing->proven && flushing->untold)
		flushing_begin_retelling(flushing);
}

static void
on_finished(evutil_socket_t fd, short what, void *arg)
{
	flusher *self = arg;
	flush_round *round = flush_worker_finished(self->worker);
	tenant *owner = self->owner;

	(void) fd;
	(void) what;
	if (!round)
		return;
	assert(round == self->round);
	settle_pages(self, round);
	count_round(self, round);
	size_next_round(self, round);
	judge_round(self, round);
	forget_round(self);
	flush_tell_fenced(owner);
	flusher_wake(self);
}

/* What is to be done next. */

static bool
begin_pass(flusher *flusher, tenant *tenant)
{
	flushing *flushing = &tenant->flushing;
	flush_decision decision = flushing_decide(flushing, &flusher->node->options->flush,
											  &tenant->slots, tenant->held_pages, now_in_s());

	if (decision.kind == FLUSH_NOTHING)
		return false;
	if (LB_FAULT("memnode.flush.collect"))
	{
		note_failure(flusher, tenant, "fault point memnode.flush.collect");
		return false;
	}
	flush_pass_begin(&flushing->pass, &decision, now_in_s());
	flushing->pass_requested = flushing->requested;
	flushing->pass_failed = false;
	return true;
}

/* A pass that nobody asked for ends when the policy is content. */
static bool
is_still_wanted(flusher *flusher, tenant *tenant)
{
	flushing *flushing = &tenant->flushing;

	if (flushing->pass_requested)
		return true;
	if (flushing_decide(flushing, &flusher->node->options->flush, &tenant->slots,
						tenant->held_pages, now_in_s())
			.kind != FLUSH_NOTHING)
		return true;
	flushing_end_pass(flushing, &tenant->slots, false);
	return false;
}

/* May a round of this tenant begin? If not, *wait_ms is when to look again; -1: when something has happened. */
static bool
is_ready(flusher *flusher, tenant *tenant, uint64_t now_ns, int *wait_ms)
{
	flushing *flushing = &tenant->flushing;
	uint64_t wait_ns;

	*wait_ms = -1;
	if (!flushing->proven || !flushing->confirmed || flushing->in_round ||
		!clean_queue_is_empty(&flushing->clean))
		return false;
	if (tenant->slots.dirty == 0 && !flushing->pass.active)
	{
		flushing->requested = false;
		return false;
	}
	*wait_ms = LOOK_AGAIN_MS;
	if (now_ns < flushing->not_before_ns)
	{
		*wait_ms = lb_ms_until(flushing->not_before_ns);
		return false;
	}
	if (!flushing->pass.active && !begin_pass(flusher, tenant))
		return false;
	if (flushing->pass.collecting && !flush_pass_collect(&flushing->pass, &tenant->slots))
	{
		*wait_ms = 0;
		return false;
	}
	if (!is_still_wanted(flusher, tenant))
		return false;
	wait_ns = flush_pace_wait_ns(&flushing->pace, flushing->requested, now_ns);
	*wait_ms = (int) ((wait_ns + MS - 1) / MS);
	return wait_ns == 0;
}

/* Of those that may, the one whose turn was longest ago. */
static tenant *
choose_tenant(flusher *flusher, int *wait_ms)
{
	uint64_t now_ns = lb_now_ns();
	tenant *chosen = NULL;
	tenant *each;

	TAILQ_FOREACH(each, &flusher->node->tenants.all, link)
	{
		int its_wait_ms;

		if (is_ready(flusher, each, now_ns, &its_wait_ms))
		{
			if (!chosen || each->flushing.turn < chosen->flushing.turn)
				chosen = each;
		}
		else if (its_wait_ms >= 0 && its_wait_ms < *wait_ms)
			*wait_ms = its_wait_ms;
	}
	return chosen;
}

/* Look around, and tell the agents. False: there is nothing to do until something happens. */
static bool
serve_tenants(flusher *flusher)
{
	bool look = elapsed_ns(lb_now_ns(), flusher->looked_ns) >= LOOK_AGAIN_MS * MS;
	bool any = false;
	tenant *each;

	TAILQ_FOREACH(each, &flusher->node->tenants.all, link)
	{
		if (!each->flushing.proven && !each->flushing.barred)
			continue;
		if (look && each->slots.dirty > 0 && !each->flushing.pass.active)
			flush_survey_step(&each->flushing.survey, &each->slots);
		if (flush_tell(each))
			flusher_wake(flusher);
		any = any || each->slots.dirty > 0 || flush_tell_is_due(each);
	}
	if (look)
		flusher->looked_ns = lb_now_ns();
	return any;
}

static void
on_work(evutil_socket_t fd, short what, void *arg)
{
	flusher *self = arg;
	int wait_ms = LOOK_AGAIN_MS;
	bool any = serve_tenants(self);
	tenant *chosen;

	(void) fd;
	(void) what;
	if (!self->worker)
		return;
	if (!self->round)
	{
		chosen = choose_tenant(self, &wait_ms);
		if (chosen && !begin_round(self, chosen))
			note_failure(self, chosen, "out of memory");
	}
	if (self->round && !self->submitted)
	{
		fill_round(self);
		if (!self->submitted)
			wait_ms = 0;
	}
	if ((any || wait_ms == 0) && !evtimer_pending(self->work, NULL))
		wake_within(self, wait_ms);
}

/* Others' doings. */

void
flusher_detach(flusher *flusher, tenant *tenant)
{
	flushing_detach(&tenant->flushing);
	if (flusher->owner != tenant)
		return;
	if (flusher->submitted)
	{
		atomic_store(&flusher->round->stop, true);
		return;
	}
	for (uint32_t i = 0; i < flusher->round->count; i++)
		settle_slot(flusher, i, SLOT_DIRTY);
	forget_round(flusher);
}

bool
flusher_fence(flusher *flusher, tenant *tenant, const lb_fence *fence, uint64_t sequence)
{
	flushing *flushing = &tenant->flushing;
	bool waits = false;

	assert(flushing->fence_count < FENCES_MAX);
	clean_queue_drop(&flushing->clean, fence);
	if (flusher->owner != tenant)
		return true;
	for (uint32_t i = 0; i < flusher->round->count; i++)
		if (fence_selects(fence, &flusher->round->pages[i].tag))
			waits = flusher->fenced[i] = true;
	if (waits)
		flushing->fences[flushing->fence_count++] = sequence;
	return !waits;
}

/* Start and stop. */

static bool
start_worker(flusher *flusher, lb_status *status)
{
	const options *options = flusher->node->options;
	uint64_t share = flusher->node->pool.capacity_pages / ROUND_SHARE;
	lb_status fallback = {.code = LB_OK};

	flusher->round_pages = share < ROUND_PAGES_MIN   ? ROUND_PAGES_MIN
						   : share < ROUND_PAGES_MAX ? (uint32_t) share
													 : ROUND_PAGES_MAX;
	flusher->next_round_pages = flusher->round_pages;
	flusher->copies = mmap(NULL, (size_t) flusher->round_pages * LB_PAGE_SIZE,
						   PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (flusher->copies == MAP_FAILED)
	{
		flusher->copies = NULL;
		return lb_fail_errno(status, "cannot allocate memory for flushing");
	}
	madvise(flusher->copies, (size_t) flusher->round_pages * LB_PAGE_SIZE, MADV_DONTDUMP);
	flusher->worker = flush_worker_start(options->flush_io, &fallback, status);
	if (!flusher->worker)
		return false;
	if (fallback.code != LB_OK)
		log_line(LOG_NOTE, "no io_uring: %s", fallback.message);
	log_line(LOG_NOTE, "dirty pages are written to storage with %s, %u in a round",
			 flush_worker_io_name(flusher->worker), flusher->round_pages);
	flusher->finished = event_new(flusher->node->base, flush_worker_event_fd(flusher->worker),
								  EV_READ | EV_PERSIST, on_finished, flusher);
	if (!flusher->finished || event_add(flusher->finished, NULL) < 0)
		return lb_fail(status, LB_SYSTEM, "cannot make the events of the flusher");
	return true;
}

flusher *
flusher_start(node *node, lb_status *status)
{
	flusher *started = calloc(1, sizeof(flusher));

	if (!started)
	{
		lb_fail(status, LB_SYSTEM, "out of memory for the flusher");
		return NULL;
	}
	started->node = node;
	started->work = evtimer_new(node->base, on_work, started);
	if (!started->work)
		lb_fail(status, LB_SYSTEM, "cannot make the events of the flusher");
	if (started->work && (node->options->storage_count == 0 || start_worker(started, status)))
		return started;
	flusher_stop(started);
	return NULL;
}

void
flusher_stop(flusher *flusher)
{
	if (!flusher)
		return;
	if (flusher->owner)
		flusher->owner->flushing.in_round = false;
	/* a round that is with the worker goes with it */
	if (flusher->round && !flusher->submitted)
		flush_round_free(flusher->round);
	if (flusher->finished)
		event_free(flusher->finished);
	if (flusher->worker)
		flush_worker_stop(flusher->worker);
	if (flusher->work)
		event_free(flusher->work);
	if (flusher->copies)
		munmap(flusher->copies, (size_t) flusher->round_pages * LB_PAGE_SIZE);
	free(flusher);
}
