/*
 * test_page_push.c
 *	  Pushes of a process that ends in the middle, wherever that is: what was linked is queued, a comm buffer that was only taken is given back, and
 *	  nothing that another process has by then is touched.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "storage/ipc.h"

#include "buffer_agent.h"
#include "comm_buffer.h"
#include "lb_fault.h"
#include "page_push.h"
#include "pg_stubs.h"
#include "placement.h"
#include "settings.h"
#include "slab_table.h"
#include "stats.h"

#define SLAB_PAGES 64
#define POOL_PAGES (2 * SLAB_PAGES)

/* --- the server ----------------------------------------------------------------------------------------------------- */

volatile uint32 CritSectionCount = 0;
int node_timeout_ms = 20;

static pg_on_exit_callback exit_callback;
static const char *fatal_at; /* the process ends there */
static jmp_buf process_end;

static void
reach(const char *point)
{
	if (fatal_at && strcmp(fatal_at, point) == 0)
		longjmp(process_end, 1);
}

bool
fake_fault_reached(const char *name)
{
	reach(name);
	return false;
}

void
on_shmem_exit(pg_on_exit_callback function, Datum arg)
{
	assert_null(exit_callback);
	exit_callback = function;
}

uint32
PlacementTakeSlot(void)
{
	uint32 entry;

	reach("slot");
	entry = SlabTableTakeFree(0);
	if (entry != INVALID_ENTRY)
		PageDirectoryReserve(entry);
	return entry;
}

uint32
PlacementTakeSlotDirty(int node)
{
	return PlacementTakeSlot();
}

bool
DataChecksumsEnabled(void)
{
	return false;
}

bool
PageIsVerifiedExtended(Page page, BlockNumber block, int flags)
{
	return true;
}

void
BufferAgentAssist(int wait_ms)
{
}

void
StatsCount(StatCounter counter, uint64 n)
{
}

void
StatsWriteTime(StatTier tier, uint64 elapsed_ns)
{
}

/* --- helpers -------------------------------------------------------------------------------------------------------- */

static PGAlignedBlock page;
static const lb_page_tag tag = {
	.tablespace = 1663, .database = 5, .relation = 16384, .fork = 0, .block = 7};

static int
setup(void **state)
{
	stub_set_pool(POOL_PAGES, SLAB_PAGES);
	PageDirectoryShmemInit();
	SlabTableShmemInit();
	CommBufferShmemInit();
	assert_true(SlabTableAdd(0, 0));
	memset(&page, 'x', sizeof(page));
	lb_fault_armed = true;
	fatal_at = NULL;
	return 0;
}

static int
teardown(void **state)
{
	stub_reset_shmem();
	return 0;
}

static void
read_page(void)
{
	PageStamp stamp = PageDirectoryStamp(&tag);

	PagePushRead(&tag, page.data, &stamp);
}

static void
write_page(void)
{
	uint32 buffer = PagePushPrepare(page.data);

	assert_int_not_equal(buffer, INVALID_COMM_BUFFER);
	reach("write");
	PagePushWritten(&tag, buffer);
}

static void
write_page_back(void)
{
	assert_true(PagePushDirty(&tag, page.data));
}

/* The process gets its signal at this point. between: what another process does before the exit callback runs. */
static void
end_at(const char *point, void (*push)(void), void (*between)(void))
{
	fatal_at = point;
	if (setjmp(process_end) == 0)
	{
		push();
		fail_msg("%s was not reached", point);
	}
	fatal_at = NULL;
	if (between)
		between();
	exit_callback(0, (Datum) 0);
}

/* The agent's part. Returns how many pushes it found. */
static uint32
agent_ends_pushes(void)
{
	uint32 buffers[8];
	uint32 entries[8];
	uint32 count = CommBufferTakeQueued(8, buffers, entries);

	for (uint32 i = 0; i < count; i++)
	{
		CommBufferNotSent(buffers[i]);
		PageDirectoryPushEnded(entries[i], PageDirectoryIsLinked(entries[i]));
		CommBufferRelease(buffers[i]);
	}
	return count;
}

