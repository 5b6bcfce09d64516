/*
 * wire_messages.c
 *	  Random messages of every kind.
 */
#include <string.h>

#include "wire_messages.h"

static uint64_t random_state;

uint64_t
random_u64(void)
{
	/* splitmix64 */
	uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint32_t
random_u32(void)
{
	return (uint32_t) random_u64();
}

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
	m->hello.resume = random_u64();
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
	m->welcome.resumed = pick(extent, 0, 1) == 1;
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
	m->comm_region.address = random_u64();
	m->comm_region.key = random_u32();
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
			.dirty = pick(extent, 0, 1) == 1,
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
		m->push_ack.results[i] = (uint8_t) pick(extent, LB_PUSH_PUBLISHED, LB_PUSH_NO_STORAGE);
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
	uint64_t *last = &m->figures.registered_pages;

	(void) extent;
	for (uint64_t *figure = first; figure <= last; figure++)
		*figure = random_u64();
	m->figures.rdma_connections = random_u32();
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

static void
make_storage(message *m, extent extent)
{
	static const char letters[] = "abcXYZ019_-.";
	uint32_t length = pick(extent, 1, LB_VERSION_FOLDER_MAX);

	for (uint32_t i = 0; i < length; i++)
		m->storage.version_folder[i] = letters[random_u32() % (sizeof(letters) - (i == 0 ? 2 : 1))];
}

static size_t
encode_storage(uint8_t *out, const message *m)
{
	return lb_encode_storage(out, &m->storage);
}

static bool
decode_storage(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_storage(in, length, &m->storage);
}

static void
make_storage_reply(message *m, extent extent)
{
	m->storage_reply.found = pick(extent, 0, 1) == 1;
	for (int i = 0; i < LB_NONCE_SIZE; i++)
		m->storage_reply.nonce[i] = (uint8_t) random_u32();
	random_text(extent, m->storage_reply.message, LB_MESSAGE_MAX);
}

static size_t
encode_storage_reply(uint8_t *out, const message *m)
{
	return lb_encode_storage_reply(out, &m->storage_reply);
}

static bool
decode_storage_reply(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_storage_reply(in, length, &m->storage_reply);
}

static lb_page_tag
random_tag(void)
{
	return (lb_page_tag){random_u32(), random_u32(), random_u32(), random_u32(), random_u32()};
}

static void
make_clean(message *m, extent extent)
{
	m->clean.count = pick(extent, 1, LB_BATCH_MAX);
	for (uint32_t i = 0; i < m->clean.count; i++)
	{
		m->clean.tags[i] = random_tag();
		m->clean.versions[i] = random_u64();
	}
}

static size_t
encode_clean(uint8_t *out, const message *m)
{
	return lb_encode_clean(out, &m->clean);
}

static bool
decode_clean(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_clean(in, length, &m->clean);
}

static void
make_fence(message *m, extent extent)
{
	m->fence.by_tablespace = pick(extent, 0, 1) == 1;
	m->fence.by_database = pick(extent, 0, 1) == 1;
	m->fence.by_relation = pick(extent, 0, 1) == 1;
	m->fence.by_fork = pick(extent, 0, 1) == 1;
	m->fence.from = random_tag();
	m->fence.end = random_u32();
}

static size_t
encode_fence(uint8_t *out, const message *m)
{
	return lb_encode_fence(out, &m->fence);
}

static bool
decode_fence(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_fence(in, length, &m->fence);
}

static void
make_flush_state(message *m, extent extent)
{
	m->flush_state.dirty_pages = random_u64();
	m->flush_state.flushed_pages = random_u64();
	m->flush_state.write_calls = random_u64();
	m->flush_state.failures = random_u64();
	m->flush_state.syncs = random_u64();
	m->flush_state.sync_failures = random_u64();
	m->flush_state.damaged_pages = random_u64();
	random_text(extent, m->flush_state.error, LB_MESSAGE_MAX);
}

static size_t
encode_flush_state(uint8_t *out, const message *m)
{
	return lb_encode_flush_state(out, &m->flush_state);
}

static bool
decode_flush_state(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_flush_state(in, length, &m->flush_state);
}

static void
make_slab_keep(message *m, extent extent)
{
	m->slab_keep.bytes = pick(extent, 0, LB_KEEP_BYTES_MAX);
	for (uint32_t i = 0; i < m->slab_keep.bytes; i++)
		m->slab_keep.bits[i] = (uint8_t) random_u32();
}

static size_t
encode_slab_keep(uint8_t *out, const message *m)
{
	return lb_encode_slab_keep(out, &m->slab_keep);
}

static bool
decode_slab_keep(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_slab_keep(in, length, &m->slab_keep);
}

static void
make_storage_load(message *m, extent extent)
{
	(void) extent;
	m->storage_load.reads = random_u32();
	m->storage_load.read_us = random_u32();
}

static size_t
encode_storage_load(uint8_t *out, const message *m)
{
	return lb_encode_storage_load(out, &m->storage_load);
}

static bool
decode_storage_load(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_storage_load(in, length, &m->storage_load);
}

static void
random_control(lb_control *control)
{
	control->completed = random_u64();
	control->pending = random_u64();
	control->tier1 = random_u64();
	control->checksums = random_u32();
	for (size_t i = 0; i < sizeof(control->boot_id); i++)
		control->boot_id[i] = (uint8_t) random_u32();
}

static void
make_control(message *m, extent extent)
{
	(void) extent;
	random_control(&m->control);
}

static size_t
encode_control(uint8_t *out, const message *m)
{
	return lb_encode_control(out, &m->control);
}

static bool
decode_control(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_control(in, length, &m->control);
}

static void
make_reload(message *m, extent extent)
{
	(void) extent;
	m->reload = (lb_reload){{random_u32(), random_u32()}, random_u64()};
}

static size_t
encode_reload(uint8_t *out, const message *m)
{
	return lb_encode_reload(out, &m->reload);
}

static bool
decode_reload(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_reload(in, length, &m->reload);
}

static void
make_reload_reply(message *m, extent extent)
{
	lb_reload_reply *reply = &m->reload_reply;

	random_control(&reply->control);
	reply->slab_pages = random_u32();
	reply->more = pick(extent, 0, 1) == 1;
	reply->next = (lb_slot_ref){random_u32(), random_u32()};
	reply->count = pick(extent, 0, LB_RELOAD_MAX);
	for (uint32_t i = 0; i < reply->count; i++)
	{
		lb_reload_slot *slot = &reply->slots[i];

		slot->slot = (lb_slot_ref){random_u32(), random_u32()};
		slot->tag = random_tag();
		slot->version = random_u64();
		slot->checksum = random_u64();
		slot->lsn = random_u64();
		slot->kind = (uint8_t) pick(extent, LB_SLOT_CLEAN, LB_SLOT_DIRTY);
	}
}

static size_t
encode_reload_reply(uint8_t *out, const message *m)
{
	return lb_encode_reload_reply(out, &m->reload_reply);
}

static bool
decode_reload_reply(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_reload_reply(in, length, &m->reload_reply);
}

static void
make_invitation(message *m, extent extent)
{
	m->invitation.port = (uint16_t) pick(extent, 1, UINT16_MAX);
	for (int i = 0; i < LB_RDMA_SECRET_SIZE; i++)
		m->invitation.secret[i] = (uint8_t) random_u32();
}

static size_t
encode_invitation(uint8_t *out, const message *m)
{
	return lb_encode_rdma_invitation(out, &m->invitation);
}

static bool
decode_invitation(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_rdma_invitation(in, length, &m->invitation);
}

/* Numbers that rise; the largest reply ends with the highest number there is. */
static void
make_slab_keys(message *m, extent extent)
{
	lb_slab_keys *keys = &m->slab_keys;
	uint32_t step = LB_SLAB_NUMBERS_MAX / LB_SLAB_KEYS_MAX;

	keys->count = pick(extent, 0, LB_SLAB_KEYS_MAX);
	for (uint32_t i = 0; i < keys->count; i++)
	{
		lb_slab_key *slab = &keys->slabs[i];

		slab->slab = i * step + pick(extent, 0, step - 1);
		slab->pages = pick(extent, LB_SLAB_PAGES_MIN, LB_SLAB_PAGES_MAX);
		slab->address = random_u64();
		slab->key = random_u32();
	}
	if (extent == LARGEST)
		keys->slabs[keys->count - 1].slab = LB_SLAB_NUMBERS_MAX - 1;
	keys->more = pick(extent, 0, 1) == 1;
	if (keys->more)
		keys->next = pick(extent, LB_SLAB_NUMBERS_MAX, UINT32_MAX - 1);
}

static size_t
encode_slab_keys(uint8_t *out, const message *m)
{
	return lb_encode_slab_keys(out, &m->slab_keys);
}

static bool
decode_slab_keys(const uint8_t *in, size_t length, message *m)
{
	return lb_decode_slab_keys(in, length, &m->slab_keys);
}

const codec codecs[CODECS] = {
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
	{LB_STORAGE, make_storage, encode_storage, decode_storage},
	{LB_STORAGE_REPLY, make_storage_reply, encode_storage_reply, decode_storage_reply},
	{LB_CLEAN, make_clean, encode_clean, decode_clean},
	{LB_FENCE, make_fence, encode_fence, decode_fence},
	{LB_FLUSH_STATE, make_flush_state, encode_flush_state, decode_flush_state},
	{LB_SLAB_KEEP, make_slab_keep, encode_slab_keep, decode_slab_keep},
	{LB_STORAGE_LOAD, make_storage_load, encode_storage_load, decode_storage_load},
	{LB_CONTROL, make_control, encode_control, decode_control},
	{LB_RELOAD, make_reload, encode_reload, decode_reload},
	{LB_RELOAD_REPLY, make_reload_reply, encode_reload_reply, decode_reload_reply},
	{LB_RDMA_OPENED, make_invitation, encode_invitation, decode_invitation},
	{LB_SLAB_KEYS, make_number, encode_slab_number, decode_slab_number},
	{LB_SLAB_KEYS_REPLY, make_slab_keys, encode_slab_keys, decode_slab_keys},
};
