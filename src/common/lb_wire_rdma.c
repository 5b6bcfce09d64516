/*
 * lb_wire_rdma.c
 *	  Encoding and decoding of the messages that are about RDMA connections and keys.
 */
#include <assert.h>

#include "lb_wire.h"
#include "lb_wire_cursor.h"

size_t
lb_encode_rdma_invitation(uint8_t *out, const lb_rdma_invitation *invitation)
{
	writer w = write_to(out);

	put_u16(&w, invitation->port);
	put_bytes(&w, invitation->secret, sizeof(invitation->secret));
	return written(&w);
}

bool
lb_decode_rdma_invitation(const uint8_t *in, size_t length, lb_rdma_invitation *invitation)
{
	reader r = read_from(in, length);

	invitation->port = get_u16(&r);
	get_bytes(&r, invitation->secret, sizeof(invitation->secret));
	return read_all(&r) && invitation->port != 0;
}

size_t
lb_encode_slab_keys(uint8_t *out, const lb_slab_keys *keys)
{
	writer w = write_to(out);

	assert(keys->count <= LB_SLAB_KEYS_MAX);
	put_u8(&w, keys->more ? 1 : 0);
	put_u32(&w, keys->next);
	put_u32(&w, keys->count);
	for (uint32_t i = 0; i < keys->count; i++)
	{
		const lb_slab_key *slab = &keys->slabs[i];

		put_u32(&w, slab->slab);
		put_u32(&w, slab->pages);
		put_u64(&w, slab->address);
		put_u32(&w, slab->key);
	}
	return written(&w);
}

/* Slabs have a size that is possible, and their numbers rise; so does the number to go on with. */
bool
lb_decode_slab_keys(const uint8_t *in, size_t length, lb_slab_keys *keys)
{
	reader r = read_from(in, length);
	uint64_t least = 0;
	bool good = true;

	keys->more = get_flag(&r);
	keys->next = get_u32(&r);
	keys->count = get_count(&r, 0, LB_SLAB_KEYS_MAX);
	for (uint32_t i = 0; i < keys->count; i++)
	{
		lb_slab_key *slab = &keys->slabs[i];

		slab->slab = get_u32(&r);
		slab->pages = get_u32(&r);
		slab->address = get_u64(&r);
		slab->key = get_u32(&r);
		good = good && slab->slab >= least && slab->slab < LB_SLAB_NUMBERS_MAX &&
			   slab->pages >= LB_SLAB_PAGES_MIN && slab->pages <= LB_SLAB_PAGES_MAX;
		least = (uint64_t) slab->slab + 1;
	}
	return read_all(&r) && good && (keys->more ? keys->next >= least : keys->next == 0);
}
