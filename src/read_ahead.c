/*
 * read_ahead.c
 *	  Pages read from memory nodes before they are asked for.
 *
 * The copies lie in a ring of frames. A frame is asked for (it collects with others of the same node until a batch is
 * full, or one of them is needed), then on its way (it has a ticket of its connection), then taken, or overwritten when
 * the ring has come round. A sequence is recognised after three neighbouring pages; then the window ahead of it is kept
 * filled, half a window at a time, so that the messages stay few.
 */
#include "postgres.h"

#include "access/xlogutils.h"
#include "miscadmin.h"

#include "kernel_cache.h"
#include "lb_clock.h"
#include "local_pool.h"
#include "node_client.h"
#include "node_table.h"
#include "read_ahead.h"
#include "settings.h"
#include "slab_table.h"
#include "stats.h"

#define FRAMES (2 * LB_BATCH_MAX)
#define BATCH 16  /* pages in a message, unless one is needed earlier */
#define STREAMS 8 /* sequential scans told apart */
#define RUN_MIN 3

typedef enum FrameState
{
	FRAME_EMPTY,
	FRAME_ASKED, /* not sent yet */
	FRAME_SENT
} FrameState;

typedef struct Frame
{
	FrameState state;
	lb_page_tag tag;
	uint32 entry;
	uint64 version;
	int node;
	uint32 connection;
	uint64 ticket;
} Frame;

typedef struct Stream
{
	lb_page_tag next;   /* the page that would continue it */
	uint32 run;         /* neighbouring pages so far */
	uint32 asked_until; /* first block that was not asked for yet */
	uint64 last_used;
} Stream;

static Frame frames[FRAMES];
static char *frame_pages; /* malloc: made at first use, kept */
static int next_frame;
static int frames_in_use;
static int frames_asked;
static Stream streams[STREAMS];
static uint64 stream_clock;

static bool
possible(void)
{
	/* Redo prefetches for itself, and in a critical section nothing may be allocated. */
	if (InRecovery || CritSectionCount > 0)
		return false;
	if (frame_pages == NULL)
		frame_pages = malloc((size_t) FRAMES * LB_PAGE_SIZE);
	return frame_pages != NULL;
}

static char *
page_of(const Frame *frame)
{
	return frame_pages + (frame - frames) * LB_PAGE_SIZE;
}

static void
empty(Frame *frame)
{
	if (frame->state == FRAME_ASKED)
		frames_asked--;
	if (frame->state != FRAME_EMPTY)
		frames_in_use--;
	frame->state = FRAME_EMPTY;
}

static Frame *
find_frame(const lb_page_tag *tag, uint32 entry, uint64 version)
{
	for (int i = 0; i < FRAMES; i++)
	{
		Frame *frame = &frames[i];

		if (frame->state != FRAME_EMPTY && frame->version == version && frame->entry == entry &&
			lb_page_tag_equal(&frame->tag, tag))
			return frame;
	}
	return NULL;
}

/* Send what was asked of one node as one batch. */
static void
send_asked(int node)
{
	lb_read_target targets[LB_BATCH_MAX];
	Frame *sent[LB_BATCH_MAX];
	int count = 0;
	uint32 connection = 0;
	uint64 ticket;

	for (int i = 0; i < FRAMES && count < LB_BATCH_MAX; i++)
	{
		Frame *frame = &frames[(next_frame + i) % FRAMES]; /* the oldest first */

		if (frame->state != FRAME_ASKED || frame->node != node)
			continue;
		(void) SlabTableSlot(frame->entry, &targets[count].slot);
		targets[count].dest = page_of(frame);
		sent[count++] = frame;
	}
	if (count == 0)
		return;
	ticket = NodeClientSubmit(node, targets, count, &connection);
	for (int i = 0; i < count; i++)
	{
		if (ticket == 0)
		{
			empty(sent[i]);
			continue;
		}
		frames_asked--;
		sent[i]->state = FRAME_SENT;
		sent[i]->ticket = ticket;
		sent[i]->connection = connection;
	}
	if (ticket != 0)
		StatsCount(STAT_READ_AHEAD_PAGES, count);
}

/* Ask for a page, which the directory has in this entry and version. */
static void
ask(const lb_page_tag *tag, const PagePin *found, int node)
{
	Frame *frame = &frames[next_frame];

	if (find_frame(tag, found->entry, found->version))
		return;
	/* The frame that is reused is the oldest one; if its page is still on its way it must not land on the new one. */
	if (frame->state == FRAME_SENT)
		(void) NodeClientWait(frame->node, frame->connection, frame->ticket,
							  NodeClientDeadline(lb_now_ns()));
	empty(frame);

	frame->state = FRAME_ASKED;
	frame->tag = *tag;
	frame->entry = found->entry;
	frame->version = found->version;
	frame->node = node;
	next_frame = (next_frame + 1) % FRAMES;
	frames_in_use++;
	frames_asked++;
}

