/*
 * test_memory_budget.c
 *	  All that the extension adds to the server's memory, beside the pool that it serves: at most 1 % of it.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "access/xlog.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "buffer_agent.h"
#include "comm_buffer.h"
#include "embedded_node.h"
#include "local_pool.h"
#include "node_table.h"
#include "page_directory.h"
#include "page_fence.h"
#include "pg_stubs.h"
#include "placement.h"
#include "slab_table.h"
#include "stats.h"
#include "write_back.h"

#define PAGES_PER_MB (1024 * 1024 / LB_PAGE_SIZE)

/* What the modules call of the server, though not here. */
PGPROC *MyProc;
pg_prng_state pg_global_prng_state;
static int nodes;
static lb_uri uris[MAX_NODES];

uint32
pg_prng_uint32(pg_prng_state *state)
{
	return 0;
}

TimestampTz
GetCurrentTimestamp(void)
{
	return 0;
}

bool
LocalPoolHolds(const lb_page_tag *tag)
{
	return false;
}

AuxProcType MyAuxProcType = NotAnAuxProcess;
bool enableFsync = true;
int wal_level;
int write_mode;
int node_timeout_ms = 1000;

void
BufferAgentAssist(int wait_ms)
{
	abort();
}

bool take_over;

bool
settings_embedded(void)
{
	return nodes == 1;
}

const lb_uri *
embedded_node_uri(void)
{
	return uris;
}

int
settings_node_uris(const lb_uri **list)
{
	*list = uris;
	return nodes;
}

static void
assert_within_budget(uint32 pool_mb, uint32 slab_mb, int node_count)
{
	lb_comm_region region;
	Size locks = DIRECTORY_PARTITIONS * sizeof(LWLockPadded);
	Size all;

	nodes = node_count;
	stub_set_pool(pool_mb * PAGES_PER_MB, slab_mb * PAGES_PER_MB);
	CommBufferShmemInit();
	CommBufferRegion(&region);
	all = PageDirectoryShmemSize() + SlabTableShmemSize() + CommBufferShmemSize() +
		  PlacementShmemSize() + NodeTableShmemSize() + StatsShmemSize() + WriteBackShmemSize() +
		  PageFenceShmemSize() + region.length + locks; /* the rest is some dozens of bytes */
	print_message("pool of %u MB on %d node(s): %zu bytes, %.3f %%\n", pool_mb, node_count, all,
				  100.0 * all / ((double) pool_mb * 1024 * 1024));
	assert_true(all <= (Size) pool_mb * 1024 * 1024 / 100);
	stub_reset_shmem();
}

static void
test_one_percent(void **state)
{
	assert_within_budget(128, 8, 1);
	assert_within_budget(128, 8, 2);
	assert_within_budget(1024, 8, 1);
	assert_within_budget(1024, 8, MAX_NODES);
	assert_within_budget(16384, 16, 4);
	assert_within_budget(262144, 256, MAX_NODES);
	assert_within_budget(4 * 1024 * 1024, 256, MAX_NODES);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_percent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
