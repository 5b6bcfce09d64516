/*
 * node_push.c
 *	  A link's pushes: what waits to be sent to a memory node, and what waits for the node's answer.
 *
 * A push ends exactly once, in end_push. That of a dirty page ends only when the node has published it, or when nobody wants it
 * any more; until then it is sent again: over the same connection after a refusal, over the next one after a break. A
 * page that was replaced or fenced meanwhile is not sent: a fence goes to the node behind the pushes that were sent before it, and
 * must not be followed by others of its pages (rule R8).
 */
#include "postgres.h"

#include "comm_buffer.h"
#include "lb_fault.h"
#include "node_link_internal.h"
#include "node_table.h"
#include "page_directory.h"
#include "slab_table.h"
#include "stats.h"

#define REFUSALS_MAX 3 /* of a dirty page */

/* Over rdma a message is worth its while with so many pages, or when none waits for its answer and none was sent for so long. */
#define BATCH_PAGES 8
#define BATCH_NS (20 * MS_NS)

static void
end_push(const Push *push, bool published)
{
	if (!published && PageDirectoryIsDirty(push->entry))
		ereport(PANIC, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("legobase: a dirty page was about to be given up"),
						errdetail("The server restarts by itself and recovers it from WAL.")));

	/* Counted first: whoever has waited for the push (legobase_drain) sees it counted. */
	StatsCount(published ? STAT_PUSHED_PAGES : STAT_DROPPED_PUSHES, 1);
	CommBufferNotSent(push->buffer);
	PageDirectoryPushEnded(push->entry, published);
	CommBufferRelease(push->buffer);
}

/* The node is lost, and had nothing of worth: all pages that were sent or queued are given up, the files have them. */
void
push_give_up_all(NodeLink *link)
{
	for (int i = 0; i < link->sent_count; i++)
	{
		for (uint32 k = 0; k < link->sent[i].count; k++)
			end_push(&link->sent[i].pushes[k], false);
	}
	link->sent_count = 0;
	for (uint32 i = 0; i < link->queued_count; i++)
		end_push(&link->queue[i], false);
	link->queued_count = 0;
}

static void
queue_push(NodeLink *link, const Push *push)
{
	if (link->state != LINK_ATTACHED && link->state != LINK_RESUMING && link->state != LINK_FENCING)
		end_push(push, false);
	else
	{
		link->queue[link->queued_count++] = *push;
		link->pushes_queued++;
	}
}

void
NodeLinkQueuePush(NodeLink *link, uint32 buffer, uint32 entry)
{
	Push push = {.buffer = buffer, .entry = entry};

	queue_push(link, &push);
}

void
NodeLinkRecoverPush(NodeLink *link, uint32 buffer, uint32 entry)
{
	Push push = {.buffer = buffer, .entry = entry, .sent_before = true};

	queue_push(link, &push);
}

/* Put pushes back, in front of what is queued. There is room: the queue has room for all comm buffers. */
static void
requeue(NodeLink *link, const Push *pushes, uint32 count)
{
	memmove(link->queue + count, link->queue, link->queued_count * sizeof(Push));
	memcpy(link->queue, pushes, count * sizeof(Push));
	link->queued_count += count;
}

/* The connection broke: what was sent over it has to be sent again, in the same order. */
void
push_requeue_sent(NodeLink *link)
{
	while (link->sent_count > 0)
	{
		SentPush *sent = &link->sent[--link->sent_count];

		for (uint32 i = 0; i < sent->count; i++)
			sent->pushes[i].sent_before = true;
		requeue(link, sent->pushes, sent->count);
	}
}

bool
NodeLinkIdle(const NodeLink *link)
{
	return link->state == LINK_ATTACHED && !lb_stream_wants_write(link->stream);
}

/* A node that may have dirty pages gets nothing more over a new connection before it has proved its storage again. */
static bool
can_send(const NodeLink *link)
{
	return link->state == LINK_ATTACHED && link->sent_count < PUSHES_OUTSTANDING &&
		   (link->proven || !link->may_write);
}

/*
 * How many pages does a message need just now? Over rdma a message costs the node more than the pages in it, so some are waited for, but not
 * while server processes may soon wait for comm buffers, and not for long: while the node is at the one before it would only lie there.
 */
static uint32
batch_needed(const NodeLink *link)
{
	if (link->uri.transport != LB_TRANSPORT_RDMA || CommBufferFree() < CommBufferCount() / 2 ||
		(link->sent_count == 0 && lb_now_ns() >= link->pushed_at + BATCH_NS))
		return 1;
	return BATCH_PAGES;
}

uint32
NodeLinkPagesAwaited(const NodeLink *link, uint64 *until)
{
	uint32 needed;

	*until = 0;
	if (!can_send(link))
		return 0;
	needed = batch_needed(link);
	if (link->queued_count >= needed)
		*until = lb_now_ns(); /* an answer has come in between */
	else if (needed > 1 && link->sent_count == 0)
		*until = link->pushed_at + BATCH_NS;
	return needed > link->queued_count ? needed - link->queued_count : 1;
}

