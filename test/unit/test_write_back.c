/*
 * test_write_back.c
 *	  What all processes know of write-back: whether it is possible and active, requests to flush, what nodes say of their flushing.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "access/xlog.h"
#include "miscadmin.h"

#include "buffer_agent.h"
#include "comm_buffer.h"
#include "pg_stubs.h"
#include "settings.h"
#include "write_back.h"

/* The server, as this module sees it. */
bool enableFsync;
int wal_level;
int write_mode;
AuxProcType MyAuxProcType = NotAnAuxProcess;

void
BufferAgentAssist(int wait_ms)
{
	abort(); /* nobody waits here */
}

static int
setup(void **state)
{
	enableFsync = true;
	wal_level = WAL_LEVEL_REPLICA;
	write_mode = WRITE_MODE_AUTO;
	stub_set_pool(16384, 1024);
	CommBufferShmemInit();
	WriteBackShmemInit();
	return 0;
}

static int
teardown(void **state)
{
	stub_reset_shmem();
	return 0;
}

static void
test_possible(void **state)
{
	const char *reason = "unchanged";

	assert_true(WriteBackPossible(&reason));
	assert_null(reason);
	write_mode = WRITE_MODE_WRITETHROUGH;
	assert_false(WriteBackPossible(&reason));
	assert_string_equal(reason, "legobase.write_mode is writethrough");
	write_mode = WRITE_MODE_WRITEBACK;
	assert_true(WriteBackPossible(NULL));
	wal_level = WAL_LEVEL_MINIMAL;
	assert_false(WriteBackPossible(&reason));
	assert_string_equal(reason, "wal_level is minimal");
	assert_false(WriteBackPossible(NULL));
}

/* What counts is how the server was started. */
static void
test_fsync(void **state)
{
	const char *reason;

	enableFsync = false;
	assert_true(WriteBackFsyncAtStart());
	assert_true(WriteBackPossible(&reason));
	stub_reset_shmem();
	CommBufferShmemInit();
	WriteBackShmemInit();
	enableFsync = true;
	assert_false(WriteBackFsyncAtStart());
	assert_false(WriteBackPossible(&reason));
	assert_string_equal(reason, "fsync was off when the server started");
}

static void
test_active(void **state)
{
	assert_false(WriteBackActive());
	WriteBackSetNode(3, true);
	WriteBackSetNode(3, true);
	assert_true(WriteBackActive());
	assert_true(WriteBackNode(3));
	assert_false(WriteBackNode(2));
	WriteBackSetNode(2, true);
	WriteBackSetNode(3, false);
	assert_true(WriteBackActive());

	/* The node stays what it is: it may have dirty pages. */
	write_mode = WRITE_MODE_WRITETHROUGH;
	assert_false(WriteBackActive());
	assert_true(WriteBackNode(2));
	write_mode = WRITE_MODE_WRITEBACK;
	assert_true(WriteBackActive());
	WriteBackSetNode(2, false);
	WriteBackSetNode(2, false);
	assert_false(WriteBackActive());
}

/* A request wakes the agent once, until it has taken note. */
static void
test_requests(void **state)
{
	Latch latch;

	CommBufferSetAgent(&latch);
	assert_false(WriteBackFlushWanted());
	WriteBackRequestFlush();
	WriteBackRequestFlush();
	assert_true(WriteBackFlushWanted());
	assert_int_equal(stub_latches_set(), 1);
	WriteBackFlushDone();
	assert_false(WriteBackFlushWanted());
	WriteBackRequestFlush();
	assert_true(WriteBackFlushWanted());
	assert_int_equal(stub_latches_set(), 2);
}

static lb_flush_state
flush_state(uint64 failures, uint64 sync_failures, const char *error)
{
	lb_flush_state told = {.failures = failures, .sync_failures = sync_failures};

	strlcpy(told.error, error, sizeof(told.error));
	return told;
}

/* Say it, and return how many failed rounds are known then. */
static uint64
errors_after(int node, uint64 failures, const char *error)
{
	lb_flush_state told = flush_state(failures, 0, error);
	FlushProgress progress;

	assert_int_equal(WriteBackNoteFlushState(node, &told), FLUSH_NEWS_NONE);
	WriteBackGetFlushProgress(node, &progress);
	assert_string_equal(progress.state.error, error);
	assert_int_equal(progress.state.failures, failures);
	return progress.error_number;
}

static void
test_errors(void **state)
{
	FlushProgress progress;

	WriteBackGetFlushProgress(1, &progress);
	assert_int_equal(progress.error_number, 0);
	assert_string_equal(progress.state.error, "");

	/* What the node had counted before we came is none of ours. */
	WriteBackSetNode(1, true);
	assert_int_equal(errors_after(1, 5, ""), 0);
	assert_int_equal(errors_after(1, 6, "full"), 1);
	assert_int_equal(errors_after(1, 8, "full"), 3);
	assert_int_equal(errors_after(1, 8, ""), 3);

	/* Attached anew: another process perhaps, that fails at once. */
	WriteBackSetNode(1, false);
	WriteBackSetNode(1, true);
	assert_int_equal(errors_after(1, 20, "full"), 4);
	assert_int_equal(errors_after(1, 1, "full"), 5);
	assert_int_equal(errors_after(2, 0, ""), 0);
}

static bool
sync_failed_after(uint64 failures, uint64 sync_failures, const char *error)
{
	lb_flush_state told = flush_state(failures, sync_failures, error);

	return WriteBackNoteFlushState(0, &told) == FLUSH_NEWS_SYNC_FAILED;
}

static void
test_sync_failures(void **state)
{
	/* The first that is heard */
	assert_true(sync_failed_after(1, 1, "could not sync"));
	assert_false(sync_failed_after(2, 1, "full"));
	assert_true(sync_failed_after(3, 2, "could not sync"));
	assert_false(sync_failed_after(3, 2, ""));

	/* Those that a former life of ours was told: or a full disk would be a failed sync each time we start. */
	WriteBackSetNode(0, true);
	assert_false(sync_failed_after(4, 2, "full"));
	assert_true(sync_failed_after(5, 3, "could not sync"));
}

static void
test_damaged_pages(void **state)
{
	lb_flush_state told = {.damaged_pages = 3};

	/* What happened in a former life of ours */
	assert_int_equal(WriteBackNoteFlushState(0, &told), FLUSH_NEWS_NONE);
	assert_int_equal(WriteBackNoteFlushState(0, &told), FLUSH_NEWS_NONE);
	told.damaged_pages = 4;
	assert_int_equal(WriteBackNoteFlushState(0, &told), FLUSH_NEWS_DAMAGED);
}

static void
test_rate(void **state)
{
	lb_flush_state told = {.flushed_pages = 100};
	FlushProgress progress;

	(void) WriteBackNoteFlushState(0, &told);
	WriteBackGetFlushProgress(0, &progress);
	assert_true(progress.pages_per_second == 0);
	pg_usleep(20000);
	told.flushed_pages = 300;
	(void) WriteBackNoteFlushState(0, &told);
	WriteBackGetFlushProgress(0, &progress);
	assert_true(progress.pages_per_second > 0 && progress.pages_per_second <= 200 / 0.02);

	/* Nothing was written: that says nothing. */
	(void) WriteBackNoteFlushState(0, &told);
	WriteBackGetFlushProgress(0, &progress);
	assert_true(progress.pages_per_second > 0);
	assert_int_equal(progress.state.flushed_pages, 300);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_possible),      TEST(test_fsync),  TEST(test_active),
		TEST(test_requests),      TEST(test_errors), TEST(test_sync_failures),
		TEST(test_damaged_pages), TEST(test_rate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
