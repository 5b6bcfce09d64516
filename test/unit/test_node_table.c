/*
 * test_node_table.c
 *	  Node table and statistics: states and sessions, costs, figures, the size of the shared memory.
 */
#include "postgres.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "storage/proc.h"
#include "utils/timestamp.h"

#include "embedded_node.h"
#include "node_table.h"
#include "pg_stubs.h"
#include "stats.h"

#define NODES 3

/* The server, as these modules see it. */
PGPROC *MyProc;
static TimestampTz now = 1000;
static bool embedded;
static lb_uri uris[NODES];
bool take_over;

TimestampTz
GetCurrentTimestamp(void)
{
	return now++;
}

bool
settings_embedded(void)
{
	return embedded;
}

int
settings_node_uris(const lb_uri **list)
{
	*list = uris;
	return NODES;
}

const lb_uri *
embedded_node_uri(void)
{
	return &uris[0];
}

static int
setup(void **state)
{
	lb_status status;

	embedded = false;
	assert_true(lb_uri_parse("shm:///run/one.sock", false, &uris[0], &status));
	assert_true(lb_uri_parse("tcp://127.0.0.1:1", false, &uris[1], &status));
	assert_true(lb_uri_parse("tcp://127.0.0.1:2", false, &uris[2], &status));
	NodeTableShmemInit();
	StatsShmemInit();
	return 0;
}

static int
teardown(void **state)
{
	stub_reset_shmem();
	return 0;
}

static void
set_up(int node, uint64 incarnation)
{
	lb_address address = {.length = 16 + node};
	lb_hello hello = {.token = 500 + incarnation, .epoch = 7};
	lb_welcome welcome = {.incarnation = incarnation, .capacity_pages = 4096};

	NodeTableSetUp(node, &address, &hello, &welcome, 4000 + node);
}

static void
test_sessions(void **state)
{
	NodeSession session;
	uint32 first;

	assert_int_equal(NodeTableCount(), NODES);
	assert_string_equal(NodeTableUri(2), "tcp://127.0.0.1:2");
	assert_int_equal(NodeTableTransport(0), LB_TRANSPORT_SHM);
	assert_int_equal(NodeTableTransport(1), LB_TRANSPORT_TCP);
	assert_int_equal(NodeTableState(1), NODE_DOWN);
	assert_int_equal(NodeTableSessionNumber(1), 0);
	assert_false(NodeTableSession(1, &session));

	set_up(1, 11);
	first = NodeTableSessionNumber(1);
	assert_int_not_equal(first, 0);
	assert_int_equal(NodeTableState(1), NODE_UP);
	assert_true(NodeTableSession(1, &session));
	assert_int_equal(session.session, first);
	assert_int_equal(session.transport, LB_TRANSPORT_TCP);
	assert_int_equal(session.address.length, 17);
	assert_int_equal(session.hello.token, 511);
	assert_int_equal(session.hello.epoch, 7);

	/* Suspicion is news once, and only of the session in force. */
	assert_false(NodeTableSuspect(1, first + 1));
	assert_true(NodeTableSuspect(1, first));
	assert_false(NodeTableSuspect(1, first));
	assert_int_equal(NodeTableState(1), NODE_SUSPECT);
	assert_int_equal(NodeTableSessionNumber(1), first);
	assert_false(NodeTableSession(1, &session));
	NodeTableSetState(1, NODE_UP);
	assert_int_equal(NodeTableSessionNumber(1), first);
	assert_true(NodeTableSession(1, &session));

	/* Lost, then down; and up again in another session, which no other node ever had. */
	NodeTableSetState(1, NODE_LOST);
	assert_int_equal(NodeTableSessionNumber(1), 0);
	assert_false(NodeTableSuspect(1, first));
	assert_false(NodeTableSuspect(1, 0));
	NodeTableSetState(1, NODE_DOWN);
	set_up(0, 12);
	set_up(1, 13);
	assert_true(NodeTableSessionNumber(0) != first && NodeTableSessionNumber(1) != first);
	assert_true(NodeTableSessionNumber(0) != NodeTableSessionNumber(1));
	assert_false(NodeTableSuspect(1, first));
	assert_true(NodeTableSession(1, &session));
	assert_int_equal(session.hello.token, 513);
}

