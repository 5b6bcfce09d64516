/*
 * lb_wire_flush.c
 *	  Encoding and decoding of the messages about storage, flushing, and going on after a broken connection.
 */
#include <assert.h>

#include "lb_wire.h"
#include "lb_wire_cursor.h"

#define FENCE_BY_TABLESPACE 1
#define FENCE_BY_DATABASE 2
#define FENCE_BY_RELATION 4
#define FENCE_BY_FORK 8
#define FENCE_FLAGS 15

size_t
lb_encode_storage(uint8_t *out, const lb_storage *storage)
{
	writer w = write_to(out);

	put_text(&w, storage->version_folder, LB_VERSION_FOLDER_MAX);
	return written(&w);
}

/* It becomes part of a path: nothing in it may lead elsewhere. */
static bool
is_plain_component(const char *name)
{
	for (const char *at = name; *at; at++)
	{
		bool plain = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') ||
					 (*at >= '0' && *at <= '9') || *at == '_' || *at == '-' || *at == '.';

		if (!plain)
			return false;
	}
	return name[0] != '\0' && name[0] != '.';
}

bool
lb_decode_storage(const uint8_t *in, size_t length, lb_storage *storage)
{
	reader r = read_from(in, length);

	get_text(&r, storage->version_folder, LB_VERSION_FOLDER_MAX);
	return read_all(&r) && is_plain_component(storage->version_folder);
}

size_t
lb_encode_storage_reply(uint8_t *out, const lb_storage_reply *reply)
{
	writer w = write_to(out);

	put_u8(&w, reply->found);
	put_bytes(&w, reply->nonce, LB_NONCE_SIZE);
	put_text(&w, reply->message, LB_MESSAGE_MAX);
	return written(&w);
}

bool
lb_decode_storage_reply(const uint8_t *in, size_t length, lb_storage_reply *reply)
{
	reader r = read_from(in, length);

	reply->found = get_flag(&r);
	get_bytes(&r, reply->nonce, LB_NONCE_SIZE);
	get_text(&r, reply->message, LB_MESSAGE_MAX);
	return read_all(&r);
}

size_t
lb_encode_clean(uint8_t *out, const lb_clean *clean)
{
	writer w = write_to(out);

	assert(clean->count > 0 && clean->count <= LB_BATCH_MAX);
	put_u32(&w, clean->count);
	for (uint32_t i = 0; i < clean->count; i++)
	{
		put_tag(&w, &clean->tags[i]);
		put_u64(&w, clean->versions[i]);
	}
	return written(&w);
}

bool
lb_decode_clean(const uint8_t *in, size_t length, lb_clean *clean)
{
	reader r = read_from(in, length);

	clean->count = get_count(&r, 1, LB_BATCH_MAX);
	for (uint32_t i = 0; i < clean->count; i++)
	{
		get_tag(&r, &clean->tags[i]);
		clean->versions[i] = get_u64(&r);
	}
	return read_all(&r);
}

size_t
lb_encode_fence(uint8_t *out, const lb_fence *fence)
{
	writer w = write_to(out);

	put_u8(&w, (uint8_t) ((fence->by_tablespace ? FENCE_BY_TABLESPACE : 0) |
						  (fence->by_database ? FENCE_BY_DATABASE : 0) |
						  (fence->by_relation ? FENCE_BY_RELATION : 0) |
						  (fence->by_fork ? FENCE_BY_FORK : 0)));
	put_tag(&w, &fence->from);
	put_u32(&w, fence->end);
	return written(&w);
}

bool
lb_decode_fence(const uint8_t *in, size_t length, lb_fence *fence)
{
	reader r = read_from(in, length);
	uint8_t flags = get_u8(&r);

	fence->by_tablespace = (flags & FENCE_BY_TABLESPACE) != 0;
	fence->by_database = (flags & FENCE_BY_DATABASE) != 0;
	fence->by_relation = (flags & FENCE_BY_RELATION) != 0;
	fence->by_fork = (flags & FENCE_BY_FORK) != 0;
	get_tag(&r, &fence->from);
	fence->end = get_u32(&r);
	return read_all(&r) && flags <= FENCE_FLAGS;
}

size_t
lb_encode_flush_state(uint8_t *out, const lb_flush_state *state)
{
	writer w = write_to(out);

	put_u64(&w, state->dirty_pages);
	put_u64(&w, state->flushed_pages);
	put_u64(&w, state->write_calls);
	put_u64(&w, state->failures);
	put_u64(&w, state->syncs);
	put_u64(&w, state->sync_failures);
	put_u64(&w, state->damaged_pages);
	put_text(&w, state->error, LB_MESSAGE_MAX);
	return written(&w);
}

bool
lb_decode_flush_state(const uint8_t *in, size_t length, lb_flush_state *state)
{
	reader r = read_from(in, length);

	state->dirty_pages = get_u64(&r);
	state->flushed_pages = get_u64(&r);
	state->write_calls = get_u64(&r);
	state->failures = get_u64(&r);
	state->syncs = get_u64(&r);
	state->sync_failures = get_u64(&r);
	state->damaged_pages = get_u64(&r);
	get_text(&r, state->error, LB_MESSAGE_MAX);
	return read_all(&r);
}

size_t
lb_encode_slab_keep(uint8_t *out, const lb_slab_keep *keep)
{
	writer w = write_to(out);

	assert(keep->bytes <= LB_KEEP_BYTES_MAX);
	put_bytes(&w, keep->bits, keep->bytes);
	return written(&w);
}

bool
lb_decode_slab_keep(const uint8_t *in, size_t length, lb_slab_keep *keep)
{
	reader r = read_from(in, length);

	keep->bytes = (uint32_t) (length <= LB_KEEP_BYTES_MAX ? length : 0);
	get_bytes(&r, keep->bits, keep->bytes);
	return read_all(&r);
}

size_t
lb_encode_storage_load(uint8_t *out, const lb_storage_load *load)
{
	writer w = write_to(out);

	put_u32(&w, load->reads);
	put_u32(&w, load->read_us);
	return written(&w);
}

bool
lb_decode_storage_load(const uint8_t *in, size_t length, lb_storage_load *load)
{
	reader r = read_from(in, length);

	load->reads = get_u32(&r);
	load->read_us = get_u32(&r);
	return read_all(&r);
}
