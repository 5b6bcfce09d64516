/*
 * test_slot_table.c
 *	  The memory node's slot table: what a slot holds, and rule R9.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "slot_table.h"

static const lb_page_tag page_a = {1663, 5, 16384, 0, 7};
static const lb_page_tag page_b = {1663, 5, 16384, 0, 8};

static int
set_up(void **state)
{
	static slot_table table;

	assert_true(slot_table_init(&table, 256));
	*state = &table;
	return 0;
}

static int
tear_down(void **state)
{
	slot_table_free(*state);
	return 0;
}

static void
publish(slot_table *table, uint32_t page, const lb_page_tag *tag, uint64_t version)
{
	assert_true(slot_table_begin(table, page, tag, version));
	slot_table_publish(table, page, tag, version, version * 1000);
}

static void
begins_empty(void **state)
{
	slot_table *table = *state;

	assert_int_equal(table->pages, 256);
	assert_int_equal(table->used, 0);
	for (uint32_t i = 0; i < table->pages; i++)
		assert_int_equal(table->slots[i].state, SLOT_EMPTY);
}

static void
publishes_identity(void **state)
{
	slot_table *table = *state;

	publish(table, 255, &page_a, 3);
	assert_int_equal(table->used, 1);
	assert_int_equal(table->slots[255].state, SLOT_CLEAN);
	assert_true(lb_page_tag_equal(&table->slots[255].tag, &page_a));
	assert_int_equal(table->slots[255].version, 3);
	assert_int_equal(table->slots[255].checksum, 3000);
}

static void
newer_version_wins(void **state)
{
	slot_table *table = *state;

	publish(table, 0, &page_a, 5);
	assert_false(slot_table_begin(table, 0, &page_a, 4));
	assert_false(slot_table_begin(table, 0, &page_a, 5));
	assert_int_equal(table->slots[0].state, SLOT_CLEAN);
	assert_int_equal(table->slots[0].version, 5);
	assert_int_equal(table->used, 1);
	publish(table, 0, &page_a, 6);
	assert_int_equal(table->slots[0].version, 6);
	assert_int_equal(table->used, 1);
}

/* Versions are per page: those of different pages say nothing about each other. */
static void
another_page_replaces(void **state)
{
	slot_table *table = *state;

	publish(table, 0, &page_a, 5);
	publish(table, 0, &page_b, 1);
	assert_true(lb_page_tag_equal(&table->slots[0].tag, &page_b));
	assert_int_equal(table->slots[0].version, 1);
	assert_int_equal(table->used, 1);
}

/* A pull that fails leaves the slot empty, not with the identity of what was there before. */
static void
begin_empties(void **state)
{
	slot_table *table = *state;

	publish(table, 9, &page_a, 5);
	assert_true(slot_table_begin(table, 9, &page_a, 6));
	assert_int_equal(table->slots[9].state, SLOT_EMPTY);
	assert_int_equal(table->used, 0);
	assert_false(slot_table_release(table, 9, 5));
	/* what was there no longer counts, so an older version may come back */
	assert_true(slot_table_begin(table, 9, &page_a, 5));
	assert_int_equal(table->used, 0);
}

static void
releases_the_same_version_only(void **state)
{
	slot_table *table = *state;

	publish(table, 1, &page_a, 5);
	assert_false(slot_table_release(table, 1, 4));
	assert_false(slot_table_release(table, 1, 6));
	assert_int_equal(table->used, 1);
	assert_true(slot_table_release(table, 1, 5));
	assert_int_equal(table->used, 0);
	assert_false(slot_table_release(table, 1, 5));
	assert_int_equal(table->used, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(begins_empty, set_up, tear_down),
		cmocka_unit_test_setup_teardown(publishes_identity, set_up, tear_down),
		cmocka_unit_test_setup_teardown(newer_version_wins, set_up, tear_down),
		cmocka_unit_test_setup_teardown(another_page_replaces, set_up, tear_down),
		cmocka_unit_test_setup_teardown(begin_empties, set_up, tear_down),
		cmocka_unit_test_setup_teardown(releases_the_same_version_only, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("slot_table", tests, NULL, NULL);
}
