/*
 * pool_size.c
 *	  Keeping the remote pool at the size that legobase.remote_pool_size asks for, evenly over the nodes that are there.
 */
#include "postgres.h"

#include "storage/procsignal.h"

#include "node_link.h"
#include "node_table.h"
#include "page_directory.h"
#include "pool_size.h"
#include "settings.h"
#include "slab_table.h"
#include "write_back.h"

/* Memory asked for at a time: a node has to zero it, among other things. */
#define PAGES_PER_REQUEST (64 * 1024 * 1024 / LB_PAGE_SIZE)

/* A node that was attached so recently keeps its share of the pool: it may be back before moving pages would pay. */
#define SHARE_KEPT_NS (10 * UINT64_C(1000000000))

static bool
has_share(const NodeLink *link, uint64 now)
{
	return link->state == LINK_ATTACHED || link->state == LINK_RESUMING ||
		   link->state == LINK_FENCING || now < link->attached_or_lost_at + SHARE_KEPT_NS;
}

/* How many slabs the node may be given. One that had no more memory for us, when asked, keeps what it has for a while. */
static uint32
slab_limit(const NodeLink *link, uint64 now)
{
	if (link->state != LINK_ATTACHED)
		return UINT32_MAX;
	if (now < link->refused_slabs_until)
		return SlabTableNodePages(link->node) / SlabTablePages();
	return (uint32) Min(link->capacity_pages / SlabTablePages(), UINT32_MAX);
}

static uint32
unused_slabs(void)
{
	uint32 unused = 0;

	for (uint32 slab = 0; slab < SlabTableCount(); slab++)
		unused += SlabTableState(slab) == SLAB_UNUSED ? 1 : 0;
	return unused;
}

/*
 * How many slabs each node should have: equal shares, as far as the nodes' capacities go; what the small ones can't hold is
 * spread over the others.
 */
static void
compute_shares(const NodeLink *links, int count, uint64 now, uint32 shares[])
{
	uint32 left = settings_wanted_pages() / SlabTablePages();
	bool progress = true;

	memset(shares, 0, count * sizeof(uint32));
	while (left > 0 && progress)
	{
		progress = false;
		for (int i = 0; i < count && left > 0; i++)
		{
			if (shares[i] >= slab_limit(&links[i], now) || !has_share(&links[i], now))
				continue;
			shares[i]++;
			left--;
			progress = true;
		}
	}
}

/* Drain so many slabs of the node, from the end of the table. */
static void
shrink(int node, uint32 excess)
{
	for (uint32 i = SlabTableCount(); i > 0 && excess > 0; i--)
	{
		uint32 node_slab;

		if (SlabTableState(i - 1) == SLAB_ACTIVE && SlabTableNodeOf(i - 1, &node_slab) == node)
		{
			SlabTableDrain(i - 1);
			excess--;
		}
	}
}

/*
 * Forget the clean pages of slabs that are being given up, have the others flushed, and return slabs that are empty. True if some
 * are not yet.
 */
static bool
return_drained(NodeLink *links)
{
	uint32 pages = SlabTablePages();
	bool left = false;
	bool dirty = false;
	bool returned = false;

	for (uint32 slab = 0; slab < SlabTableCount(); slab++)
	{
		uint32 node_slab;
		NodeLink *link;

		if (SlabTableState(slab) != SLAB_DRAINING)
			continue;
		link = &links[SlabTableNodeOf(slab, &node_slab)];
		if (link->state != LINK_ATTACHED)
			continue; /* lost: NodeLinkTick drains it; or it will be back */
		(void) PageDirectoryForgetRange(slab * pages, (slab + 1) * pages);
		if (!SlabTableDrained(slab))
		{
			left = true;
			dirty = dirty || PageDirectoryDirtyOfNode(link->node) > 0;
			continue;
		}
		SlabTableRemove(slab);
		NodeLinkReturnSlab(link, node_slab);
		returned = true;
	}
	if (dirty)
		WriteBackRequestFlush();

	/*
	 * The node frees the memory when nobody maps it any more. Processes drop their mappings when they read next; the barrier
	 * makes also those do it that are idle.
	 */
	if (returned)
	{
		NodeTableAskUnmap();
		EmitProcSignalBarrier(PROCSIGNAL_BARRIER_SMGRRELEASE);
	}
	return left;
}

bool
PoolSizeTick(NodeLink *links, int count, uint64 now)
{
	uint32 shares[MAX_NODES];
	uint32 unused = unused_slabs();
	uint32 request = Max(PAGES_PER_REQUEST / SlabTablePages(), 1);
	bool growing = false;

	compute_shares(links, count, now, shares);
	for (int i = 0; i < count; i++)
	{
		uint32 has = SlabTableNodePages(i) / SlabTablePages();

		if (links[i].state != LINK_ATTACHED)
			continue;
		if (has > shares[i])
			shrink(i, has - shares[i]);
		else if (has < shares[i] && unused > 0)
			NodeLinkRequestSlabs(&links[i], Min(Min(shares[i] - has, unused), request));
		growing = growing || links[i].slab_request_at != 0;
	}
	SlabTableSetGrowing(growing);
	return return_drained(links) || growing;
}
