/*
 * test_checkpoint_sync.c
 *	  What a checkpoint and a drain wait for, when they give up, and that the next checkpoint comes by again.
 *
 * The page directory here is two counters, the clock stands but for BufferAgentAssist, and what memory nodes do happens in
 * a function that is called there. The Makefile has clock_gettime renamed.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "miscadmin.h"
#include "postmaster/bgwriter.h"
#include "postmaster/startup.h"
#include "storage/procsignal.h"
#include "storage/s_lock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "buffer_agent.h"
#include "checkpoint_sync.h"
#include "compat.h"
#include "control_record.h"
#include "legobase.h"
#include "node_table.h"
#include "page_directory.h"
#include "server_table.h"
#include "settings.h"
#include "write_back.h"

#define SECOND_MS 1000

extern int fake_clock_gettime(clockid_t clock, struct timespec *now);

/* --- the server ---------------------------------------------------------------------------------------------------- */

sigjmp_buf *PG_exception_stack;
ErrorContextCallback *error_context_stack;
AuxProcType MyAuxProcType = CheckpointerProcess;
volatile sig_atomic_t InterruptPending;
volatile sig_atomic_t ProcSignalBarrierPending;
int node_timeout_ms = 1000;

int
settings_dirty_wait_ms(int at_least_ms)
{
	return Max(at_least_ms, 10 * node_timeout_ms);
}

static void *memory;
static uint64 now_ms;
static int level;
static const char *message;
static FileTag registered;
static int registrations;
static int absorbed;
static int flushes_wanted;
static SyncHandler installed;
static int told;
static bool queue_full;

int
fake_clock_gettime(clockid_t clock, struct timespec *now)
{
	now->tv_sec = now_ms / 1000;
	now->tv_nsec = now_ms % 1000 * 1000000;
	return 0;
}

bool
errstart(int elevel, const char *domain)
{
	level = elevel;
	return elevel >= ERROR;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return errstart(elevel, domain);
}

int
errcode(int sqlerrcode)
{
	assert_int_equal(sqlerrcode, ERRCODE_IO_ERROR);
	return 0;
}

int
errmsg(const char *format, ...)
{
	message = format;
	return 0;
}

int
errmsg_internal(const char *format, ...)
{
	return 0;
}

int
errdetail(const char *format, ...)
{
	return 0;
}

int
errhint(const char *format, ...)
{
	return 0;
}

void
errfinish(const char *file, int line, const char *function)
{
	assert_int_equal(level, ERROR);
	siglongjmp(*PG_exception_stack, 1);
}

void
pg_re_throw(void)
{
	siglongjmp(*PG_exception_stack, 1);
}

void
ExceptionalCondition(const char *condition, const char *type, const char *file, int line)
{
	abort();
}

void *
ShmemInitStruct(const char *name, Size size, bool *found)
{
	free(memory);
	*found = false;
	return memory = malloc(size);
}

int
s_lock(volatile slock_t *lock, const char *file, int line, const char *function)
{
	abort(); /* nobody else is there */
}

void *
palloc(Size size)
{
	static char row[sizeof(NodeRow)];

	assert_true(size <= sizeof(row));
	return row;
}

TimestampTz
GetCurrentTimestamp(void)
{
	return (TimestampTz) now_ms * 1000;
}

void
ProcessInterrupts(void)
{
}

void
ProcessProcSignalBarrier(void)
{
	ProcSignalBarrierPending = false;
}

void
HandleStartupProcInterrupts(void)
{
}

void
AbsorbSyncRequests(void)
{
	absorbed++;
}

bool
RegisterSyncRequest(const FileTag *tag, SyncRequestType type, bool retry_on_error)
{
	assert_int_equal(type, SYNC_REQUEST);
	assert_false(retry_on_error); /* who registers must not wait for the checkpointer */
	if (queue_full)
		return false;
	registered = *tag;
	registrations++;
	return true;
}

int
mdsyncfiletag(const FileTag *tag, char *path)
{
	return 4711;
}

int
mdunlinkfiletag(const FileTag *tag, char *path)
{
	return 0;
}

bool
mdfiletagmatches(const FileTag *tag, const FileTag *candidate)
{
	return false;
}

int
clogsyncfiletag(const FileTag *tag, char *path)
{
	return 0;
}

int
committssyncfiletag(const FileTag *tag, char *path)
{
	return 0;
}

int
multixactoffsetssyncfiletag(const FileTag *tag, char *path)
{
	return 0;
}

int
multixactmemberssyncfiletag(const FileTag *tag, char *path)
{
	return 0;
}

ServerTable
server_table_find(const char *name, const void *wanted, Size size)
{
	ServerTable table = {.name = name, .matches = 1};

	assert_int_equal(size, SYNC_HANDLER_NONE * sizeof(SyncHandler));
	return table;
}

