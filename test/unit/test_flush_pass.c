/*
 * test_flush_pass.c
 *	  What the memory node's flusher looks at: passes, the survey, fences, and the queue of what is to be told.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "clean_queue.h"
#include "fence.h"
#include "flush_pass.h"
#include "flush_survey.h"

#define SLAB_PAGES 32768
#define SLABS 4

static slot_table table;
static slot *slots[SLABS];

static int
set_up(void **state)
{
	(void) state;
	assert_true(slot_table_init(&table));
	for (uint32_t slab = 0; slab < SLABS; slab++)
	{
		slots[slab] = calloc(SLAB_PAGES, sizeof(slot));
		assert_true(slot_table_add_slab(&table, slab, slots[slab], SLAB_PAGES));
	}
	return 0;
}

static int
tear_down(void **state)
{
	(void) state;
	slot_table_free(&table);
	for (uint32_t slab = 0; slab < SLABS; slab++)
		free(slots[slab]);
	return 0;
}

static lb_page_tag
tag_of(uint32_t relation, uint32_t block)
{
	return (lb_page_tag){1663, 5, relation, 0, block};
}

static void
put(uint32_t id, lb_page_tag tag, uint64_t version, bool dirty, uint32_t now_s)
{
	lb_push push = {.tag = tag, .version = version, .dirty = dirty};

	slot_table_empty(&table, id);
	slot_table_publish(&table, id, &push, now_s);
}

/* Pages in an order that has nothing to do with that of their slots. Every second one is dirty. */
static void
fill(uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		put(i, tag_of(i % 5, (i * 40503) % (1 << 20)), 1, i % 2 == 0, i);
}

static bool
before(const lb_page_tag *a, const lb_page_tag *b)
{
	return a->relation < b->relation || (a->relation == b->relation && a->block < b->block);
}

static uint32_t
run_pass(flush_decision decision, uint32_t now_s)
{
	flush_pass pass = {0};
	lb_page_tag last = {0};
	lb_page_tag tag;
	uint32_t count = 0;

	flush_pass_begin(&pass, &decision, now_s);
	while (!flush_pass_collect(&pass, &table))
		;
	while (flush_pass_next(&pass, &tag))
	{
		if (count++ > 0)
			assert_true(before(&last, &tag));
		assert_true(slot_is_dirty(slot_table_slot(&table, slot_table_find(&table, &tag))));
		last = tag;
	}
	flush_pass_end(&pass);
	assert_false(pass.active);
	return count;
}

static void
pass_has_all_dirty_in_order(void **state)
{
	(void) state;
	assert_int_equal(run_pass((flush_decision){.kind = FLUSH_EVERYTHING}, 0), 0);
	fill(SLABS * SLAB_PAGES);
	assert_int_equal(run_pass((flush_decision){.kind = FLUSH_EVERYTHING}, 0), table.dirty);
	assert_int_equal(table.dirty, SLABS * SLAB_PAGES / 2);
}

static void
pass_by_age_and_file(void **state)
{
	(void) state;
	fill(1000);
	/* slot i is dirty since second i if i is even: those of 0 to 600 */
	assert_int_equal(run_pass((flush_decision){.kind = FLUSH_AGED, .older_than_ms = 400000}, 1000),
					 301);
	put(40000, tag_of(77, 5), 1, true, 0);
	put(40001, tag_of(77, 131071), 1, true, 0);
	put(40002, tag_of(77, 131072), 1, true, 0);
	assert_int_equal(run_pass((flush_decision){.kind = FLUSH_FILE, .file = tag_of(77, 9)}, 1000),
					 2);
}

/* The older version is in a slot that is still to be looked at, the newer one in one that was passed already. */
static void
pass_misses_no_page_that_moves(void **state)
{
	flush_decision decision = {.kind = FLUSH_EVERYTHING};
	flush_pass pass = {0};
	lb_page_tag moving = tag_of(9, 9);
	lb_page_tag tag;

	(void) state;
	for (uint32_t slab = 0; slab < SLABS; slab++)
		put(slab * SLAB_PAGES + 5, tag_of(1, slab), 1, true, 0);
	put(4 * SLAB_PAGES - 1, moving, 1, true, 0);
	flush_pass_begin(&pass, &decision, 0);
	assert_false(flush_pass_collect(&pass, &table));
	put(0, moving, 2, true, 0);
	flush_pass_add(&pass, &moving);
	while (!flush_pass_collect(&pass, &table))
		;
	for (uint32_t i = 0; i < SLABS; i++)
	{
		assert_true(flush_pass_next(&pass, &tag));
		assert_int_equal(tag.relation, 1);
		assert_int_equal(tag.block, i);
	}
	assert_true(flush_pass_next(&pass, &tag));
	assert_true(lb_page_tag_equal(&tag, &moving));
	assert_false(flush_pass_next(&pass, &tag));
	assert_false(flush_pass_next(&pass, &tag));
	flush_pass_end(&pass);
}

static void
walk(flush_survey *survey)
{
	do
		flush_survey_step(survey, &table);
	while (survey->next_slab != 0 || survey->next_page != 0);
}