/* Nobody waits for a push for ever. */
static void
assert_none_held(void)
{
	assert_int_equal(CommBufferFree(), CommBufferCount());
	for (uint32 i = 0; i < CommBufferCount(); i++)
		assert_false(CommBufferMayHoldOlder(i, PageDirectoryNextVersion()));
}

static void
forget(void)
{
	PageDirectoryForget(&tag);
}

/* --- tests ---------------------------------------------------------------------------------------------------------- */

static void
test_clean_page_linked(void **state)
{
	PagePin found;

	end_at("push.linked", read_page, NULL);
	assert_int_equal(agent_ends_pushes(), 1);
	assert_none_held();
	assert_true(PageDirectoryPeek(&tag, &found));

	end_at("push.linked", write_page, NULL);
	assert_int_equal(agent_ends_pushes(), 1);
	assert_none_held();
	assert_int_equal(SlabTableNodeFree(0), SLAB_PAGES - 1);
}

static void
test_linked_and_forgotten(void **state)
{
	end_at("push.linked", read_page, forget);
	assert_int_equal(agent_ends_pushes(), 1);
	end_at("writeback.linked", write_page_back, forget);
	assert_int_equal(agent_ends_pushes(), 1);
	assert_none_held();
	assert_int_equal(SlabTableNodeFree(0), SLAB_PAGES);
	assert_int_equal(PageDirectoryDirty(), 0);
}

static void
test_dirty_page_linked(void **state)
{
	end_at("writeback.linked", write_page_back, NULL);
	assert_int_equal(agent_ends_pushes(), 1);
	assert_none_held();
	assert_int_equal(PageDirectoryDirty(), 1);
}

static void
test_not_linked(void **state)
{
	end_at("slot", read_page, NULL);
	end_at("write", write_page, NULL);
	end_at("slot", write_page, NULL);
	end_at("slot", write_page_back, NULL);
	assert_int_equal(agent_ends_pushes(), 0);
	assert_none_held();
	assert_int_equal(PageDirectoryUsed(), 0);
}

/* What was queued is the agent's: also when its comm buffer and its slot are another process's by then. */
static void
another_pushes(void)
{
	uint32 buffer;
	uint32 entry;

	assert_int_equal(agent_ends_pushes(), 1);
	forget();
	buffer = CommBufferTake();
	entry = PlacementTakeSlot();
	assert_int_not_equal(PageDirectoryLink(entry, &tag, 1, buffer, NULL, USAGE_WRITTEN), 0);
}

static void
test_queued(void **state)
{
	end_at("writeback.queued", write_page_back, another_pushes);
	assert_int_equal(agent_ends_pushes(), 0);
	assert_int_equal(CommBufferFree(), CommBufferCount() - 1);
}

static void
test_ended_in_order(void **state)
{
	PageStamp stamp = PageDirectoryStamp(&tag);
	uint32 buffer;

	forget();
	PagePushRead(&tag, page.data, &stamp); /* refused */
	exit_callback(0, (Datum) 0);
	assert_none_held();

	buffer = PagePushPrepare(page.data);
	PagePushAbandon(buffer);
	exit_callback(0, (Datum) 0);
	assert_none_held();

	write_page();
	exit_callback(0, (Datum) 0);
	assert_int_equal(agent_ends_pushes(), 1);
	assert_none_held();
}

static void
test_too_many_dirty(void **state)
{
	uint32 linked = 0;

	assert_false(PagePushTooManyDirty());
	while (!PagePushTooManyDirty())
	{
		lb_page_tag other = tag;

		other.block = 100 + linked++;
		assert_true(PagePushDirty(&other, page.data));
		assert_int_equal(agent_ends_pushes(), 1);
	}
	assert_int_equal(linked, SLAB_PAGES / 4 * 3 + 1);
	assert_false(PagePushDirty(&tag, page.data));
	assert_none_held();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_clean_page_linked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_linked_and_forgotten, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dirty_page_linked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_linked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_queued, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ended_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_many_dirty, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
