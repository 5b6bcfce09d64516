/*
 * test_node_push.c
 *	  A link's pushes: when a message is sent, with how many pages; what happens to pages that are held back for a fuller one.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "comm_buffer.h"
#include "node_link_internal.h"
#include "node_table.h"
#include "page_directory.h"
#include "pg_stubs.h"
#include "slab_table.h"
#include "stats.h"
#include "write_back.h"

#define SLAB_PAGES 1024
#define POOL_PAGES (256 * SLAB_PAGES) /* enough for some hundred comm buffers */

/* --- the server, and the rest of the link ---------------------------------------------------------------------------- */

extern int fake_clock_gettime(clockid_t clock, struct timespec *now);
extern bool fake_stream_send(lb_stream *stream, lb_frame_type type, uint64_t sequence,
							 const void *body, size_t body_length, const struct iovec *bulk,
							 int bulk_count, int pass_fd, lb_status *status);

int node_timeout_ms = 1000;

static uint64 now_us;
static NodeLink agents_link;
static lb_push_batch sent[16]; /* in the order of their sending */
static int sent_count;
static uint32 messages_counted;

int
fake_clock_gettime(clockid_t clock, struct timespec *now)
{
	now->tv_sec = now_us / 1000000;
	now->tv_nsec = now_us % 1000000 * 1000;
	return 0;
}

bool
fake_stream_send(lb_stream *stream, lb_frame_type type, uint64_t sequence, const void *body,
				 size_t body_length, const struct iovec *bulk, int bulk_count, int pass_fd,
				 lb_status *status)
{
	assert_int_equal(type, LB_PUSH);
	assert_true(lb_decode_push(body, body_length, &sent[sent_count]));
	assert_int_equal(bulk_count, agents_link.uri.transport == LB_TRANSPORT_TCP
									 ? (int) sent[sent_count].count
									 : 0);
	sent_count++;
	return true;
}

void
link_broken(NodeLink *broken, const char *reason)
{
	fail_msg("%s", reason);
}

void
flush_proof_void(NodeLink *refused)
{
}

void
NodeTableCountPushes(int node, uint32 pages)
{
}

void
NodeTableCountPushMessages(int node, uint32 messages)
{
	messages_counted += messages;
}

void
StatsCount(StatCounter counter, uint64 n)
{
}

void
StatsWriteTime(StatTier tier, uint64 elapsed_ns)
{
}

/* --- helpers -------------------------------------------------------------------------------------------------------- */

static uint32 next_block;

static int
setup(void **state)
{
	stub_set_pool(POOL_PAGES, SLAB_PAGES);
	PageDirectoryShmemInit();
	SlabTableShmemInit();
	CommBufferShmemInit();
	assert_true(SlabTableAdd(0, 0));
	now_us = 1000000;
	sent_count = 0;
	messages_counted = 0;
	next_block = 0;
	memset(&agents_link, 0, sizeof(agents_link));
	agents_link.queue = calloc(CommBufferCount(), sizeof(Push));
	agents_link.state = LINK_ATTACHED;
	agents_link.uri.transport = LB_TRANSPORT_RDMA;
	return 0;
}

static int
teardown(void **state)
{
	free(agents_link.queue);
	stub_reset_shmem();
	return 0;
}

static lb_page_tag
tag_of(uint32 block)
{
	return (lb_page_tag){.tablespace = 1663, .database = 5, .relation = 16384, .block = block};
}

/* Pages come from server processes to the agents_link. */
static void
queue_pages(uint32 count)
{
	for (uint32 i = 0; i < count; i++)
	{
		lb_page_tag tag = tag_of(next_block++);
		uint32 buffer = CommBufferTake();
		uint32 entry = SlabTableTakeFree(0);

		assert_int_not_equal(buffer, INVALID_COMM_BUFFER);
		assert_int_not_equal(entry, INVALID_ENTRY);
		PageDirectoryReserve(entry);
		assert_true(PageDirectoryLink(entry, &tag, 1, buffer, NULL, 1) != 0);
		NodeLinkQueuePush(&agents_link, buffer, entry);
	}
}

static void
send_at(uint64 us)
{
	now_us = us;
	NodeLinkSendPushes(&agents_link);
}

/* The node has published all of the oldest message. */
static void
acknowledge(void)
{
	lb_push_ack ack = {.count = agents_link.sent[0].count};
	uint8 body[LB_BODY_MAX];
	lb_frame frame = {.header = {.type = LB_PUSH_ACK, .sequence = agents_link.sent[0].sequence},
					  .body = body};

	frame.header.body_length = (uint32) lb_encode_push_ack(body, &ack);
	assert_true(push_acknowledged(&agents_link, &frame));
}

static void
assert_sent(int messages, uint32 pages_of_last)
{
	assert_int_equal(sent_count, messages);
	assert_int_equal(messages_counted, messages);
	assert_int_equal(sent[messages - 1].count, pages_of_last);
}

