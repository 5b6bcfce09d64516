/*
 * test_slot_table.c
 *	  The memory node's slot table: what a slot holds, the index, and rule R9.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "slot_table.h"

#define SLAB_PAGES 256
#define SLABS 4

typedef struct fixture
{
	slot_table table;
	slot *slots[SLABS];
} fixture;

static const lb_page_tag page_a = {1663, 5, 16384, 0, 7};
static const lb_page_tag page_b = {1663, 5, 16384, 0, 8};

/* Two slabs, number 0 and 2. */
static int
set_up(void **state)
{
	fixture *made = calloc(1, sizeof(fixture));

	assert_non_null(made);
	assert_true(slot_table_init(&made->table));
	for (uint32_t slab = 0; slab < SLABS; slab += 2)
	{
		made->slots[slab] = calloc(SLAB_PAGES, sizeof(slot));
		assert_true(slot_table_add_slab(&made->table, slab, made->slots[slab], SLAB_PAGES));
	}
	*state = made;
	return 0;
}

static int
tear_down(void **state)
{
	fixture *made = *state;

	slot_table_free(&made->table);
	for (uint32_t slab = 0; slab < SLABS; slab++)
		free(made->slots[slab]);
	free(made);
	return 0;
}

static slot_table *
table_of(void **state)
{
	return &((fixture *) *state)->table;
}

/* As PUSH does it. */
static bool
push(slot_table *table, uint32_t id, const lb_page_tag *tag, uint64_t version, bool dirty,
	 uint32_t now_s)
{
	lb_push push = {.tag = *tag, .version = version, .checksum = version * 1000, .dirty = dirty};

	assert_true(slot_table_is_newer(table, tag, version));
	slot_table_empty(table, id);
	return slot_table_publish(table, id, &push, now_s);
}

static void
begins_empty(void **state)
{
	slot_table *table = table_of(state);

	assert_int_equal(table->used, 0);
	assert_int_equal(table->dirty, 0);
	assert_int_equal(slot_table_find(table, &page_a), SLOT_NONE);
	assert_true(slot_table_has(table, 2, 255));
	assert_false(slot_table_has(table, 2, 256));
	assert_false(slot_table_has(table, 1, 0));
	assert_false(slot_table_has(table, 3, 0));
	assert_false(slot_table_has(table, UINT32_MAX, 0));
	assert_int_equal(slot_table_id(table, 2, 3), 515);
	assert_int_equal(slot_table_slab_of(table, 515), 2);
	assert_int_equal(slot_table_page_of(table, 515), 3);
}

static void
publishes_identity(void **state)
{
	slot_table *table = table_of(state);
	uint32_t id = slot_table_id(table, 2, 255);

	assert_false(push(table, id, &page_a, 3, false, 0));
	assert_int_equal(table->used, 1);
	assert_int_equal(table->dirty, 0);
	assert_int_equal(slot_table_find(table, &page_a), id);
	assert_int_equal(slot_table_find(table, &page_b), SLOT_NONE);
	assert_int_equal(slot_table_slot(table, id)->state, SLOT_CLEAN);
	assert_int_equal(slot_table_slot(table, id)->version, 3);
	assert_int_equal(slot_table_slot(table, id)->checksum, 3000);
}

static void
newer_version_wins(void **state)
{
	slot_table *table = table_of(state);

	push(table, 0, &page_a, 5, false, 0);
	assert_false(slot_table_is_newer(table, &page_a, 4));
	assert_false(slot_table_is_newer(table, &page_a, 5));
	assert_true(slot_table_is_newer(table, &page_a, 6));
	/* another page's versions say nothing */
	assert_true(slot_table_is_newer(table, &page_b, 1));
	push(table, 600, &page_a, 6, false, 0);
	assert_int_equal(slot_table_find(table, &page_a), 600);
	assert_int_equal(slot_table_slot(table, 0)->state, SLOT_EMPTY);
	assert_int_equal(table->used, 1);
	push(table, 600, &page_a, 7, false, 0);
	assert_int_equal(slot_table_slot(table, 600)->version, 7);
	assert_int_equal(table->used, 1);
}

