/*
 * test_slab_size.c
 *	  How large the slabs of a pool are: for all sizes that a pool can have.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "lb_wire.h"
#include "slab_size.h"

#define MB UINT64_C(128) /* pages */
#define GB (1024 * MB)
#define MAX_POOL_MB (16 * 1024 * 1024)

static void
test_known(void **state)
{
	(void) state;
	assert_int_equal(slab_size_pages(2 * MB, false), 2 * MB);
	assert_int_equal(slab_size_pages(7 * MB, true), 4 * MB);
	assert_int_equal(slab_size_pages(8 * GB, false), 8 * MB);
	assert_int_equal(slab_size_pages(16 * GB, false), 16 * MB);
	assert_int_equal(slab_size_pages(512 * MB, true), 8 * MB);
	assert_int_equal(slab_size_pages(1 * GB, true), 16 * MB);
	assert_int_equal(slab_size_pages(16 * GB, true), 256 * MB);
	assert_int_equal(slab_size_pages(512 * GB, false), 512 * MB);
	assert_int_equal(slab_size_pages(512 * GB, true), 256 * MB);
	assert_int_equal(slab_size_pages(MAX_POOL_MB * MB, false), GB);
	assert_int_equal(slab_size_pages(MAX_POOL_MB * MB, true), 256 * MB);
}

/* The node grants what is asked for, and two nodes have numbers for all of it. */
static void
test_limits(void **state)
{
	(void) state;
	for (uint64_t mb = 2; mb <= MAX_POOL_MB; mb += 1 + mb / 1000)
	{
		for (int rdma = 0; rdma <= 1; rdma++)
		{
			uint64_t pages = slab_size_pages(mb * MB, rdma);

			assert_true((pages & (pages - 1)) == 0);
			assert_true(pages >= LB_SLAB_PAGES_MIN && pages <= mb * MB);
			assert_true(pages <= (rdma ? LB_RDMA_SLAB_PAGES_MAX : LB_SLAB_PAGES_MAX));
			assert_true(mb * MB / pages <= 2 * LB_SLAB_NUMBERS_MAX);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known),
		cmocka_unit_test(test_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
