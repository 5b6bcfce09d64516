/*
 * test_data_plane_tcp.c
 *	  The tcp data plane against a node that behaves, and against nodes that do not.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "fake_node.h"
#include "lb_clock.h"
#include "lb_data_plane.h"
#include "lb_rdma.h"
#include "raw_frame.h"

#define MS UINT64_C(1000000)
#define LIMIT (lb_now_ns() + 5000 * MS)

static lb_status status;

static const lb_hello identity = {
	.role = LB_ROLE_AGENT, .system_identifier = 11, .uuid = {1, 2, 3}, .epoch = 4, .token = 5};

static void
sleep_ms(int ms)
{
	struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	while (nanosleep(&pause, &pause) != 0 && errno == EINTR)
		continue;
}

/* What a page of a slot has: every byte the same, from its number. */
static uint8_t
fill_of(lb_slot_ref slot)
{
	return (uint8_t) (slot.slab * 31 + slot.page);
}

/* How the fake node treats its first READ. */
typedef enum conduct
{
	GOOD,
	IN_PIECES,
	SILENT,
	TRICKLING,
	CLOSING,
	CLOSING_MIDWAY,
	REFUSING,
	REFUSING_IN_PIECES,
	WRONG_SEQUENCE,
	WRONG_TYPE,
	TOO_MANY_PAGES,
	TOO_FEW_PAGES,
	WRONG_COUNT,
	DAMAGED,
	GARBAGE,
	LATE
} conduct;

typedef struct behaviour
{
	conduct conduct;
	lb_hello hello; /* what was received */
	int reads;
} behaviour;

static raw_frame *
make_reply(uint64_t sequence, const lb_read_batch *batch, uint32_t count, int pages)
{
	uint8_t body[LB_BODY_MAX];
	raw_frame *reply =
		raw_frame_make(LB_READ_REPLY, sequence, body, lb_encode_count(body, count), pages, 0);
	uint8_t *bulk = reply->bytes + LB_HEADER_SIZE + 4;

	for (int i = 0; i < pages && i < (int) batch->count; i++)
		memset(bulk + (size_t) i * LB_PAGE_SIZE, fill_of(batch->slots[i]), LB_PAGE_SIZE);
	return reply;
}

static void
send_in_pieces(int socket, const raw_frame *frame, size_t piece, int pause_ms)
{
	for (size_t sent = 0; sent < frame->length; sent += piece)
	{
		size_t length = frame->length - sent < piece ? frame->length - sent : piece;

		fake_send(socket, frame->bytes + sent, length);
		sleep_ms(pause_ms);
	}
}

static void
answer_badly(int socket, conduct conduct, raw_frame *reply, uint64_t sequence)
{
	switch (conduct)
	{
		case IN_PIECES:
			send_in_pieces(socket, reply, 1001, 7);
			break;
		case TRICKLING:
			for (size_t i = 0; i < 300 && i < reply->length; i++)
			{
				fake_send(socket, reply->bytes + i, 1);
				sleep_ms(2);
			}
			break;
		case CLOSING_MIDWAY:
			fake_send(socket, reply->bytes, reply->length / 2);
			break;
		case REFUSING:
			fake_send_error(socket, sequence, LB_ERR_SLAB, "no such slab");
			fake_wait_closed(socket);
			break;
		case DAMAGED:
			reply->bytes[LB_HEADER_SIZE] ^= 1;
			fake_send(socket, reply->bytes, reply->length);
			break;
		case GARBAGE:
			memset(reply->bytes, 'x', LB_HEADER_SIZE);
			fake_send(socket, reply->bytes, 100);
			fake_wait_closed(socket);
			break;
		case LATE:
			sleep_ms(150);
			fake_send(socket, reply->bytes, reply->length);
			break;
		default:
			fake_send(socket, reply->bytes, reply->length);
			break;
	}
}

/* An ERROR longer than the head of a reply, so that part of it lands where pages are expected. */
static void
refuse_in_pieces(int socket, uint64_t sequence)
{
	lb_error refusal = {.error = LB_ERR_INTERNAL};
	uint8_t body[LB_BODY_MAX];
	raw_frame *frame;

	memset(refusal.message, 'm', LB_MESSAGE_MAX);
	frame = raw_frame_make(LB_ERROR, sequence, body, lb_encode_error(body, &refusal), 0, 0);
	send_in_pieces(socket, frame, 25, 15);
	free(frame);
	fake_wait_closed(socket);
}

