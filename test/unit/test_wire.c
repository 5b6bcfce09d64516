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

#include "wire_messages.h"

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
decode_exactly(const codec *codec, const uint8_t *bytes, size_t length, message *m)
{
	uint8_t *copy = exact_copy(bytes, length);
	bool decoded;

	memset(m, 0, sizeof(*m));
	decoded = codec->decode(copy, length, m);
	free(copy);
	return decoded;
}

/* Of long bodies not every place is tried: a step that meets all offsets in an item, whatever its length. */
static size_t
step_through(size_t length)
{
	return length < 4000 ? 1 : 7;
}

static void
round_trip(const codec *codec, extent extent)
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

	/* No shorter and no longer body is a message; but for the map of SLAB_KEEP, which has any length. */
	if (codec->type == LB_SLAB_KEEP)
		return;
	for (size_t shorter = 0; shorter < length; shorter += step_through(length))
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
make_frame(const codec *codec, extent extent, uint8_t *frame)
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

/* A flipped bit is found by the checksum; and if it were not, the decoder would still do no harm. */
static void
test_flipped_bits(void **state)
{
	uint8_t frame[LB_HEADER_SIZE + LB_BODY_MAX];
	static message m;

	(void) state;
	for (size_t i = 0; i < CODECS; i++)
	{
		size_t length = make_frame(&codecs[i], ANY, frame);

		for (size_t bit = 0; bit < length * 8; bit += step_through(length))
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
		[LB_HELLO] = 260,          [LB_WELCOME] = 47,
		[LB_ERROR] = 261,          [LB_COMM_BUFFERS] = 28,
		[LB_SLAB_REQUEST] = 8,     [LB_SLAB_GRANT] = 260,
		[LB_SLAB_RETURN] = 260,    [LB_PUSH] = 3140,
		[LB_PUSH_ACK] = 68,        [LB_RELEASE] = 1028,
		[LB_SLAB_MAP] = 4,         [LB_SLAB_MAPPED] = 4,
		[LB_READ] = 516,           [LB_READ_REPLY] = 4,
		[LB_STATUS_REPLY] = 132,   [LB_STORAGE] = 65,
		[LB_STORAGE_REPLY] = 268,  [LB_CLEAN] = 1796,
		[LB_FENCE] = 25,           [LB_FLUSH_STATE] = 307,
		[LB_SLAB_KEEP] = 4096,     [LB_STORAGE_LOAD] = 8,
		[LB_CONTROL] = 44,         [LB_RELOAD] = 16,
		[LB_RELOAD_REPLY] = 15961, [LB_RDMA_OPENED] = 18,
		[LB_SLAB_KEYS] = 4,        [LB_SLAB_KEYS_REPLY] = 16009,
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

/* The layout is a promise to other builds: these bytes may never change within version 4. */
static void
test_bytes_on_the_wire(void **state)
{
	static const uint8_t expected_header[24] = {
		'L', 'G',  'B', '1', 8, 0, 0, 0, 53, 0, 0, 0, /* magic, type, flags, body */
		0,   0x20, 0,   0,   8, 7, 6, 5, 4,  3, 2, 1, /* bulk, sequence */
	};
	static const uint8_t expected_body[53] = {
		1,  0, 0, 0,                            /* count */
		1,  0, 0, 0, 2, 0, 0, 0,                /* slab, page */
		3,  0, 0, 0, 4, 0, 0, 0,    5, 0, 0, 0, /* tablespace, database, relation */
		6,  0, 0, 0, 7, 0, 0, 0,                /* fork, block */
		8,  0, 0, 0, 0, 0, 0, 0x80,             /* version */
		9,  0, 0, 0, 0, 0, 0, 0x90,             /* checksum */
		10, 0, 0, 0,                            /* buffer */
		1,                                      /* dirty */
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
								.buffer = 10,
								.dirty = true};
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

/* The same for what is about storage and flushing. */
static void
test_bytes_about_storage(void **state)
{
	static const uint8_t fence_bytes[] = {
		13,                                        /* by tablespace, relation, fork */
		1,  0, 0, 0,    2, 0, 0, 0,    3, 0, 0, 0, /* tablespace, database, relation */
		4,  0, 0, 0,    5, 0, 0, 0x80,             /* fork, block */
		6,  0, 0, 0x90,                            /* end */
	};
	static const uint8_t clean_bytes[] = {
		1, 0, 0, 0,                            /* count */
		1, 0, 0, 0, 2, 0, 0, 0,    3, 0, 0, 0, /* tablespace, database, relation */
		4, 0, 0, 0, 5, 0, 0, 0,                /* fork, block */
		6, 0, 0, 0, 0, 0, 0, 0x80,             /* version */
	};
	static const uint8_t load_bytes[] = {1, 2, 0, 0, 3, 4, 0, 0};
	static const uint8_t storage_bytes[] = {4, 'P', 'G', '_', '1'};
	lb_fence fence = {.by_tablespace = true,
					  .by_relation = true,
					  .by_fork = true,
					  .from = {1, 2, 3, 4, 0x80000005},
					  .end = 0x90000006};
	lb_clean clean = {
		.count = 1, .tags = {{1, 2, 3, 4, 5}}, .versions = {UINT64_C(0x8000000000000006)}};
	lb_storage_load load = {0x201, 0x403};
	lb_storage storage = {"PG_1"};
	uint8_t body[LB_BODY_MAX];

	(void) state;
	assert_int_equal(lb_encode_fence(body, &fence), sizeof(fence_bytes));
	assert_memory_equal(body, fence_bytes, sizeof(fence_bytes));
	assert_int_equal(lb_encode_clean(body, &clean), sizeof(clean_bytes));
	assert_memory_equal(body, clean_bytes, sizeof(clean_bytes));
	assert_int_equal(lb_encode_storage_load(body, &load), sizeof(load_bytes));
	assert_memory_equal(body, load_bytes, sizeof(load_bytes));
	assert_int_equal(lb_encode_storage(body, &storage), sizeof(storage_bytes));
	assert_memory_equal(body, storage_bytes, sizeof(storage_bytes));
}

/* And for what a new life of a server asks. */
static void
test_bytes_about_reload(void **state)
{
	static const uint8_t bytes[] = {
		1,  0, 0, 0, 0,  0, 0, 0x80,                                /* completed */
		2,  0, 0, 0, 0,  0, 0, 0x81,                                /* pending */
		3,  0, 0, 0, 0,  0, 0, 0x82,                                /* tier 1 */
		4,  0, 0, 0,                                                /* checksums */
		16, 1, 2, 3, 4,  5, 6, 7,    8,  9, 10, 11, 12, 13, 14, 15, /* boot id */
		5,  0, 0, 0,                                                /* pages of a slab */
		1,                                                          /* more */
		6,  0, 0, 0, 7,  0, 0, 0,                                   /* next */
		1,  0, 0, 0,                                                /* count */
		8,  0, 0, 0, 9,  0, 0, 0,                                   /* slab, page */
		10, 0, 0, 0, 11, 0, 0, 0,    12, 0, 0,  0,                  /* up to relation */
		13, 0, 0, 0, 14, 0, 0, 0,                                   /* fork, block */
		15, 0, 0, 0, 0,  0, 0, 0x83,                                /* version */
		16, 0, 0, 0, 0,  0, 0, 0x84,                                /* checksum */
		17, 0, 0, 0, 0,  0, 0, 0x85,                                /* LSN */
		3,                                                          /* kind */
	};
	lb_reload_reply reply = {
		.control = {.completed = UINT64_C(0x8000000000000001),
					.pending = UINT64_C(0x8100000000000002),
					.tier1 = UINT64_C(0x8200000000000003),
					.checksums = 4,
					.boot_id = {16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}},
		.slab_pages = 5,
		.more = true,
		.next = {6, 7},
		.count = 1,
		.slots = {{.slot = {8, 9},
				   .tag = {10, 11, 12, 13, 14},
				   .version = UINT64_C(0x830000000000000f),
				   .checksum = UINT64_C(0x8400000000000010),
				   .lsn = UINT64_C(0x8500000000000011),
				   .kind = LB_SLOT_DIRTY}}};
	uint8_t body[LB_BODY_MAX];

	(void) state;
	assert_int_equal(sizeof(bytes), 61 + 53);
	assert_int_equal(lb_encode_reload_reply(body, &reply), sizeof(bytes));
	assert_memory_equal(body, bytes, sizeof(bytes));
	assert_int_equal(lb_encode_control(body, &reply.control), 44);
	assert_memory_equal(body, bytes, 44);
	assert_int_equal(
		lb_encode_reload(body, &(lb_reload){.from = reply.next, .redo = reply.control.pending}),
		16);
	assert_memory_equal(body, bytes + 49, 8);
	assert_memory_equal(body + 8, bytes + 8, 8);
}

/* And for what RDMA needs. */
static void
test_bytes_about_rdma(void **state)
{
	static const uint8_t region_bytes[28] = {
		1, 0, 0, 0,    0, 0x20, 0, 0,    /* count, stride */
		3, 0, 0, 0,    1, 0,    0, 0,    /* length */
		4, 0, 0, 0,    0, 0,    0, 0x80, /* address */
		5, 0, 0, 0x90,                   /* key */
	};
	static const uint8_t invitation_bytes[18] = {
		0x34, 0x12,                                                /* port */
		16,   1,    2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 /* secret */
	};
	static const uint8_t keys_bytes[29] = {
		1,                            /* more */
		7, 0, 0, 0,    1, 0, 0, 0,    /* next, count */
		6, 0, 0, 0,    0, 1, 0, 0,    /* slab, pages */
		8, 0, 0, 0,    0, 0, 0, 0x80, /* address */
		9, 0, 0, 0x90,                /* key */
	};
	lb_comm_region region = {.count = 1,
							 .stride = LB_PAGE_SIZE,
							 .length = UINT64_C(0x100000003),
							 .address = UINT64_C(0x8000000000000004),
							 .key = 0x90000005};
	lb_rdma_invitation invitation = {
		.port = 0x1234, .secret = {16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};
	static lb_slab_keys keys = {.more = true,
								.next = 7,
								.count = 1,
								.slabs = {{.slab = 6,
										   .pages = LB_SLAB_PAGES_MIN,
										   .address = UINT64_C(0x8000000000000008),
										   .key = 0x90000009}}};
	lb_node_figures figures = {.flush_failures = UINT64_C(0x8000000000000001),
							   .registered_pages = UINT64_C(0x8100000000000002),
							   .rdma_connections = 0x82000003};
	uint8_t body[LB_BODY_MAX];

	(void) state;
	assert_int_equal(lb_encode_comm_region(body, &region), sizeof(region_bytes));
	assert_memory_equal(body, region_bytes, sizeof(region_bytes));
	assert_int_equal(lb_encode_rdma_invitation(body, &invitation), sizeof(invitation_bytes));
	assert_memory_equal(body, invitation_bytes, sizeof(invitation_bytes));
	assert_int_equal(lb_encode_slab_keys(body, &keys), sizeof(keys_bytes));
	assert_memory_equal(body, keys_bytes, sizeof(keys_bytes));
	assert_int_equal(lb_encode_node_figures(body, &figures), 132);
	assert_memory_equal(
		body + 112,
		((uint8_t[20]){1, 0, 0, 0, 0, 0, 0, 0x80, 2, 0, 0, 0, 0, 0, 0, 0x81, 3, 0, 0, 0x82}), 20);
}

/* The encoded keys, with something changed, are refused. */
static void
expect_keys(const lb_slab_keys *keys, bool good)
{
	static lb_slab_keys received;
	uint8_t body[LB_BODY_MAX];
	size_t length = lb_encode_slab_keys(body, keys);

	assert_int_equal(lb_decode_slab_keys(body, length, &received), good);
}

/* Slabs of impossible sizes and numbers, or in the wrong order; a list that would go on with what it has told already. */
static void
test_forbidden_slab_keys(void **state)
{
	static lb_slab_keys keys = {.count = 2,
								.slabs = {{.slab = 3, .pages = LB_SLAB_PAGES_MIN},
										  {.slab = 4, .pages = LB_SLAB_PAGES_MAX}}};

	(void) state;
	expect_keys(&keys, true);
	keys.slabs[1].slab = 3;
	expect_keys(&keys, false);
	keys.slabs[1].slab = 2;
	expect_keys(&keys, false);
	keys.slabs[1].slab = LB_SLAB_NUMBERS_MAX - 1;
	expect_keys(&keys, true);
	keys.slabs[1].slab = LB_SLAB_NUMBERS_MAX;
	expect_keys(&keys, false);
	keys.slabs[0].slab = UINT32_MAX;
	keys.slabs[1].slab = 0;
	expect_keys(&keys, false);
	keys.slabs[0].slab = 3;
	keys.slabs[1].slab = 4;
	keys.slabs[0].pages = LB_SLAB_PAGES_MIN - 1;
	expect_keys(&keys, false);
	keys.slabs[0].pages = LB_SLAB_PAGES_MAX + 1;
	expect_keys(&keys, false);
	keys.slabs[0].pages = LB_SLAB_PAGES_MAX;
	keys.next = 5; /* but there is no more */
	expect_keys(&keys, false);
	keys.more = true;
	expect_keys(&keys, true);
	keys.next = 4;
	expect_keys(&keys, false);
	keys.next = 0;
	expect_keys(&keys, false);
}

/* A port that is none; a byte that is no flag; a count that is not that of what follows. */
static void
test_forbidden_about_rdma(void **state)
{
	lb_rdma_invitation invitation = {.port = 1};
	static lb_slab_keys keys = {.count = 1, .slabs = {{.pages = LB_SLAB_PAGES_MIN}}};
	uint8_t body[LB_BODY_MAX] = {0};
	size_t length = lb_encode_rdma_invitation(body, &invitation);

	(void) state;
	assert_true(lb_decode_rdma_invitation(body, length, &invitation));
	body[0] = 0;
	assert_false(lb_decode_rdma_invitation(body, length, &invitation));

	length = lb_encode_slab_keys(body, &keys);
	assert_true(lb_decode_slab_keys(body, length, &keys));
	body[0] = 2;
	assert_false(lb_decode_slab_keys(body, length, &keys));
	body[0] = 0;
	put_u32_at(body, 5, 0);
	assert_false(lb_decode_slab_keys(body, length, &keys));
	put_u32_at(body, 5, 2);
	assert_false(lb_decode_slab_keys(body, length, &keys));
	put_u32_at(body, 5, LB_SLAB_KEYS_MAX + 1);
	assert_false(lb_decode_slab_keys(body, sizeof(body), &keys));
	put_u32_at(body, 5, UINT32_MAX);
	assert_false(lb_decode_slab_keys(body, length, &keys));
}

/* A count beyond the limit, or other than what follows; bytes that are no flag and no kind. */
static void
test_forbidden_about_reload(void **state)
{
	static lb_reload_reply reply;
	uint8_t body[LB_BODY_MAX] = {0};
	size_t length;

	(void) state;
	reply = (lb_reload_reply){.count = 2};
	reply.slots[0].kind = LB_SLOT_CLEAN;
	reply.slots[1].kind = LB_SLOT_DIRTY;
	length = lb_encode_reload_reply(body, &reply);
	assert_int_equal(length, 61 + 2 * 53);
	assert_true(lb_decode_reload_reply(body, length, &reply));
	body[length - 1] = 0;
	assert_false(lb_decode_reload_reply(body, length, &reply));
	body[length - 1] = LB_SLOT_DIRTY + 1;
	assert_false(lb_decode_reload_reply(body, length, &reply));
	body[length - 1] = LB_SLOT_FLUSHED;
	body[48] = 2; /* more */
	assert_false(lb_decode_reload_reply(body, length, &reply));
	body[48] = 1;
	assert_true(lb_decode_reload_reply(body, length, &reply));
	put_u32_at(body, 57, 1);
	assert_false(lb_decode_reload_reply(body, length, &reply));
	put_u32_at(body, 57, 3);
	assert_false(lb_decode_reload_reply(body, length, &reply));
	put_u32_at(body, 57, LB_RELOAD_MAX + 1);
	assert_false(lb_decode_reload_reply(body, sizeof(body), &reply));
	put_u32_at(body, 57, UINT32_MAX);
	assert_false(lb_decode_reload_reply(body, length, &reply));
	assert_false(lb_decode_reload_reply(body, 60, &reply));
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
	body[59] = LB_HOLDER_MAX + 1;
	assert_false(lb_decode_hello(body, 60 + LB_HOLDER_MAX + 1, &received));

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
	lb_push_ack ack = {.count = 2, .results = {LB_PUSH_PUBLISHED, LB_PUSH_RESULTS}};
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

/* A byte that is not a flag, a folder that leads elsewhere. */
static void
test_forbidden_about_storage(void **state)
{
	static const char *const bad_folders[] = {"", ".", "..", ".hidden", "a/b", "/", "a b", "a\\b"};
	lb_push_batch push = {.count = 1, .pushes = {{.dirty = true}}};
	lb_welcome welcome = {.resumed = true};
	lb_storage_reply reply = {.found = true};
	lb_fence fence = {.by_tablespace = true};
	uint8_t body[LB_BODY_MAX];
	lb_storage storage = {""};
	size_t length;

	(void) state;
	length = lb_encode_push(body, &push);
	body[length - 1] = 2;
	assert_false(lb_decode_push(body, length, &push));
	length = lb_encode_welcome(body, &welcome);
	body[length - 1] = 2;
	assert_false(lb_decode_welcome(body, length, &welcome));
	length = lb_encode_storage_reply(body, &reply);
	body[0] = 2;
	assert_false(lb_decode_storage_reply(body, length, &reply));
	length = lb_encode_fence(body, &fence);
	body[0] = 16;
	assert_false(lb_decode_fence(body, length, &fence));
	for (size_t i = 0; i < sizeof(bad_folders) / sizeof(bad_folders[0]); i++)
	{
		strcpy(storage.version_folder, bad_folders[i]);
		length = lb_encode_storage(body, &storage);
		assert_false(lb_decode_storage(body, length, &storage));
	}
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
		cmocka_unit_test(test_round_trips),
		cmocka_unit_test(test_flipped_bits),
		cmocka_unit_test(test_random_bodies),
		cmocka_unit_test(test_header_limits),
		cmocka_unit_test(test_length_limits),
		cmocka_unit_test(test_bytes_on_the_wire),
		cmocka_unit_test(test_texts),
		cmocka_unit_test(test_forbidden_values),
		cmocka_unit_test(test_bytes_about_storage),
		cmocka_unit_test(test_forbidden_about_storage),
		cmocka_unit_test(test_bytes_about_reload),
		cmocka_unit_test(test_forbidden_about_reload),
		cmocka_unit_test(test_bytes_about_rdma),
		cmocka_unit_test(test_forbidden_slab_keys),
		cmocka_unit_test(test_forbidden_about_rdma),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_page_checksums),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
