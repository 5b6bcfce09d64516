/*
 * test_pool_gate.c
 *	  Who waits at the gate, for what, and who opens it.
 *
 * The clock stands but for pg_usleep; what other processes do meanwhile happens in there. The agent is a process of its own. The Makefile
 * has clock_gettime renamed.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/startup.h"
#include "storage/pmsignal.h"
#include "storage/s_lock.h"
#include "storage/shmem.h"

#include "buffer_agent.h"
#include "comm_buffer.h"
#include "pool_gate.h"

#define SECOND_MS 1000

extern int fake_clock_gettime(clockid_t clock, struct timespec *now);

/* --- the server ---------------------------------------------------------------------------------------------------- */

AuxProcType MyAuxProcType;
volatile uint32 InterruptHoldoffCount;
volatile uint32 CritSectionCount;

static uint64 now_us;
static bool has_agent;
static int interrupts_served;
static int postmaster_looks;
static int logged;
static int agent_asked_for;
static bool postmaster_gone;
static jmp_buf ended;
static int given_up; /* the level of the error that somebody ended with */
static void (*meanwhile)(void);

int
fake_clock_gettime(clockid_t clock, struct timespec *now)
{
	now->tv_sec = now_us / 1000000;
	now->tv_nsec = now_us % 1000000 * 1000;
	return 0;
}

void
pg_usleep(long us)
{
	assert_true(us >= 1000 && us <= 10000);
	now_us += us;
	if (meanwhile)
		meanwhile();
}

bool
CommBufferHasAgent(void)
{
	return has_agent;
}

void
HandleStartupProcInterrupts(void)
{
	interrupts_served++;
}

void
SendPostmasterSignal(PMSignalReason reason)
{
	assert_int_equal(reason, PMSIGNAL_BACKGROUND_WORKER_CHANGE);
	agent_asked_for++;
}

void
exit_without_postmaster(void)
{
	postmaster_looks++;
	if (postmaster_gone)
		longjmp(ended, 1);
}

bool
errstart(int elevel, const char *domain)
{
	if (elevel >= ERROR)
	{
		given_up = elevel;
		longjmp(ended, 1);
	}
	assert_int_equal(elevel, LOG);
	assert_int_equal(InterruptHoldoffCount, 1);
	logged++;
	return false;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return errstart(elevel, domain);
}

int
errmsg(const char *format, ...)
{
	return 0;
}

int
errcode(int sqlerrcode)
{
	return 0;
}

int
errhint(const char *format, ...)
{
	return 0;
}

int
errdetail(const char *format, ...)
{
	return 0;
}

void
errfinish(const char *file, int line, const char *function)
{
}

void
ExceptionalCondition(const char *condition, const char *type, const char *file, int line)
{
	abort();
}

void *
ShmemInitStruct(const char *name, Size size, bool *found)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(memory != MAP_FAILED);
	*found = false;
	return memory;
}

int
s_lock(volatile slock_t *lock, const char *file, int line, const char *function)
{
	abort(); /* nobody else is there at the same time */
}

/* --- other processes ----------------------------------------------------------------------------------------------- */

/* Run it as another process; true if it says so. */
static bool
elsewhere(bool (*function)(void))
{
	int status;
	pid_t child = fork();

	if (child == 0)
		_exit(function() ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status) == 0;
}

/* The agent itself never waits. */
static bool
begin_reload(void)
{
	bool begun = PoolGateBeginReload();

	PoolGateWait();
	return begun;
}

static bool
open_gate(void)
{
	ReloadFigures figures = {.nodes = 2, .pages_kept = 4711, .tier1 = 8};

	(void) PoolGateBeginReload();
	PoolGateOpen(&figures);
	return true;
}

static int
setup(void **state)
{
	PoolGateShmemInit();
	assert_int_equal(PoolGatePhase(), GATE_CLOSED);
	now_us = 0;
	has_agent = postmaster_gone = false;
	interrupts_served = postmaster_looks = logged = agent_asked_for = 0;
	meanwhile = NULL;
	MyAuxProcType = NotAnAuxProcess;
	CritSectionCount = InterruptHoldoffCount = 0;
	return 0;
}

/* --- tests --------------------------------------------------------------------------------------------------------- */

/* First of all, while there is no shared memory. */
static void
test_single_user_mode(void **state)
{
	assert_int_equal(PoolGatePhase(), GATE_OPEN);
	PoolGateWait();
}

static void
agent_works(void)
{
	if (now_us > 1 * SECOND_MS * 1000 && !has_agent)
	{
		has_agent = true;
		assert_true(elsewhere(begin_reload));
		assert_int_equal(PoolGatePhase(), GATE_RELOADING);
	}
	if (now_us > UINT64_C(60) * SECOND_MS * 1000 && PoolGatePhase() != GATE_OPEN)
		assert_true(elsewhere(open_gate));
}

