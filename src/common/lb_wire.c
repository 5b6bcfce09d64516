/*
 * lb_wire.c
 *	  Encoding and decoding of messages. docs/protocol.md has the same as tables of bytes.
 * (lb_wire_flush.c has the messages about storage and flushing, lb_wire_reload.c those about coming back.)
 */
#include <assert.h>
#include <string.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include "lb_wire.h"
#include "lb_wire_cursor.h"

#define CHECKSUMMED_HEADER 24 /* bytes of the header before the checksum */

/* Longest bodies. */
#define HELLO_MAX (60 + LB_HOLDER_MAX)
#define WELCOME_SIZE 47
#define COMM_REGION_SIZE 28
#define SLAB_REQUEST_SIZE 8
#define SLAB_LIST_MAX (4 + 4 * LB_SLABS_PER_FRAME)
#define PUSH_MAX (4 + 49 * LB_BATCH_MAX)
#define PUSH_ACK_MAX (4 + LB_BATCH_MAX)
#define RELEASE_MAX (4 + 16 * LB_BATCH_MAX)
#define READ_MAX (4 + 8 * LB_BATCH_MAX)
#define NODE_FIGURES_SIZE 132
#define STORAGE_MAX (1 + LB_VERSION_FOLDER_MAX)
#define STORAGE_REPLY_MAX (2 + LB_NONCE_SIZE + LB_MESSAGE_MAX)
#define CLEAN_MAX (4 + 28 * LB_BATCH_MAX)
#define FENCE_SIZE 25
#define FLUSH_STATE_MAX (57 + LB_MESSAGE_MAX)
#define SLAB_KEEP_MAX LB_KEEP_BYTES_MAX
#define STORAGE_LOAD_SIZE 8
#define CONTROL_SIZE 44
#define RELOAD_SIZE 16
#define RELOAD_REPLY_MAX (CONTROL_SIZE + 17 + 53 * LB_RELOAD_MAX)
#define RDMA_INVITATION_SIZE (2 + LB_RDMA_SECRET_SIZE)
#define SLAB_KEYS_MAX (9 + 20 * LB_SLAB_KEYS_MAX)

static const struct
{
	const char *name;
	uint32_t body_max;
	uint32_t bulk_min;
	uint32_t bulk_max;
} frame_types[LB_FRAME_TYPES] = {
	[LB_HELLO] = {"HELLO", HELLO_MAX, 0, 0},
	[LB_WELCOME] = {"WELCOME", WELCOME_SIZE, 0, 0},
	[LB_ERROR] = {"ERROR", LB_ERROR_BODY_MAX, 0, 0},
	[LB_COMM_BUFFERS] = {"COMM_BUFFERS", COMM_REGION_SIZE, 0, 0},
	[LB_SLAB_REQUEST] = {"SLAB_REQUEST", SLAB_REQUEST_SIZE, 0, 0},
	[LB_SLAB_GRANT] = {"SLAB_GRANT", SLAB_LIST_MAX, 0, 0},
	[LB_SLAB_RETURN] = {"SLAB_RETURN", SLAB_LIST_MAX, 0, 0},
	[LB_PUSH] = {"PUSH", PUSH_MAX, 0, LB_BULK_MAX},
	[LB_PUSH_ACK] = {"PUSH_ACK", PUSH_ACK_MAX, 0, 0},
	[LB_RELEASE] = {"RELEASE", RELEASE_MAX, 0, 0},
	[LB_SLAB_MAP] = {"SLAB_MAP", 4, 0, 0},
	[LB_SLAB_MAPPED] = {"SLAB_MAPPED", 4, 0, 0},
	[LB_READ] = {"READ", READ_MAX, 0, 0},
	[LB_READ_REPLY] = {"READ_REPLY", 4, LB_PAGE_SIZE, LB_BULK_MAX},
	[LB_PING] = {"PING", 0, 0, 0},
	[LB_PONG] = {"PONG", 0, 0, 0},
	[LB_STATUS] = {"STATUS", 0, 0, 0},
	[LB_STATUS_REPLY] = {"STATUS_REPLY", NODE_FIGURES_SIZE, 0, 0},
	[LB_STORAGE] = {"STORAGE", STORAGE_MAX, 0, 0},
	[LB_STORAGE_REPLY] = {"STORAGE_REPLY", STORAGE_REPLY_MAX, 0, 0},
	[LB_FLUSH] = {"FLUSH", 0, 0, 0},
	[LB_CLEAN] = {"CLEAN", CLEAN_MAX, 0, 0},
	[LB_FENCE] = {"FENCE", FENCE_SIZE, 0, 0},
	[LB_FENCED] = {"FENCED", 0, 0, 0},
	[LB_FLUSH_STATE] = {"FLUSH_STATE", FLUSH_STATE_MAX, 0, 0},
	[LB_SLAB_KEEP] = {"SLAB_KEEP", SLAB_KEEP_MAX, 0, 0},
	[LB_STORAGE_LOAD] = {"STORAGE_LOAD", STORAGE_LOAD_SIZE, 0, 0},
	[LB_CONTROL] = {"CONTROL", CONTROL_SIZE, 0, 0},
	[LB_CONTROLLED] = {"CONTROLLED", 0, 0, 0},
	[LB_RELOAD] = {"RELOAD", RELOAD_SIZE, 0, 0},
	[LB_RELOAD_REPLY] = {"RELOAD_REPLY", RELOAD_REPLY_MAX, 0, 0},
	[LB_RDMA_OPEN] = {"RDMA_OPEN", 0, 0, 0},
	[LB_RDMA_OPENED] = {"RDMA_OPENED", RDMA_INVITATION_SIZE, 0, 0},
	[LB_SLAB_KEYS] = {"SLAB_KEYS", 4, 0, 0},
	[LB_SLAB_KEYS_REPLY] = {"SLAB_KEYS_REPLY", SLAB_KEYS_MAX, 0, 0},
};