/* What a new agent finds of its predecessor's attachments. */
static void
test_attachment(void **state)
{
	NodeAttachment attachment;
	uint32 session;

	assert_false(NodeTableAttachment(1, &attachment));
	set_up(1, 11);
	assert_true(NodeTableAttachment(1, &attachment));
	assert_int_equal(attachment.address.length, 17);
	assert_int_equal(attachment.epoch, 7);
	assert_int_equal(attachment.token, 511);
	assert_int_equal(attachment.incarnation, 11);
	assert_int_equal(attachment.capacity_pages, 4096);
	assert_int_equal(attachment.process, 4001);

	/* Suspect because it is being resumed: the session stays until the next one begins. */
	session = NodeTableSessionNumber(1);
	NodeTableSetState(1, NODE_SUSPECT);
	assert_true(NodeTableAttachment(1, &attachment));
	assert_int_equal(NodeTableSessionNumber(1), session);
	assert_int_equal(NodeTableIncarnation(1), 11);
	set_up(1, 11);
	assert_int_not_equal(NodeTableSessionNumber(1), session);
	assert_int_equal(NodeTableState(1), NODE_UP);

	NodeTableSetState(1, NODE_LOST);
	assert_false(NodeTableAttachment(1, &attachment));
	NodeTableSetState(1, NODE_DOWN);
	assert_false(NodeTableAttachment(1, &attachment));
}

static void
test_embedded(void **state)
{
	stub_reset_shmem();
	embedded = true;
	NodeTableShmemInit();
	assert_int_equal(NodeTableCount(), 1);
	assert_string_equal(NodeTableUri(0), "shm:///run/one.sock");
}

/* The average follows lasting changes and is not moved far by one slow read. */
static void
test_costs(void **state)
{
	uint32 before;

	assert_int_equal(NodeTableReadCost(0), 0);
	NodeTableCountReads(0, 1, 2000);
	assert_int_equal(NodeTableReadCost(0), 2000);
	NodeTableCountReads(0, 1, 50000000);
	assert_in_range(NodeTableReadCost(0), 2000, 3000);
	for (int i = 0; i < 40; i++)
		NodeTableCountReads(0, 1, 2000);
	assert_in_range(NodeTableReadCost(0), 1900, 2300);
	for (int i = 0; i < 80; i++)
		NodeTableCountReads(0, 1, 300000);
	assert_in_range(NodeTableReadCost(0), 250000, 310000);
	for (int i = 0; i < 80; i++)
		NodeTableCountReads(0, 1, 2000);
	assert_in_range(NodeTableReadCost(0), 1900, 2400);

	/* A batch costs its pages' share. Nodes, storage and the kernel's cache are apart. */
	NodeTableCountReads(1, 10, 10000);
	assert_int_equal(NodeTableReadCost(1), 1000);
	NodeTableNoteStorageRead(90000);
	assert_int_equal(NodeTableStorageCost(), 90000);
	assert_int_equal(NodeTableReadCost(2), 0);

	/* Extremes: nothing overflows, nothing sticks. */
	NodeTableCountReads(2, 1, 1);
	before = NodeTableReadCost(2);
	assert_true(before > 0);
	for (int i = 0; i < 500; i++)
		NodeTableCountReads(2, 1, UINT64_MAX);
	assert_true(NodeTableReadCost(2) > 1000000000);
	for (int i = 0; i < 500; i++)
		NodeTableCountReads(2, 1, 1);
	assert_true(NodeTableReadCost(2) < 2 * before);

	/* Another session may be another machine. */
	set_up(0, 1);
	assert_int_equal(NodeTableReadCost(0), 0);
}

static void
test_probes(void **state)
{
	assert_true(NodeTableMayProbe(0));
	assert_false(NodeTableMayProbe(0));
	assert_true(NodeTableMayProbe(1));
	assert_false(NodeTableMayProbe(1));
}

/* A time-out counts for what it took at once; afterwards a few fast reads are enough to be believed again. */
static void
test_timeout_cost(void **state)
{
	int reads = 0;

	NodeTableCountReads(0, 1, 20000);
	NodeTableNoteTimeout(0, 250000000);
	assert_int_equal(NodeTableReadCost(0), 250000000);
	while (NodeTableReadCost(0) > 100000)
	{
		NodeTableCountReads(0, 1, 20000);
		assert_in_range(++reads, 1, 30);
	}
}