static void
answer_read(int socket, conduct conduct, uint64_t sequence, const lb_read_batch *batch)
{
	raw_frame *reply;
	uint64_t answered = conduct == WRONG_SEQUENCE ? sequence + 1 : sequence;
	int pages = (int) batch->count;
	uint32_t count = batch->count;

	if (conduct == TOO_MANY_PAGES)
		count = (uint32_t) ++pages;
	if (conduct == TOO_FEW_PAGES)
		count = (uint32_t) --pages;
	if (conduct == WRONG_COUNT)
		count--;
	reply = make_reply(answered, batch, count, pages);
	if (conduct == WRONG_TYPE)
		fake_send_frame(socket, LB_PONG, sequence, NULL, 0, -1, 0);
	else if (conduct == REFUSING_IN_PIECES)
		refuse_in_pieces(socket, sequence);
	else if (conduct == SILENT)
		fake_wait_closed(socket);
	else if (conduct != CLOSING)
		answer_badly(socket, conduct, reply, sequence);
	free(reply);
}

static void
serve(int socket, void *arg)
{
	behaviour *behaviour = arg;
	lb_header header;
	uint8_t body[LB_BODY_MAX];
	lb_read_batch batch;

	fake_welcome(socket, &behaviour->hello);
	while (fake_receive(socket, &header, body))
	{
		if (header.type != LB_READ || !lb_decode_read(body, header.body_length, &batch))
			abort();
		behaviour->reads++;
		answer_read(socket, behaviour->conduct, header.sequence, &batch);
		if (behaviour->conduct == WRONG_TYPE)
			fake_wait_closed(socket);
		if (behaviour->conduct != GOOD && behaviour->conduct != IN_PIECES)
			return;
	}
}

/* A node and a connection to it. */
typedef struct session
{
	behaviour behaviour;
	fake_node *node;
	lb_data_plane *plane;
	int cancel_after; /* calls of the callback; 0: never */
	int asked;
} session;

static bool
asked_often_enough(void *arg)
{
	session *s = arg;

	s->asked++;
	return s->cancel_after > 0 && s->asked >= s->cancel_after;
}

static void
start(session *s, conduct conduct)
{
	memset(s, 0, sizeof(*s));
	s->behaviour.conduct = conduct;
	s->node = fake_node_start(LB_TRANSPORT_TCP, serve, &s->behaviour);
	s->plane = lb_data_plane_connect(LB_TRANSPORT_TCP, fake_node_address(s->node), &identity,
									 asked_often_enough, s, LIMIT, &status);
	if (s->plane == NULL)
		fail_msg("%s", status.message);
}

static void
end(session *s)
{
	lb_data_plane_close(s->plane);
	fake_node_stop(s->node);
}

static void
assert_page(const uint8_t *page, uint8_t fill)
{
	for (int i = 0; i < LB_PAGE_SIZE; i++)
		if (page[i] != fill)
			fail_msg("byte %d is %d, not %d", i, page[i], fill);
}

static uint64_t
submit_one(session *s, uint8_t *page, uint32_t number)
{
	lb_read_target target = {{3, number}, page};

	return lb_data_plane_submit(s->plane, &target, 1, LIMIT, &status);
}

static void
read_pages(session *s)
{
	static uint8_t pages[LB_BATCH_MAX][LB_PAGE_SIZE];
	lb_read_target targets[LB_BATCH_MAX];
	uint64_t ticket;

	for (uint32_t i = 0; i < LB_BATCH_MAX; i++)
		targets[i] = (lb_read_target){{i % 5, i * 7}, pages[i]};
	for (int count = 1; count <= LB_BATCH_MAX; count += 21)
	{
		memset(pages, 0xee, sizeof(pages));
		ticket = lb_data_plane_submit(s->plane, targets, count, LIMIT, &status);
		assert_true(ticket > 0);
		if (!lb_data_plane_wait(s->plane, ticket, LIMIT, &status))
			fail_msg("%s", status.message);
		for (int i = 0; i < count; i++)
			assert_page(pages[i], fill_of(targets[i].slot));
		for (int i = count; i < LB_BATCH_MAX; i++)
			assert_page(pages[i], 0xee);
	}
}