_Static_assert(PUSH_MAX <= LB_BODY_MAX && RELOAD_REPLY_MAX <= LB_BODY_MAX,
			   "every body fits LB_BODY_MAX");

static const char *const error_names[] = {
	[LB_ERR_NONE] = "none",           [LB_ERR_VERSION] = "version",
	[LB_ERR_PAGE_SIZE] = "page size", [LB_ERR_SYSTEM_ID] = "system identifier",
	[LB_ERR_EPOCH] = "epoch",         [LB_ERR_HELD] = "held",
	[LB_ERR_TOKEN] = "token",         [LB_ERR_ROLE] = "role",
	[LB_ERR_LIMIT] = "limit",         [LB_ERR_SLAB] = "slab",
	[LB_ERR_MALFORMED] = "malformed", [LB_ERR_INTERNAL] = "internal",
};

const char *
lb_frame_type_name(unsigned type)
{
	return type > 0 && type < LB_FRAME_TYPES ? frame_types[type].name : "unknown frame";
}

const char *
lb_wire_error_name(unsigned error)
{
	return error < sizeof(error_names) / sizeof(error_names[0]) ? error_names[error]
																: "unknown error";
}

/* Frames. */

/* The header's hash seeds the body's, so that both are covered without joining them in memory. */
static uint64_t
frame_checksum(const uint8_t *header, const void *body, size_t body_length)
{
	uint64_t seed = XXH3_64bits(header, CHECKSUMMED_HEADER);

	return XXH3_64bits_withSeed(body_length > 0 ? body : "", body_length, seed);
}

void
lb_encode_header(uint8_t out[LB_HEADER_SIZE], lb_frame_type type, uint64_t sequence,
				 const void *body, size_t body_length, size_t bulk_length)
{
	writer w = write_to(out);

	assert(type > 0 && type < LB_FRAME_TYPES);
	assert(body_length <= frame_types[type].body_max);
	assert(bulk_length >= frame_types[type].bulk_min && bulk_length <= frame_types[type].bulk_max);
	assert(bulk_length % LB_PAGE_SIZE == 0);
	put_u32(&w, LB_WIRE_MAGIC);
	put_u16(&w, (uint16_t) type);
	put_u16(&w, 0);
	put_u32(&w, (uint32_t) body_length);
	put_u32(&w, (uint32_t) bulk_length);
	put_u64(&w, sequence);
	put_u64(&w, frame_checksum(out, body, body_length));
}

