/*
 * garbage.c
 *	  Malformed, oversize and random frames. MEMNODE is a build with AddressSanitizer and UndefinedBehaviorSanitizer,
 *	  which end the node at the first mistake.
 *
 *	  garbage [SEED]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"
#include "lb_clock.h"
#include "node_process.h"
#include "tap.h"

#define RANDOM_STREAMS 400
#define RANDOM_FRAMES 20000
#define DAMAGED_FRAMES 2000

static node_process node;
static uint64_t random_state;

/* xorshift64* */
static uint64_t
random_u64(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * UINT64_C(0x2545f4914f6cdd1d);
}

static uint32_t
random_below(uint32_t limit)
{
	return (uint32_t) (random_u64() >> 32) % limit;
}

static void
random_bytes(uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t) (random_u64() >> 40);
}

static const char *
some_uri(void)
{
	return random_below(2) ? node.shm_uri : node.tcp_uri;
}

/* As many bytes as the node takes before it closes. */
static void
send_raw(client *client, const void *bytes, size_t length)
{
	if (send(lb_stream_fd(client->stream), bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

/* Send a header and expect the connection to be closed, within the time that a wait for the rest would take. */
static void
expect_closed(const uint8_t *header, size_t length, const char *name)
{
	client client;

	client_open(&client, node.tcp_uri);
	send_raw(&client, header, length);
	is_number(client_receive(&client), CLIENT_CLOSED, "%s: closed", name);
	client_close(&client);
}

static void
put_u32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t) (value >> 8 * i);
}

static void
expect_pages_unwanted(client *client, const uint8_t *header, const char *name)
{
	static const uint8_t page[LB_PAGE_SIZE];

	send_raw(client, header, LB_HEADER_SIZE);
	usleep(50000);
	send_raw(client, page, sizeof(page));
	is_number(client_receive(client), CLIENT_CLOSED, "%s: closed", name);
	client_close(client);
}

static void
test_bad_headers(void)
{
	lb_hello hello = make_hello(LB_ROLE_MONITOR, 0, 0, 0);
	uint8_t good[LB_HEADER_SIZE + LB_BODY_MAX];
	uint8_t bad[sizeof(good)];
	size_t body_length = lb_encode_hello(good + LB_HEADER_SIZE, &hello);
	size_t length = LB_HEADER_SIZE + body_length;
	client client;

	lb_encode_header(good, LB_HELLO, 1, good + LB_HEADER_SIZE, body_length, 0);
	memcpy(bad, good, length);
	bad[0] ^= 1;
	expect_closed(bad, length, "wrong magic");
	memcpy(bad, good, length);
	bad[4] = 200;
	expect_closed(bad, LB_HEADER_SIZE, "unknown type");
	memcpy(bad, good, length);
	bad[6] = 1;
	expect_closed(bad, LB_HEADER_SIZE, "flags");
	memcpy(bad, good, length);
	put_u32(bad + 8, UINT32_MAX);
	expect_closed(bad, LB_HEADER_SIZE, "body of 4 GB");
	memcpy(bad, good, length);
	put_u32(bad + 12, UINT32_MAX);
	expect_closed(bad, LB_HEADER_SIZE, "bulk of 4 GB");
	memcpy(bad, good, length);
	bad[length - 1] ^= 1;
	expect_closed(bad, length, "damaged body");
	memcpy(bad, good, length);
	bad[16] ^= 1;
	expect_closed(bad, length, "damaged sequence");
	memcpy(bad, good, length);
	bad[31] ^= 1;
	expect_closed(bad, length, "damaged checksum");

	/* what the node thinks of the pages shows when they come */
	lb_encode_header(bad, LB_PUSH, 1, NULL, 0, LB_BULK_MAX);
	client_open(&client, node.tcp_uri);
	expect_pages_unwanted(&client, bad, "pages before HELLO");
	monitor_open(&client, node.tcp_uri);
	expect_pages_unwanted(&client, bad, "pages from a monitor");
}

static void
test_random_streams(void)
{
	uint8_t bytes[4096];

	for (int i = 0; i < RANDOM_STREAMS; i++)
	{
		client client;

		client_open(&client, some_uri());
		random_bytes(bytes, sizeof(bytes));
		if (random_below(2))
			put_u32(bytes, LB_WIRE_MAGIC);
		if (random_below(2))
			put_u32(bytes + 4, random_below(LB_FRAME_TYPES));
		send_raw(&client, bytes, 1 + random_below(sizeof(bytes)));
		client_close(&client);
	}
}

/* Bits flipped in frames that were right. */
static void
test_damaged_frames(void)
{
	lb_push_batch batch = {.count = 3};
	uint8_t frame[LB_HEADER_SIZE + LB_BODY_MAX + 3 * LB_PAGE_SIZE] = {0};
	size_t body_length = lb_encode_push(frame + LB_HEADER_SIZE, &batch);
	size_t length = LB_HEADER_SIZE + body_length + 3 * LB_PAGE_SIZE;
	client agent;

	lb_encode_header(frame, LB_PUSH, 1, frame + LB_HEADER_SIZE, body_length, 3 * LB_PAGE_SIZE);
	agent_open(&agent, node.tcp_uri, 9, lb_now_ns());
	for (int i = 0; i < DAMAGED_FRAMES; i++)
	{
		size_t at = random_below((uint32_t) (LB_HEADER_SIZE + body_length));
		uint8_t bit = (uint8_t) (1 << random_below(8));

		frame[at] ^= bit;
		send_raw(&agent, frame, length);
		frame[at] ^= bit;
		if (client_receive_within(&agent, 0) == CLIENT_CLOSED)
		{
			client_close(&agent);
			agent_open(&agent, node.tcp_uri, 9, lb_now_ns());
		}
	}
	client_close(&agent);
}

static void
open_some_role(client *client, uint64_t agent_token)
{
	switch (random_below(4))
	{
		case 0:
			client_open(client, some_uri());
			break;
		case 1:
			agent_open(client, some_uri(), 8, lb_now_ns());
			break;
		case 2:
			backend_open(client, some_uri(), 7, 1, agent_token);
			break;
		default:
			monitor_open(client, some_uri());
	}
}

/* A body that decodes as often as not: numbers are small, or at a limit. */
static size_t
random_body(uint8_t *body)
{
	static const uint32_t limits[] = {0, 1, 2, 64, 65, 255, 256, 8192, UINT32_MAX};
	static const size_t lengths[] = {0, 4, 8, 12, 16, 20, 52, 68, 100, 148, 260, 516};
	size_t length = lengths[random_below(sizeof(lengths) / sizeof(lengths[0]))];

	memset(body, 0, length);
	for (size_t at = 0; at + 4 <= length; at += 4)
		put_u32(body + at, random_below(3) ? limits[random_below(9)] : random_below(1000));
	return length;
}

/* Would a header with these lengths be accepted? */
static bool
allows(lb_frame_type type, size_t length, size_t bulk)
{
	uint8_t probe[LB_HEADER_SIZE];
	lb_header header;

	lb_encode_header(probe, LB_PING, 0, NULL, 0, 0);
	probe[4] = (uint8_t) type;
	put_u32(probe + 8, (uint32_t) length);
	put_u32(probe + 12, (uint32_t) bulk);
	return lb_decode_header(probe, &header);
}

/* Did the session survive? Counts what was answered before. */
static bool
still_open(client *client, unsigned *answers)
{
	int answer;

	if (!client_send(client, LB_PING, NULL, 0))
		return false;
	while ((answer = client_receive(client)) > 0 && answer != LB_PONG)
		(*answers)++;
	if (answer == CLIENT_SILENT)
		bail_out("the node neither answers nor closes");
	return answer == LB_PONG;
}

/* Frames whose header and checksum are right, so that they reach the handlers of every role. */
static void
test_random_frames(uint64_t agent_token)
{
	static uint8_t pages[2 * LB_PAGE_SIZE];
	uint8_t frame[LB_HEADER_SIZE + LB_BODY_MAX];
	unsigned answers = 0;
	unsigned closed = 0;
	client client;

	open_some_role(&client, agent_token);
	for (int i = 0; i < RANDOM_FRAMES; i++)
	{
		lb_frame_type type = (lb_frame_type) (1 + random_below(LB_FRAME_TYPES - 1));
		uint8_t *body = frame + LB_HEADER_SIZE;
		size_t length = random_body(body);
		size_t bulk = type == LB_PUSH ? random_below(3) * LB_PAGE_SIZE : 0;

		/* encode_header takes only what the type allows; what it doesn't is test_bad_headers's */
		if (!allows(type, length, bulk))
			continue;
		lb_encode_header(frame, type, (uint64_t) i, body, length, bulk);
		send_raw(&client, frame, LB_HEADER_SIZE + length);
		send_raw(&client, pages, bulk);
		if (!still_open(&client, &answers))
		{
			closed++;
			client_close(&client);
			open_some_role(&client, agent_token);
		}
	}
	client_close(&client);
	note("%u answers, %u sessions", answers, closed + 1);
	ok(answers > 500, "random frames reached the handlers");
}

int
main(int argc, char **argv)
{
	static const char *const options[] = {
		"--memory", "64MB", "--tenant-quota", "16MB", "--tenant-timeout", "0", NULL};
	push_plan plan = {.count = 64, .relation = 1, .version = 1, .seed = 1};
	lb_node_figures figures;
	lb_slab_list granted;
	lb_push_ack ack;
	client witness;
	client monitor;

	random_state = argc > 1 ? strtoull(argv[1], NULL, 10) : UINT64_C(20261120);
	note("seed %" PRIu64, random_state);
	node_start(&node, options);
	agent_open(&witness, node.tcp_uri, 7, 1);
	client_request_slabs(&witness, 256, 1, &granted);
	client_push(&witness, &plan, &ack);

	test_bad_headers();
	test_random_streams();
	is_number(client_ping(&witness), LB_PONG, "random bytes: others are undisturbed");
	test_damaged_frames();
	is_number(client_ping(&witness), LB_PONG, "damaged frames: others are undisturbed");
	test_random_frames(witness.welcome.token);
	is_number(client_ping(&witness), LB_PONG, "random frames: others are undisturbed");

	monitor_open(&monitor, node.tcp_uri);
	client_status(&monitor, &figures);
	ok(figures.used_pages >= 64, "the witness's pages are still there");
	note("%" PRIu64 " malformed frames, %" PRIu64 " refused sessions", figures.malformed_frames,
		 figures.refused_sessions);
	client_close(&monitor);
	client_close(&witness);
	is_number(node_stop(&node), 0, "clean exit, nothing leaked");
	is_number((uint64_t) node_log_count(&node, "Sanitizer"), 0, "sanitizers found nothing");
	is_number((uint64_t) node_log_count(&node, "runtime error"), 0, "no undefined behaviour");
	node_clean(&node);
	return done_testing();
}
