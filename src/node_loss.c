/*
 * node_loss.c
 *	  What happens when the connection to a memory node breaks, and when the node is lost.
 *
 *	  reloading, reloaded -> waiting	  see reload_failed() of node_reload.c
 *	  attached -> draining				  it had nothing but clean pages: one line in the log
 *	  attached -> resuming -> attached	  it had dirty pages, and has them still
 *	  resuming -> draining				  it could not be resumed, but is not needed (any more)
 *	  resuming -> fencing -> PANIC		  it could not be resumed, and had something that nobody else has (rule R4)
 */
#include "postgres.h"

#include <unistd.h>

#include "storage/lwlock.h"
#include "storage/procsignal.h"

#include "lb_fault.h"
#include "node_link_internal.h"
#include "node_table.h"
#include "page_directory.h"
#include "slab_table.h"
#include "storage_fence.h"
#include "write_back.h"

#define FENCE_COMMAND_RETRY_MS 5000

#define RETRY_MS_ANSWERING 500

/* A node that sends an ERROR so often, each time within node_timeout of being resumed, will do so the next time. */
#define COMPLAINTS_MAX 10

/* No push is ended before: when this returns, the node can't read from comm buffers any more (docs/locking.md, section 8). */
void
link_close(NodeLink *link)
{
	if (link->connecting_fd >= 0)
		close(link->connecting_fd);
	link->connecting_fd = -1;
	if (link->stream)
		lb_stream_close(link->stream);
	link->stream = NULL;
	rdma_close(link);
	link->ping_sequence = 0;
	link->slab_request_at = 0;
	link->refused_slabs_until = 0;
	link->storage_sequence = 0;
	link->proven = link->proof_waits = false;
	link->reload_sequence = 0;
	memset(&link->control, 0, sizeof(link->control));
	memset(link->fences, 0, sizeof(link->fences));
}

static void
drain_node(NodeLink *link)
{
	for (uint32 slab = 0; slab < SlabTableCount(); slab++)
	{
		uint32 node_slab;

		if (SlabTableState(slab) == SLAB_ACTIVE && SlabTableNodeOf(slab, &node_slab) == link->node)
			SlabTableDrain(slab);
	}
}

/* Forget the pages of a lost node; when no slot of it is in use any more it may be attached to again. */
void
link_continue_draining(NodeLink *link)
{
	uint32 pages = SlabTablePages();
	bool done = true;

	for (uint32 slab = 0; slab < SlabTableCount(); slab++)
	{
		uint32 node_slab;

		if (SlabTableState(slab) != SLAB_DRAINING ||
			SlabTableNodeOf(slab, &node_slab) != link->node)
			continue;
		(void) PageDirectoryForgetRange(slab * pages, (slab + 1) * pages);
		if (SlabTableDrained(slab))
			SlabTableRemove(slab);
		else
			done = false;
	}
	if (!done)
		return;

	/* Also processes that are idle should give its memory up, if they have it mapped. */
	NodeTableAskUnmap();
	EmitProcSignalBarrier(PROCSIGNAL_BARRIER_SMGRRELEASE);
	NodeTableSetState(link->node, NODE_DOWN);
	link->failures = 0;
	link_retry_later(link, 0);
}

/*
 * Would losing the node lose anything? Dirty pages; and if a fence is open, nobody could tell what the node still writes. The
 * fence is looked at last: it is opened before its pages are forgotten.
 */
static bool
is_needed(const NodeLink *link)
{
	if (!link->may_write && !link->must_fence)
		return false;
	if (PageDirectoryDirtyOfNode(link->node) > 0)
		return true;
	pg_memory_barrier();
	return PageFenceAnyOpen();
}

/*
 * A process that is about to link a dirty page looks at the state of the page's slab with its partition's lock held. Once we
 * have had all these locks, whoever saw the slabs active has linked, and counted, its page.
 */
static void
wait_for_linkers(void)
{
	LWLockPadded *locks = GetNamedLWLockTranche(DIRECTORY_LOCKS);

	for (int i = 0; i < DIRECTORY_PARTITIONS; i++)
	{
		LWLockAcquire(&locks[i].lock, LW_EXCLUSIVE);
		LWLockRelease(&locks[i].lock);
	}
}

/* Take the node's slabs out of use, unless it is needed. False if it is: then perhaps with its slabs draining. */
static bool
take_out_of_use(NodeLink *link)
{
	if (is_needed(link))
		return false;
	drain_node(link);
	wait_for_linkers();
	return !is_needed(link);
}