void
server_table_overwrite(const ServerTable *table, const void *replacement, Size size)
{
	assert_int_equal(size, sizeof(SyncHandler));
	memcpy(&installed, replacement, size);
}

/* --- the other modules --------------------------------------------------------------------------------------------- */

static uint32 generations[2];
static int present;
static int flips;
static FlushProgress flush_progress;
static void (*meanwhile)(void);

/* Named is a checkpoint only when all of it is durable. */
void
ControlRecordTellCheckpoint(void)
{
	assert_int_equal(PageDirectoryOlderDirty(), 0);
	told++;
}

uint32
PageDirectoryDirty(void)
{
	return generations[0] + generations[1];
}

uint32
PageDirectoryOlderDirty(void)
{
	return generations[1 - present];
}

void
PageDirectoryFlip(void)
{
	assert_int_equal(PageDirectoryOlderDirty(), 0);
	present = 1 - present;
	flips++;
}

int
NodeTableCount(void)
{
	return 1;
}

void
NodeTableGetRow(int node, NodeRow *row)
{
	strlcpy(row->uri, "tcp://node:1", sizeof(row->uri));
}

void
WriteBackGetFlushProgress(int node, FlushProgress *progress)
{
	*progress = flush_progress;
}

void
WriteBackRequestFlush(void)
{
	flushes_wanted++;
}

void
BufferAgentAssist(int wait_ms)
{
	now_ms += wait_ms;
	if (meanwhile)
		meanwhile();
}

/* --- tests --------------------------------------------------------------------------------------------------------- */

static int
setup(void **state)
{
	memset(generations, 0, sizeof(generations));
	memset(&flush_progress, 0, sizeof(flush_progress));
	present = flips = registrations = absorbed = flushes_wanted = told = 0;
	queue_full = false;
	node_timeout_ms = 1000;
	now_ms = 1000000;
	meanwhile = NULL;
	MyAuxProcType = CheckpointerProcess;
	CheckpointSyncShmemInit();
	CheckpointSyncInstall();
	CheckpointSyncRegister();
	return 0;
}

/* A checkpoint: the handler is called with the request that was registered last. True if it succeeds. */
static bool
checkpoint(void)
{
	char path[MAXPGPATH] = "";
	volatile bool succeeded = false;
	FileTag tag = registered;

	PG_TRY();
	{
		assert_int_equal(installed.sync_syncfiletag(&tag, path), 0);
		succeeded = true;
	}
	PG_CATCH();
	{
	}
	PG_END_TRY();
	assert_true(path[0] != '\0');
	assert_int_not_equal(registered.segno, tag.segno);
	return succeeded;
}

static void
test_nothing_dirty(void **state)
{
	CheckpointSyncFigures figures;

	assert_true(checkpoint());
	assert_true(checkpoint());
	assert_int_equal(flips, 0);
	assert_int_equal(registrations, 3);
	assert_int_equal(told, 2);
	CheckpointSyncGetFigures(&figures);
	assert_int_equal(figures.count, 2);
	assert_int_equal(figures.failures, 0);
	assert_false(figures.waiting);
}

/* The agent asks again until there is room, and then no more. */
static void
test_full_queue(void **state)
{
	CheckpointSyncShmemInit();
	registrations = 0;
	queue_full = true;
	assert_false(CheckpointSyncRegister());
	queue_full = false;
	assert_true(CheckpointSyncRegister());
	assert_true(CheckpointSyncRegister());
	assert_int_equal(registrations, 1);
}

static void
test_other_files(void **state)
{
	char path[MAXPGPATH];
	FileTag tag = registered;

	tag.rnode.relNode = 1;
	assert_int_equal(installed.sync_syncfiletag(&tag, path), 4711);
	tag = registered;
	tag.rnode.spcNode = 1664;
	assert_int_equal(installed.sync_syncfiletag(&tag, path), 4711);
	assert_int_equal(registrations, 1);
}

/* Ten pages were dirty; the eleventh becomes so while they are written, and is none of this checkpoint's business. */
static void
write_one(void)
{
	CheckpointSyncFigures figures;

	CheckpointSyncGetFigures(&figures);
	assert_true(figures.waiting);
	generations[present]++;
	if (PageDirectoryOlderDirty() > 0)
		generations[1 - present]--;
}

static void
test_waits_for_what_was_dirty(void **state)
{
	CheckpointSyncFigures figures;

	generations[present] = 10;
	meanwhile = write_one;
	assert_true(checkpoint());
	assert_int_equal(flips, 1);
	assert_int_equal(PageDirectoryOlderDirty(), 0);
	assert_int_equal(generations[present], 10);
	assert_true(absorbed >= 10);
	CheckpointSyncGetFigures(&figures);
	assert_int_equal(figures.waited_us, 100 * 1000);
	assert_int_equal(figures.last_time, (TimestampTz) now_ms * 1000);
}

