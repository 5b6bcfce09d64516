/*
 * node_control.c
 *	  Naming checkpoints to a memory node: rule C1 of docs/recovery.md.
 *
 * A redo point may be named when the node has been told of everything that was unlinked before that checkpoint's buffers were all
 * written. That is in the past when the redo points are taken. Afterwards each entry of the node's slabs is asked once for what there is to
 * release (PageDirectoryTakeRelease): what is in its slot and was unlinked, also if the slot is reserved, pinned, or a push to it is still
 * under way. CONTROL follows these RELEASEs on the same connection.
 *
 * RELEASEs that were sent over a connection that broke may not have arrived: after resuming all are taken and sent again.
 */
#include "postgres.h"

#include "control_record.h"
#include "lb_fault.h"
#include "node_link_internal.h"
#include "page_directory.h"
#include "slab_table.h"

#define SCAN_ENTRIES 65536 /* looked at in one go */
#define TIER1_MS 1000      /* between two CONTROLs for the sake of L1 */

static bool
is_of_node(const NodeLink *link, uint32 slab)
{
	uint32 node_slab;

	return SlabTableState(slab) != SLAB_UNUSED && SlabTableNodeOf(slab, &node_slab) == link->node;
}

void
control_attached(NodeLink *link, bool resumed)
{
	uint32 pages = SlabTablePages();

	memset(&link->control, 0, sizeof(link->control));
	for (uint32 slab = 0; resumed && slab < SlabTableCount(); slab++)
	{
		if (is_of_node(link, slab))
			PageDirectoryReleaseAgain(slab * pages, (slab + 1) * pages);
	}
}

/* ---- the scan ---- */

/* The RELEASE goes out before any further PUSH: whoever begins a batch ends it. */
static void
release_entry(NodeLink *link, uint32 entry, lb_release_batch *batch)
{
	uint64 version;

	if (!PageDirectoryTakeRelease(entry, &version))
		return;
	(void) SlabTableSlot(entry, &batch->slots[batch->count]);
	batch->versions[batch->count] = version;
	if (++batch->count == LB_BATCH_MAX)
	{
		NodeLinkRelease(link, batch);
		batch->count = 0;
	}
}

/* Nothing waits to be sent: a scan must never fill up the connection. */
static bool
can_release(const NodeLink *link)
{
	return link->stream != NULL && !lb_stream_wants_write(link->stream);
}

bool
control_scan(NodeLink *link)
{
	LinkControl *control = &link->control;
	uint32 pages = SlabTablePages();
	uint32 total = SlabTableEntries();
	lb_release_batch batch = {.count = 0};

	for (uint32 looked = 0;
		 control->position < total && looked < SCAN_ENTRIES && can_release(link);)
	{
		uint32 slab = control->position / pages;

		if (!is_of_node(link, slab))
		{
			control->position = (slab + 1) * pages;
			continue;
		}
		release_entry(link, control->position, &batch);
		control->position++;
		looked++;
	}
	if (batch.count > 0 && link->stream != NULL)
		NodeLinkRelease(link, &batch);
	return link->stream != NULL && control->position >= total;
}

/* ---- CONTROL ---- */

static void
send_control(NodeLink *link, const lb_control *record, uint64 now)
{
	LinkControl *control = &link->control;
	uint8 body[LB_BODY_MAX];
	lb_control sent = *record;

	(void) LB_FAULT("agent.control");
	sent.tier1 = ControlRecordTier1();
	if (!link_send(link, LB_CONTROL, body, lb_encode_control(body, &sent)))
		return;
	control->sequence = link->sequence;
	control->sent_at = now;
	control->named_record = sent;
}

bool
control_received(NodeLink *link, const lb_frame *frame)
{
	LinkControl *control = &link->control;

	if (control->sequence == 0 || frame->header.sequence != control->sequence)
		return false;
	control->sequence = 0;
	if (control->telling)
	{
		control->telling = false;
		control->named = true;
		control->named_serial = control->serial;
		ControlRecordProgress();
	}
	return true;
}

/* The redo points are taken before anything is looked at. */
static void
begin_telling(LinkControl *control)
{
	control->serial = ControlRecordSerial();
	ControlRecordFill(&control->record);
	control->telling = true;
	control->position = 0;
}

/*
 * Nothing has been pushed yet, so all that the node has is good for the redo point at which this life begins. The one that was pending when the former
 * life ended must go before anything is pushed: the next checkpoint may get the very same number.
 */
void
control_name_start(NodeLink *link)
{
	lb_control record;

	ControlRecordFill(&record);
	record.completed = record.pending = ControlRecordRedoAtStart();
	send_control(link, &record, lb_now_ns());
}

static int
continue_telling(NodeLink *link, uint64 now)
{
	LinkControl *control = &link->control;
	bool scanned = control_scan(link);

	if (link->stream == NULL)
		return -1;
	if (scanned)
	{
		send_control(link, &control->record, now);
		return -1;
	}
	ControlRecordProgress();
	return can_release(link) ? 0 : -1; /* the socket tells when there is room */
}

int
NodeLinkTell(NodeLink *link, uint64 now)
{
	LinkControl *control = &link->control;

	if (link->state != LINK_ATTACHED || control->sequence != 0 || !ControlRecordKept())
		return -1;
	if (!control->telling && (!control->named || control->named_serial < ControlRecordSerial()))
		begin_telling(control);
	if (control->telling)
		return continue_telling(link, now);
	if (control->named_record.tier1 != ControlRecordTier1() &&
		now > control->sent_at + TIER1_MS * MS_NS)
		send_control(link, &control->named_record, now);
	return -1;
}

bool
NodeLinkTold(const NodeLink *link, uint64 serial)
{
	/* One that is being resumed may be back in a moment: at shutdown the checkpointer begins with that. */
	if (link->state != LINK_ATTACHED && link->state != LINK_RESUMING)
		return true;
	return link->control.named && link->control.named_serial >= serial;
}
