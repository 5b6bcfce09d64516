/*
 * lb_wire_cursor.h
 *	  The cursors that messages are encoded and decoded with; for lb_wire.c, lb_wire_flush.c and lb_wire_reload.c only.
 *
 * A reading cursor that would leave the body is marked as failed and gives zeros from then on, so that a decoder is a list
 * of fields with one test at its end: all there, and nothing left over.
 */
#ifndef LB_WIRE_CURSOR_H
#define LB_WIRE_CURSOR_H

#include <string.h>

#include "lb_wire.h"

/* Writing. */

typedef struct writer
{
	uint8_t *start;
	uint8_t *at;
} writer;

static inline writer
write_to(uint8_t *out)
{
	return (writer){out, out};
}

static inline size_t
written(const writer *w)
{
	return (size_t) (w->at - w->start);
}

static inline void
put_bytes(writer *w, const void *bytes, size_t length)
{
	memcpy(w->at, bytes, length);
	w->at += length;
}

static inline void
put_u8(writer *w, uint8_t value)
{
	*w->at++ = value;
}

static inline void
put_u16(writer *w, uint16_t value)
{
	put_u8(w, (uint8_t) value);
	put_u8(w, (uint8_t) (value >> 8));
}

static inline void
put_u32(writer *w, uint32_t value)
{
	put_u16(w, (uint16_t) value);
	put_u16(w, (uint16_t) (value >> 16));
}

static inline void
put_u64(writer *w, uint64_t value)
{
	put_u32(w, (uint32_t) value);
	put_u32(w, (uint32_t) (value >> 32));
}

/* May this byte stand in a text that ends up in a log line or on a terminal? */
static inline bool
is_printable(uint8_t byte)
{
	return byte >= ' ' && byte != 0x7f;
}

/* A length byte and the text, cut at max bytes; control characters, which the decoder refuses, become '?'. */
static inline void
put_text(writer *w, const char *text, size_t max)
{
	size_t length = strnlen(text, max);

	put_u8(w, (uint8_t) length);
	for (size_t i = 0; i < length; i++)
		put_u8(w, is_printable((uint8_t) text[i]) ? (uint8_t) text[i] : '?');
}

static inline void
put_slot(writer *w, const lb_slot_ref *slot)
{
	put_u32(w, slot->slab);
	put_u32(w, slot->page);
}

static inline void
put_tag(writer *w, const lb_page_tag *tag)
{
	put_u32(w, tag->tablespace);
	put_u32(w, tag->database);
	put_u32(w, tag->relation);
	put_u32(w, tag->fork);
	put_u32(w, tag->block);
}

/* Reading. */

typedef struct reader
{
	const uint8_t *at;
	size_t left;
	bool failed;
} reader;

static inline reader
read_from(const uint8_t *in, size_t length)
{
	return (reader){in, length, false};
}

/* The next bytes, or null beyond the end. */
static inline const uint8_t *
take(reader *r, size_t length)
{
	const uint8_t *bytes = r->at;

	if (r->failed || length > r->left)
	{
		r->failed = true;
		return NULL;
	}
	r->at += length;
	r->left -= length;
	return bytes;
}

static inline uint8_t
get_u8(reader *r)
{
	const uint8_t *bytes = take(r, 1);

	return bytes ? bytes[0] : 0;
}

/* A byte that is 0 or 1. */
static inline bool
get_flag(reader *r)
{
	uint8_t value = get_u8(r);

	if (value > 1)
		r->failed = true;
	return value == 1;
}

static inline uint16_t
get_u16(reader *r)
{
	const uint8_t *bytes = take(r, 2);

	return bytes ? (uint16_t) (bytes[0] | bytes[1] << 8) : 0;
}

static inline uint32_t
get_u32(reader *r)
{
	uint32_t low = get_u16(r);

	return low | (uint32_t) get_u16(r) << 16;
}

static inline uint64_t
get_u64(reader *r)
{
	uint64_t low = get_u32(r);

	return low | (uint64_t) get_u32(r) << 32;
}

static inline void
get_bytes(reader *r, void *bytes, size_t length)
{
	const uint8_t *found = take(r, length);

	if (found)
		memcpy(bytes, found, length);
	else
		memset(bytes, 0, length);
}

/* Into a buffer of max + 1 bytes. */
static inline void
get_text(reader *r, char *text, size_t max)
{
	size_t length = get_u8(r);
	const uint8_t *found = length <= max ? take(r, length) : NULL;

	text[0] = '\0';
	if (found == NULL)
	{
		r->failed = true;
		return;
	}
	for (size_t i = 0; i < length; i++)
		if (!is_printable(found[i]))
			r->failed = true;
	memcpy(text, found, length);
	text[length] = '\0';
}

/* The number of items that follow, min to max; 0 and a failure otherwise, so that a loop over it is always safe. */
static inline uint32_t
get_count(reader *r, uint32_t min, uint32_t max)
{
	uint32_t count = get_u32(r);

	if (count < min || count > max)
	{
		r->failed = true;
		return 0;
	}
	return count;
}

static inline void
get_slot(reader *r, lb_slot_ref *slot)
{
	slot->slab = get_u32(r);
	slot->page = get_u32(r);
}

static inline void
get_tag(reader *r, lb_page_tag *tag)
{
	tag->tablespace = get_u32(r);
	tag->database = get_u32(r);
	tag->relation = get_u32(r);
	tag->fork = get_u32(r);
	tag->block = get_u32(r);
}

static inline bool
read_all(const reader *r)
{
	return !r->failed && r->left == 0;
}

#endif /* LB_WIRE_CURSOR_H */
