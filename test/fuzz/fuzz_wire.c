/*
 * fuzz_wire.c
 *	  Any bytes whatever, given to the decoders and to a stream.
 *
 * LLVMFuzzerTestOneInput is what libFuzzer calls. With FUZZ_PLAIN the program has a main() of its own that makes a fixed
 * number of inputs, always the same ones: pseudo-random bytes, and valid frames with random damage.
 *
 * What must hold, beside that no sanitizer has anything to say: what a decoder accepts is encoded again to the same bytes
 * (there is one encoding of each message), and a stream gives out only frames that are intact.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lb_stream.h"

#define INPUT_MAX 20000

static unsigned long accepted_bodies;
static unsigned long accepted_frames;

static void
require(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "fuzz_wire: %s\n", what);
	abort();
}

/* Compare what was decoded, encoded again, with what it was decoded from. */
static void
same_again(const uint8_t *again, size_t again_length, const uint8_t *in, size_t length)
{
	accepted_bodies++;
	require(again_length == length && memcmp(again, in, length) == 0,
			"two encodings of one message");
}

#define TRY(name, type)                                                       \
	do                                                                        \
	{                                                                         \
		type decoded;                                                         \
                                                                              \
		if (lb_decode_##name(in, length, &decoded))                           \
			same_again(again, lb_encode_##name(again, &decoded), in, length); \
	} while (0)

#define TRY_NUMBER(name)                                                     \
	do                                                                       \
	{                                                                        \
		uint32_t decoded;                                                    \
                                                                             \
		if (lb_decode_##name(in, length, &decoded))                          \
			same_again(again, lb_encode_##name(again, decoded), in, length); \
	} while (0)

static void
try_decoders(const uint8_t *in, size_t length)
{
	uint8_t again[LB_BODY_MAX];

	TRY(hello, lb_hello);
	TRY(welcome, lb_welcome);
	TRY(error, lb_error);
	TRY(comm_region, lb_comm_region);
	TRY(slab_request, lb_slab_request);
	TRY(slab_list, lb_slab_list);
	TRY(push, lb_push_batch);
	TRY(push_ack, lb_push_ack);
	TRY(release, lb_release_batch);
	TRY(read, lb_read_batch);
	TRY(node_figures, lb_node_figures);
	TRY(storage, lb_storage);
	TRY(storage_reply, lb_storage_reply);
	TRY(clean, lb_clean);
	TRY(fence, lb_fence);
	TRY(flush_state, lb_flush_state);
	TRY(slab_keep, lb_slab_keep);
	TRY(storage_load, lb_storage_load);
	TRY(control, lb_control);
	TRY(reload, lb_reload);
	TRY(reload_reply, lb_reload_reply);
	TRY(rdma_invitation, lb_rdma_invitation);
	TRY(slab_keys, lb_slab_keys);
	TRY_NUMBER(slab_number);
	TRY_NUMBER(count);
}

/* Give every header in the input that has plausible lengths a magic and a checksum, so that more gets through. */
static void
repair_frames(uint8_t *bytes, size_t length)
{
	size_t at = 0;

	while (length - at >= LB_HEADER_SIZE)
	{
		lb_header header;
		uint8_t repaired[LB_HEADER_SIZE];

		memcpy(bytes + at, "LGB1", 4);
		memset(bytes + at + 6, 0, 2);
		if (!lb_decode_header(bytes + at, &header) ||
			length - at - LB_HEADER_SIZE < header.body_length)
			return;
		lb_encode_header(repaired, (lb_frame_type) header.type, header.sequence,
						 bytes + at + LB_HEADER_SIZE, header.body_length, header.bulk_length);
		memcpy(bytes + at, repaired, sizeof(repaired));
		at += LB_HEADER_SIZE + header.body_length + header.bulk_length;
		if (at > length)
			return;
	}
}

/* Take what is complete. False when the stream is broken. */
static bool
take_frames(lb_stream *stream)
{
	lb_frame frame;
	lb_status status;
	int result;

	while ((result = lb_stream_next(stream, &frame, &status)) == 1)
	{
		accepted_frames++;
		require(lb_frame_intact(frame.body - LB_HEADER_SIZE, frame.body), "a damaged frame");
		require(frame.fd == -1, "a descriptor from nowhere");
		if (frame.header.bulk_length > 0)
		{
			/* The bulk is there to its end. */
			volatile uint8_t last = frame.bulk[frame.header.bulk_length - 1];

			(void) last;
		}
		try_decoders(frame.body, frame.header.body_length);
	}
	return result == 0;
}

static void
try_stream(const uint8_t *in, size_t length, size_t piece, size_t accept_bulk)
{
	int ends[2];
	lb_status status;
	lb_stream *stream;
	size_t sent = 0;

	require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0,
			"no sockets");
	stream = lb_stream_create(ends[0], 0, &status);
	require(stream != NULL, "no memory");
	while (sent < length)
	{
		size_t next = length - sent < piece ? length - sent : piece;
		ssize_t now = send(ends[1], in + sent, next, MSG_NOSIGNAL);

		require(now > 0, "the socket is full");
		sent += (size_t) now;
		if (!lb_stream_fill(stream, accept_bulk, &status) || !take_frames(stream))
			break;
	}
	lb_stream_close(stream);
	close(ends[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte chooses what is done with the rest. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy;
	lb_header header;

	if (size < 1 || size > INPUT_MAX)
		return 0;
	/* A copy that ends where the input ends: reading further is noticed. */
	copy = malloc(size);
	require(copy != NULL, "no memory");
	memcpy(copy, data + 1, size - 1);
	size--;
	switch (data[0] % 4)
	{
		case 0:
			try_decoders(copy, size);
			break;
		case 1:
			if (size >= LB_HEADER_SIZE && lb_decode_header(copy, &header) &&
				size - LB_HEADER_SIZE >= header.body_length)
				(void) lb_frame_intact(copy, copy + LB_HEADER_SIZE);
			break;
		case 2:
			try_stream(copy, size, 1 + data[0], LB_BULK_MAX);
			break;
		case 3:
			repair_frames(copy, size);
			try_stream(copy, size, 1 + (size_t) data[0] * 8,
					   data[0] & 4 ? LB_BULK_MAX : LB_PAGE_SIZE);
			break;
	}
	free(copy);
	return 0;
}

#ifdef FUZZ_PLAIN

static uint64_t random_state = 1;

static uint64_t
random_u64(void)
{
	/* splitmix64 */
	uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static size_t
below(size_t limit)
{
	return (size_t) (random_u64() % limit);
}

static void
fill_randomly(uint8_t *out, size_t length)
{
	for (size_t i = 0; i < length; i++)
		out[i] = (uint8_t) random_u64();
}

static size_t
make_reload_reply(uint8_t *out)
{
	static lb_reload_reply reply;

	fill_randomly((uint8_t *) &reply.control, sizeof(reply.control));
	reply.more = below(2) == 1;
	reply.count = (uint32_t) below(LB_RELOAD_MAX + 1);
	fill_randomly((uint8_t *) reply.slots, reply.count * sizeof(reply.slots[0]));
	for (uint32_t i = 0; i < reply.count; i++)
		reply.slots[i].kind = (uint8_t) (LB_SLOT_CLEAN + below(LB_SLOT_DIRTY));
	return lb_encode_reload_reply(out, &reply);
}

static size_t
make_slab_keys(uint8_t *out)
{
	static lb_slab_keys keys;

	keys.count = (uint32_t) below(LB_SLAB_KEYS_MAX + 1);
	for (uint32_t i = 0; i < keys.count; i++)
		keys.slabs[i] = (lb_slab_key){.slab = 2 * i + (uint32_t) below(2),
									  .pages = LB_SLAB_PAGES_MIN << below(10),
									  .address = random_u64(),
									  .key = (uint32_t) random_u64()};
	keys.more = below(2) == 1;
	keys.next = keys.more ? 2 * keys.count + (uint32_t) below(5) : 0;
	return lb_encode_slab_keys(out, &keys);
}

/* A body of this type that its decoder accepts. */
static size_t
make_body(lb_frame_type type, uint8_t *out)
{
	static const struct
	{
		uint8_t fixed; /* bytes of a body without items */
		uint8_t item;  /* bytes of an item, after a count */
	} layouts[LB_FRAME_TYPES] = {
		[LB_SLAB_GRANT] = {4, 4},     [LB_SLAB_RETURN] = {4, 4}, [LB_RELEASE] = {4, 16},
		[LB_SLAB_MAP] = {4, 0},       [LB_SLAB_MAPPED] = {4, 0}, [LB_READ] = {4, 8},
		[LB_STATUS_REPLY] = {132, 0}, [LB_CLEAN] = {4, 28},      [LB_STORAGE_LOAD] = {8, 0},
		[LB_SLAB_KEEP] = {17, 0},     [LB_CONTROL] = {44, 0},    [LB_RELOAD] = {16, 0},
		[LB_SLAB_KEYS] = {4, 0},
	};
	uint8_t count = (uint8_t) (1 + below(LB_BATCH_MAX));
	lb_hello hello = {.version_min = 1, .version_max = 1, .role = (uint16_t) (1 + below(3))};
	lb_error error = {.error = LB_ERR_LIMIT, .message = "too many sessions"};
	lb_comm_region region = {
		.count = count, .stride = LB_PAGE_SIZE, .address = random_u64(), .key = count};
	lb_rdma_invitation invitation = {.port = 1 + count};
	lb_slab_request request = {.slab_pages = LB_SLAB_PAGES_MIN, .count = count};
	lb_push_ack ack = {.count = count};
	lb_push_batch push = {.count = count};
	lb_welcome welcome = {.epoch = random_u64(), .resumed = count % 2};
	lb_storage storage = {"PG_15_202209061"};
	lb_storage_reply reply = {.found = count % 2, .message = "/srv/data"};
	lb_fence fence = {.by_database = count % 2, .end = count};
	lb_flush_state flush = {.dirty_pages = random_u64(), .error = "No space left on device"};
	size_t length = layouts[type].fixed + (size_t) layouts[type].item * count;

	switch (type)
	{
		case LB_HELLO:
			memset(hello.holder, 'h', below(LB_HOLDER_MAX));
			return lb_encode_hello(out, &hello);
		case LB_ERROR:
			return lb_encode_error(out, &error);
		case LB_COMM_BUFFERS:
			region.length = (uint64_t) region.count * region.stride;
			return lb_encode_comm_region(out, &region);
		case LB_SLAB_REQUEST:
			return lb_encode_slab_request(out, &request);
		case LB_WELCOME:
			return lb_encode_welcome(out, &welcome);
		case LB_PUSH:
			fill_randomly((uint8_t *) push.pushes, count * sizeof(push.pushes[0]));
			for (uint8_t i = 0; i < count; i++)
				push.pushes[i].dirty = i % 2;
			return lb_encode_push(out, &push);
		case LB_STORAGE:
			return lb_encode_storage(out, &storage);
		case LB_STORAGE_REPLY:
			return lb_encode_storage_reply(out, &reply);
		case LB_FENCE:
			return lb_encode_fence(out, &fence);
		case LB_FLUSH_STATE:
			return lb_encode_flush_state(out, &flush);
		case LB_RELOAD_REPLY:
			return make_reload_reply(out);
		case LB_RDMA_OPENED:
			return lb_encode_rdma_invitation(out, &invitation);
		case LB_SLAB_KEYS_REPLY:
			return make_slab_keys(out);
		case LB_PUSH_ACK:
			return lb_encode_push_ack(out, &ack);
		case LB_READ_REPLY:
			return lb_encode_count(out, 1);
		default:
			fill_randomly(out, length);
			if (layouts[type].item > 0)
				memcpy(out, (uint8_t[4]){count}, 4);
			return length;
	}
}

/* Some frames, of which the bulk is random. */
static size_t
make_frames(uint8_t *out)
{
	size_t length = 0;

	for (size_t frames = 1 + below(4); frames > 0; frames--)
	{
		lb_frame_type type = (lb_frame_type) (1 + below(LB_FRAME_TYPES - 1));
		uint8_t body[LB_BODY_MAX];
		size_t body_length = make_body(type, body);
		size_t bulk = type == LB_READ_REPLY || (type == LB_PUSH && below(2)) ? LB_PAGE_SIZE : 0;

		if (length + LB_HEADER_SIZE + body_length + bulk > INPUT_MAX - 1)
			break;
		lb_encode_header(out + length, type, random_u64(), body, body_length, bulk);
		memcpy(out + length + LB_HEADER_SIZE, body, body_length);
		fill_randomly(out + length + LB_HEADER_SIZE + body_length, bulk);
		length += LB_HEADER_SIZE + body_length + bulk;
	}
	return length;
}

static size_t
damage(uint8_t *bytes, size_t length)
{
	for (size_t times = below(4); times > 0 && length > 0; times--)
	{
		size_t at = below(length);
		size_t run = 1 + below(length - at);

		switch (below(5))
		{
			case 0:
				bytes[at] ^= (uint8_t) (1 << below(8));
				break;
			case 1:
				bytes[at] = (uint8_t) random_u64();
				break;
			case 2: /* cut a piece out */
				memmove(bytes + at, bytes + at + run, length - at - run);
				length -= run;
				break;
			case 3: /* lengths and counts at their limits */
				memset(bytes + at, below(2) ? 0xff : 0, run < 4 ? run : 4);
				break;
			case 4:
				length = at;
				break;
		}
	}
	return length;
}

static void
run_inputs(unsigned long count)
{
	static uint8_t input[1 + INPUT_MAX];

	for (unsigned long i = 0; i < count; i++)
	{
		size_t length;

		input[0] = (uint8_t) random_u64();
		switch (below(3))
		{
			case 0:
				length = below(600);
				fill_randomly(input + 1, length);
				break;
			case 1:
				length = damage(input + 1, make_frames(input + 1));
				break;
			default:
				input[0] &= 0xfc; /* the decoders */
				length =
					damage(input + 1,
						   make_body((lb_frame_type) (1 + below(LB_FRAME_TYPES - 1)), input + 1));
				break;
		}
		LLVMFuzzerTestOneInput(input, 1 + length);
	}
}

static int
run_file(const char *path)
{
	static uint8_t input[1 + INPUT_MAX];
	FILE *file = fopen(path, "rb");
	size_t length;

	if (file == NULL)
	{
		perror(path);
		return 1;
	}
	length = fread(input, 1, sizeof(input), file);
	fclose(file);
	LLVMFuzzerTestOneInput(input, length);
	return 0;
}

/* fuzz_wire_plain COUNT, or fuzz_wire_plain FILE... to try inputs that libFuzzer found. */
int
main(int argc, char **argv)
{
	char *end;
	unsigned long count;
	int failed = 0;

	if (argc < 2)
	{
		fprintf(stderr, "usage: %s COUNT | FILE...\n", argv[0]);
		return 2;
	}
	count = strtoul(argv[1], &end, 10);
	if (*end != '\0')
	{
		for (int i = 1; i < argc; i++)
			failed |= run_file(argv[i]);
		return failed;
	}
	run_inputs(count);
	printf("%lu inputs: %lu bodies and %lu frames accepted\n", count, accepted_bodies,
		   accepted_frames);
	return 0;
}

#endif /* FUZZ_PLAIN */
