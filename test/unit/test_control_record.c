/*
 * test_control_record.c
 *	  Which redo points are named, what a node's record is compared with, and how long a checkpoint waits for the telling.
 *
 * The clock stands but for BufferAgentAssist. The Makefile has clock_gettime renamed.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <unistd.h>

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "miscadmin.h"
#include "postmaster/bgwriter.h"
#include "storage/lwlock.h"
#include "storage/procsignal.h"
#include "storage/s_lock.h"
#include "storage/shmem.h"

#include "buffer_agent.h"
#include "comm_buffer.h"
#include "control_record.h"
#include "node_table.h"
#include "settings.h"
#include "wal_reach.h"
#include "write_back.h"

#define REDO UINT64_C(0x1000028)

extern int fake_clock_gettime(clockid_t clock, struct timespec *now);

/* --- the server ---------------------------------------------------------------------------------------------------- */

static LWLockPadded locks[NUM_FIXED_LWLOCKS];
LWLockPadded *MainLWLockArray = locks;
volatile sig_atomic_t ProcSignalBarrierPending;
int wal_level = WAL_LEVEL_REPLICA;
int node_timeout_ms = 1000;

static char folder[] = "/tmp/test_control_record.XXXXXX";
static void *memory;
static ControlFileData control_file;
static bool control_file_locked;
static bool fsync_at_start;
static XLogRecPtr redo_of_checkpoint;
static NodeState node_state;
static uint64 now_ms;
static void (*meanwhile)(void);

int
fake_clock_gettime(clockid_t clock, struct timespec *now)
{
	now->tv_sec = now_ms / 1000;
	now->tv_nsec = now_ms % 1000 * 1000000;
	return 0;
}

void *
ShmemInitStruct(const char *name, Size size, bool *found)
{
	*found = strcmp(name, "Control File") == 0;
	if (*found)
		return &control_file;
	free(memory);
	return memory = malloc(size);
}

bool
LWLockConditionalAcquire(LWLock *lock, LWLockMode mode)
{
	assert_int_equal(mode, LW_SHARED);
	assert_ptr_equal(lock, ControlFileLock);
	return !control_file_locked;
}

void
LWLockRelease(LWLock *lock)
{
	assert_false(control_file_locked);
}

int
s_lock(volatile slock_t *lock, const char *file, int line, const char *function)
{
	abort(); /* nobody else is there */
}

bool
errstart(int elevel, const char *domain)
{
	assert_true(elevel <= DEBUG1);
	return false;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return errstart(elevel, domain);
}

int
errmsg_internal(const char *format, ...)
{
	return 0;
}

void
errfinish(const char *file, int line, const char *function)
{
	abort();
}

void
ExceptionalCondition(const char *condition, const char *type, const char *file, int line)
{
	abort();
}

XLogRecPtr
GetRedoRecPtr(void)
{
	return redo_of_checkpoint;
}

void
AbsorbSyncRequests(void)
{
}

void
ProcessProcSignalBarrier(void)
{
}

/* --- the other modules --------------------------------------------------------------------------------------------- */

bool
WriteBackFsyncAtStart(void)
{
	return fsync_at_start;
}

int
NodeTableCount(void)
{
	return 1;
}

NodeState
NodeTableState(int node)
{
	return node_state;
}

void
CommBufferWakeAgent(void)
{
}

static XLogRecPtr wal_end;

bool
WalReaches(TimeLineID timeline, XLogRecPtr from, XLogRecPtr lsn)
{
	assert_int_equal(timeline, 7);
	assert_int_equal(from, REDO);
	return lsn <= wal_end;
}

void
BufferAgentAssist(int wait_ms)
{
	now_ms += wait_ms;
	if (meanwhile)
		meanwhile();
}

/* --- tests --------------------------------------------------------------------------------------------------------- */