/* After a checkpoint that failed, something of the older generation is left: it goes first, then the present one. */
static void
test_waits_for_what_is_left(void **state)
{
	generations[1 - present] = 3;
	generations[present] = 4;
	meanwhile = write_one;
	assert_true(checkpoint());
	assert_int_equal(flips, 1);
	assert_int_equal(generations[present], 4 + 3);
}

/* While the checkpoint waits for the last page of the older generation, a drain begins, and does its whole work. */
static void
write_by_two(void)
{
	if (now_ms % 100 != 0)
		return;
	if (PageDirectoryOlderDirty() > 0)
		generations[1 - present]--;
	if (flips == 0)
	{
		MyAuxProcType = NotAnAuxProcess;
		CheckpointSyncDrain();
		MyAuxProcType = CheckpointerProcess;
	}
}

static void
test_waits_help_each_other(void **state)
{
	generations[1 - present] = 1;
	generations[present] = 5;
	meanwhile = write_by_two;
	assert_true(checkpoint());
	assert_int_equal(PageDirectoryDirty(), 0);
	assert_in_range(flips, 1, 2);
}

static void
fail_rounds(void)
{
	if (now_ms % SECOND_MS != 0)
		return;
	flush_progress.error_number++;
	strcpy(flush_progress.state.error, "no space left on device");
}

static void
test_storage_fails(void **state)
{
	CheckpointSyncFigures figures;
	uint64 began = now_ms;

	generations[present] = 10;
	meanwhile = fail_rounds;
	assert_false(checkpoint());
	assert_int_equal(told, 0);
	assert_non_null(strstr(message, "could not write changed pages"));
	assert_in_range(now_ms - began, 5 * SECOND_MS, 6 * SECOND_MS);
	assert_in_range(flushes_wanted, 5, 7);
	CheckpointSyncGetFigures(&figures);
	assert_int_equal(figures.failures, 1);
	assert_int_equal(figures.count, 0);
	assert_false(figures.waiting);

	/* when there is space again, the next one succeeds; the first is not forgotten */
	meanwhile = write_one;
	assert_true(checkpoint());
	assert_int_equal(flips, 2);
}

/* One page each three seconds: that is progress, whatever else fails. */
static void
fail_most(void)
{
	fail_rounds();
	if (now_ms % (3 * SECOND_MS) == 0 && PageDirectoryOlderDirty() > 0)
		generations[1 - present]--;
}

static void
test_progress_beside_failures(void **state)
{
	generations[present] = 10;
	meanwhile = fail_most;
	assert_true(checkpoint());
}

static void
write_late(void)
{
	if (now_ms % (20 * SECOND_MS) == 0 && PageDirectoryOlderDirty() > 0)
		generations[1 - present]--;
}

/* What went wrong before the wait is no news, and neither is a failure that is over. */
static void
test_old_failures(void **state)
{
	flush_progress.error_number = 7;
	strcpy(flush_progress.state.error, "no space left on device");
	generations[present] = 3;
	meanwhile = write_late;
	assert_true(checkpoint());
}

static void
fail_once(void)
{
	flush_progress.error_number = 1;
	write_late();
}

static void
test_failure_that_passes(void **state)
{
	generations[present] = 3;
	meanwhile = fail_once;
	assert_true(checkpoint());
}

static void
test_standstill(void **state)
{
	uint64 began = now_ms;

	generations[present] = 10;
	assert_false(checkpoint());
	assert_non_null(strstr(message, "have written no changed page"));
	assert_in_range(now_ms - began, 60 * SECOND_MS, 61 * SECOND_MS);

	node_timeout_ms = 10 * SECOND_MS;
	began = now_ms;
	assert_false(checkpoint());
	assert_in_range(now_ms - began, 100 * SECOND_MS, 101 * SECOND_MS);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_nothing_dirty, setup),
		cmocka_unit_test_setup(test_full_queue, setup),
		cmocka_unit_test_setup(test_other_files, setup),
		cmocka_unit_test_setup(test_waits_for_what_was_dirty, setup),
		cmocka_unit_test_setup(test_waits_for_what_is_left, setup),
		cmocka_unit_test_setup(test_waits_help_each_other, setup),
		cmocka_unit_test_setup(test_storage_fails, setup),
		cmocka_unit_test_setup(test_progress_beside_failures, setup),
		cmocka_unit_test_setup(test_old_failures, setup),
		cmocka_unit_test_setup(test_failure_that_passes, setup),
		cmocka_unit_test_setup(test_standstill, setup),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	free(memory);
	return failed;
}