bool
lb_decode_header(const uint8_t in[LB_HEADER_SIZE], lb_header *header)
{
	reader r = read_from(in, LB_HEADER_SIZE);
	uint32_t magic = get_u32(&r);

	header->type = get_u16(&r);
	header->flags = get_u16(&r);
	header->body_length = get_u32(&r);
	header->bulk_length = get_u32(&r);
	header->sequence = get_u64(&r);
	header->checksum = get_u64(&r);
	return magic == LB_WIRE_MAGIC && header->type > 0 && header->type < LB_FRAME_TYPES &&
		   header->flags == 0 && header->body_length <= frame_types[header->type].body_max &&
		   header->bulk_length >= frame_types[header->type].bulk_min &&
		   header->bulk_length <= frame_types[header->type].bulk_max &&
		   header->bulk_length % LB_PAGE_SIZE == 0;
}

bool
lb_frame_intact(const uint8_t in[LB_HEADER_SIZE], const void *body)
{
	lb_header header;

	return lb_decode_header(in, &header) &&
		   frame_checksum(in, body, header.body_length) == header.checksum;
}

/* Bodies, in the order of the frame types. */

size_t
lb_encode_hello(uint8_t *out, const lb_hello *hello)
{
	writer w = write_to(out);

	put_u16(&w, hello->version_min);
	put_u16(&w, hello->version_max);
	put_u16(&w, hello->role);
	put_u8(&w, hello->take_over);
	put_u32(&w, hello->page_size);
	put_u64(&w, hello->system_identifier);
	put_bytes(&w, hello->uuid, LB_UUID_SIZE);
	put_u64(&w, hello->epoch);
	put_u64(&w, hello->token);
	put_u64(&w, hello->resume);
	put_text(&w, hello->holder, LB_HOLDER_MAX);
	return written(&w);
}

bool
lb_decode_hello(const uint8_t *in, size_t length, lb_hello *hello)
{
	reader r = read_from(in, length);

	hello->version_min = get_u16(&r);
	hello->version_max = get_u16(&r);
	hello->role = get_u16(&r);
	hello->take_over = get_flag(&r);
	hello->page_size = get_u32(&r);
	hello->system_identifier = get_u64(&r);
	get_bytes(&r, hello->uuid, LB_UUID_SIZE);
	hello->epoch = get_u64(&r);
	hello->token = get_u64(&r);
	hello->resume = get_u64(&r);
	get_text(&r, hello->holder, LB_HOLDER_MAX);
	return read_all(&r) && hello->version_min >= 1 && hello->version_min <= hello->version_max &&
		   hello->role >= LB_ROLE_AGENT && hello->role <= LB_ROLE_MONITOR;
}

size_t
lb_encode_welcome(uint8_t *out, const lb_welcome *welcome)
{
	writer w = write_to(out);

	put_u16(&w, welcome->version);
	put_u64(&w, welcome->epoch);
	put_u64(&w, welcome->token);
	put_u64(&w, welcome->incarnation);
	put_u64(&w, welcome->capacity_pages);
	put_u64(&w, welcome->free_pages);
	put_u32(&w, welcome->timeout_ms);
	put_u8(&w, welcome->resumed);
	return written(&w);
}

bool
lb_decode_welcome(const uint8_t *in, size_t length, lb_welcome *welcome)
{
	reader r = read_from(in, length);

	welcome->version = get_u16(&r);
	welcome->epoch = get_u64(&r);
	welcome->token = get_u64(&r);
	welcome->incarnation = get_u64(&r);
	welcome->capacity_pages = get_u64(&r);
	welcome->free_pages = get_u64(&r);
	welcome->timeout_ms = get_u32(&r);
	welcome->resumed = get_flag(&r);
	return read_all(&r);
}

size_t
lb_encode_error(uint8_t *out, const lb_error *error)
{
	writer w = write_to(out);

	put_u16(&w, error->error);
	put_u64(&w, error->epoch);
	put_text(&w, error->message, LB_MESSAGE_MAX);
	return written(&w);
}

bool
lb_decode_error(const uint8_t *in, size_t length, lb_error *error)
{
	reader r = read_from(in, length);

	error->error = get_u16(&r);
	error->epoch = get_u64(&r);
	get_text(&r, error->message, LB_MESSAGE_MAX);
	return read_all(&r) && error->error != LB_ERR_NONE;
}