static void
test_reads(void **state)
{
	session s;

	(void) state;
	start(&s, GOOD);
	assert_string_equal(s.plane->ops->name, "tcp");
	assert_true(s.plane->ops->read_ahead_helps);
	read_pages(&s);
	assert_int_equal(s.plane->counters.batches, 4);
	assert_int_equal(s.plane->counters.round_trips, 4);
	assert_int_equal(s.plane->counters.pages, 1 + 22 + 43 + 64);
	lb_data_plane_unmap(s.plane);
	end(&s);

	assert_int_equal(s.behaviour.hello.role, LB_ROLE_BACKEND);
	assert_int_equal(s.behaviour.hello.version_max, LB_PROTOCOL_VERSION);
	assert_int_equal(s.behaviour.hello.page_size, LB_PAGE_SIZE);
	assert_int_equal(s.behaviour.hello.system_identifier, 11);
	assert_int_equal(s.behaviour.hello.epoch, 4);
	assert_int_equal(s.behaviour.hello.token, 5);
	assert_memory_equal(s.behaviour.hello.uuid, identity.uuid, LB_UUID_SIZE);
}

/* The reply comes in pieces further apart than a slice. */
static void
test_pieces(void **state)
{
	session s;
	uint8_t page[LB_PAGE_SIZE];

	(void) state;
	start(&s, IN_PIECES);
	for (uint32_t i = 0; i < 3; i++)
	{
		uint64_t ticket = submit_one(&s, page, i);

		assert_true(lb_data_plane_wait(s.plane, ticket, LIMIT, &status));
		assert_page(page, fill_of((lb_slot_ref){3, i}));
	}
	end(&s);
}

/* More batches than may be under way; each ticket is complete when its wait returns, and so are those before it. */
static void
test_batches(void **state)
{
	static uint8_t pages[3 * LB_BATCHES_MAX][LB_PAGE_SIZE];
	uint64_t tickets[3 * LB_BATCHES_MAX];
	session s;

	(void) state;
	start(&s, GOOD);
	for (uint32_t i = 0; i < 3 * LB_BATCHES_MAX; i++)
	{
		tickets[i] = submit_one(&s, pages[i], i);
		assert_int_equal(tickets[i], i + 1);
	}
	assert_int_equal(s.plane->completed, 2 * LB_BATCHES_MAX);
	assert_true(lb_data_plane_wait(s.plane, tickets[20], LIMIT, &status));
	assert_int_equal(s.plane->completed, 21);
	for (uint32_t i = 0; i <= 20; i++)
		assert_page(pages[i], fill_of((lb_slot_ref){3, i}));
	assert_true(lb_data_plane_wait(s.plane, tickets[5], LIMIT, &status));
	assert_true(lb_data_plane_wait(s.plane, tickets[3 * LB_BATCHES_MAX - 1], LIMIT, &status));
	for (uint32_t i = 0; i < 3 * LB_BATCHES_MAX; i++)
		assert_page(pages[i], fill_of((lb_slot_ref){3, i}));
	end(&s);

	/* Batches under way when the connection is closed are abandoned. */
	start(&s, GOOD);
	for (uint32_t i = 0; i < LB_BATCHES_MAX; i++)
		assert_true(submit_one(&s, pages[i], i) > 0);
	end(&s);
}

/* The read of a page fails with this code, after so long. */
static void
fail_to_read(conduct conduct, int limit_ms, int cancel_after, lb_code code, uint64_t min_ms,
			 uint64_t max_ms)
{
	static uint8_t pages[2][LB_PAGE_SIZE];
	lb_read_target targets[2] = {{{3, 1}, pages[0]}, {{3, 2}, pages[1]}};
	uint64_t before;
	uint64_t ticket;
	uint64_t elapsed;
	session s;

	start(&s, conduct);
	ticket = lb_data_plane_submit(s.plane, targets, 2, LIMIT, &status);
	assert_true(ticket > 0);
	s.cancel_after = cancel_after > 0 ? s.asked + cancel_after : 0;
	before = lb_now_ns();
	memset(&status, 0, sizeof(status));
	assert_false(lb_data_plane_wait(s.plane, ticket, before + (uint64_t) limit_ms * MS, &status));
	elapsed = (lb_now_ns() - before) / MS;
	if (status.code != code)
		fail_msg("conduct %d: code %d (%s), not %d", conduct, status.code, status.message, code);
	if (elapsed < min_ms || elapsed > max_ms)
		fail_msg("conduct %d: %d ms", conduct, (int) elapsed);
	end(&s);
}