/* Looks in vain soon outweigh earlier finds, and the other way round. */
static void
test_kernel_cache_hits(void **state)
{
	assert_int_equal(NodeTableKernelCacheHits(), KERNEL_CACHE_LOOKS);
	for (int i = 0; i < 32; i++)
		NodeTableNoteKernelCacheLook(false);
	assert_in_range(NodeTableKernelCacheHits(), 0, KERNEL_CACHE_LOOKS / 2 - 1);
	for (int i = 0; i < 64; i++)
		NodeTableNoteKernelCacheLook(true);
	assert_in_range(NodeTableKernelCacheHits(), KERNEL_CACHE_LOOKS / 2 + 1, KERNEL_CACHE_LOOKS);
}

/* Only before the first attachment, and not in shared memory that was made again after a crash. */
static void
test_take_over(void **state)
{
	take_over = true;
	stub_reset_shmem();
	NodeTableShmemInit();
	assert_false(NodeTableMayTakeOver(0));
	take_over = false;
}

static void
test_take_over_first(void **state)
{
	assert_false(NodeTableMayTakeOver(0));
	take_over = true;
	assert_true(NodeTableMayTakeOver(0));
	set_up(0, 7);
	assert_false(NodeTableMayTakeOver(0));
	assert_true(NodeTableMayTakeOver(1));
	take_over = false;
}

static void
test_rows(void **state)
{
	NodeRow row;
	char error[1000];

	NodeTableGetRow(2, &row);
	assert_string_equal(row.uri, "tcp://127.0.0.1:2");
	assert_int_equal(row.state, NODE_DOWN);
	assert_int_equal(row.incarnation, 0);
	assert_string_equal(row.last_error, "");

	set_up(2, 99);
	memset(error, 'x', sizeof(error));
	error[999] = '\0';
	NodeTableSetError(2, error);
	NodeTableCountPushes(2, 5);
	NodeTableCountReads(2, 3, 1000);
	NodeTableCountReads(2, 1, 1000);
	NodeTableCountReads(2, 1, 0);
	NodeTableCountPushMessages(2, 2);
	NodeTableCountWork(2, 16, 1, 0);
	NodeTableCountWork(2, 1, 1, 2);
	NodeTableGetRow(2, &row);
	assert_int_equal(row.state, NODE_UP);
	assert_int_equal(row.incarnation, 99);
	assert_int_equal(row.capacity_pages, 4096);
	assert_int_equal(row.pushes, 5);
	assert_int_equal(row.push_messages, 2);
	assert_int_equal(row.work_requests, 17);
	assert_int_equal(row.doorbells, 2);
	assert_int_equal(row.completions, 2);
	assert_int_equal(row.reads, 5);
	assert_int_equal(row.latency[lb_histogram_bucket(1000)], 2);
	assert_int_equal(strlen(row.last_error), NODE_ERROR_MAX - 1);

	NodeTableSetError(2, "");
	NodeTableResetStats();
	NodeTableGetRow(2, &row);
	assert_string_equal(row.last_error, "");
	assert_int_equal(row.reads + row.pushes + row.latency[lb_histogram_bucket(1000)], 0);
	assert_int_equal(row.push_messages + row.work_requests + row.doorbells + row.completions, 0);
	assert_int_equal(row.incarnation, 99);

	assert_int_equal(NodeTableUnmapCounter(), 0);
	NodeTableAskUnmap();
	assert_int_equal(NodeTableUnmapCounter(), 1);
}