size_t
lb_encode_comm_region(uint8_t *out, const lb_comm_region *region)
{
	writer w = write_to(out);

	put_u32(&w, region->count);
	put_u32(&w, region->stride);
	put_u64(&w, region->length);
	put_u64(&w, region->address);
	put_u32(&w, region->key);
	return written(&w);
}

bool
lb_decode_comm_region(const uint8_t *in, size_t length, lb_comm_region *region)
{
	reader r = read_from(in, length);

	region->count = get_u32(&r);
	region->stride = get_u32(&r);
	region->length = get_u64(&r);
	region->address = get_u64(&r);
	region->key = get_u32(&r);
	return read_all(&r) && region->count > 0 && region->stride >= LB_PAGE_SIZE &&
		   (uint64_t) region->count * region->stride <= region->length;
}

size_t
lb_encode_slab_request(uint8_t *out, const lb_slab_request *request)
{
	writer w = write_to(out);

	assert(request->count > 0 && request->count <= LB_SLABS_PER_FRAME);
	put_u32(&w, request->slab_pages);
	put_u32(&w, request->count);
	return written(&w);
}

bool
lb_decode_slab_request(const uint8_t *in, size_t length, lb_slab_request *request)
{
	reader r = read_from(in, length);

	request->slab_pages = get_u32(&r);
	request->count = get_count(&r, 1, LB_SLABS_PER_FRAME);
	return read_all(&r);
}

size_t
lb_encode_slab_list(uint8_t *out, const lb_slab_list *list)
{
	writer w = write_to(out);

	assert(list->count <= LB_SLABS_PER_FRAME);
	put_u32(&w, list->count);
	for (uint32_t i = 0; i < list->count; i++)
		put_u32(&w, list->slabs[i]);
	return written(&w);
}

bool
lb_decode_slab_list(const uint8_t *in, size_t length, lb_slab_list *list)
{
	reader r = read_from(in, length);

	list->count = get_count(&r, 0, LB_SLABS_PER_FRAME);
	for (uint32_t i = 0; i < list->count; i++)
		list->slabs[i] = get_u32(&r);
	return read_all(&r);
}

size_t
lb_encode_push(uint8_t *out, const lb_push_batch *batch)
{
	writer w = write_to(out);

	assert(batch->count > 0 && batch->count <= LB_BATCH_MAX);
	put_u32(&w, batch->count);
	for (uint32_t i = 0; i < batch->count; i++)
	{
		const lb_push *push = &batch->pushes[i];

		put_u32(&w, push->slab);
		put_u32(&w, push->page);
		put_tag(&w, &push->tag);
		put_u64(&w, push->version);
		put_u64(&w, push->checksum);
		put_u32(&w, push->buffer);
		put_u8(&w, push->dirty);
	}
	return written(&w);
}

bool
lb_decode_push(const uint8_t *in, size_t length, lb_push_batch *batch)
{
	reader r = read_from(in, length);

	batch->count = get_count(&r, 1, LB_BATCH_MAX);
	for (uint32_t i = 0; i < batch->count; i++)
	{
		lb_push *push = &batch->pushes[i];

		push->slab = get_u32(&r);
		push->page = get_u32(&r);
		get_tag(&r, &push->tag);
		push->version = get_u64(&r);
		push->checksum = get_u64(&r);
		push->buffer = get_u32(&r);
		push->dirty = get_flag(&r);
	}
	return read_all(&r);
}

size_t
lb_encode_push_ack(uint8_t *out, const lb_push_ack *ack)
{
	writer w = write_to(out);

	assert(ack->count > 0 && ack->count <= LB_BATCH_MAX);
	put_u32(&w, ack->count);
	put_bytes(&w, ack->results, ack->count);
	return written(&w);
}

bool
lb_decode_push_ack(const uint8_t *in, size_t length, lb_push_ack *ack)
{
	reader r = read_from(in, length);

	ack->count = get_count(&r, 1, LB_BATCH_MAX);
	get_bytes(&r, ack->results, ack->count);
	for (uint32_t i = 0; i < ack->count; i++)
		if (ack->results[i] >= LB_PUSH_RESULTS)
			return false;
	return read_all(&r);
}