static void
start_server(DBState state, XLogRecPtr redo)
{
	control_file.state = state;
	control_file.checkPointCopy.redo = redo;
	control_file.checkPointCopy.ThisTimeLineID = 7;
	control_file.data_checksum_version = 1;
	ControlRecordShmemInit();
}

static int
setup(void **state)
{
	memset(&control_file, 0, sizeof(control_file));
	control_file_locked = false;
	fsync_at_start = true;
	wal_level = WAL_LEVEL_REPLICA;
	node_state = NODE_UP;
	now_ms = 1000000;
	meanwhile = NULL;
	unlink(BACKUP_LABEL_FILE);
	start_server(DB_IN_PRODUCTION, REDO);
	return 0;
}

static void
tell_at_once(void)
{
	ControlRecordTold(ControlRecordSerial());
}

/* A checkpoint gets as far as its sync handler, and then pg_control is changed. */
static void
checkpoint(XLogRecPtr redo, bool completes)
{
	redo_of_checkpoint = redo;
	meanwhile = tell_at_once;
	ControlRecordTellCheckpoint();
	if (completes)
		control_file.checkPointCopy.redo = redo;
}

static void
assert_named(XLogRecPtr completed, XLogRecPtr pending)
{
	lb_control record;

	ControlRecordFill(&record);
	assert_int_equal(record.completed, completed);
	assert_int_equal(record.pending, pending);
}

static void
test_what_is_named(void **state)
{
	assert_int_equal(ControlRecordSerial(), 0);
	assert_named(REDO, REDO);
	checkpoint(REDO + 100, false);
	assert_int_equal(ControlRecordSerial(), 1);
	assert_named(REDO, REDO + 100);
	/* it failed; the next one does not */
	checkpoint(REDO + 200, true);
	assert_named(REDO + 200, REDO + 200);
	/* pg_control is being written: what it had before is named, and what it gets */
	checkpoint(REDO + 300, true);
	control_file_locked = true;
	assert_named(REDO + 200, REDO + 300);
}

/* Two requests in one checkpoint: told once. */
static void
test_told_twice(void **state)
{
	uint64 began = now_ms;

	checkpoint(REDO + 100, false);
	assert_int_equal(now_ms - began, 2);
	checkpoint(REDO + 100, true);
	assert_int_equal(now_ms - began, 2);
	assert_int_equal(ControlRecordSerial(), 1);
}

static void
test_backup_label(void **state)
{
	lb_control record;
	const char *reason;
	FILE *file = fopen(BACKUP_LABEL_FILE, "w");

	fclose(file);
	ControlRecordFill(&record);
	start_server(DB_IN_PRODUCTION, REDO);
	assert_int_equal(ControlRecordRedoAtStart(), InvalidXLogRecPtr);
	assert_false(ControlRecordMatches(&record, &reason));
	assert_non_null(reason);
	assert_named(0, 0);
	/* recovery has begun further back, and has made a restartpoint */
	control_file.checkPointCopy.redo = REDO - 500;
	checkpoint(REDO - 100, true);
	assert_named(REDO - 100, REDO - 100);
}

static void
test_matching(void **state)
{
	lb_control record;
	lb_control nothing = {.completed = 0};
	const char *reason;

	ControlRecordSetTier1(REDO + 50);
	ControlRecordFill(&record);
	assert_int_equal(record.tier1, REDO + 50);
	assert_true(ControlRecordMatches(&record, &reason));
	assert_null(reason);
	record.completed = REDO - 1000;
	assert_true(ControlRecordMatches(&record, &reason));
	record.completed = REDO;
	record.pending = REDO + 1000;
	assert_true(ControlRecordMatches(&record, &reason));
	record.completed = REDO + 1;
	assert_false(ControlRecordMatches(&record, &reason));
	assert_non_null(reason);
	ControlRecordFill(&record);
	record.checksums = 0;
	assert_false(ControlRecordMatches(&record, &reason));
	assert_false(ControlRecordMatches(&nothing, &reason));
	start_server(DB_SHUTDOWNED, 0);
	assert_false(ControlRecordMatches(&nothing, &reason));
}

