/*
 * pool_reload.c
 *	  Going on with the pages that a former life of the server has left at the memory nodes: when, and which of them.
 */
#include "postgres.h"

#include "common/relpath.h"
#include "storage/md.h"
#include "storage/smgr.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "control_record.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "node_table.h"
#include "page_directory.h"
#include "page_reload.h"
#include "pool_gate.h"
#include "pool_reload.h"
#include "slab_table.h"
#include "storage_fence.h"
#include "write_back.h"

#define STEP_NS \
	UINT64_C(20000000) /* files are looked at for so long before nodes are listened to again */
#define EXTEND_MAX \
	RELSEG_SIZE /* blocks; what is that far beyond the end was truncated: redo makes the rest */
#define LISTING_MS 10  /* between looks at links, when nothing comes */
#define RELEASING_MS 1 /* between parts of the directory that are scanned for what to release */

typedef enum Phase
{
	PHASE_NONE,
	PHASE_LISTING,
	PHASE_CHECKING,
	PHASE_RELEASING
} Phase;

typedef struct ForkKey
{
	RelFileNode rnode;
	uint32 fork;
} ForkKey;

/* One fork of a relation that has pages in the directory. */
typedef struct Fork
{
	ForkKey key;
	BlockNumber
		dirty_end; /* after the last page that was never flushed: a truncation would have fenced it */
	bool kept;
	BlockNumber file_end; /* blocks in the file, before it was extended ... */
	BlockNumber end;      /* ... and afterwards */
} Fork;

static Phase phase = PHASE_NONE;
static uint64 began_ns;
static ReloadFigures figures;
static HTAB *forks;
static HASH_SEQ_STATUS forks_left;
static bool released[MAX_NODES];
static bool discard_all = false;

/* ---- when ---- */

/* The predecessor died in the middle. What it did to slots and links is not known; nobody else has used them yet. */
static void
start_over(void)
{
	ereport(LOG,
			(errmsg("legobase: the buffer agent had ended before the remote pool was reloaded; "
					"it begins empty")));
	for (int node = 0; node < NodeTableCount(); node++)
	{
		WriteBackSetNode(node, false);
		NodeTableSetState(node, NODE_DOWN);
	}
	PageDirectoryReset();
	memset(&figures, 0, sizeof(figures));
	PoolGateOpen(&figures);
}

bool
PoolReloadBegin(bool may)
{
	if (PoolGatePhase() == GATE_RELOADING)
	{
		start_over();
		return false;
	}
	/* Whoever has waited too long may have opened it. */
	if (PoolGatePhase() != GATE_CLOSED || !PoolGateBeginReload())
		return false;
	memset(&figures, 0, sizeof(figures));
	figures.started = GetCurrentTimestamp();
	if (!may || !ControlRecordKept() || ControlRecordRedoAtStart() == InvalidXLogRecPtr ||
		!StorageFenceRaised())
	{
		PoolGateOpen(&figures);
		return false;
	}
	began_ns = lb_now_ns();
	PageDirectorySetRedoBase(ControlRecordRedoAtStart());
	phase = PHASE_LISTING;
	return true;
}

bool
PoolReloadRunning(void)
{
	return phase != PHASE_NONE;
}

/* ---- figures ---- */

/* Pages that are linked now, and dirty ones among them. */
static void
count_kept(void)
{
	figures.pages_kept = PageDirectoryUsed();
	figures.pages_dirty = PageDirectoryDirty();
	figures.pages_discarded = figures.pages_listed - Min(figures.pages_listed, figures.pages_kept);
	figures.elapsed_us = (lb_now_ns() - began_ns) / 1000;
}

static void
count_listed(const NodeLink *links, int count)
{
	figures.nodes = count;
	figures.nodes_kept = 0;
	figures.pages_listed = 0;
	figures.tier1 = InvalidXLogRecPtr;
	for (int i = 0; i < count; i++)
	{
		const LinkReload *reload = &links[i].reload;
		XLogRecPtr tier1 = reload->control.tier1;

		figures.pages_listed += reload->pages;
		if (links[i].state != LINK_RELOADED || reload->pages == 0)
			continue;
		figures.nodes_kept++;
		if (figures.nodes_kept == 1 || tier1 < figures.tier1)
			figures.tier1 = tier1;
	}
	count_kept();
}

/* ---- surveying ---- */

/* Is the entry's page kept so far? */
static bool
get_page(uint32 entry, PageReload *page)
{
	return PageDirectoryIsLinked(entry) && PageDirectoryGetReloaded(entry, page);
}