/* Move up to a batch from the queue into *sent. Pages that were replaced or fenced since they were queued are ended. */
static void
take_batch(NodeLink *link, SentPush *sent)
{
	uint32 taken = 0;

	sent->count = 0;
	while (taken < link->queued_count && sent->count < LB_BATCH_MAX)
	{
		Push *push = &link->queue[taken++];

		/* In this order: what was dirty was linked then. If it is replaced or fenced from now on, it goes as a dirty one all the same. */
		push->dirty = PageDirectoryIsDirty(push->entry);
		if (PageDirectoryIsLinked(push->entry))
			sent->pushes[sent->count++] = *push;
		else
		{
			end_push(push, false);
			link->pushes_ended++;
		}
	}
	link->queued_count -= taken;
	memmove(link->queue, link->queue + taken, link->queued_count * sizeof(Push));
}

/* The entry does not change while its push is under way, linked or not, but for being dirty. */
static void
describe_batch(const SentPush *sent, lb_push_batch *batch, struct iovec *pages)
{
	batch->count = sent->count;
	for (uint32 i = 0; i < sent->count; i++)
	{
		const Push *push = &sent->pushes[i];
		const PageDirectoryEntry *entry = PageDirectoryEntryAt(push->entry);
		lb_slot_ref slot;

		(void) SlabTableSlot(push->entry, &slot);
		batch->pushes[i] = (lb_push){.slab = slot.slab,
									 .page = slot.page,
									 .tag = entry->tag,
									 .version = entry->version,
									 .checksum = entry->checksum,
									 .buffer = push->buffer,
									 .dirty = push->dirty};
		pages[i] =
			(struct iovec){.iov_base = CommBufferPage(push->buffer), .iov_len = LB_PAGE_SIZE};
	}
}

void
NodeLinkSendPushes(NodeLink *link)
{
	static lb_push_batch batch;
	static uint8 body[LB_BODY_MAX];
	struct iovec pages[LB_BATCH_MAX];
	lb_status status;

	while (can_send(link) && link->queued_count >= batch_needed(link))
	{
		SentPush *sent = &link->sent[link->sent_count];
		bool inline_pages = link->uri.transport == LB_TRANSPORT_TCP;

		take_batch(link, sent);
		if (sent->count == 0)
			continue;
		describe_batch(sent, &batch, pages);
		sent->sequence = ++link->sequence;
		sent->sent_at = link->pushed_at = lb_now_ns();
		link->sent_count++; /* from here on these pushes are the link's to end, or to send again */
		(void) LB_FAULT("agent.push");
		if (!lb_stream_send(link->stream, LB_PUSH, sent->sequence, body,
							lb_encode_push(body, &batch), pages,
							inline_pages ? (int) batch.count : 0, -1, &status))
		{
			link_broken(link, status.message);
			return;
		}
		NodeTableCountPushMessages(link->node, 1);
	}
}

static void
panic_refused(const NodeLink *link, const Push *push, lb_push_result result)
{
	const lb_page_tag *tag = &PageDirectoryEntryAt(push->entry)->tag;

	ereport(
		PANIC,
		(errcode(ERRCODE_DATA_CORRUPTED),
		 errmsg("legobase: memory node \"%s\" refused a page again and again: %s", link->uri.text,
				result == LB_PUSH_BAD_CHECKSUM ? "what it got does not have the page's checksum"
											   : "it does not know the page's slot or version"),
		 errdetail("Page %u/%u/%u, fork %u, block %u is neither there nor in its file. The "
				   "server restarts by itself and recovers it from WAL.",
				   tag->tablespace, tag->database, tag->relation, tag->fork, tag->block),
		 errhint("The memory of one of the two machines, or the way between them, may be "
				 "damaged.")));
}

/* The answer for one page. True if its push has ended, false if it has to be sent again. */
static bool
take_result(NodeLink *link, Push *push, lb_push_result result)
{
	/* R9: a page that was sent twice arrives once. */
	bool published =
		result == LB_PUSH_PUBLISHED || (result == LB_PUSH_OLD_VERSION && push->sent_before);

	if (result == LB_PUSH_BAD_CHECKSUM)
		StatsCount(STAT_CHECKSUM_FAILURES, 1);
	if (published || !PageDirectoryIsDirty(push->entry))
	{
		NodeTableCountPushes(link->node, published ? 1 : 0);
		end_push(push, published);
		return true;
	}
	if (result == LB_PUSH_NO_STORAGE)
		flush_proof_void(link);
	else if (++push->refusals == REFUSALS_MAX)
		panic_refused(link, push, result);
	return false;
}

bool
push_acknowledged(NodeLink *link, const lb_frame *frame)
{
	SentPush *sent = &link->sent[0];
	Push again[LB_BATCH_MAX];
	uint32 again_count = 0;
	lb_push_ack ack;

	if (link->sent_count == 0 || frame->header.sequence != sent->sequence ||
		!lb_decode_push_ack(frame->body, frame->header.body_length, &ack) ||
		ack.count != sent->count)
		return false;
	(void) LB_FAULT("agent.acknowledged");
	for (uint32 i = 0; i < ack.count; i++)
	{
		if (!take_result(link, &sent->pushes[i], (lb_push_result) ack.results[i]))
			again[again_count++] = sent->pushes[i];
	}
	StatsWriteTime(TIER_REMOTE, lb_now_ns() - sent->sent_at);
	link->sent_count--;
	link->sent[1].sent_at = lb_now_ns(); /* it was only waiting its turn */
	memmove(&link->sent[0], &link->sent[1], link->sent_count * sizeof(SentPush));
	requeue(link, again, again_count);
	link->pushes_ended += ack.count - again_count;
	return true;
}
