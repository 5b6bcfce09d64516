/*
 * node_flush.c
 *	  A link's part in write-back: the node proves that it sees our data directory, writes dirty pages to their files, says which
 *	  are durable, and stops writing those that are fenced. docs/write_back.md has the rules.
 */
#include "postgres.h"

#include "common/relpath.h"
#include "storage/fd.h"

#include "checkpoint_sync.h"
#include "lb_fault.h"
#include "node_link_internal.h"
#include "node_table.h"
#include "page_directory.h"
#include "write_back.h"

#define STORAGE_TIMEOUT_MS 60000 /* storage itself may be slow; that the node lives, pings tell */
#define STORAGE_RETRY_MS 30000   /* it may be mounted there later */
#define STORAGE_RETRY_DIRTY_MS 1000 /* dirty pages wait for it */
#define FLUSH_STALL_MS 300          /* without a CLEAN for so long, flushing is asked for again */
#define FLUSH_WAIT_MS 100           /* for pushes to end, before it is asked for */

/* What stands in the nonce file: a new one for each attachment to any node. */
static uint8 nonce[LB_NONCE_SIZE];
static uint64 nonce_number; /* 0: none yet, or it could not be written */

/* ---- the proof of storage ---- */

static void
tell_write_through(NodeLink *link, const char *reason)
{
	bool wanted = write_mode == WRITE_MODE_WRITEBACK;

	WriteBackSetNode(link->node, false);
	if (link->told == TOLD_WRITE_THROUGH)
		return;
	link->told = TOLD_WRITE_THROUGH;
	ereport(wanted ? WARNING : LOG,
			(errmsg("legobase: writing through at memory node \"%s\": %s", link->uri.text, reason),
			 wanted ? errdetail("legobase.write_mode is writeback.") : 0,
			 wanted && WriteBackPossible(NULL)
				 ? errhint("Start the memory node with --storage and a folder in which it sees "
						   "this server's data directory.")
				 : 0));
}

static void
not_proven(NodeLink *link, const char *reason)
{
	link->proven = false;
	tell_write_through(link, reason);
}

static void
proven(NodeLink *link, const char *path)
{
	/*
	 * In this order: whoever sees that pages may be written back can rely on the checkpoint to wait for them. If the checkpointer's queue
	 * is full, the checkpointer may be waiting for us: as soon as it has room.
	 */
	link->proof_waits = !CheckpointSyncRegister();
	if (link->proof_waits)
		return;
	link->proven = link->may_write = true;
	WriteBackSetNode(link->node, true);
	if (link->told != TOLD_WRITE_BACK)
		ereport(LOG, (errmsg("legobase: memory node \"%s\" writes dirty pages back to storage "
							 "(sees the data directory as \"%s\")",
							 link->uri.text, path)));
	link->told = TOLD_WRITE_BACK;
}

/* Write a new nonce to its file, if one is due or the last attempt failed. */
static bool
write_nonce(bool renew, lb_status *status)
{
	static uint64 last_number;

	if (!renew && nonce_number != 0)
		return true;
	nonce_number = 0;
	if (!InstanceWriteNonce(nonce, status))
		return false;
	nonce_number = ++last_number;
	return true;
}

/* Can the node see our data directory? The answer may take a while: storage is looked at. */
static void
ask_for_proof(NodeLink *link, bool new_nonce)
{
	lb_storage storage;
	uint8 body[LB_BODY_MAX];
	lb_status status;
	const char *reason;

	link->storage_asked_at = lb_now_ns();
	link->proof_waits = false;
	if (!link->may_write && !WriteBackPossible(&reason))
	{
		tell_write_through(link, reason);
		return;
	}
	if (!write_nonce(new_nonce, &status))
	{
		not_proven(link, status.message);
		return;
	}
	strlcpy(storage.version_folder, TABLESPACE_VERSION_DIRECTORY, sizeof(storage.version_folder));
	link->nonce_number = nonce_number;
	if (link_send(link, LB_STORAGE, body, lb_encode_storage(body, &storage)))
		link->storage_sequence = link->sequence;
}

static bool
proof_received(NodeLink *link, const lb_frame *frame)
{
	lb_storage_reply reply;

	if (!lb_decode_storage_reply(frame->body, frame->header.body_length, &reply))
		return false;
	if (frame->header.sequence != link->storage_sequence)
		return true; /* too late */
	link->storage_sequence = 0;
	(void) LB_FAULT("agent.storage");
	if (!reply.found)
		not_proven(link, reply.message);
	else if (nonce_number != 0 && memcmp(reply.nonce, nonce, LB_NONCE_SIZE) == 0)
		proven(link, reply.message);
	else if (link->nonce_number != nonce_number)
		ask_for_proof(link, false); /* another link has renewed it between question and answer */
	else
		not_proven(link,
				   psprintf("what it sees as \"%s\" is not this data directory", reply.message));
	return true;
}

void
flush_attached(NodeLink *link, bool resumed)
{
	if (!resumed)
	{
		link->may_write = link->must_fence = false;
		link->told = TOLD_NOTHING;
	}
	ask_for_proof(link, true);
}

/* While reloading: is it still open whether the node proves its storage? */
bool
flush_proof_due(NodeLink *link)
{
	if (link->proof_waits && CheckpointSyncRegister())
		ask_for_proof(link, false);
	return link->storage_sequence != 0 || link->proof_waits;
}

/* The node has refused a dirty page because it knows of no proof. */
void
flush_proof_void(NodeLink *link)
{
	link->proven = false;
}