static void
another_page_replaces(void **state)
{
	slot_table *table = table_of(state);

	push(table, 0, &page_a, 5, true, 0);
	push(table, 0, &page_b, 1, false, 0);
	assert_int_equal(slot_table_find(table, &page_a), SLOT_NONE);
	assert_int_equal(slot_table_find(table, &page_b), 0);
	assert_int_equal(table->used, 1);
	assert_int_equal(table->dirty, 0);
	assert_int_equal(table->slabs[0].dirty, 0);
}

/* A pull that fails leaves the slot empty; and what is in another slot stays. */
static void
emptied_slot_is_forgotten(void **state)
{
	slot_table *table = table_of(state);

	push(table, 9, &page_a, 5, true, 0);
	slot_table_empty(table, 10);
	assert_int_equal(slot_table_find(table, &page_a), 9);
	slot_table_empty(table, 9);
	assert_int_equal(slot_table_slot(table, 9)->state, SLOT_EMPTY);
	assert_int_equal(slot_table_find(table, &page_a), SLOT_NONE);
	assert_int_equal(table->used, 0);
	assert_int_equal(table->dirty, 0);
	assert_false(slot_table_release(table, 9, 5));
	/* what was there no longer counts, so an older version may come back */
	push(table, 9, &page_a, 4, false, 0);
}

static void
releases_nothing_newer(void **state)
{
	slot_table *table = table_of(state);

	push(table, 1, &page_a, 5, true, 0);
	assert_false(slot_table_release(table, 1, 4));
	assert_int_equal(table->used, 1);
	assert_true(slot_table_release(table, 1, 5));
	assert_int_equal(table->used, 0);
	assert_int_equal(table->dirty, 0);
	assert_false(slot_table_release(table, 1, 5));
	/* what was to replace it was not sent */
	push(table, 1, &page_a, 6, false, 0);
	assert_true(slot_table_release(table, 1, 9));
	assert_int_equal(table->used, 0);
}

/* A page that is changed all the time gets no younger by it; unless its older version is being written. */
static void
dirt_is_taken_over(void **state)
{
	slot_table *table = table_of(state);

	assert_false(push(table, 0, &page_a, 1, true, 100));
	assert_int_equal(table->dirty, 1);
	assert_false(push(table, 513, &page_a, 2, true, 150));
	assert_int_equal(table->dirty, 1);
	assert_int_equal(table->slabs[0].dirty, 0);
	assert_int_equal(table->slabs[2].dirty, 1);
	assert_int_equal(slot_table_slot(table, 513)->dirty_since_s, 100);
	slot_table_set_state(table, 513, SLOT_WRITING);
	assert_int_equal(table->dirty, 1);
	assert_false(push(table, 0, &page_a, 3, true, 200));
	assert_int_equal(slot_table_slot(table, 513)->state, SLOT_EMPTY);
	assert_int_equal(slot_table_slot(table, 0)->dirty_since_s, 200);
	assert_int_equal(table->dirty, 1);
	/* clean over clean, dirty over clean, and what must not happen: clean over dirty */
	assert_true(push(table, 1, &page_a, 4, false, 300));
	assert_int_equal(table->dirty, 0);
	assert_false(push(table, 2, &page_a, 5, false, 300));
	assert_false(push(table, 3, &page_a, 6, true, 300));
	assert_int_equal(table->dirty, 1);
}

static void
written_or_not(void **state)
{
	slot_table *table = table_of(state);

	push(table, 0, &page_a, 1, true, 100);
	slot_table_set_state(table, 0, SLOT_WRITING);
	slot_table_set_state(table, 0, SLOT_DIRTY);
	assert_int_equal(table->dirty, 1);
	slot_table_set_state(table, 0, SLOT_WRITING);
	slot_table_set_state(table, 0, SLOT_FLUSHED);
	assert_int_equal(table->dirty, 0);
	assert_int_equal(table->slabs[0].dirty, 0);
	assert_int_equal(table->used, 1);
	assert_int_equal(slot_table_find(table, &page_a), 0);
}

