/*
 * pool_gate.c
 *	  Nobody touches pages until the page directory is what the memory nodes have of the server's former life.
 *
 * Who waits looks again and again: the agent has nobody to wake but processes that came early, and it must not have to know them.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/startup.h"
#include "storage/pmsignal.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "buffer_agent.h"
#include "comm_buffer.h"
#include "lb_clock.h"
#include "pool_gate.h"

#define AGENT_WAIT_MS 10000 /* without an agent for so long, there is nothing to wait for */
#define ASK_MS 100          /* between two requests for an agent */
#define POLL_MIN_US 1000
#define POLL_MAX_US 10000

typedef struct PoolGate
{
	pg_atomic_uint32 phase; /* GatePhase; only compare-and-swap changes it */
	slock_t lock;           /* the figures */
	ReloadFigures figures;
} PoolGate;

static PoolGate *gate;           /* null without shared memory of ours */
static bool is_reloader = false; /* this process is the agent */

Size
PoolGateShmemSize(void)
{
	return sizeof(PoolGate);
}

void
PoolGateShmemInit(void)
{
	bool found;

	gate = ShmemInitStruct("legobase gate", sizeof(PoolGate), &found);
	if (found)
		return;
	pg_atomic_init_u32(&gate->phase, GATE_CLOSED);
	SpinLockInit(&gate->lock);
	memset(&gate->figures, 0, sizeof(gate->figures));
}

GatePhase
PoolGatePhase(void)
{
	GatePhase phase;

	if (gate == NULL)
		return GATE_OPEN;
	phase = (GatePhase) pg_atomic_read_u32(&gate->phase);
	pg_read_barrier(); /* before what the caller reads of the directory */
	return phase;
}

static bool
change_phase(GatePhase from, GatePhase to)
{
	uint32 expected = from;

	return pg_atomic_compare_exchange_u32(&gate->phase, &expected, to);
}

/* No agent has come: the server has to live without what the nodes have. Should one come later, they begin empty. */
static void
open_without_agent(void)
{
	if (!change_phase(GATE_CLOSED, GATE_OPEN))
		return;
	HOLD_INTERRUPTS(); /* logging would serve them */
	ereport(LOG,
			(errmsg("legobase: no buffer agent has come within %d seconds", AGENT_WAIT_MS / 1000),
			 errdetail("The server starts without what its former life has left in remote "
					   "memory.")));
	RESUME_INTERRUPTS();
}

/*
 * After a crash inside the server the postmaster starts no background workers before redo, and when that has begun, and it would start
 * them, has forgotten that there are some (maybe_start_bgworkers): it looks again at the end of recovery, or when it is told that
 * something has changed. So it is told, again and again: it may not have seen the beginning of redo yet.
 */
static void
ask_for_agent(uint64 now)
{
	static uint64 next_time = 0;

	if (!AmStartupProcess() || now < next_time)
		return;
	next_time = now + ASK_MS * UINT64_C(1000000);
	SendPostmasterSignal(PMSIGNAL_BACKGROUND_WORKER_CHANGE);
}

/* The directory is half of what it should be, and nobody comes to put it right. */
static void
give_up(void)
{
	ereport(CritSectionCount > 0 ? PANIC : FATAL,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("legobase: the buffer agent ended while it reloaded the remote pool, and none "
					"has followed"),
			 errhint("See the server's log for why, and restart the server.")));
}

static void
wait_until_open(void)
{
	uint64 limit = 0; /* 0: there was an agent at the last look */
	long poll_us = POLL_MIN_US;

	while (PoolGatePhase() != GATE_OPEN)
	{
		uint64 now = lb_now_ns();

		exit_without_postmaster();
		if (CritSectionCount == 0 && AmStartupProcess())
			HandleStartupProcInterrupts();

		/* One that was there and is gone is followed by another within a second or so. */
		if (CommBufferHasAgent())
			limit = 0;
		else
		{
			ask_for_agent(now);
			if (limit == 0)
				limit = now + AGENT_WAIT_MS * UINT64_C(1000000);
			else if (now > limit + AGENT_WAIT_MS * UINT64_C(5000000))
				give_up(); /* RELOADING */
			else if (now > limit)
				open_without_agent(); /* does nothing while RELOADING */
		}
		pg_usleep(poll_us);
		poll_us = Min(poll_us * 2, POLL_MAX_US);
	}
}

void
PoolGateWait(void)
{
	if (PoolGatePhase() != GATE_OPEN && !is_reloader)
		wait_until_open();
}

bool
PoolGateBeginReload(void)
{
	is_reloader = true;
	return change_phase(GATE_CLOSED, GATE_RELOADING);
}

void
PoolGateOpen(const ReloadFigures *figures)
{
	PoolGateSetFigures(figures);
	(void) change_phase(GATE_RELOADING, GATE_OPEN);
}

void
PoolGateSetFigures(const ReloadFigures *figures)
{
	SpinLockAcquire(&gate->lock);
	gate->figures = *figures;
	SpinLockRelease(&gate->lock);
}

void
PoolGateGetFigures(ReloadFigures *figures)
{
	SpinLockAcquire(&gate->lock);
	*figures = gate->figures;
	SpinLockRelease(&gate->lock);
}