/* A node is lost. Everything there was clean: reads and writes go on from the files. */
static void
lost(NodeLink *link, const char *reason)
{
	ereport(LOG, (errmsg("legobase: memory node \"%s\" is lost: %s", link->uri.text, reason),
				  errdetail("Its pages were clean: they are read from storage. The node is used "
							"again as soon as it answers.")));
	link->complained = true;
	NodeTableSetError(link->node, reason);
	NodeTableSetState(link->node, NODE_LOST);
	WriteBackSetNode(link->node, false);
	link->may_write = link->must_fence = false;
	push_give_up_all(link);
	link->state = LINK_DRAINING;
	link->attached_or_lost_at = lb_now_ns();
	link_continue_draining(link);
}

/* A node whose address refuses connections is given up sooner: see failed_to_connect() of node_attach.c. */
void
link_resume(NodeLink *link)
{
	uint64 now = lb_now_ns();

	(void) LB_FAULT("agent.resume");
	NodeTableSetState(link->node, NODE_SUSPECT);
	push_requeue_sent(link);
	link->state = LINK_RESUMING;
	link->resume_until = now + settings_resume_ms(false) * MS_NS;
	link->resume_at_most = now + settings_resume_ms(true) * MS_NS;
	link->refused_since = 0;
	link->next_attempt = now;
}

void
link_resume_longer(NodeLink *link)
{
	uint64 now = lb_now_ns();
	uint64 until = now + settings_resume_ms(false) * MS_NS;

	Assert(link->state == LINK_RESUMING);
	link->resume_until = Min(Max(link->resume_until, until), link->resume_at_most);
	link->next_attempt = now + RETRY_MS_ANSWERING * MS_NS;
}

void
link_broken(NodeLink *link, const char *reason)
{
	Assert(link_connected(link));
	if (link->state != LINK_ATTACHED)
	{
		reload_failed(link, reason);
		return;
	}
	link_close(link);
	if (take_out_of_use(link))
		lost(link, reason);
	else if (link->complaints > COMPLAINTS_MAX)
		link_not_resumed(link, reason);
	else
	{
		ereport(LOG, (errmsg("legobase: the connection to memory node \"%s\" broke: %s",
							 link->uri.text, reason),
					  errdetail("The newest versions of %u pages are there. It is connected to "
								"again; who reads these pages waits meanwhile.",
								PageDirectoryDirtyOfNode(link->node))));
		NodeTableSetError(link->node, reason);
		strlcpy(link->reason, reason, sizeof(link->reason));
		link_resume(link);
	}
}

/* The node is there, but we and it do not understand each other. */
void
link_complained(NodeLink *link, const char *reason)
{
	if (lb_now_ns() > link->attached_or_lost_at + link_timeout_ns())
		link->complaints = 0;
	link->complaints++;
	link_broken(link, reason);
}

void
link_not_resumed(NodeLink *link, const char *reason)
{
	char why[LINK_REASON_MAX];

	strlcpy(why, reason, sizeof(why)); /* it may be the link's own, or lie in its stream */
	link_close(link);
	if (take_out_of_use(link))
	{
		lost(link, why);
		return;
	}
	NodeTableSetError(link->node, why);
	strlcpy(link->reason, why, sizeof(link->reason));
	link->state = LINK_FENCING;
	link->next_attempt = lb_now_ns();
}

/* Before redo writes to the files, whoever can see to it has to make sure that the node does not do so any more. */
void
link_continue_fencing(NodeLink *link, uint64 now)
{
	const char *host = link->uri.transport == LB_TRANSPORT_SHM ? "localhost" : link->uri.host;

	if (now < link->next_attempt)
		return;
	if (!StorageFenceRunCommand(link->uri.text, host, link->process))
	{
		ereport(LOG,
				(errmsg("legobase: memory node \"%s\" is lost, and could not be fenced off",
						link->uri.text),
				 errdetail("It had the newest versions of %u pages. The server recovers them "
						   "from WAL when legobase.fence_command has succeeded; it is tried "
						   "again every %d seconds.",
						   PageDirectoryDirtyOfNode(link->node), FENCE_COMMAND_RETRY_MS / 1000)));
		link->next_attempt = lb_now_ns() + FENCE_COMMAND_RETRY_MS * MS_NS;
		return;
	}
	ereport(PANIC,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("legobase: memory node \"%s\" is lost, and with it the newest versions of %u "
					"pages: %s",
					link->uri.text, PageDirectoryDirtyOfNode(link->node), link->reason),
			 errdetail("The server restarts by itself and recovers these pages from WAL. Nothing "
					   "that was committed is lost."),
			 errhint("Look at the log of the memory node, at its machine, and at the network in "
					 "between.")));
}

void
NodeLinkShutdown(NodeLink *link)
{
	link_close(link);
}