static void
test_time_limit(void **state)
{
	(void) state;
	fail_to_read(SILENT, 60, 0, LB_TIMEOUT, 55, 500);
	fail_to_read(TRICKLING, 100, 0, LB_TIMEOUT, 95, 500);
	fail_to_read(SILENT, 0, 0, LB_TIMEOUT, 0, 100);
}

static void
test_cancel(void **state)
{
	(void) state;
	fail_to_read(SILENT, 5000, 1, LB_CANCELLED, 0, 500);
	fail_to_read(SILENT, 5000, 5, LB_CANCELLED, 30, 1000);
	fail_to_read(TRICKLING, 5000, 3, LB_CANCELLED, 0, 1000);
}

static void
test_closed(void **state)
{
	(void) state;
	fail_to_read(CLOSING, 5000, 0, LB_CLOSED, 0, 1000);
	fail_to_read(CLOSING_MIDWAY, 5000, 0, LB_CLOSED, 0, 1000);
}

static void
test_refused(void **state)
{
	(void) state;
	fail_to_read(REFUSING, 5000, 0, LB_REFUSED, 0, 1000);
	assert_int_equal(status.wire_error, LB_ERR_SLAB);
	assert_string_equal(status.message, "the node refused (slab): no such slab");
	fail_to_read(REFUSING_IN_PIECES, 5000, 0, LB_REFUSED, 0, 2000);
	assert_int_equal(status.wire_error, LB_ERR_INTERNAL);
}

static void
test_wrong_answers(void **state)
{
	(void) state;
	fail_to_read(WRONG_SEQUENCE, 5000, 0, LB_PROTOCOL, 0, 1000);
	fail_to_read(WRONG_TYPE, 5000, 0, LB_PROTOCOL, 0, 1000);
	fail_to_read(TOO_MANY_PAGES, 5000, 0, LB_PROTOCOL, 0, 1000);
	fail_to_read(TOO_FEW_PAGES, 5000, 0, LB_PROTOCOL, 0, 1000);
	fail_to_read(WRONG_COUNT, 5000, 0, LB_PROTOCOL, 0, 1000);
	fail_to_read(DAMAGED, 5000, 0, LB_PROTOCOL, 0, 1000);
	fail_to_read(GARBAGE, 5000, 0, LB_PROTOCOL, 0, 1000);
}

/* An answer that comes after we gave up is written nowhere. */
static void
test_late_answer(void **state)
{
	uint8_t page[LB_PAGE_SIZE];
	session s;
	uint64_t ticket;

	(void) state;
	memset(page, 0xee, sizeof(page));
	start(&s, LATE);
	ticket = submit_one(&s, page, 1);
	assert_false(lb_data_plane_wait(s.plane, ticket, lb_now_ns() + 30 * MS, &status));
	assert_int_equal(status.code, LB_TIMEOUT);
	end(&s);
	assert_page(page, 0xee);
}

static volatile sig_atomic_t signals;

static void
count_signal(int signal_number)
{
	(void) signal_number;
	signals++;
}

/* Signals, with handlers that restart system calls, disturb nothing; and at each the callback is asked at once. */
static void
test_signals(void **state)
{
	struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
	struct itimerval every = {{0, 1000}, {0, 1000}};
	struct itimerval never = {{0, 0}, {0, 0}};
	uint8_t page[LB_PAGE_SIZE];
	sigset_t blocked;
	sigset_t before;
	session s;

	(void) state;
	/* Threads inherit the mask: the fake node is not to be disturbed. */
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &blocked, &before);
	start(&s, IN_PIECES);
	pthread_sigmask(SIG_SETMASK, &before, NULL);

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	for (uint32_t i = 0; i < 2; i++)
	{
		uint64_t ticket = submit_one(&s, page, i);

		assert_true(lb_data_plane_wait(s.plane, ticket, LIMIT, &status));
		assert_page(page, fill_of((lb_slot_ref){3, i}));
	}
	setitimer(ITIMER_REAL, &never, NULL);
	assert_true(signals > 10);
	assert_true(s.asked > 10);
	end(&s);
	signal(SIGALRM, SIG_DFL);
}