void
flush_tick(NodeLink *link, uint64 now)
{
	uint64 retry_ms = link->may_write ? STORAGE_RETRY_DIRTY_MS : STORAGE_RETRY_MS;

	if (link->proven)
		return;
	if (link->storage_sequence == 0)
	{
		if ((link->proof_waits && CheckpointSyncRegister()) ||
			now > link->storage_asked_at + retry_ms * MS_NS)
			ask_for_proof(link, false);
	}
	else if (now > link->storage_asked_at + STORAGE_TIMEOUT_MS * MS_NS)
	{
		link->storage_sequence = 0;
		not_proven(link, "it did not find out in time whether it sees the data directory");
	}
}

/* ---- flushing ---- */

/*
 * A FLUSH covers what is dirty at the node when it comes: pages that are on their way there should have arrived. While
 * the node gets on with it (CLEAN comes) another one would only make it write pages again that have become dirty since.
 */
void
NodeLinkWishFlush(NodeLink *link, uint64 now)
{
	if (link->flush_due || now < link->flush_news_at + FLUSH_STALL_MS * MS_NS)
		return;
	link->flush_due = true;
	link->flush_behind = link->pushes_queued;
	link->flush_due_at = now + FLUSH_WAIT_MS * MS_NS;
}

void
NodeLinkFlush(NodeLink *link, uint64 now)
{
	if (!link->flush_due || link->state != LINK_ATTACHED || !link->proven ||
		(link->pushes_ended < link->flush_behind && now < link->flush_due_at))
		return;
	link->flush_due = false;
	if (PageDirectoryDirtyOfNode(link->node) == 0)
		return;
	(void) LB_FAULT("agent.flush");
	link->flush_news_at = now;
	(void) link_send(link, LB_FLUSH, NULL, 0);
}

void
NodeLinkStorageLoad(NodeLink *link, const lb_storage_load *load)
{
	uint8 body[LB_BODY_MAX];

	if (link->state == LINK_ATTACHED && link->proven)
		(void) link_send(link, LB_STORAGE_LOAD, body, lb_encode_storage_load(body, load));
}

static bool
clean_received(NodeLink *link, const lb_frame *frame)
{
	lb_clean clean;

	if (!lb_decode_clean(frame->body, frame->header.body_length, &clean))
		return false;
	(void) LB_FAULT("agent.clean");
	link->flush_news_at = lb_now_ns();
	for (uint32 i = 0; i < clean.count; i++)
		PageDirectoryClean(&clean.tags[i], clean.versions[i]);
	return true;
}

/*
 * The kernel tells of a failed write once. If the node is on our host, that may have been a write of ours to the same file, and our
 * own sync will then succeed: so this is a failed sync of ours (R7), and dealt with as PostgreSQL deals with those.
 */
static void
sync_failed(const NodeLink *link, const lb_flush_state *state)
{
	ereport(data_sync_elevel(LOG),
			(errcode(ERRCODE_IO_ERROR),
			 errmsg("legobase: memory node \"%s\" could not make changed pages durable: %s",
					link->uri.text, state->error),
			 errdetail("What the server itself has written to the same file may be lost as well. "
					   "Recovery from WAL writes it again.")));
}

/* Nobody else has the newest version of that page: it would never become clean, and no checkpoint end (rule R4). */
static void
page_damaged(const NodeLink *link, const lb_flush_state *state)
{
	ereport(
		PANIC,
		(errcode(ERRCODE_DATA_CORRUPTED),
		 errmsg("legobase: damaged page in remote memory at node \"%s\"", link->uri.text),
		 errdetail("It says: %s. The page's newest version was only there. The server restarts and "
				   "recovers it from WAL.",
				   state->error),
		 errhint("If this is repeated, check the memory of the memory node's host.")));
}

static bool
flush_state_received(const NodeLink *link, const lb_frame *frame)
{
	lb_flush_state state;

	if (!lb_decode_flush_state(frame->body, frame->header.body_length, &state))
		return false;
	switch (WriteBackNoteFlushState(link->node, &state))
	{
		case FLUSH_NEWS_DAMAGED:
			page_damaged(link, &state);
			break;
		case FLUSH_NEWS_SYNC_FAILED:
			sync_failed(link, &state);
			break;
		case FLUSH_NEWS_NONE:
			break;
	}
	return true;
}

/* ---- fences ---- */

bool
NodeLinkFence(NodeLink *link, int request, uint64 serial, const lb_fence *fence)
{
	SentFence *sent = &link->fences[request];
	uint8 body[LB_BODY_MAX];

	if (!link->may_write && !link->must_fence)
		return true;
	if (link->state != LINK_ATTACHED)
		return false;
	if (sent->serial == serial)
		return sent->answered;
	(void) LB_FAULT("agent.fence");
	if (link_send(link, LB_FENCE, body, lb_encode_fence(body, fence)))
		*sent = (SentFence){.serial = serial, .sequence = link->sequence};
	return false;
}

static bool
fenced_received(NodeLink *link, const lb_frame *frame)
{
	for (int i = 0; i < FENCE_REQUESTS; i++)
	{
		if (link->fences[i].serial != 0 && link->fences[i].sequence == frame->header.sequence)
		{
			link->fences[i].answered = true;
			return true;
		}
	}
	return false;
}

bool
flush_received(NodeLink *link, const lb_frame *frame)
{
	switch (frame->header.type)
	{
		case LB_STORAGE_REPLY:
			return proof_received(link, frame);
		case LB_CLEAN:
			return clean_received(link, frame);
		case LB_FLUSH_STATE:
			return flush_state_received(link, frame);
		case LB_FENCED:
			return fenced_received(link, frame);
		default:
			return false;
	}
}
