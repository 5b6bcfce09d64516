/*
 * node_control.c
 *	  Naming checkpoints to a memory node: rule C1 of docs/recovery.md.
 *
 * A redo point may be named when the node has been told of everything that was unlinked before that checkpoint's buffers were all
 * written. That is in the past when the redo points are taken. Afterwards each entry of the node is looked at until there was a
 * moment at which the node had nothing in its slot but what the directory says:
 *
 *	  linked, not in flight	  the node has just that page. If it is unlinked later, that concerns later checkpoints
 *	  free, node holds		  RELEASE is sent
 *	  free					  RELEASE has been sent, over this connection: what may have been lost with another was reconciled
 *	  anything else			  pinned, reserved, in flight: the node may still have what was in the slot before. Looked at again
 *
 * CONTROL follows the RELEASEs on the same connection. It says nothing of pushes that are answered later.
 */
#include "postgres.h"

#include "control_record.h"
#include "lb_fault.h"
#include "node_link_internal.h"
#include "page_directory.h"
#include "slab_table.h"

#define SCAN_ENTRIES 65536 /* looked at in one go */
#define BUSY_MS 5          /* between looks at entries that were in use */
#define TIER1_MS 1000      /* between two CONTROLs for the sake of L1 */

void
control_attached(NodeLink *link, bool resumed)
{
	memset(&link->control, 0, sizeof(link->control));
	link->control.reconciled = !resumed;
}

/* ---- the scan ---- */

/* Does the node know what is in the slot, or is a RELEASE under way? */
static bool
is_known(NodeLink *link, uint32 entry, lb_release_batch *batch)
{
	uint64 version;
	uint32 node_slab;
	uint32 slab = entry / SlabTablePages();

	/* Its slab may have been returned since. */
	if (SlabTableState(slab) == SLAB_UNUSED || SlabTableNodeOf(slab, &node_slab) != link->node)
		return true;
	if (!PageDirectoryTakeRelease(entry, &version))
		return PageDirectoryNodeKnows(entry);
	(void) SlabTableSlot(entry, &batch->slots[batch->count]);
	batch->versions[batch->count] = version;
	if (++batch->count == LB_BATCH_MAX)
	{
		NodeLinkRelease(link, batch);
		batch->count = 0;
	}
	return true;
}

/* Nothing waits to be sent: a scan must never fill up the connection. */
static bool
can_release(const NodeLink *link)
{
	return link->stream != NULL && !lb_stream_wants_write(link->stream);
}

static void
look_at_busy(NodeLink *link, lb_release_batch *batch)
{
	LinkControl *control = &link->control;
	uint32 left = 0;
	uint32 looked;

	for (looked = 0; looked < control->busy_count && can_release(link); looked++)
	{
		if (!is_known(link, control->busy[looked], batch))
			control->busy[left++] = control->busy[looked];
	}
	/* A break has emptied the list. */
	if (link->stream == NULL)
		return;
	memmove(control->busy + left, control->busy + looked,
			(control->busy_count - looked) * sizeof(uint32));
	control->busy_count -= looked - left;
}

static void
look_on(NodeLink *link, lb_release_batch *batch)
{
	LinkControl *control = &link->control;
	uint32 pages = SlabTablePages();
	uint32 total = SlabTableEntries();
	uint32 looked = 0;

	while (control->position < total && looked < SCAN_ENTRIES &&
		   control->busy_count < LINK_BUSY_MAX && can_release(link))
	{
		uint32 slab = control->position / pages;
		uint32 node_slab;

		if (SlabTableState(slab) == SLAB_UNUSED || SlabTableNodeOf(slab, &node_slab) != link->node)
		{
			control->position = (slab + 1) * pages;
			continue;
		}
		if (!is_known(link, control->position, batch))
			control->busy[control->busy_count++] = control->position;
		control->position++;
		looked++;
	}
}

bool
control_scan(NodeLink *link)
{
	LinkControl *control = &link->control;
	lb_release_batch batch = {.count = 0};

	look_at_busy(link, &batch);
	look_on(link, &batch);
	if (batch.count > 0 && link->stream != NULL)
		NodeLinkRelease(link, &batch);
	return link->stream != NULL && control->position >= SlabTableEntries() &&
		   control->busy_count == 0;
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
	control->busy_count = 0;
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
	if (!can_release(link))
		return -1; /* the socket tells when there is room */
	if (control->position < SlabTableEntries() && control->busy_count < LINK_BUSY_MAX)
	{
		ControlRecordProgress();
		return 0;
	}
	return BUSY_MS;
}

int
NodeLinkTell(NodeLink *link, uint64 now)
{
	LinkControl *control = &link->control;

	if (link->state != LINK_ATTACHED || control->sequence != 0 || !ControlRecordKept())
		return -1;
	if (!control->reconciled)
	{
		reload_reconcile(link);
		return -1;
	}
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
