/*
 * page_fence.c
 *	  Fences: making sure that nothing of some pages is on its way to storage before their file changes.
 */
#include "postgres.h"

#include "port/atomics.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "buffer_agent.h"
#include "comm_buffer.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "page_fence.h"
#include "settings.h"
#include "stats.h"
#include "write_back.h"

/*
 * An agent that ended has to be followed by another one, a broken connection to be made again, and a round of flushing on slow storage
 * to end, within this time. That a node lives the agent sees to: losing one while a fence is open is a PANIC of its own.
 */
#define LIMIT_MIN_MS 180000
#define LIMIT_TIMEOUTS 60

typedef enum FenceState
{
	FENCE_FREE,
	FENCE_BEGUN,
	FENCE_POSTED,
	FENCE_DONE
} FenceState;

typedef struct FenceRequest
{
	pg_atomic_uint32 state; /* FenceState */
	uint64 serial;          /* of the posting; never used twice */
	lb_fence fence;
} FenceRequest;

typedef struct PageFences
{
	slock_t lock; /* free -> begun, serials */
	uint64 next_serial;
	pg_atomic_uint32 open; /* not free */
	FenceRequest requests[FENCE_REQUESTS];
} PageFences;

static PageFences *fences;

Size
PageFenceShmemSize(void)
{
	return sizeof(PageFences);
}

void
PageFenceShmemInit(void)
{
	bool found;

	fences = ShmemInitStruct("legobase fences", sizeof(PageFences), &found);
	if (found)
		return;
	SpinLockInit(&fences->lock);
	fences->next_serial = 1;
	pg_atomic_init_u32(&fences->open, 0);
	for (int i = 0; i < FENCE_REQUESTS; i++)
		pg_atomic_init_u32(&fences->requests[i].state, FENCE_FREE);
}

static int
take_request(void)
{
	int taken = -1;

	SpinLockAcquire(&fences->lock);
	for (int i = 0; i < FENCE_REQUESTS && taken < 0; i++)
	{
		if (pg_atomic_read_u32(&fences->requests[i].state) != FENCE_FREE)
			continue;
		taken = i;
		fences->requests[i].serial = fences->next_serial++;
		pg_atomic_write_u32(&fences->requests[i].state, FENCE_BEGUN);
	}
	SpinLockRelease(&fences->lock);
	if (taken >= 0)
		pg_atomic_fetch_add_u32(&fences->open, 1);
	return taken;
}

static uint64
limit_from_now(void)
{
	return lb_now_ns() +
		   (uint64) Max(LIMIT_MIN_MS, LIMIT_TIMEOUTS * node_timeout_ms) * UINT64_C(1000000);
}

int
PageFenceBegin(const PageSelection *selection)
{
	uint64 limit = limit_from_now();
	int request;

	while ((request = take_request()) < 0)
	{
		if (lb_now_ns() > limit)
			WriteBackPanic("no fence request became free in time");
		BufferAgentAssist(1);
	}
	fences->requests[request].fence = (lb_fence){.by_tablespace = selection->by_tablespace,
												 .by_database = selection->by_database,
												 .by_relation = selection->by_relation,
												 .by_fork = selection->by_fork,
												 .from = selection->from,
												 .end = selection->end};
	/* Nothing is forgotten before the agent can see that a fence is open. */
	pg_memory_barrier();
	(void) LB_FAULT("fence.begun");
	return request;
}

static void
free_request(int request)
{
	pg_atomic_write_u32(&fences->requests[request].state, FENCE_FREE);
	pg_atomic_fetch_sub_u32(&fences->open, 1);
}

void
PageFenceWait(int request)
{
	FenceRequest *waiting = &fences->requests[request];
	uint64 limit = limit_from_now();

	(void) LB_FAULT("fence.forgotten");
	pg_memory_barrier();
	pg_atomic_write_u32(&waiting->state, FENCE_POSTED);
	StatsCount(STAT_FENCES, 1);
	CommBufferWakeAgent();
	while (pg_atomic_read_u32(&waiting->state) != FENCE_DONE)
	{
		if (lb_now_ns() > limit)
			/* The file must not be changed, and whoever wants to change it can't be stopped: after commit, for one. */
			WriteBackPanic("memory nodes did not confirm in time that they have stopped writing "
						   "pages that are about to be truncated or dropped");
		BufferAgentAssist(1);
	}
	pg_memory_barrier();
	free_request(request);
	(void) LB_FAULT("fence.done");
}

bool
PageFenceAnyOpen(void)
{
	return pg_atomic_read_u32(&fences->open) != 0;
}

bool
PageFenceNextPosted(int *at, lb_fence *fence, uint64 *serial)
{
	if (!PageFenceAnyOpen())
		return false;
	while (++*at < FENCE_REQUESTS)
	{
		FenceRequest *request = &fences->requests[*at];

		if (pg_atomic_read_u32(&request->state) != FENCE_POSTED)
			continue;
		pg_memory_barrier();
		*fence = request->fence;
		*serial = request->serial;
		return true;
	}
	return false;
}

void
PageFenceDone(int number, uint64 serial)
{
	FenceRequest *request = &fences->requests[number];

	if (pg_atomic_read_u32(&request->state) != FENCE_POSTED || request->serial != serial)
		return;
	pg_memory_barrier();
	pg_atomic_write_u32(&request->state, FENCE_DONE);
}
