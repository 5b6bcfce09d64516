/*
 * node_reload.c
 *	  At the start of a life of the server a memory node lists what it has kept of the former one (docs/recovery.md, sections 3 and 4).
 *
 * One RELOAD is under way at a time; each must be answered within node_timeout. A slot is put into the directory, or released, when it is
 * listed, by the rules that concern the slot alone; pool_reload.c has the rules that concern files. Whatever goes wrong discards all of
 * the node: its pages are taken out of the directory again, and it is attached to anew, empty.
 */
#include "postgres.h"

#include "common/relpath.h"
#include "storage/block.h"

#include "control_record.h"
#include "lb_fault.h"
#include "node_link_internal.h"
#include "node_table.h"
#include "page_directory.h"
#include "page_reload.h"
#include "pool_reload.h"
#include "slab_table.h"
#include "write_back.h"

/* Versions are counted from 1; none gets there by counting. */
#define VERSION_MAX ((uint64) PG_INT64_MAX)

static void
ask(NodeLink *link, lb_slot_ref from)
{
	lb_reload reload = {.from = from, .redo = ControlRecordRedoAtStart()};
	uint8 body[LB_BODY_MAX];

	if (!link_send(link, LB_RELOAD, body, lb_encode_reload(body, &reload)))
		return;
	link->reload_sequence = link->sequence;
	link->reload_at = lb_now_ns();
	link->reload_from = from;
}

static inline bool
is_before(const lb_slot_ref *a, const lb_slot_ref *b)
{
	return a->slab < b->slab || (a->slab == b->slab && a->page < b->page);
}

static bool
is_slab(const NodeLink *link, uint32 slab, uint32 number)
{
	uint32 node_slab;

	return slab < SlabTableCount() && SlabTableState(slab) != SLAB_UNUSED &&
		   SlabTableNodeOf(slab, &node_slab) == link->node && node_slab == number;
}

/* The entry of a slot; INVALID_ENTRY if we do not know its slab. */
static uint32
entry_of(NodeLink *link, const lb_slot_ref *slot)
{
	if (!is_slab(link, link->slab_found, slot->slab))
	{
		link->slab_found = 0;
		while (link->slab_found < SlabTableCount() && !is_slab(link, link->slab_found, slot->slab))
			link->slab_found++;
	}
	if (link->slab_found == SlabTableCount())
		return INVALID_ENTRY;
	return link->slab_found * SlabTablePages() + slot->page;
}

/* Add to a batch of what is to be released. False: the connection broke. */
static bool
add_release(NodeLink *link, lb_release_batch *batch, const lb_reload_slot *slot)
{
	batch->slots[batch->count] = slot->slot;
	batch->versions[batch->count] = slot->version;
	if (++batch->count < LB_BATCH_MAX)
		return true;
	NodeLinkRelease(link, batch);
	batch->count = 0;
	return link->stream != NULL;
}

static bool
end_releases(NodeLink *link, const lb_release_batch *batch)
{
	if (batch->count > 0)
		NodeLinkRelease(link, batch);
	return link->stream != NULL;
}

/* Can this be a page of ours, and the answer to what was asked? */
static bool
makes_sense(const NodeLink *link, const lb_reload_reply *reply)
{
	lb_slot_ref next = link->reload_from;

	for (uint32 i = 0; i < reply->count; i++)
	{
		const lb_reload_slot *slot = &reply->slots[i];

		if (is_before(&slot->slot, &next) || slot->slot.page >= reply->slab_pages ||
			slot->slot.slab >= LB_SLAB_NUMBERS_MAX || slot->version == 0 ||
			slot->version > VERSION_MAX || slot->tag.fork > MAX_FORKNUM ||
			slot->tag.block == InvalidBlockNumber || slot->tag.relation == InvalidOid ||
			slot->tag.tablespace == InvalidOid)
			return false;
		next = slot->slot;
		next.page++;
	}
	return !reply->more ||
		   (is_before(&link->reload_from, &reply->next) && !is_before(&reply->next, &next));
}

void
reload_begin(NodeLink *link, const lb_welcome *welcome)
{
	memset(&link->reload, 0, sizeof(link->reload));
	link->reload.welcome = *welcome;
	link->reload.proof_until = lb_now_ns() + link_timeout_ns();
	link->life_wanted = false;
	link->state = LINK_RELOADING;
	link->heard_at = link->ping_at = lb_now_ns();
	flush_attached(link, false);
	if (link->state == LINK_RELOADING)
		ask(link, (lb_slot_ref){0});
}

void
reload_failed(NodeLink *link, const char *reason)
{
	uint32 pages = SlabTablePages();

	ereport(LOG, (errmsg("legobase: the pages that memory node \"%s\" has kept are discarded: %s",
						 link->uri.text, reason)));
	NodeTableSetError(link->node, reason);
	link_close(link);
	WriteBackSetNode(link->node, false);
	link->may_write = false;
	for (uint32 slab = 0; slab < SlabTableCount(); slab++)
	{
		uint32 node_slab;

		if (SlabTableState(slab) != SLAB_ACTIVE || SlabTableNodeOf(slab, &node_slab) != link->node)
			continue;
		for (uint32 entry = slab * pages; entry < (slab + 1) * pages; entry++)
		{
			if (PageDirectoryIsLinked(entry))
				PageDirectoryDiscardReloaded(entry);
		}
		SlabTableRebuildFree(slab);
		SlabTableDrain(slab);
		SlabTableRemove(slab);
	}
	link->reload.discarded = link->reload.pages;
	link_retry_later(link, 0);
}