static ForkKey
fork_of(const lb_page_tag *tag)
{
	ForkKey key = {
		.rnode = {.spcNode = tag->tablespace, .dbNode = tag->database, .relNode = tag->relation},
		.fork = tag->fork};

	return key;
}

static void
note_page(const PageReload *page)
{
	ForkKey key = fork_of(&page->tag);
	bool found;
	Fork *fork = hash_search(forks, &key, HASH_ENTER, &found);

	if (!found)
	{
		fork->dirty_end = 0;
		fork->kept = false;
		fork->file_end = fork->end = 0;
	}
	if (page->dirty && !page->durable)
		fork->dirty_end = Max(fork->dirty_end, page->tag.block + 1);
}

/* Look at all pages: discard dirty ones that could not be flushed, group the others. */
static void
survey(const NodeLink *links)
{
	HASHCTL control = {
		.keysize = sizeof(ForkKey), .entrysize = sizeof(Fork), .hcxt = TopMemoryContext};
	uint32 pages = SlabTablePages();

	forks = hash_create("legobase forks with reloaded pages", 1024, &control,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (uint32 slab = 0; slab < SlabTableCount(); slab++)
	{
		uint32 node_slab;
		const NodeLink *link;

		if (SlabTableState(slab) != SLAB_ACTIVE)
			continue;
		link = &links[SlabTableNodeOf(slab, &node_slab)];
		for (uint32 entry = slab * pages; entry < (slab + 1) * pages; entry++)
		{
			PageReload page;

			if (!get_page(entry, &page))
				continue;
			if (page.dirty && !link->proven)
				PageDirectoryDiscardReloaded(entry);
			else
				note_page(&page);
		}
	}
}

/* ---- checking ---- */

/*
 * Extensions are not always durable, so the file may be shorter than it was; whoever reads the page asks for the file's length first.
 * Zeros are what an extension begins with, and redo comes to all that is not reloaded.
 */
static void
extend(SMgrRelation reln, ForkNumber forknum, BlockNumber from, BlockNumber end)
{
	static PGAlignedBlock zeros;

	for (BlockNumber block = from; block < end; block++)
		mdextend(reln, forknum, block, zeros.data, false);
	if (end > from)
		figures.blocks_extended += end - from;
}

/*
 * A server that was shut down has written all its files before pg_control: one that is newer was changed by somebody else since, so what
 * is remote of it may be older.
 */
static bool
changed_since_shutdown(const ForkKey *key, BlockNumber blocks)
{
	char *path = relpathperm(key->rnode, (ForkNumber) key->fork);
	bool changed = false;

	for (BlockNumber segment = 0; segment <= blocks / RELSEG_SIZE && !changed; segment++)
	{
		char *name = segment == 0 ? pstrdup(path) : psprintf("%s.%u", path, segment);

		changed = ControlRecordIsOlderThan(name);
		pfree(name);
	}
	pfree(path);
	return changed;
}

static void
look_at_fork(Fork *fork)
{
	SMgrRelation reln = smgropen(fork->key.rnode, InvalidBackendId);
	ForkNumber forknum = (ForkNumber) fork->key.fork;

	/* Unlogged relations are reset from their init forks, without the storage manager. */
	fork->kept = !mdexists(reln, INIT_FORKNUM) && mdexists(reln, forknum);
	if (fork->kept)
	{
		fork->file_end = fork->end = mdnblocks(reln, forknum);
		if (ControlRecordWasShutDown() && changed_since_shutdown(&fork->key, fork->file_end))
			fork->kept = false;
		else if (fork->dirty_end > fork->end && fork->dirty_end - fork->end <= EXTEND_MAX)
		{
			extend(reln, forknum, fork->end, fork->dirty_end);
			fork->end = fork->dirty_end;
		}
	}
	smgrclose(reln);
}

/* A file that can't be looked at, or not be extended, costs the pages of one fork. */
static void
check_fork(Fork *fork)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		look_at_fork(fork);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		FlushErrorState();
		fork->kept = false;
	}
	PG_END_TRY();
}

/* Look at files for a while. True: at all of them. */
static bool
check_forks(void)
{
	uint64 until = lb_now_ns() + STEP_NS;
	Fork *fork;

	while (lb_now_ns() < until)
	{
		fork = hash_seq_search(&forks_left);
		if (fork == NULL)
			return true;
		check_fork(fork);
	}
	return false;
}

/* ---- releasing ---- */