size_t
lb_encode_release(uint8_t *out, const lb_release_batch *batch)
{
	writer w = write_to(out);

	assert(batch->count > 0 && batch->count <= LB_BATCH_MAX);
	put_u32(&w, batch->count);
	for (uint32_t i = 0; i < batch->count; i++)
	{
		put_slot(&w, &batch->slots[i]);
		put_u64(&w, batch->versions[i]);
	}
	return written(&w);
}

bool
lb_decode_release(const uint8_t *in, size_t length, lb_release_batch *batch)
{
	reader r = read_from(in, length);

	batch->count = get_count(&r, 1, LB_BATCH_MAX);
	for (uint32_t i = 0; i < batch->count; i++)
	{
		get_slot(&r, &batch->slots[i]);
		batch->versions[i] = get_u64(&r);
	}
	return read_all(&r);
}

size_t
lb_encode_slab_number(uint8_t *out, uint32_t slab)
{
	writer w = write_to(out);

	put_u32(&w, slab);
	return written(&w);
}

bool
lb_decode_slab_number(const uint8_t *in, size_t length, uint32_t *slab)
{
	reader r = read_from(in, length);

	*slab = get_u32(&r);
	return read_all(&r);
}

size_t
lb_encode_read(uint8_t *out, const lb_read_batch *batch)
{
	writer w = write_to(out);

	assert(batch->count > 0 && batch->count <= LB_BATCH_MAX);
	put_u32(&w, batch->count);
	for (uint32_t i = 0; i < batch->count; i++)
		put_slot(&w, &batch->slots[i]);
	return written(&w);
}

bool
lb_decode_read(const uint8_t *in, size_t length, lb_read_batch *batch)
{
	reader r = read_from(in, length);

	batch->count = get_count(&r, 1, LB_BATCH_MAX);
	for (uint32_t i = 0; i < batch->count; i++)
		get_slot(&r, &batch->slots[i]);
	return read_all(&r);
}

size_t
lb_encode_count(uint8_t *out, uint32_t count)
{
	writer w = write_to(out);

	assert(count > 0 && count <= LB_BATCH_MAX);
	put_u32(&w, count);
	return written(&w);
}

bool
lb_decode_count(const uint8_t *in, size_t length, uint32_t *count)
{
	reader r = read_from(in, length);

	*count = get_count(&r, 1, LB_BATCH_MAX);
	return read_all(&r);
}

size_t
lb_encode_node_figures(uint8_t *out, const lb_node_figures *figures)
{
	writer w = write_to(out);

	put_u64(&w, figures->incarnation);
	put_u64(&w, figures->uptime_s);
	put_u64(&w, figures->capacity_pages);
	put_u64(&w, figures->granted_pages);
	put_u64(&w, figures->used_pages);
	put_u64(&w, figures->huge_pages);
	put_u32(&w, figures->tenants);
	put_u32(&w, figures->sessions);
	put_u64(&w, figures->pushes);
	put_u64(&w, figures->reads);
	put_u64(&w, figures->rejected_pushes);
	put_u64(&w, figures->refused_sessions);
	put_u64(&w, figures->malformed_frames);
	put_u64(&w, figures->dirty_pages);
	put_u64(&w, figures->flushed_pages);
	put_u64(&w, figures->flush_failures);
	put_u64(&w, figures->registered_pages);
	put_u32(&w, figures->rdma_connections);
	return written(&w);
}

bool
lb_decode_node_figures(const uint8_t *in, size_t length, lb_node_figures *figures)
{
	reader r = read_from(in, length);

	figures->incarnation = get_u64(&r);
	figures->uptime_s = get_u64(&r);
	figures->capacity_pages = get_u64(&r);
	figures->granted_pages = get_u64(&r);
	figures->used_pages = get_u64(&r);
	figures->huge_pages = get_u64(&r);
	figures->tenants = get_u32(&r);
	figures->sessions = get_u32(&r);
	figures->pushes = get_u64(&r);
	figures->reads = get_u64(&r);
	figures->rejected_pushes = get_u64(&r);
	figures->refused_sessions = get_u64(&r);
	figures->malformed_frames = get_u64(&r);
	figures->dirty_pages = get_u64(&r);
	figures->flushed_pages = get_u64(&r);
	figures->flush_failures = get_u64(&r);
	figures->registered_pages = get_u64(&r);
	figures->rdma_connections = get_u32(&r);
	return read_all(&r);
}