static void
assert_awaited(uint32 pages, uint64 until_us)
{
	uint64 until;

	assert_int_equal(NodeLinkPagesAwaited(&agents_link, &until), pages);
	assert_int_equal(until, until_us * 1000);
}

/* --- tests ---------------------------------------------------------------------------------------------------------- */

/* After 20 quiet milliseconds a page goes at once; within them eight have to be there. */
static void
test_batches(void **state)
{
	assert_awaited(1, 0);
	queue_pages(1);
	send_at(1000000);
	assert_sent(1, 1);
	acknowledge();
	assert_awaited(8, 1020000);

	queue_pages(7);
	send_at(1019999);
	assert_sent(1, 1);
	assert_awaited(1, 1020000);
	queue_pages(1);
	assert_awaited(1, 1019999);
	send_at(1019999);
	assert_sent(2, 8);
	assert_awaited(8, 0);
	queue_pages(8);
	send_at(1020000);
	assert_sent(3, 8);

	/* Two wait for their answers: no more is sent, however much there is. */
	assert_awaited(0, 0);
	queue_pages(11);
	send_at(1040000);
	assert_sent(3, 8);
	acknowledge();
	send_at(1040000);
	assert_sent(4, 11);
}

/* What is held back goes when the time is over, and that is known before; and when the answer to the message before has come. */
static void
test_limit(void **state)
{
	queue_pages(1);
	send_at(1000000);
	acknowledge();
	queue_pages(3);
	send_at(1000500);
	assert_sent(1, 1);
	assert_awaited(5, 1020000);
	now_us = 1020000; /* between sending and going to sleep */
	assert_awaited(1, 1020000);
	send_at(1020000);
	assert_sent(2, 3);

	queue_pages(2);
	send_at(1050000);
	assert_sent(2, 3);
	assert_awaited(6, 0);
	acknowledge();
	assert_awaited(1, 1050000);
	send_at(1050000);
	assert_sent(3, 2);
}

/* More than a message takes: the rest waits for company. */
static void
test_rest(void **state)
{
	queue_pages(1);
	send_at(1000000);
	acknowledge();
	queue_pages(LB_BATCH_MAX + 3);
	send_at(1000100);
	assert_sent(2, LB_BATCH_MAX);
	send_at(1020100);
	assert_sent(2, LB_BATCH_MAX);
	acknowledge();
	send_at(1020100);
	assert_sent(3, 3);
}

/* Server processes may soon wait for comm buffers. */
static void
test_few_buffers(void **state)
{
	uint32 taken[2048];
	uint32 count = 0;

	queue_pages(1);
	send_at(1000000);
	queue_pages(2);
	send_at(1000100);
	assert_sent(1, 1);
	while (CommBufferFree() >= CommBufferCount() / 2)
		taken[count++] = CommBufferTake();
	assert_awaited(1, 1000100);
	send_at(1000100);
	assert_sent(2, 2);
	while (count > 0)
		CommBufferRelease(taken[--count]);
}

static void
test_other_transports(void **state)
{
	agents_link.uri.transport = LB_TRANSPORT_TCP;
	queue_pages(1);
	send_at(1000000);
	assert_awaited(1, 0);
	queue_pages(2);
	send_at(1000000);
	assert_sent(2, 2);
}

/* A page that is forgotten while it is held back is not sent: a fence may have gone to the node meanwhile. */
static void
test_forgotten(void **state)
{
	lb_page_tag tag = tag_of(2);
	uint32 free_before;

	queue_pages(1);
	send_at(1000000);
	acknowledge();
	free_before = CommBufferFree();
	queue_pages(3);
	send_at(1000100);
	PageDirectoryForget(&tag);
	send_at(1020000);
	assert_sent(2, 2);
	assert_int_equal(sent[1].pushes[0].tag.block, 1);
	assert_int_equal(sent[1].pushes[1].tag.block, 3);
	assert_int_equal(CommBufferFree(), free_before - 2);
	assert_int_equal(agents_link.pushes_ended, 2);
}

/* The connection breaks: what was sent keeps its buffers and goes first, what was held back behind it. */
static void
test_broken(void **state)
{
	uint32 free_before;

	queue_pages(1);
	send_at(1000000);
	queue_pages(3);
	free_before = CommBufferFree();
	agents_link.state = LINK_RESUMING;
	push_requeue_sent(&agents_link);
	send_at(1050000);
	assert_sent(1, 1);
	assert_awaited(0, 0);
	assert_int_equal(CommBufferFree(), free_before);
	agents_link.state = LINK_ATTACHED;
	send_at(1050000);
	assert_sent(2, 4);
	for (uint32 i = 0; i < 4; i++)
		assert_int_equal(sent[1].pushes[i].tag.block, i);
	acknowledge();
	assert_int_equal(CommBufferFree(), CommBufferCount());
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_batches, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_few_buffers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_transports, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forgotten, setup, teardown),
		cmocka_unit_test_setup_teardown(test_broken, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