static bool
is_good(const PageReload *page)
{
	ForkKey key = fork_of(&page->tag);
	const Fork *fork = hash_search(forks, &key, HASH_FIND, NULL);

	return fork != NULL && fork->kept &&
		   page->tag.block < (page->dirty && !page->durable ? fork->end : fork->file_end);
}

/* Discard what the look at the files has shown to be of no use. Is anything left in the slab? */
static bool
discard_in_slab(uint32 slab)
{
	uint32 pages = SlabTablePages();
	bool left = false;

	for (uint32 entry = slab * pages; entry < (slab + 1) * pages; entry++)
	{
		PageReload page;

		if (!get_page(entry, &page))
			continue;
		if (is_good(&page))
			left = true;
		else
			PageDirectoryDiscardReloaded(entry);
	}
	return left;
}

/* From here on free lists are right. The nodes free slabs that are given up, and need not be told of the slots in them. */
static void
discard(NodeLink *links, int count)
{
	for (uint32 slab = 0; slab < SlabTableCount(); slab++)
	{
		bool left;

		if (SlabTableState(slab) != SLAB_ACTIVE)
			continue;
		left = discard_in_slab(slab);
		SlabTableRebuildFree(slab);
		if (left)
			continue;
		SlabTableDrain(slab);
		SlabTableRemove(slab);
	}
	hash_destroy(forks);
	forks = NULL;
	for (int i = 0; i < count; i++)
	{
		released[i] = false;
		if (links[i].state == LINK_RELOADED)
			(void) NodeLinkKeepSlabs(&links[i]);
	}
}

/* True: all that was discarded is released, or on its way. */
static bool
release_discarded(NodeLink *links, int count)
{
	bool all = true;

	for (int i = 0; i < count; i++)
	{
		if (links[i].state == LINK_RELOADED && !released[i])
			released[i] = NodeLinkReleaseDiscarded(&links[i]);
		all = all && (released[i] || links[i].state != LINK_RELOADED);
	}
	return all;
}

/* ---- opening ---- */

static void
tell_log(void)
{
	ereport(LOG, (errmsg("legobase: reloaded " UINT64_FORMAT " pages (" UINT64_FORMAT
						 " dirty) of the server's former life from %u of %u memory nodes in %.3f s",
						 figures.pages_kept, figures.pages_dirty, figures.nodes_kept, figures.nodes,
						 (double) figures.elapsed_us / 1e6),
				  errdetail("Discarded: " UINT64_FORMAT " pages; files extended by: " UINT64_FORMAT
							" blocks; tier-1 checkpoint at %X/%X; redo point at %X/%X.",
							figures.pages_discarded, figures.blocks_extended,
							LSN_FORMAT_ARGS(figures.tier1),
							LSN_FORMAT_ARGS(ControlRecordRedoAtStart()))));
}

static void
open_gate(NodeLink *links, int count)
{
	(void) LB_FAULT("agent.reloaded");
	count_listed(links, count);
	/* Until there is a tier-1 checkpoint in this life, the former one's is what is known. */
	if (figures.nodes_kept == figures.nodes)
		ControlRecordSetTier1(figures.tier1);
	for (int i = 0; i < count; i++)
	{
		if (links[i].state == LINK_RELOADED)
			NodeLinkAttachReloaded(&links[i]);
	}
	phase = PHASE_NONE;
	PoolGateOpen(&figures);
	tell_log();
}

static bool
all_settled(const NodeLink *links, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (!NodeLinkSettled(&links[i]))
			return false;
	}
	return true;
}

void
PoolReloadDiscardAll(void)
{
	discard_all = true;
}

static void
discard_links(NodeLink *links, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (links[i].state == LINK_RELOADED)
			NodeLinkDiscardReloaded(&links[i]);
	}
}

long
PoolReloadStep(NodeLink *links, int count, uint64 now)
{
	switch (phase)
	{
		case PHASE_NONE:
			break;
		case PHASE_LISTING:
			count_listed(links, count);
			PoolGateSetFigures(&figures);
			if (!all_settled(links, count))
				return LISTING_MS;
			if (discard_all)
				discard_links(links, count);
			survey(links);
			hash_seq_init(&forks_left, forks);
			phase = PHASE_CHECKING;
			break;
		case PHASE_CHECKING:
			if (!check_forks())
				break;
			discard(links, count);
			phase = PHASE_RELEASING;
			break;
		case PHASE_RELEASING:
			if (!release_discarded(links, count))
				return RELEASING_MS;
			open_gate(links, count);
			break;
	}
	return 0;
}
