/*
 * slot_table.h
 *	  What each slot of one tenant holds: which page, in which version, with which checksum, dirty or not; and an index from
 *	  a page to the slot that has its newest version.
 *
 * A slot is named by an id: slab number times pages of a slab plus page within the slab. The slots of a slab come and go with
 * it; this table never allocates them.
 *
 *	  EMPTY -> CLEAN, DIRTY           a page is published
 *	  DIRTY -> WRITING                its copy is part of the round of flushing
 *	  WRITING -> FLUSHED, DIRTY       the round is over: durable, or not
 *	  FLUSHED -> DIRTY                a new life of the server does not rely on it
 *	  any -> EMPTY                    released, overwritten, superseded, fenced, its slab returned
 *
 * The rules of publishing:
 *	- A slot is emptied before a byte of it changes, and gets its new identity only when the whole page is there and its
 *	  checksum is right. So an identity is never attached to a page that is damaged or half copied.
 *	- R9: a version that is not newer than the one in the index changes nothing.
 *	- A page has one slot at most: publishing a newer version empties the slot of the older one, and takes its dirt over.
 *
 * Only the event loop's thread uses a table. Ids given to these functions are of slots that are there (slot_table_has).
 */
#ifndef MEMNODE_SLOT_TABLE_H
#define MEMNODE_SLOT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lb_page.h"
#include "lb_wire.h"

typedef enum slot_state
{
	SLOT_EMPTY = 0, /* holds nothing of worth */
	SLOT_CLEAN = 1, /* holds a published page that came clean: the compute node's storage has it */
	SLOT_FLUSHED = 2, /* clean because this node wrote it; the agent may not know that */
	SLOT_DIRTY = 3,   /* the file has something older */
	SLOT_WRITING = 4  /* dirty, and this version is in the round that is under way */
} slot_state;

typedef struct slot
{
	lb_page_tag tag;
	uint32_t state; /* a slot_state */
	uint64_t version;
	uint64_t checksum;
	uint32_t next; /* id of the next slot in the bucket, or SLOT_NONE */
	uint32_t
		dirty_since_s; /* DIRTY, WRITING: when the oldest change that is not in the file came */
} slot;

_Static_assert(sizeof(slot) <= 48, "slot metadata is to stay below 0.6 % of the pool");

#define SLOT_NONE UINT32_MAX

/* The slots of one slab. */
typedef struct slab_slots
{
	slot *slots;    /* null: no such slab */
	uint32_t dirty; /* how many of them are DIRTY or WRITING */
} slab_slots;

typedef struct slot_table
{
	uint32_t slab_pages; /* a power of two, the same for all slabs; 0 before the first */
	uint32_t slab_shift;
	uint32_t slab_numbers; /* length of the array */
	slab_slots *slabs;
	uint64_t used;  /* slots that are not empty */
	uint64_t dirty; /* DIRTY or WRITING */

	/* The index: linear hashing, a bucket more for each page more, so that it never grows by much at once. */
	uint32_t bucket_count;
	uint32_t bucket_capacity;
	uint32_t *buckets; /* ids */
} slot_table;

/* False if memory is short. */
extern bool slot_table_init(slot_table *table);
extern void slot_table_free(slot_table *table);

/* Forget all slabs and what is in them. */
extern void slot_table_clear(slot_table *table);

/* Is a slab of this number and size possible at all? Ids are 32 bits wide. */
extern bool slot_table_numbers_suffice(uint32_t number, uint32_t slab_pages);

/* Add a slab, whose slots are all empty. False if memory is short. */
extern bool slot_table_add_slab(slot_table *table, uint32_t number, slot *slots,
								uint32_t slab_pages);

/* Empty a slab's slots and forget them. */
extern void slot_table_remove_slab(slot_table *table, uint32_t number);

/* The slot that has this page, or SLOT_NONE. */
extern uint32_t slot_table_find(const slot_table *table, const lb_page_tag *tag);

/* Is this version newer than what the table has of the page, if it has any? */
extern bool slot_table_is_newer(const slot_table *table, const lb_page_tag *tag, uint64_t version);

/* Empty a slot, whatever is in it: it is about to be written to, or holds nothing of worth any more. */
extern void slot_table_empty(slot_table *table, uint32_t id);

/*
 * The slot, which is empty, now holds this page; slot_table_is_newer has said that it may. True: an older version, which was
 * dirty, was replaced by this one, which is not: its dirt is gone.
 */
extern bool slot_table_publish(slot_table *table, uint32_t id, const lb_push *push, uint32_t now_s);

/* Empty the slot if it holds this version or an older one: versions pushed into a slot only rise. */
extern bool slot_table_release(slot_table *table, uint32_t id, uint64_t version);

/* FLUSHED -> DIRTY: others may have written the file since. */
extern void slot_table_doubt(slot_table *table, uint32_t id, uint32_t now_s);

/* Between DIRTY, WRITING and FLUSHED. */
extern void slot_table_set_state(slot_table *table, uint32_t id, slot_state state);

static inline bool
slot_table_has(const slot_table *table, uint32_t slab, uint32_t page)
{
	return slab < table->slab_numbers && table->slabs[slab].slots && page < table->slab_pages;
}

static inline uint32_t
slot_table_id(const slot_table *table, uint32_t slab, uint32_t page)
{
	return slab << table->slab_shift | page;
}

static inline uint32_t
slot_table_slab_of(const slot_table *table, uint32_t id)
{
	return id >> table->slab_shift;
}

static inline uint32_t
slot_table_page_of(const slot_table *table, uint32_t id)
{
	return id & (table->slab_pages - 1);
}

static inline slot *
slot_table_slot(const slot_table *table, uint32_t id)
{
	return &table->slabs[slot_table_slab_of(table, id)].slots[slot_table_page_of(table, id)];
}

static inline bool
slot_is_dirty(const slot *slot)
{
	return slot->state == SLOT_DIRTY || slot->state == SLOT_WRITING;
}

#endif /* MEMNODE_SLOT_TABLE_H */