/* This machine has a boot id, which no other has. */
static void
test_boot(void **state)
{
	lb_control record;
	lb_control nothing = {.completed = 0};

	ControlRecordFill(&record);
	assert_true(ControlRecordSameBoot(&record));
	record.boot_id[15] ^= 1;
	assert_false(ControlRecordSameBoot(&record));
	assert_false(ControlRecordSameBoot(&nothing));
}

static void
test_state_at_start(void **state)
{
	assert_int_equal(ControlRecordRedoAtStart(), REDO);
	assert_false(ControlRecordWasShutDown());
	start_server(DB_SHUTDOWNED, REDO);
	assert_true(ControlRecordWasShutDown());
	/* a standby goes on with redo: pages may be dirty */
	start_server(DB_SHUTDOWNED_IN_RECOVERY, REDO);
	assert_false(ControlRecordWasShutDown());
	/* the startup process changes it; what counts is what it was */
	start_server(DB_SHUTDOWNED, REDO);
	control_file.state = DB_IN_PRODUCTION;
	control_file.checkPointCopy.redo = REDO + 500;
	assert_true(ControlRecordWasShutDown());
	assert_int_equal(ControlRecordRedoAtStart(), REDO);
}

static void
test_past(void **state)
{
	wal_end = REDO + 500;
	assert_true(ControlRecordIsPast(0));
	assert_true(ControlRecordIsPast(REDO));
	assert_true(ControlRecordIsPast(REDO + 500));
	assert_false(ControlRecordIsPast(REDO + 501));
	start_server(DB_SHUTDOWNED, REDO);
	assert_true(ControlRecordIsPast(REDO));
	assert_false(ControlRecordIsPast(REDO + 1));
}

static void
get_on(void)
{
	if (now_ms % 1500 == 0 && now_ms < 1010000)
		ControlRecordProgress();
}

static void
test_gives_up(void **state)
{
	redo_of_checkpoint = REDO + 100;
	ControlRecordTellCheckpoint();
	assert_in_range(now_ms, 1002000, 1002010);
	/* that serial, and the next one, are still to be told */
	assert_int_equal(ControlRecordSerial(), 1);
	now_ms = 1000000;
	redo_of_checkpoint = REDO + 200;
	meanwhile = get_on;
	ControlRecordTellCheckpoint();
	assert_in_range(now_ms, 1010000, 1012010);
	assert_int_equal(ControlRecordSerial(), 2);
}

static void
test_nobody_to_tell(void **state)
{
	node_state = NODE_DOWN;
	redo_of_checkpoint = REDO + 100;
	ControlRecordTellCheckpoint();
	assert_int_equal(now_ms, 1000000);
	assert_named(REDO, REDO + 100);
	/* never told at all */
	fsync_at_start = false;
	assert_false(ControlRecordKept());
	fsync_at_start = true;
	wal_level = WAL_LEVEL_MINIMAL;
	assert_false(ControlRecordKept());
	redo_of_checkpoint = REDO + 200;
	ControlRecordTellCheckpoint();
	assert_int_equal(ControlRecordSerial(), 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_what_is_named, setup),
		cmocka_unit_test_setup(test_told_twice, setup),
		cmocka_unit_test_setup(test_backup_label, setup),
		cmocka_unit_test_setup(test_matching, setup),
		cmocka_unit_test_setup(test_boot, setup),
		cmocka_unit_test_setup(test_state_at_start, setup),
		cmocka_unit_test_setup(test_past, setup),
		cmocka_unit_test_setup(test_gives_up, setup),
		cmocka_unit_test_setup(test_nobody_to_tell, setup),
	};
	int failed;

	if (mkdtemp(folder) == NULL || chdir(folder) != 0)
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(BACKUP_LABEL_FILE);
	(void) rmdir(folder);
	free(memory);
	return failed;
}