/* Why none of this node's pages can be kept; null if they can. */
static const char *
reason_to_discard(const lb_reload_reply *reply)
{
	const char *reason;

	if (reply->slab_pages == 0)
		return NULL; /* it has none */
	if (!ControlRecordMatches(&reply->control, &reason))
		return reason;
	if (reply->slab_pages != SlabTablePages())
		return "its memory is cut into pieces of another size";
	return NULL;
}

/* The rules of docs/recovery.md, section 3, that concern the slot alone. */
static bool
is_kept(NodeLink *link, const lb_reload_slot *slot)
{
	if (ControlRecordWasShutDown() &&
		(slot->kind == LB_SLOT_DIRTY ||
		 (slot->kind == LB_SLOT_FLUSHED && slot->lsn > ControlRecordRedoAtStart())))
	{
		if (!link->reload.warned)
			ereport(WARNING,
					(errmsg("legobase: memory node \"%s\" has kept dirty pages, but the server was "
							"shut down",
							link->uri.text),
					 errdetail("They are discarded. The files have everything.")));
		link->reload.warned = true;
		return false;
	}
	if (slot->kind == LB_SLOT_CLEAN && slot->lsn > ControlRecordRedoAtStart() &&
		!ControlRecordSameBoot(&link->reload.control))
		return false;
	return true;
}

/* Its entry, which is not linked; INVALID_ENTRY if it is not kept. The slab is added with its first slot that is. */
static uint32
entry_for(NodeLink *link, const lb_reload_slot *slot)
{
	uint32 entry;

	if (!is_kept(link, slot))
		return INVALID_ENTRY;
	entry = entry_of(link, &slot->slot);
	if (entry == INVALID_ENTRY && SlabTableAdd(link->node, slot->slot.slab))
		entry = entry_of(link, &slot->slot);
	return entry;
}

/* False: the connection broke. */
static bool
take_slots(NodeLink *link, const lb_reload_reply *reply)
{
	lb_release_batch batch = {.count = 0};

	for (uint32 i = 0; i < reply->count; i++)
	{
		const lb_reload_slot *slot = &reply->slots[i];
		uint32 entry = entry_for(link, slot);
		bool flushed = slot->kind == LB_SLOT_FLUSHED;
		PageReload page = {.tag = slot->tag,
						   .version = slot->version,
						   .checksum = slot->checksum,
						   .lsn = slot->lsn,
						   .dirty = slot->kind == LB_SLOT_DIRTY ||
									(flushed && slot->lsn > ControlRecordRedoAtStart()),
						   .durable = flushed};

		link->reload.pages++;
		link->reload.newest = Max(link->reload.newest, slot->lsn);
		/* Of two nodes that list a page one loses: what it has is released when all is checked. */
		if (entry != INVALID_ENTRY)
			(void) PageDirectoryReload(entry, &page);
		else
		{
			link->reload.discarded++;
			if (!add_release(link, &batch, slot))
				return false;
		}
	}
	return end_releases(link, &batch);
}

/* Each part is looked at, not only the first: what follows relies on the slab's size, and on the record. */
static const char *
reason_to_stop(const NodeLink *link, const lb_reload_reply *reply)
{
	const lb_control *first = &link->reload.control;

	if (link->reload.began &&
		(reply->control.completed != first->completed || reply->control.pending != first->pending))
		return "its control record has changed meanwhile";
	return reason_to_discard(reply);
}

static void
listed(NodeLink *link, const lb_reload_reply *reply)
{
	const char *reason = reason_to_stop(link, reply);

	if (reason)
	{
		reload_failed(link, reason);
		return;
	}
	if (!link->reload.began)
	{
		link->reload.control = reply->control;
		link->reload.began = true;
	}
	if (!take_slots(link, reply))
		return;
	(void) LB_FAULT("agent.reload");
	if (reply->more)
		ask(link, reply->next);
	else if (!ControlRecordIsPast(link->reload.newest))
	{
		PoolReloadDiscardAll();
		reload_failed(link, "they are newer than the data directory");
	}
	else
		link->reload.listed = true;
}

/* Without a proof of storage dirty pages could never be written: that is found out meanwhile, but not waited for for long. */
void
reload_tick(NodeLink *link, uint64 now)
{
	bool proof_due = flush_proof_due(link);

	if (link->state == LINK_RELOADING && link->reload.listed &&
		(!proof_due || now > link->reload.proof_until))
		link->state = LINK_RELOADED;
}

bool
NodeLinkSettled(const NodeLink *link)
{
	return !link->life_wanted && link->state != LINK_RELOADING;
}

bool
NodeLinkKeepSlabs(NodeLink *link)
{
	lb_status status;

	if (attach_keep_slabs(link, &status))
		return true;
	reload_failed(link, status.message);
	return false;
}

bool
NodeLinkReleaseDiscarded(NodeLink *link)
{
	return control_scan(link);
}

void
NodeLinkDiscardReloaded(NodeLink *link)
{
	reload_failed(link, "another memory node's pages are newer than the data directory");
}

void
NodeLinkAttachReloaded(NodeLink *link)
{
	attach_complete(link, &link->reload.welcome);
	if (link->state == LINK_ATTACHED)
		control_name_start(link);
}

bool
reload_received(NodeLink *link, const lb_frame *frame)
{
	static lb_reload_reply reply;

	if (link->reload_sequence == 0 || frame->header.sequence != link->reload_sequence ||
		!lb_decode_reload_reply(frame->body, frame->header.body_length, &reply))
		return false;
	link->reload_sequence = 0;
	if (!makes_sense(link, &reply))
		return false;
	listed(link, &reply);
	return true;
}