static void
slabs_come_and_go(void **state)
{
	slot_table *table = table_of(state);
	fixture *made = *state;

	for (uint32_t i = 0; i < 2 * SLAB_PAGES; i++)
	{
		lb_page_tag tag = {1, 2, 3, 0, i};

		push(table, i < SLAB_PAGES ? i : SLAB_PAGES + i, &tag, 1, i % 2 == 0, 0);
	}
	assert_int_equal(table->used, 2 * SLAB_PAGES);
	assert_int_equal(table->dirty, SLAB_PAGES);
	slot_table_remove_slab(table, 0);
	assert_int_equal(table->used, SLAB_PAGES);
	assert_int_equal(table->dirty, SLAB_PAGES / 2);
	assert_false(slot_table_has(table, 0, 0));
	for (uint32_t i = 0; i < 2 * SLAB_PAGES; i++)
	{
		lb_page_tag tag = {1, 2, 3, 0, i};

		assert_int_equal(slot_table_find(table, &tag), i < SLAB_PAGES ? SLOT_NONE : SLAB_PAGES + i);
	}
	memset(made->slots[0], 0, SLAB_PAGES * sizeof(slot));
	assert_true(slot_table_add_slab(table, 0, made->slots[0], SLAB_PAGES));
	push(table, 17, &page_a, 1, true, 0);
	slot_table_clear(table);
	assert_int_equal(table->used, 0);
	assert_int_equal(table->dirty, 0);
	assert_int_equal(slot_table_find(table, &page_a), SLOT_NONE);
	assert_false(slot_table_has(table, 0, 0));
}

static void
ids_are_limited(void **state)
{
	(void) state;
	assert_true(slot_table_numbers_suffice(0, 256));
	assert_true(slot_table_numbers_suffice(32767, 256));
	assert_false(slot_table_numbers_suffice(32768, 256));
	assert_true(slot_table_numbers_suffice(32766, 131072));
	/* its last id would be SLOT_NONE */
	assert_false(slot_table_numbers_suffice(32767, 131072));
}

#define MODEL_PAGES 3000
#define MODEL_SLAB 4096

/* A table that grows and shrinks against a model: which version of each page is where. */
static void
agrees_with_a_model(void **state)
{
	static uint32_t where[MODEL_PAGES];
	static uint64_t version_of[MODEL_PAGES];
	slot *slots = calloc(MODEL_SLAB, sizeof(slot));
	uint32_t random = 1;
	uint64_t version = 0;
	uint64_t used = 0;
	slot_table table;

	(void) state;
	assert_true(slot_table_init(&table));
	assert_true(slot_table_add_slab(&table, 0, slots, MODEL_SLAB));
	memset(where, 0xff, sizeof(where));
	for (int i = 0; i < 100000; i++)
	{
		uint32_t page;
		uint32_t id;
		lb_page_tag tag = {1663, 5, 0, 0, 0};

		random = random * 1664525 + 1013904223;
		page = (random >> 8) % MODEL_PAGES;
		tag.relation = page % 7;
		tag.block = page;
		id = slot_table_find(&table, &tag);
		assert_int_equal(id, where[page]);
		if (id != SLOT_NONE)
			assert_int_equal(slot_table_slot(&table, id)->version, version_of[page]);
		if (random >> 31 && id != SLOT_NONE)
		{
			slot_table_empty(&table, id);
			where[page] = SLOT_NONE;
			used--;
			continue;
		}
		/* into a slot of its own, of two that it has */
		id = page + (page < MODEL_SLAB - MODEL_PAGES && i % 2 ? MODEL_PAGES : 0);
		push(&table, id, &tag, ++version, i % 3 == 0, 0);
		used += where[page] == SLOT_NONE;
		where[page] = id;
		version_of[page] = version;
		assert_int_equal(table.used, used);
	}
	assert_true(table.bucket_count > 1000);
	slot_table_free(&table);
	free(slots);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(begins_empty, set_up, tear_down),
		cmocka_unit_test_setup_teardown(publishes_identity, set_up, tear_down),
		cmocka_unit_test_setup_teardown(newer_version_wins, set_up, tear_down),
		cmocka_unit_test_setup_teardown(another_page_replaces, set_up, tear_down),
		cmocka_unit_test_setup_teardown(emptied_slot_is_forgotten, set_up, tear_down),
		cmocka_unit_test_setup_teardown(releases_nothing_newer, set_up, tear_down),
		cmocka_unit_test_setup_teardown(dirt_is_taken_over, set_up, tear_down),
		cmocka_unit_test_setup_teardown(written_or_not, set_up, tear_down),
		cmocka_unit_test_setup_teardown(slabs_come_and_go, set_up, tear_down),
		cmocka_unit_test(ids_are_limited),
		cmocka_unit_test(agrees_with_a_model),
	};

	return cmocka_run_group_tests_name("slot_table", tests, NULL, NULL);
}