static void
survey_finds_age_and_file(void **state)
{
	flush_figures figures = {0};
	flush_survey survey;

	(void) state;
	flush_survey_reset(&survey);
	walk(&survey);
	flush_survey_tell(&survey, 500, &figures);
	assert_int_equal(figures.oldest_age_ms, 0);
	assert_int_equal(figures.largest_file_pages, 0);

	for (uint32_t i = 0; i < 3 * SLAB_PAGES; i++)
		put(i, i % 3 ? tag_of(50, i) : tag_of(100 + i, i), 1, true, 1000 - i / 1000);
	walk(&survey);
	walk(&survey);
	flush_survey_tell(&survey, 1100, &figures);
	assert_int_equal(figures.oldest_age_ms, (100 + (3 * SLAB_PAGES - 1) / 1000) * 1000);
	assert_int_equal(figures.largest_file.relation, 50);
	assert_int_equal(figures.largest_file_pages, 2 * SLAB_PAGES);

	/* nothing is known after a pass; clocks that differ by a second do no harm */
	flush_survey_reset(&survey);
	flush_survey_tell(&survey, 1100, &figures);
	assert_int_equal(figures.oldest_age_ms, 0);
	assert_int_equal(figures.largest_file_pages, 0);
	walk(&survey);
	flush_survey_tell(&survey, 10, &figures);
	assert_int_equal(figures.oldest_age_ms, 0);
}

static void
fence_selects_what_it_says(void **state)
{
	lb_page_tag tag = {1, 2, 3, 0, 100};
	lb_fence fence = {.from = {1, 2, 3, 0, 100}, .end = 0};

	(void) state;
	assert_true(fence_selects(&(lb_fence){.end = 0}, &tag));
	fence.by_tablespace = fence.by_database = fence.by_relation = true;
	assert_true(fence_selects(&fence, &tag));
	tag.fork = 2;
	assert_true(fence_selects(&fence, &tag));
	tag.relation = 4;
	assert_false(fence_selects(&fence, &tag));
	fence.by_relation = false;
	assert_true(fence_selects(&fence, &tag));
	tag.database = 4;
	assert_false(fence_selects(&fence, &tag));
	fence.by_database = false;
	tag.tablespace = 4;
	assert_false(fence_selects(&fence, &tag));

	tag = fence.from;
	fence.by_tablespace = fence.by_database = fence.by_relation = fence.by_fork = true;
	fence.end = 110;
	assert_true(fence_selects(&fence, &tag));
	tag.block = 99;
	assert_false(fence_selects(&fence, &tag));
	tag.block = 109;
	assert_true(fence_selects(&fence, &tag));
	tag.block = 110;
	assert_false(fence_selects(&fence, &tag));
	fence.end = UINT32_MAX;
	tag.block = UINT32_MAX;
	assert_true(fence_selects(&fence, &tag));
	tag.fork = 1;
	assert_false(fence_selects(&fence, &tag));
}

static void
fence_empties_slots(void **state)
{
	lb_fence fence = {.by_tablespace = true,
					  .by_database = true,
					  .by_relation = true,
					  .by_fork = true,
					  .from = tag_of(7, 10),
					  .end = 20};
	lb_page_tag inside = tag_of(7, 19);
	lb_page_tag outside = tag_of(7, 20);

	(void) state;
	assert_int_equal(fence_empty_slots(&table, &fence), 0);
	for (uint32_t i = 0; i < 1000; i++)
		put(i * 100, tag_of(7, i), 1, i % 2 == 0, 0);
	/* by looking each block up: also the clean ones go */
	assert_int_equal(fence_empty_slots(&table, &fence), 5);
	assert_int_equal(table.used, 990);
	assert_int_equal(table.dirty, 495);
	assert_int_equal(slot_table_find(&table, &inside), SLOT_NONE);
	assert_int_not_equal(slot_table_find(&table, &outside), SLOT_NONE);
	/* by looking at all slots */
	fence.end = UINT32_MAX;
	fence.from.block = 500;
	assert_int_equal(fence_empty_slots(&table, &fence), 250);
	fence = (lb_fence){.by_database = true, .from = tag_of(0, 0)};
	assert_int_equal(fence_empty_slots(&table, &fence), 245);
	assert_int_equal(table.dirty, 0);
}

static void
queue_of_clean_pages(void **state)
{
	clean_queue queue = {0};
	lb_fence fence = {.by_relation = true, .from = tag_of(1, 0)};
	uint32_t told = 0;
	lb_clean batch;

	(void) state;
	assert_true(clean_queue_is_empty(&queue));
	assert_false(clean_queue_take(&queue, &batch));
	for (int again = 0; again < 2; again++)
	{
		assert_true(clean_queue_reserve(&queue, 150));
		for (uint32_t i = 0; i < 150; i++)
		{
			lb_page_tag tag = tag_of(i % 3, i);

			clean_queue_add(&queue, &tag, i);
		}
		assert_true(clean_queue_take(&queue, &batch));
		assert_int_equal(batch.count, LB_BATCH_MAX);
		assert_int_equal(batch.versions[63], 63);
		clean_queue_drop(&queue, &fence);
		for (told = 0; clean_queue_take(&queue, &batch); told += batch.count)
			for (uint32_t i = 0; i < batch.count; i++)
				assert_int_not_equal(batch.tags[i].relation, 1);
		assert_int_equal(told, 57);
		assert_true(clean_queue_is_empty(&queue));
	}
	clean_queue_free(&queue);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(pass_has_all_dirty_in_order, set_up, tear_down),
		cmocka_unit_test_setup_teardown(pass_by_age_and_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(pass_misses_no_page_that_moves, set_up, tear_down),
		cmocka_unit_test_setup_teardown(survey_finds_age_and_file, set_up, tear_down),
		cmocka_unit_test(fence_selects_what_it_says),
		cmocka_unit_test_setup_teardown(fence_empties_slots, set_up, tear_down),
		cmocka_unit_test(queue_of_clean_pages),
	};

	return cmocka_run_group_tests_name("flush_pass", tests, NULL, NULL);
}