/* Each one is counted, the first of a session is told of. */
static void
test_fallbacks(void **state)
{
	char reason[NODE_ERROR_MAX];
	char long_reason[1000];
	NodeRow row;

	set_up(1, 11);
	assert_false(NodeTableTakeFallback(1, reason));
	NodeTableNoteFallback(1, "too many");
	NodeTableNoteFallback(1, "no memory");
	assert_false(NodeTableTakeFallback(0, reason));
	assert_true(NodeTableTakeFallback(1, reason));
	assert_string_equal(reason, "too many");
	assert_false(NodeTableTakeFallback(1, reason));
	NodeTableNoteFallback(1, "no memory");
	assert_false(NodeTableTakeFallback(1, reason));
	NodeTableGetRow(1, &row);
	assert_int_equal(row.tcp_fallbacks, 3);
	NodeTableResetStats();
	NodeTableGetRow(1, &row);
	assert_int_equal(row.tcp_fallbacks, 0);
	assert_false(NodeTableTakeFallback(1, reason));

	/* One that was never told of is none of the next session's. */
	NodeTableNoteFallback(0, "too many");
	set_up(0, 12);
	set_up(1, 13);
	assert_false(NodeTableTakeFallback(0, reason));
	memset(long_reason, 'x', sizeof(long_reason));
	long_reason[999] = '\0';
	NodeTableNoteFallback(1, long_reason);
	assert_true(NodeTableTakeFallback(1, reason));
	assert_int_equal(strlen(reason), NODE_ERROR_MAX - 1);
}

#define PROCESSES 4
#define THREADS 2
#define COUNTERS (PROCESSES * THREADS)
#define ROUNDS 50000

static void *
count_much(void *argument)
{
	for (int i = 1; i <= ROUNDS; i++)
	{
		StatsCount(STAT_REMOTE_HITS, 1);
		StatsReadTime(TIER_REMOTE, i);
		StatsWriteTime(TIER_STORAGE, 2);
		NodeTableCountReads(0, 2, i);
		NodeTableCountWork(0, 2, 1, 1);
	}
	return NULL;
}

/* Nothing is lost, whoever counts: two threads each as processes on the same stripe, on others, and without a PGPROC. */
static void
test_exact_counts(void **state)
{
	PGPROC procs[PROCESSES] = {
		{.pgprocno = 0}, {.pgprocno = 8}, {.pgprocno = 1}, {.pgprocno = 1000003}};
	pthread_t threads[THREADS];
	uint64 counts[LB_HISTOGRAM_BUCKETS];
	uint64 sum = 0;
	TimestampTz before;
	NodeRow row;

	for (int process = 0; process < PROCESSES; process++)
	{
		MyProc = process == 0 ? NULL : &procs[process];
		for (int i = 0; i < THREADS; i++)
			pthread_create(&threads[i], NULL, count_much, NULL);
		for (int i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
	}
	MyProc = NULL;

	assert_int_equal(StatsGet(STAT_REMOTE_HITS), COUNTERS * ROUNDS);
	assert_int_equal(StatsGet(STAT_STORAGE_READS), 0);
	assert_int_equal(StatsGetWriteTime(TIER_STORAGE), 2 * COUNTERS * ROUNDS);
	assert_int_equal(StatsGetWriteTime(TIER_REMOTE), 0);
	for (int i = 1; i <= ROUNDS; i++)
		sum += i;
	assert_int_equal(StatsGetReadTime(TIER_REMOTE), COUNTERS * sum);
	StatsGetHistogram(TIER_REMOTE, counts);
	sum = 0;
	for (int i = 0; i < LB_HISTOGRAM_BUCKETS; i++)
		sum += counts[i];
	assert_int_equal(sum, COUNTERS * ROUNDS);
	NodeTableGetRow(0, &row);
	assert_int_equal(row.reads, 2 * COUNTERS * ROUNDS);
	assert_int_equal(row.work_requests, 2 * COUNTERS * ROUNDS);
	assert_int_equal(row.completions, COUNTERS * ROUNDS);

	before = StatsResetTime();
	StatsReset();
	assert_true(StatsResetTime() > before);
	assert_int_equal(StatsGet(STAT_REMOTE_HITS), 0);
	assert_int_equal(StatsGetReadTime(TIER_REMOTE), 0);
	StatsGetHistogram(TIER_REMOTE, counts);
	for (int i = 0; i < LB_HISTOGRAM_BUCKETS; i++)
		assert_int_equal(counts[i], 0);
	NodeTableGetRow(0, &row);
	assert_int_equal(row.reads, 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_take_over_first), TEST(test_take_over),
		TEST(test_timeout_cost),    TEST(test_kernel_cache_hits),
		TEST(test_sessions),        TEST(test_attachment),
		TEST(test_embedded),        TEST(test_costs),
		TEST(test_probes),          TEST(test_rows),
		TEST(test_exact_counts),    TEST(test_fallbacks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