static void
test_waits_for_the_agent(void **state)
{
	ReloadFigures figures;

	meanwhile = agent_works;
	PoolGateWait();
	assert_int_equal(PoolGatePhase(), GATE_OPEN);
	assert_true(now_us > UINT64_C(60) * SECOND_MS * 1000);
	assert_true(now_us < UINT64_C(61) * SECOND_MS * 1000);
	PoolGateGetFigures(&figures);
	assert_true(figures.nodes == 2 && figures.pages_kept == 4711 && figures.tier1 == 8);
	assert_int_equal(logged, 0);
	assert_int_equal(interrupts_served, 0);
	assert_true(postmaster_looks > 1000);

	/* Open for good: nobody waits, nobody begins again. */
	postmaster_looks = 0;
	PoolGateWait();
	assert_int_equal(postmaster_looks, 0);
	assert_false(elsewhere(begin_reload));
	assert_int_equal(PoolGatePhase(), GATE_OPEN);
}

static void
test_without_an_agent(void **state)
{
	PoolGateWait();
	assert_int_equal(PoolGatePhase(), GATE_OPEN);
	assert_true(now_us >= 10 * SECOND_MS * 1000 && now_us < 11 * SECOND_MS * 1000);
	assert_int_equal(logged, 1);
	assert_int_equal(agent_asked_for, 0); /* the postmaster starts it by itself, in time */
	assert_int_equal(InterruptHoldoffCount, 0);
	assert_false(elsewhere(begin_reload));
}

/* One that is there, but has not begun, is waited for; the time counts from its end. */
static void
agent_comes_and_goes(void)
{
	has_agent = now_us < 30 * SECOND_MS * 1000;
}

static void
test_agent_that_does_not_begin(void **state)
{
	has_agent = true;
	meanwhile = agent_comes_and_goes;
	PoolGateWait();
	assert_int_equal(PoolGatePhase(), GATE_OPEN);
	assert_true(now_us >= 40 * SECOND_MS * 1000 && now_us < 41 * SECOND_MS * 1000);
}

/* In the middle of reloading only an agent opens. */
static void
successor_comes_late(void)
{
	if (now_us < 50 * SECOND_MS * 1000 || PoolGatePhase() == GATE_OPEN)
		return;
	assert_false(elsewhere(begin_reload));
	assert_int_equal(PoolGatePhase(), GATE_RELOADING);
	assert_true(elsewhere(open_gate));
}

static void
test_agent_dies(void **state)
{
	assert_true(elsewhere(begin_reload));
	meanwhile = successor_comes_late;
	PoolGateWait();
	assert_true(now_us >= 50 * SECOND_MS * 1000);
	assert_int_equal(logged, 0);
}

/* If none comes, who waits ends: a server that shuts down must not hang. */
static void
test_no_successor(void **state)
{
	assert_true(elsewhere(begin_reload));
	given_up = 0;
	if (setjmp(ended) == 0)
		PoolGateWait();
	assert_int_equal(given_up, FATAL);
	assert_true(now_us >= 60 * SECOND_MS * 1000 && now_us < 61 * SECOND_MS * 1000);
	assert_int_equal(PoolGatePhase(), GATE_RELOADING);
}

static void
test_startup_process(void **state)
{
	MyAuxProcType = StartupProcess;
	PoolGateWait();
	assert_true(interrupts_served > 1000);
	assert_true(agent_asked_for > 50 && agent_asked_for < 150);
}

static void
test_critical_section(void **state)
{
	MyAuxProcType = StartupProcess;
	CritSectionCount = 1;
	PoolGateWait();
	assert_int_equal(interrupts_served, 0);
	assert_true(postmaster_looks > 1000);
}

static void
postmaster_ends(void)
{
	postmaster_gone = now_us > 3 * SECOND_MS * 1000;
}

static void
test_postmaster_ends(void **state)
{
	meanwhile = postmaster_ends;
	if (setjmp(ended) == 0)
	{
		PoolGateWait();
		fail();
	}
	assert_true(now_us < 4 * SECOND_MS * 1000);
	assert_int_equal(PoolGatePhase(), GATE_CLOSED);
}

static bool
tell_progress(void)
{
	ReloadFigures figures = {.pages_listed = 1000};

	(void) PoolGateBeginReload();
	PoolGateSetFigures(&figures);
	return true;
}

static void
test_progress(void **state)
{
	ReloadFigures figures;

	PoolGateGetFigures(&figures);
	assert_int_equal(figures.pages_listed, 0);
	assert_true(elsewhere(tell_progress));
	PoolGateGetFigures(&figures);
	assert_int_equal(figures.pages_listed, 1000);
	assert_int_equal(PoolGatePhase(), GATE_RELOADING);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_single_user_mode),
		cmocka_unit_test_setup(test_waits_for_the_agent, setup),
		cmocka_unit_test_setup(test_without_an_agent, setup),
		cmocka_unit_test_setup(test_agent_that_does_not_begin, setup),
		cmocka_unit_test_setup(test_agent_dies, setup),
		cmocka_unit_test_setup(test_no_successor, setup),
		cmocka_unit_test_setup(test_startup_process, setup),
		cmocka_unit_test_setup(test_critical_section, setup),
		cmocka_unit_test_setup(test_postmaster_ends, setup),
		cmocka_unit_test_setup(test_progress, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