/* The node that has the page in a slot, if it is beyond this host and answers; -1 otherwise. */
static int
far_node_of(const lb_page_tag *tag, PagePin *found)
{
	lb_slot_ref slot;
	int node;

	if (!PageDirectoryPeek(tag, found) || found->comm_buffer != INVALID_COMM_BUFFER)
		return -1;
	node = SlabTableSlot(found->entry, &slot);
	return NodeClientIsFar(node) && NodeTableState(node) == NODE_UP ? node : -1;
}

static bool
kernel_has(SMgrRelation reln, const lb_page_tag *tag)
{
	return kernel_cache_reads == KERNEL_CACHE_READS_AUTO &&
		   KernelCacheHolds(reln, (ForkNumber) tag->fork, tag->block);
}

bool
ReadAheadPrefetch(SMgrRelation reln, const lb_page_tag *tag)
{
	PagePin found;
	lb_slot_ref slot;
	int node;

	if (!PageDirectoryPeek(tag, &found))
		return false;
	if (found.comm_buffer != INVALID_COMM_BUFFER)
		return true;
	node = SlabTableSlot(found.entry, &slot);
	if (NodeTableState(node) != NODE_UP)
		return false;
	if (!NodeClientIsFar(node) || !possible() || kernel_has(reln, tag))
		return true;
	ask(tag, &found, node);
	if (frames_asked >= BATCH)
		send_asked(node);
	return true;
}

bool
ReadAheadTake(const lb_page_tag *tag, const PagePin *pin, char *buffer, uint64 deadline)
{
	Frame *frame;
	bool arrived;

	if (frames_in_use == 0)
		return false;
	frame = find_frame(tag, pin->entry, pin->version);
	if (frame == NULL)
		return false;
	if (frame->state == FRAME_ASKED)
		send_asked(frame->node);
	if (frame->state != FRAME_SENT)
		return false;

	arrived = NodeClientWait(frame->node, frame->connection, frame->ticket, deadline);
	if (arrived)
		memcpy(buffer, page_of(frame), BLCKSZ);
	empty(frame);
	return arrived;
}

/* Find the stream that this page continues, or else start one in place of the one that rested longest. */
static Stream *
stream_of(const lb_page_tag *tag)
{
	Stream *oldest = &streams[0];

	stream_clock++;
	for (int i = 0; i < STREAMS; i++)
	{
		if (streams[i].run > 0 && lb_page_tag_equal(&streams[i].next, tag))
		{
			streams[i].last_used = stream_clock;
			return &streams[i];
		}
		if (streams[i].last_used < oldest->last_used)
			oldest = &streams[i];
	}
	oldest->next = *tag;
	oldest->run = 0;
	oldest->asked_until = tag->block + 1;
	oldest->last_used = stream_clock;
	return oldest;
}

/* Ask for the pages of the window that were not asked for yet. */
static void
fill_window(SMgrRelation reln, Stream *stream, uint32 window)
{
	lb_page_tag tag = stream->next;
	uint32 end = stream->next.block + window;
	uint32 nodes_asked = 0; /* a bit each: MAX_NODES is 32 */

	for (tag.block = Max(stream->asked_until, stream->next.block); tag.block < end; tag.block++)
	{
		PagePin found;
		int node = far_node_of(&tag, &found);

		if (node < 0 || LocalPoolHolds(&tag) || kernel_has(reln, &tag))
			continue;
		ask(&tag, &found, node);
		nodes_asked |= UINT32_C(1) << node;
	}
	stream->asked_until = end;
	for (int node = 0; nodes_asked != 0; node++, nodes_asked >>= 1)
	{
		if (nodes_asked & 1)
			send_asked(node);
	}
}

void
ReadAheadContinue(SMgrRelation reln, const lb_page_tag *tag)
{
	Stream *stream;
	uint32 window = read_ahead_pages;

	if (window == 0 || !possible())
		return;
	stream = stream_of(tag);
	stream->run++;
	stream->next.block = tag->block + 1;
	if (stream->run >= RUN_MIN && stream->asked_until < stream->next.block + (window + 1) / 2)
		fill_window(reln, stream, window);
}
