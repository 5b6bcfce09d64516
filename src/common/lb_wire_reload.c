/*
 * lb_wire_reload.c
 *	  Encoding and decoding of the messages by which a new life of a server comes back to its pages.
 */
#include <assert.h>

#include "lb_wire.h"
#include "lb_wire_cursor.h"

static void
put_control(writer *w, const lb_control *control)
{
	put_u64(w, control->completed);
	put_u64(w, control->pending);
	put_u64(w, control->tier1);
	put_u32(w, control->checksums);
	put_bytes(w, control->boot_id, sizeof(control->boot_id));
}

static void
get_control(reader *r, lb_control *control)
{
	control->completed = get_u64(r);
	control->pending = get_u64(r);
	control->tier1 = get_u64(r);
	control->checksums = get_u32(r);
	get_bytes(r, control->boot_id, sizeof(control->boot_id));
}

size_t
lb_encode_control(uint8_t *out, const lb_control *control)
{
	writer w = write_to(out);

	put_control(&w, control);
	return written(&w);
}

bool
lb_decode_control(const uint8_t *in, size_t length, lb_control *control)
{
	reader r = read_from(in, length);

	get_control(&r, control);
	return read_all(&r);
}

size_t
lb_encode_reload(uint8_t *out, const lb_reload *reload)
{
	writer w = write_to(out);

	put_slot(&w, &reload->from);
	put_u64(&w, reload->redo);
	return written(&w);
}

bool
lb_decode_reload(const uint8_t *in, size_t length, lb_reload *reload)
{
	reader r = read_from(in, length);

	get_slot(&r, &reload->from);
	reload->redo = get_u64(&r);
	return read_all(&r);
}

static void
put_reload_slot(writer *w, const lb_reload_slot *slot)
{
	put_slot(w, &slot->slot);
	put_tag(w, &slot->tag);
	put_u64(w, slot->version);
	put_u64(w, slot->checksum);
	put_u64(w, slot->lsn);
	put_u8(w, slot->kind);
}

static bool
get_reload_slot(reader *r, lb_reload_slot *slot)
{
	get_slot(r, &slot->slot);
	get_tag(r, &slot->tag);
	slot->version = get_u64(r);
	slot->checksum = get_u64(r);
	slot->lsn = get_u64(r);
	slot->kind = get_u8(r);
	return slot->kind >= LB_SLOT_CLEAN && slot->kind <= LB_SLOT_DIRTY;
}

size_t
lb_encode_reload_reply(uint8_t *out, const lb_reload_reply *reply)
{
	writer w = write_to(out);

	assert(reply->count <= LB_RELOAD_MAX);
	put_control(&w, &reply->control);
	put_u32(&w, reply->slab_pages);
	put_u8(&w, reply->more);
	put_slot(&w, &reply->next);
	put_u32(&w, reply->count);
	for (uint32_t i = 0; i < reply->count; i++)
		put_reload_slot(&w, &reply->slots[i]);
	return written(&w);
}

bool
lb_decode_reload_reply(const uint8_t *in, size_t length, lb_reload_reply *reply)
{
	reader r = read_from(in, length);
	bool good = true;

	get_control(&r, &reply->control);
	reply->slab_pages = get_u32(&r);
	reply->more = get_flag(&r);
	get_slot(&r, &reply->next);
	reply->count = get_count(&r, 0, LB_RELOAD_MAX);
	for (uint32_t i = 0; i < reply->count && good; i++)
		good = get_reload_slot(&r, &reply->slots[i]);
	return good && read_all(&r);
}
