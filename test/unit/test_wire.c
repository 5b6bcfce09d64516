/*
 * test_wire.c
 *	  The wire format: what is encoded is decoded, what is not a message is refused, and no bytes whatever do harm.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lb_wire.h"

/* Any of the messages. */
typedef union message
{
	lb_hello hello;
	lb_welcome welcome;
	lb_error error;
	lb_comm_region comm_region;
	lb_slab_request slab_request;
	lb_slab_list slab_list;
	lb_push_batch push;
	lb_push_ack push_ack;
	lb_release_batch release;
	lb_read_batch read;
	lb_node_figures figures;
	uint32_t number;
} message;

static uint64_t random_state;

static uint64_t
random_u64(void)
{
	/* splitmix64 */
	uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static uint32_t
random_u32(void)
{
	return (uint32_t) random_u64();
}

/* How large a message is to be made: the smallest there is, the largest, or any between. */
typedef enum extent
{
	SMALLEST,
	LARGEST,
	ANY
} extent;

static uint32_t
pick(extent extent, uint32_t min, uint32_t max)
{
	switch (extent)
	{
		case SMALLEST:
			return min;
		case LARGEST:
			return max;
		default:
			return min + random_u32() % (max - min + 1);
	}
}

static void
random_text(extent extent, char *text, uint32_t max)
{
	uint32_t length = pick(extent, 0, max);

	for (uint32_t i = 0; i < length; i++)
		text[i] = (char) (' ' + random_u32() % 95);
	text[length] = '\0';
}

static void
make_hello(message *m, extent extent)
{
	m->hello.version_min = (uint16_t) pick(extent, 1, 100);
	m->hello.version_max = (uint16_t) pick(extent, 100, UINT16_MAX);
	m->hello.role = (uint16_t) pick(extent, LB_ROLE_AGENT, LB_ROLE_MONITOR);
	m->hello.take_over = pick(extent, 0, 1) == 1;
	m->hello.page_size = random_u32();
	m->hello.system_identifier = random_u64();
	for (int i = 0; i < LB_UUID_SIZE; i++)
		m->hello.uuid[i] = (uint8_t) random_u32();
	m->hello.epoch = random_u64();
	m->hello.token = random_u64();
	random_text(extent, m->hello.holder, LB_HOLDER_MAX);
}

static size_t
encode_hello(uint8_t *out, const message *m)
{
	return lb_encode_hello(out, &m->hello);
}

static bool
decode_hello(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_hello(in, length, &m->hello);
}

static void
make_welcome(message *m, extent extent)
{
	(void) extent;
	m->welcome.version = (uint16_t) random_u32();
	m->welcome.epoch = random_u64();
	m->welcome.token = random_u64();
	m->welcome.incarnation = random_u64();
	m->welcome.capacity_pages = random_u64();
	m->welcome.free_pages = random_u64();
	m->welcome.timeout_ms = random_u32();
}

static size_t
encode_welcome(uint8_t *out, const message *m)
{
	return lb_encode_welcome(out, &m->welcome);
}

static bool
decode_welcome(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_welcome(in, length, &m->welcome);
}

static void
make_error(message *m, extent extent)
{
	m->error.error = (uint16_t) pick(extent, LB_ERR_VERSION, LB_ERR_INTERNAL);
	m->error.epoch = random_u64();
	random_text(extent, m->error.message, LB_MESSAGE_MAX);
}

static size_t
encode_error(uint8_t *out, const message *m)
{
	return lb_encode_error(out, &m->error);
}

static bool
decode_error(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_error(in, length, &m->error);
}

static void
make_comm_region(message *m, extent extent)
{
	m->comm_region.count = pick(extent, 1, UINT32_MAX - 1);
	m->comm_region.stride = pick(extent, LB_PAGE_SIZE, UINT32_MAX - LB_PAGE_SIZE);
	m->comm_region.length = (uint64_t) m->comm_region.count * m->comm_region.stride;
}

static size_t
encode_comm_region(uint8_t *out, const message *m)
{
	return lb_encode_comm_region(out, &m->comm_region);
}

static bool
decode_comm_region(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_comm_region(in, length, &m->comm_region);
}

static void
make_slab_request(message *m, extent extent)
{
	m->slab_request.slab_pages = random_u32();
	m->slab_request.count = pick(extent, 1, LB_SLABS_PER_FRAME);
}

static size_t
encode_slab_request(uint8_t *out, const message *m)
{
	return lb_encode_slab_request(out, &m->slab_request);
}

static bool
decode_slab_request(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_slab_request(in, length, &m->slab_request);
}

static void
make_slab_list(message *m, extent extent)
{
	m->slab_list.count = pick(extent, 0, LB_SLABS_PER_FRAME);
	for (uint32_t i = 0; i < m->slab_list.count; i++)
		m->slab_list.slabs[i] = random_u32();
}

static size_t
encode_slab_list(uint8_t *out, const message *m)
{
	return lb_encode_slab_list(out, &m->slab_list);
}

static bool
decode_slab_list(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_slab_list(in, length, &m->slab_list);
}

static void
make_push(message *m, extent extent)
{
	m->push.count = pick(extent, 1, LB_BATCH_MAX);
	for (uint32_t i = 0; i < m->push.count; i++)
	{
		m->push.pushes[i] = (lb_push){
			.slab = random_u32(),
			.page = random_u32(),
			.tag = {random_u32(), random_u32(), random_u32(), random_u32(), random_u32()},
			.version = random_u64(),
			.checksum = random_u64(),
			.buffer = random_u32(),
		};
	}
}

static size_t
encode_push(uint8_t *out, const message *m)
{
	return lb_encode_push(out, &m->push);
}

static bool
decode_push(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_push(in, length, &m->push);
}

static void
make_push_ack(message *m, extent extent)
{
	m->push_ack.count = pick(extent, 1, LB_BATCH_MAX);
	for (uint32_t i = 0; i < m->push_ack.count; i++)
		m->push_ack.results[i] = (uint8_t) pick(extent, LB_PUSH_PUBLISHED, LB_PUSH_NO_SLOT);
}

static size_t
encode_push_ack(uint8_t *out, const message *m)
{
	return lb_encode_push_ack(out, &m->push_ack);
}

static bool
decode_push_ack(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_push_ack(in, length, &m->push_ack);
}

static void
make_release(message *m, extent extent)
{
	m->release.count = pick(extent, 1, LB_BATCH_MAX);
	for (uint32_t i = 0; i < m->release.count; i++)
	{
		m->release.slots[i] = (lb_slot_ref){random_u32(), random_u32()};
		m->release.versions[i] = random_u64();
	}
}

static size_t
encode_release(uint8_t *out, const message *m)
{
	return lb_encode_release(out, &m->release);
}

static bool
decode_release(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_release(in, length, &m->release);
}

static void
make_number(message *m, extent extent)
{
	m->number = pick(extent, 0, UINT32_MAX - 1);
}

static size_t
encode_slab_number(uint8_t *out, const message *m)
{
	return lb_encode_slab_number(out, m->number);
}

static bool
decode_slab_number(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_slab_number(in, length, &m->number);
}

static void
make_read(message *m, extent extent)
{
	m->read.count = pick(extent, 1, LB_BATCH_MAX);
	for (uint32_t i = 0; i < m->read.count; i++)
		m->read.slots[i] = (lb_slot_ref){random_u32(), random_u32()};
}

static size_t
encode_read(uint8_t *out, const message *m)
{
	return lb_encode_read(out, &m->read);
}

static bool
decode_read(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_read(in, length, &m->read);
}

static void
make_count(message *m, extent extent)
{
	m->number = pick(extent, 1, LB_BATCH_MAX);
}

static size_t
encode_count(uint8_t *out, const message *m)
{
	return lb_encode_count(out, m->number);
}

static bool
decode_count(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_count(in, length, &m->number);
}

static void
make_figures(message *m, extent extent)
{
	uint64_t *first = &m->figures.incarnation;
	uint64_t *last = &m->figures.malformed_frames;

	(void) extent;
	for (uint64_t *figure = first; figure <= last; figure++)
		*figure = random_u64();
}

static size_t
encode_figures(uint8_t *out, const message *m)
{
	return lb_encode_node_figures(out, &m->figures);
}

static bool
decode_figures(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_node_figures(in, length, &m->figures);
}

static const struct codec
{
	lb_frame_type type;
	void (*make)(message *m, extent extent);
	size_t (*encode)(uint8_t *out, const message *m);
	bool (*decode)(const uint8_t *in, size_t length, message *m);
} codecs[] = {
	{LB_HELLO, make_hello, encode_hello, decode_hello},
	{LB_WELCOME, make_welcome, encode_welcome, decode_welcome},
	{LB_ERROR, make_error, encode_error, decode_error},
	{LB_COMM_BUFFERS, make_comm_region, encode_comm_region, decode_comm_region},
	{LB_SLAB_REQUEST, make_slab_request, encode_slab_request, decode_slab_request},
	{LB_SLAB_GRANT, make_slab_list, encode_slab_list, decode_slab_list},
	{LB_SLAB_RETURN, make_slab_list, encode_slab_list, decode_slab_list},
	{LB_PUSH, make_push, encode_push, decode_push},
	{LB_PUSH_ACK, make_push_ack, encode_push_ack, decode_push_ack},
	{LB_RELEASE, make_release, encode_release, decode_release},
	{LB_SLAB_MAP, make_number, encode_slab_number, decode_slab_number},
	{LB_SLAB_MAPPED, make_number, encode_slab_number, decode_slab_number},
	{LB_READ, make_read, encode_read, decode_read},
	{LB_READ_REPLY, make_count, encode_count, decode_count},
	{LB_STATUS_REPLY, make_figures, encode_figures, decode_figures},
};

#define CODECS (sizeof(codecs) / sizeof(codecs[0]))

/* Bytes on the heap that end exactly where they end, so that reading further is noticed. */
static uint8_t *
exact_copy(const uint8_t *bytes, size_t length)
{
	uint8_t *copy = malloc(length > 0 ? length : 1);

	assert_non_null(copy);
	memcpy(copy, bytes, length);
	return copy;
}

/* Decode into a message of which the rest is zero. */
static bool
decode_exactly(const struct codec *codec, const uint8_t *bytes, size_t length, message *m)
{
	uint8_t *copy = exact_copy(bytes, length);
	bool decoded;

	memset(m, 0, sizeof(*m));
	decoded = codec->decode(copy, length, m);
	free(copy);
	return decoded;
}

static void
round_trip(const struct codec *codec, extent extent)
{
	static message sent;
	static message received;
	uint8_t body[LB_BODY_MAX];
	size_t length;

	memset(&sent, 0, sizeof(sent));
	codec->make(&sent, extent);
	length = codec->encode(body, &sent);
	assert_true(length <= LB_BODY_MAX);
	assert_true(decode_exactly(codec, body, length, &received));
	assert_memory_equal(&sent, &received, sizeof(sent));

	/* No shorter and no longer body is the same message. */
	for (size_t shorter = 0; shorter < length; shorter++)
		assert_false(decode_exactly(codec, body, shorter, &received));
	body[length] = 0;
	assert_false(decode_exactly(codec, body, length + 1, &received));
}

static void
test_round_trips(void **state)
{
	(void) state;
	for (size_t i = 0; i < CODECS; i++)
	{
		round_trip(&codecs[i], SMALLEST);
		round_trip(&codecs[i], LARGEST);
		for (int n = 0; n < 50; n++)
			round_trip(&codecs[i], ANY);
	}
}

/* A header that is made for every message is accepted, and the frame is intact. */
static size_t
make_frame(const struct codec *codec, extent extent, uint8_t *frame)
{
	static message m;
	size_t bulk = codec->type == LB_READ_REPLY ? LB_PAGE_SIZE : 0;
	size_t length;
	lb_header header;

	memset(&m, 0, sizeof(m));
	codec->make(&m, extent);
	length = codec->encode(frame + LB_HEADER_SIZE, &m);
	lb_encode_header(frame, codec->type, 77, frame + LB_HEADER_SIZE, length, bulk);
	assert_true(lb_decode_header(frame, &header));
	assert_int_equal(header.type, codec->type);
	assert_int_equal(header.body_length, length);
	assert_int_equal(header.bulk_length, bulk);
	assert_int_equal(header.sequence, 77);
	assert_true(lb_frame_intact(frame, frame + LB_HEADER_SIZE));
	return LB_HEADER_SIZE + length;
}

/* Every single flipped bit is found by the checksum; and if it were not, the decoder would still do no harm. */
static void
test_flipped_bits(void **state)
{
	uint8_t frame[LB_HEADER_SIZE + LB_BODY_MAX];
	static message m;

	(void) state;
	for (size_t i = 0; i < CODECS; i++)
	{
		size_t length = make_frame(&codecs[i], ANY, frame);

		for (size_t bit = 0; bit < length * 8; bit++)
		{
			uint8_t mask = (uint8_t) (1 << (bit % 8));

			frame[bit / 8] ^= mask;
			assert_false(lb_frame_intact(frame, frame + LB_HEADER_SIZE));
			decode_exactly(&codecs[i], frame + LB_HEADER_SIZE, length - LB_HEADER_SIZE, &m);
			frame[bit / 8] ^= mask;
		}
	}
}

static void
test_random_bodies(void **state)
{
	uint8_t bytes[700];
	static message m;

	(void) state;
	for (int n = 0; n < 3000; n++)
	{
		size_t length = random_u32() % sizeof(bytes);

		for (size_t i = 0; i < length; i++)
			bytes[i] = (uint8_t) random_u64();
		/* A plausible count, so that what follows it is read too. */
		if (length >= 4 && n % 2 == 0)
		{
			memset(bytes, 0, 4);
			bytes[0] = (uint8_t) (random_u32() % 70);
		}
		for (size_t i = 0; i < CODECS; i++)
			decode_exactly(&codecs[i], bytes, length, &m);
	}
}

static void
put_u32_at(uint8_t *bytes, size_t at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		bytes[at + (size_t) i] = (uint8_t) (value >> (8 * i));
}

static void
test_header_limits(void **state)
{
	uint8_t good[LB_HEADER_SIZE];
	uint8_t bad[LB_HEADER_SIZE];
	lb_header header;

	(void) state;
	lb_encode_header(good, LB_PING, 1, NULL, 0, 0);
	assert_true(lb_decode_header(good, &header));
	assert_true(lb_frame_intact(good, NULL));

	memcpy(bad, good, sizeof(bad));
	bad[0] ^= 1;
	assert_false(lb_decode_header(bad, &header)); /* magic */
	memcpy(bad, good, sizeof(bad));
	bad[6] = 1;
	assert_false(lb_decode_header(bad, &header)); /* flags */
	for (unsigned type = 0; type < 65536; type++)
	{
		memcpy(bad, good, sizeof(bad));
		bad[4] = (uint8_t) type;
		bad[5] = (uint8_t) (type >> 8);
		/* Without bulk all types are possible but READ_REPLY. */
		assert_int_equal(lb_decode_header(bad, &header),
						 type > 0 && type < LB_FRAME_TYPES && type != LB_READ_REPLY);
	}
}

/* The longest body and the bulk that each type may have; one byte or one page more is refused. */
static void
test_length_limits(void **state)
{
	static const uint32_t body_max[LB_FRAME_TYPES] = {
		[LB_HELLO] = 252,       [LB_WELCOME] = 46,     [LB_ERROR] = 261,
		[LB_COMM_BUFFERS] = 16, [LB_SLAB_REQUEST] = 8, [LB_SLAB_GRANT] = 260,
		[LB_SLAB_RETURN] = 260, [LB_PUSH] = 3076,      [LB_PUSH_ACK] = 68,
		[LB_RELEASE] = 1028,    [LB_SLAB_MAP] = 4,     [LB_SLAB_MAPPED] = 4,
		[LB_READ] = 516,        [LB_READ_REPLY] = 4,   [LB_STATUS_REPLY] = 96,
	};
	lb_header header;

	(void) state;
	for (int type = 1; type < LB_FRAME_TYPES; type++)
	{
		bool may_have_bulk = type == LB_PUSH || type == LB_READ_REPLY;
		uint8_t bytes[LB_HEADER_SIZE];
		uint8_t body[LB_BODY_MAX] = {0};

		lb_encode_header(bytes, (lb_frame_type) type, 1, body, body_max[type],
						 may_have_bulk ? LB_BULK_MAX : 0);
		assert_true(lb_decode_header(bytes, &header));
		put_u32_at(bytes, 8, body_max[type] + 1);
		assert_false(lb_decode_header(bytes, &header));
		put_u32_at(bytes, 8, UINT32_MAX);
		assert_false(lb_decode_header(bytes, &header));
		put_u32_at(bytes, 8, body_max[type]);

		put_u32_at(bytes, 12, LB_PAGE_SIZE);
		assert_int_equal(lb_decode_header(bytes, &header), may_have_bulk);
		put_u32_at(bytes, 12, LB_PAGE_SIZE / 2);
		assert_false(lb_decode_header(bytes, &header));
		put_u32_at(bytes, 12, LB_BULK_MAX + LB_PAGE_SIZE);
		assert_false(lb_decode_header(bytes, &header));
		put_u32_at(bytes, 12, UINT32_MAX);
		assert_false(lb_decode_header(bytes, &header));
	}
}

/* The layout is a promise to other builds: these bytes may never change within version 1. */
static void
test_bytes_on_the_wire(void **state)
{
	static const uint8_t expected_header[24] = {
		'L', 'G',  'B', '1', 8, 0, 0, 0, 52, 0, 0, 0, /* magic, type, flags, body */
		0,   0x20, 0,   0,   8, 7, 6, 5, 4,  3, 2, 1, /* bulk, sequence */
	};
	static const uint8_t expected_body[52] = {
		1,  0, 0, 0,                            /* count */
		1,  0, 0, 0, 2, 0, 0, 0,                /* slab, page */
		3,  0, 0, 0, 4, 0, 0, 0,    5, 0, 0, 0, /* tablespace, database, relation */
		6,  0, 0, 0, 7, 0, 0, 0,                /* fork, block */
		8,  0, 0, 0, 0, 0, 0, 0x80,             /* version */
		9,  0, 0, 0, 0, 0, 0, 0x90,             /* checksum */
		10, 0, 0, 0,                            /* buffer */
	};
	lb_push_batch batch = {.count = 1};
	uint8_t header[LB_HEADER_SIZE];
	uint8_t body[LB_BODY_MAX];
	uint64_t checksum = 0;

	(void) state;
	batch.pushes[0] = (lb_push){.slab = 1,
								.page = 2,
								.tag = {3, 4, 5, 6, 7},
								.version = UINT64_C(0x8000000000000008),
								.checksum = UINT64_C(0x9000000000000009),
								.buffer = 10};
	assert_int_equal(lb_encode_push(body, &batch), sizeof(expected_body));
	assert_memory_equal(body, expected_body, sizeof(expected_body));
	lb_encode_header(header, LB_PUSH, UINT64_C(0x0102030405060708), body, sizeof(expected_body),
					 LB_PAGE_SIZE);
	assert_memory_equal(header, expected_header, sizeof(expected_header));
	for (int i = 7; i >= 0; i--)
		checksum = checksum << 8 | header[24 + i];
	assert_true(checksum == XXH3_64bits_withSeed(expected_body, sizeof(expected_body),
												 XXH3_64bits(expected_header, 24)));
}

static void
test_texts(void **state)
{
	lb_hello hello = {.version_min = 1, .version_max = 1, .role = LB_ROLE_AGENT};
	lb_error error = {.error = LB_ERR_HELD};
	lb_hello received;
	uint8_t body[LB_BODY_MAX];
	size_t length;

	(void) state;
	/* What would break a log line is replaced by the sender ... */
	strcpy(hello.holder, "a\nb\033c\x7f"
						 "d\xc3\xa9");
	length = lb_encode_hello(body, &hello);
	assert_true(lb_decode_hello(body, length, &received));
	assert_string_equal(received.holder, "a?b?c?d\xc3\xa9");

	/* ... and refused by the receiver, as is a length beyond the limit. */
	body[length - 1] = '\n';
	assert_false(lb_decode_hello(body, length, &received));
	body[length - 1] = 0;
	assert_false(lb_decode_hello(body, length, &received));
	body[51] = LB_HOLDER_MAX + 1;
	assert_false(lb_decode_hello(body, 52 + LB_HOLDER_MAX + 1, &received));

	/* A message as long as it may be. */
	memset(error.message, 'x', LB_MESSAGE_MAX);
	length = lb_encode_error(body, &error);
	assert_int_equal(length, 11 + LB_MESSAGE_MAX);
}

static void
test_forbidden_values(void **state)
{
	lb_hello hello = {.version_min = 1, .version_max = 2, .role = LB_ROLE_AGENT};
	lb_hello received;
	lb_push_ack ack = {.count = 2, .results = {LB_PUSH_PUBLISHED, LB_PUSH_NO_SLOT + 1}};
	lb_comm_region region = {.count = 4, .stride = LB_PAGE_SIZE, .length = 4 * LB_PAGE_SIZE};
	uint8_t body[LB_BODY_MAX];
	size_t length;

	(void) state;
	length = lb_encode_hello(body, &hello);
	assert_true(lb_decode_hello(body, length, &received));
	body[6] = 2; /* take_over */
	assert_false(lb_decode_hello(body, length, &received));
	hello.version_min = 3;
	length = lb_encode_hello(body, &hello);
	assert_false(lb_decode_hello(body, length, &received));
	hello.version_min = 0;
	length = lb_encode_hello(body, &hello);
	assert_false(lb_decode_hello(body, length, &received));
	hello = (lb_hello){.version_min = 1, .version_max = 1, .role = LB_ROLE_MONITOR + 1};
	length = lb_encode_hello(body, &hello);
	assert_false(lb_decode_hello(body, length, &received));

	length = lb_encode_push_ack(body, &ack);
	assert_false(lb_decode_push_ack(body, length, &ack));

	length = lb_encode_comm_region(body, &region);
	assert_true(lb_decode_comm_region(body, length, &region));
	region.length--;
	length = lb_encode_comm_region(body, &region);
	assert_false(lb_decode_comm_region(body, length, &region));
	region = (lb_comm_region){.count = 1, .stride = LB_PAGE_SIZE - 1, .length = LB_PAGE_SIZE};
	length = lb_encode_comm_region(body, &region);
	assert_false(lb_decode_comm_region(body, length, &region));
	region = (lb_comm_region){.count = 0, .stride = LB_PAGE_SIZE, .length = LB_PAGE_SIZE};
	length = lb_encode_comm_region(body, &region);
	assert_false(lb_decode_comm_region(body, length, &region));
}

static void
test_names(void **state)
{
	(void) state;
	assert_string_equal(lb_frame_type_name(LB_PUSH), "PUSH");
	for (unsigned type = 1; type < LB_FRAME_TYPES; type++)
		assert_non_null(lb_frame_type_name(type));
	assert_string_equal(lb_frame_type_name(0), "unknown frame");
	assert_string_equal(lb_frame_type_name(LB_FRAME_TYPES), "unknown frame");
	assert_string_equal(lb_wire_error_name(LB_ERR_EPOCH), "epoch");
	for (unsigned error = 0; error <= LB_ERR_INTERNAL; error++)
		assert_non_null(lb_wire_error_name(error));
	assert_string_equal(lb_wire_error_name(LB_ERR_INTERNAL + 1), "unknown error");
}

/* The run-time choice of instructions must not change the sum; a page differs from one with any bit flipped. */
static void
test_page_checksums(void **state)
{
	uint8_t bytes[LB_PAGE_SIZE + 1];
	uint8_t *page = bytes + 1;
	lb_page_tag tag = {1, 2, 3, 0, 4};
	uint64_t sum;

	(void) state;
	for (int i = 0; i < LB_PAGE_SIZE; i++)
		page[i] = (uint8_t) random_u64();
	sum = lb_page_checksum(page);
	assert_true(sum == XXH3_64bits(page, LB_PAGE_SIZE));
	for (int i = 0; i < LB_PAGE_SIZE * 8; i += 61)
	{
		page[i / 8] ^= (uint8_t) (1 << (i % 8));
		assert_true(lb_page_checksum(page) != sum);
		page[i / 8] ^= (uint8_t) (1 << (i % 8));
	}
	assert_true(lb_page_tag_hash(&tag) == XXH3_64bits(&tag, sizeof(tag)));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trips),   cmocka_unit_test(test_flipped_bits),
		cmocka_unit_test(test_random_bodies), cmocka_unit_test(test_header_limits),
		cmocka_unit_test(test_length_limits), cmocka_unit_test(test_bytes_on_the_wire),
		cmocka_unit_test(test_texts),         cmocka_unit_test(test_forbidden_values),
		cmocka_unit_test(test_names),         cmocka_unit_test(test_page_checksums),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