static void
never_welcome(int socket, void *arg)
{
	(void) arg;
	fake_wait_closed(socket);
}

static void
refuse_hello(int socket, void *arg)
{
	lb_header header;
	uint8_t body[LB_BODY_MAX];

	(void) arg;
	if (fake_receive(socket, &header, body))
		fake_send_error(socket, header.sequence, LB_ERR_TOKEN, "unknown token");
	fake_wait_closed(socket);
}

static void
close_at_once(int socket, void *arg)
{
	(void) socket;
	(void) arg;
}

static void
welcome_in_another_version(int socket, void *arg)
{
	lb_welcome welcome = {.version = LB_PROTOCOL_VERSION + 1};
	lb_header header;
	uint8_t body[LB_BODY_MAX];

	(void) arg;
	if (fake_receive(socket, &header, body))
		fake_send_frame(socket, LB_WELCOME, header.sequence, body,
						lb_encode_welcome(body, &welcome), -1, 0);
	fake_wait_closed(socket);
}

static void
fail_to_connect(fake_script script, int limit_ms, session *cancelling, lb_code code)
{
	int open_before = count_open_descriptors();
	fake_node *node = fake_node_start(LB_TRANSPORT_TCP, script, NULL);
	uint64_t before = lb_now_ns();

	memset(&status, 0, sizeof(status));
	assert_null(lb_data_plane_connect(LB_TRANSPORT_TCP, fake_node_address(node), &identity,
									  cancelling ? asked_often_enough : NULL, cancelling,
									  before + (uint64_t) limit_ms * MS, &status));
	assert_int_equal(status.code, code);
	assert_true(lb_now_ns() - before < 1000 * MS);
	fake_node_stop(node);
	assert_int_equal(count_open_descriptors(), open_before);
}

static void
test_connect(void **state)
{
	session cancelling = {.cancel_after = 2};
	fake_node *node;
	lb_address gone;
	lb_data_plane *plane;

	(void) state;
	fail_to_connect(never_welcome, 50, NULL, LB_TIMEOUT);
	fail_to_connect(never_welcome, 5000, &cancelling, LB_CANCELLED);
	fail_to_connect(close_at_once, 5000, NULL, LB_CLOSED);
	fail_to_connect(welcome_in_another_version, 5000, NULL, LB_PROTOCOL);
	fail_to_connect(refuse_hello, 5000, NULL, LB_REFUSED);
	assert_int_equal(status.wire_error, LB_ERR_TOKEN);

	/* Nobody there. */
	node = fake_node_start(LB_TRANSPORT_TCP, close_at_once, NULL);
	gone = *fake_node_address(node);
	plane = lb_data_plane_connect(LB_TRANSPORT_TCP, &gone, &identity, NULL, NULL, LIMIT, &status);
	assert_null(plane);
	fake_node_stop(node);
	plane = lb_data_plane_connect(LB_TRANSPORT_TCP, &gone, &identity, NULL, NULL, LIMIT, &status);
	assert_null(plane);
	assert_int_equal(status.code, LB_SYSTEM);
	assert_non_null(strstr(status.message, "Connection refused"));

	/* This test is built without RDMA. */
	assert_false(lb_rdma_available(&status));
	assert_int_equal(status.code, LB_INVALID);
	assert_non_null(strstr(status.message, "this build has no RDMA"));
	assert_null(lb_data_plane_ops_for(LB_TRANSPORT_RDMA));
	plane = lb_data_plane_connect(LB_TRANSPORT_RDMA, &gone, &identity, NULL, NULL, LIMIT, &status);
	assert_null(plane);
	assert_int_equal(status.code, LB_INVALID);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads),       cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_batches),     cmocka_unit_test(test_time_limit),
		cmocka_unit_test(test_cancel),      cmocka_unit_test(test_closed),
		cmocka_unit_test(test_refused),     cmocka_unit_test(test_wrong_answers),
		cmocka_unit_test(test_late_answer), cmocka_unit_test(test_signals),
		cmocka_unit_test(test_connect),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
