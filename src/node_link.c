/*
 * node_link.c
 *	  The buffer agent's control connection to one memory node.
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/procsignal.h"

#include "comm_buffer.h"
#include "embedded_node.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "node_link.h"
#include "node_table.h"
#include "page_directory.h"
#include "settings.h"
#include "slab_table.h"
#include "stats.h"

#define MS_NS UINT64_C(1000000)
#define RETRY_MS_MIN 100
#define RETRY_MS_MAX 2000
#define RETRY_MS_HELD 5000 /* another server holds the instance: a person has to decide */
#define PING_MS 1000
#define SLAB_TIMEOUT_MS \
	60000 /* memory is zeroed before it is granted; that the node lives, pings tell */
#define SLAB_RETRY_MS 10000    /* after the node had none */
#define EMBEDDED_START_MS 5000 /* an embedded node that has not come up by then is started again */
#define RESOLVE_EVERY 16       /* failures until a host name is looked up again */
#define OUTPUT_LIMIT (PUSHES_OUTSTANDING * (LB_BULK_MAX + LB_BODY_MAX + LB_HEADER_SIZE) + 65536)

static void link_lost(NodeLink *link, const char *reason);

static uint64
timeout_ns(void)
{
	return (uint64) node_timeout_ms * MS_NS;
}

void
NodeLinkInit(NodeLink *link, int node, const lb_uri *uri, Instance *instance)
{
	memset(link, 0, sizeof(*link));
	link->node = node;
	link->uri = *uri;
	link->instance = instance;
	link->connecting_fd = -1;
	link->attached_or_lost_at = lb_now_ns();
	link->queued_buffers = palloc(sizeof(uint32) * CommBufferCount());
	link->queued_entries = palloc(sizeof(uint32) * CommBufferCount());
}

/* ---- pushes ---- */

static void
end_push(uint32 buffer, uint32 entry, bool published)
{
	/* Counted first: whoever has waited for the push (legobase_drain) sees it counted. */
	StatsCount(published ? STAT_PUSHED_PAGES : STAT_DROPPED_PUSHES, 1);
	CommBufferNotSent(buffer);
	PageDirectoryPushEnded(entry, published);
	CommBufferRelease(buffer);
}

/* All pages that were sent or queued are given up: the files have them. */
static void
give_up_pushes(NodeLink *link)
{
	for (int i = 0; i < link->sent_count; i++)
	{
		for (uint32 k = 0; k < link->sent[i].count; k++)
			end_push(link->sent[i].buffers[k], link->sent[i].entries[k], false);
	}
	link->sent_count = 0;
	for (uint32 i = 0; i < link->queued_count; i++)
		end_push(link->queued_buffers[i], link->queued_entries[i], false);
	link->queued_count = 0;
}

void
NodeLinkQueuePush(NodeLink *link, uint32 buffer, uint32 entry)
{
	if (link->state != LINK_ATTACHED)
	{
		end_push(buffer, entry, false);
		return;
	}
	link->queued_buffers[link->queued_count] = buffer;
	link->queued_entries[link->queued_count] = entry;
	link->queued_count++;
}

bool
NodeLinkIdle(const NodeLink *link)
{
	return link->state == LINK_ATTACHED && !lb_stream_wants_write(link->stream);
}

bool
NodeLinkCanSend(const NodeLink *link)
{
	return link->state == LINK_ATTACHED && link->sent_count < PUSHES_OUTSTANDING;
}

/* Move up to a batch from the queue into *push, and describe it in *batch. */
static void
fill_batch(NodeLink *link, SentPush *push, lb_push_batch *batch, struct iovec *pages)
{
	uint32 count = Min(link->queued_count, LB_BATCH_MAX);

	for (uint32 i = 0; i < count; i++)
	{
		uint32 buffer = link->queued_buffers[i];
		uint32 number = link->queued_entries[i];
		const PageDirectoryEntry *entry = PageDirectoryEntryAt(number);
		lb_slot_ref slot;

		/* The entry does not change while its push is under way, linked or not. */
		(void) SlabTableSlot(number, &slot);
		batch->pushes[i] = (lb_push){.slab = slot.slab,
									 .page = slot.page,
									 .tag = entry->tag,
									 .version = entry->version,
									 .checksum = entry->checksum,
									 .buffer = buffer};
		pages[i] = (struct iovec){.iov_base = CommBufferPage(buffer), .iov_len = LB_PAGE_SIZE};
		push->buffers[i] = buffer;
		push->entries[i] = number;
	}
	batch->count = push->count = count;
	link->queued_count -= count;
	memmove(link->queued_buffers, link->queued_buffers + count,
			link->queued_count * sizeof(uint32));
	memmove(link->queued_entries, link->queued_entries + count,
			link->queued_count * sizeof(uint32));
}

void
NodeLinkSendPushes(NodeLink *link)
{
	static lb_push_batch batch;
	static uint8 body[LB_BODY_MAX];
	struct iovec pages[LB_BATCH_MAX];
	lb_status status;

	while (link->queued_count > 0 && NodeLinkCanSend(link))
	{
		SentPush *push = &link->sent[link->sent_count];
		bool inline_pages = link->uri.transport == LB_TRANSPORT_TCP;

		fill_batch(link, push, &batch, pages);
		push->sequence = ++link->sequence;
		push->sent_at = lb_now_ns();
		link->sent_count++; /* from here on link_lost() ends these pushes */
		(void) LB_FAULT("agent.push");
		if (!lb_stream_send(link->stream, LB_PUSH, push->sequence, body,
							lb_encode_push(body, &batch), pages,
							inline_pages ? (int) batch.count : 0, -1, &status))
		{
			link_lost(link, status.message);
			return;
		}
	}
}

static bool
handle_push_ack(NodeLink *link, const lb_frame *frame)
{
	SentPush *push = &link->sent[0];
	lb_push_ack ack;

	if (link->sent_count == 0 || frame->header.sequence != push->sequence ||
		!lb_decode_push_ack(frame->body, frame->header.body_length, &ack) ||
		ack.count != push->count)
		return false;
	(void) LB_FAULT("agent.acknowledged");
	for (uint32 i = 0; i < ack.count; i++)
	{
		bool good = ack.results[i] == LB_PUSH_PUBLISHED;

		if (ack.results[i] == LB_PUSH_BAD_CHECKSUM)
			StatsCount(STAT_CHECKSUM_FAILURES, 1);
		NodeTableCountPushes(link->node, good ? 1 : 0);
		end_push(push->buffers[i], push->entries[i], good);
	}
	StatsWriteTime(TIER_REMOTE, lb_now_ns() - push->sent_at);
	link->sent_count--;
	link->sent[1].sent_at = lb_now_ns(); /* it was only waiting its turn */
	memmove(&link->sent[0], &link->sent[1], link->sent_count * sizeof(SentPush));
	return true;
}

/* ---- being lost, and forgetting ---- */

static void
close_connection(NodeLink *link)
{
	if (link->connecting_fd >= 0)
		close(link->connecting_fd);
	link->connecting_fd = -1;
	if (link->stream)
		lb_stream_close(link->stream);
	link->stream = NULL;
	link->ping_sequence = 0;
	link->slab_request_at = 0;
	link->refused_slabs_until = 0;
}

static void
retry_later(NodeLink *link, int at_least_ms)
{
	int ms = Min(RETRY_MS_MIN << Min(link->failures, 10), RETRY_MS_MAX);

	link->failures++;
	link->state = LINK_WAITING;
	link->next_attempt = lb_now_ns() + (uint64) Max(ms, at_least_ms) * MS_NS;
}

/* The node can't be attached to just now. */
static void
attempt_failed(NodeLink *link, const char *reason, int retry_at_least_ms)
{
	close_connection(link);
	NodeTableSetError(link->node, reason);
	if (!link->complained)
		ereport(LOG, (errmsg("legobase: memory node \"%s\" is not available: %s", link->uri.text,
							 reason),
					  errdetail("Its part of the remote pool is not used until it is. It is tried "
								"again all the time.")));
	link->complained = true;
	retry_later(link, retry_at_least_ms);
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
static void
continue_draining(NodeLink *link)
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
	retry_later(link, 0);
}

/* An attached node is lost. Everything there was clean: reads and writes go on from the files. */
static void
link_lost(NodeLink *link, const char *reason)
{
	Assert(link->state == LINK_ATTACHED);
	ereport(LOG, (errmsg("legobase: memory node \"%s\" is lost: %s", link->uri.text, reason),
				  errdetail("Its pages were clean: they are read from storage. The node is used "
							"again as soon as it answers.")));
	link->complained = true;
	NodeTableSetError(link->node, reason);
	NodeTableSetState(link->node, NODE_LOST);
	close_connection(link);
	drain_node(link);
	give_up_pushes(link);
	link->state = LINK_DRAINING;
	link->attached_or_lost_at = lb_now_ns();
	continue_draining(link);
}

void
NodeLinkShutdown(NodeLink *link)
{
	if (link->state == LINK_ATTACHED)
	{
		NodeTableSetState(link->node, NODE_LOST);
		drain_node(link);
		give_up_pushes(link);
		link->state = LINK_DRAINING;
	}
	close_connection(link);
	if (link->state == LINK_DRAINING)
		continue_draining(link);
}

/* ---- attaching ---- */

/* A host name is looked up rarely, because that may block; each time the next of its addresses is taken. */
static bool
resolve(NodeLink *link, lb_status *status)
{
	if (link->resolved && link->failures % RESOLVE_EVERY != 0)
		return true;
	link->resolved = lb_net_resolve_nth(&link->uri, (unsigned) link->failures / RESOLVE_EVERY,
										&link->address, status);
	return link->resolved;
}

/* Nobody listens at the embedded node's socket: start one, and say nothing until it has had its time to come up. */
static bool
start_embedded(NodeLink *link, lb_status *status)
{
	uint64 now = lb_now_ns();

	if (link->started_at != 0 && now < link->started_at + EMBEDDED_START_MS * MS_NS)
		return true;
	if (link->started_at != 0 && link->failures > 0)
	{
		/* It was started and did not come up: say so, and start over at the next attempt. */
		link->started_at = 0;
		return lb_fail(status, LB_SYSTEM,
					   "it was started, but does not answer; see \"%s/%smemnode.log\"",
					   INSTANCE_FOLDER, INSTANCE_PREFIX);
	}
	link->started_at = now;
	return embedded_node_start(status);
}

static void
start_attempt(NodeLink *link)
{
	lb_status status;

	if (resolve(link, &status))
		link->connecting_fd = lb_net_connect_start(&link->address, &status);
	link->deadline = lb_now_ns() + timeout_ns();
	if (link->connecting_fd >= 0)
		link->state = LINK_CONNECTING;
	else if (settings_embedded() && start_embedded(link, &status))
		retry_later(link, 0);
	else
		attempt_failed(link, status.message, 0);
}

static void
make_hello(NodeLink *link, lb_role role, lb_hello *hello)
{
	char host[100];

	memset(hello, 0, sizeof(*hello));
	hello->version_min = hello->version_max = LB_PROTOCOL_VERSION;
	hello->role = role;
	hello->take_over = role == LB_ROLE_AGENT && NodeTableMayTakeOver(link->node);
	hello->page_size = LB_PAGE_SIZE;
	hello->system_identifier = GetSystemIdentifier();
	memcpy(hello->uuid, link->instance->uuid, LB_UUID_SIZE);
	hello->epoch = link->epoch;
	hello->token = link->token;
	if (gethostname(host, sizeof(host)) != 0)
		strlcpy(host, "unknown host", sizeof(host));
	host[sizeof(host) - 1] = '\0';
	snprintf(hello->holder, sizeof(hello->holder), "%s, process %d, %s", host, PostmasterPid,
			 DataDir);
}

static void
greet(NodeLink *link)
{
	lb_status status;
	lb_hello hello;
	uint8 body[LB_BODY_MAX];
	int fd = link->connecting_fd;

	if (!lb_net_connected(fd, &status))
	{
		attempt_failed(link, status.message, 0);
		return;
	}
	link->connecting_fd = -1;
	link->stream = lb_stream_create(fd, OUTPUT_LIMIT, &status);
	if (link->stream == NULL)
	{
		attempt_failed(link, status.message, 0);
		return;
	}

	if (!InstanceRaiseEpoch(link->instance, 0, &status))
	{
		attempt_failed(link, status.message, 0);
		return;
	}
	link->epoch = link->instance->epoch;
	make_hello(link, LB_ROLE_AGENT, &hello);
	link->deadline = lb_now_ns() + timeout_ns();
	if (!lb_stream_send(link->stream, LB_HELLO, ++link->sequence, body,
						lb_encode_hello(body, &hello), NULL, 0, -1, &status))
		attempt_failed(link, status.message, 0);
}

/* The node on this host pulls from our comm buffers: give it their memory. */
static bool
pass_comm_buffers(NodeLink *link, lb_status *status)
{
	lb_comm_region region;
	uint8 body[LB_BODY_MAX];
	int fd = CommBufferRegion(&region);

	return lb_stream_send(link->stream, LB_COMM_BUFFERS, ++link->sequence, body,
						  lb_encode_comm_region(body, &region), NULL, 0, fd, status);
}

/* Two addresses may lead to one memory node, which then has to choose between two agents of one server. */
static bool
is_used_twice(const NodeLink *link, const lb_welcome *welcome)
{
	for (int other = 0; other < NodeTableCount(); other++)
	{
		if (other != link->node && NodeTableIncarnation(other) == welcome->incarnation)
			return true;
	}
	return false;
}

static void
attach(NodeLink *link, const lb_welcome *welcome)
{
	lb_status status;
	lb_hello backend_hello;

	if (is_used_twice(link, welcome))
	{
		attempt_failed(link, "it is one of the other memory nodes, under another address",
					   RETRY_MS_HELD);
		return;
	}
	link->token = welcome->token;
	link->incarnation = welcome->incarnation;
	if (link->uri.transport == LB_TRANSPORT_SHM && !pass_comm_buffers(link, &status))
	{
		attempt_failed(link, status.message, 0);
		return;
	}
	make_hello(link, LB_ROLE_BACKEND, &backend_hello);
	link->capacity_pages = welcome->capacity_pages;
	link->state = LINK_ATTACHED;
	link->failures = 0;
	link->started_at = 0;
	link->complained = false;
	link->complained_of_holder = false;
	link->heard_at = link->ping_at = lb_now_ns();
	link->attached_or_lost_at = link->heard_at;
	NodeTableSetUp(link->node, &link->address, &backend_hello, welcome);
	ereport(LOG,
			(errmsg("legobase: attached to memory node \"%s\", which offers " UINT64_FORMAT " MB",
					link->uri.text, welcome->free_pages / (1024 * 1024 / LB_PAGE_SIZE))));
}

/* Rule R10: whoever has been replaced must not go on writing. */
static void
panic_replaced(const NodeLink *link, const lb_error *error)
{
	ereport(PANIC,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("legobase: another server has taken over this instance at memory node \"%s\"",
					link->uri.text),
			 errdetail("%s. The epoch in force is " UINT64_FORMAT
					   ", this server's was " UINT64_FORMAT ".",
					   error->message, error->epoch, link->epoch),
			 errhint("Two servers must never write to the same data directory. Stop this one.")));
}

/* The node refused the attachment. */
static void
handle_refusal(NodeLink *link, const lb_error *error)
{
	lb_status status;

	if (error->error == LB_ERR_EPOCH && link->token != 0)
		panic_replaced(link, error);
	if (error->error == LB_ERR_EPOCH && InstanceRaiseEpoch(link->instance, error->epoch, &status))
	{
		/* It knows a higher epoch than our file. Ours is above it now; if there is a live holder, that will be said next. */
		close_connection(link);
		retry_later(link, 0);
		return;
	}
	if (error->error == LB_ERR_HELD && !link->complained_of_holder)
	{
		ereport(LOG,
				(errmsg("legobase: memory node \"%s\" refused this server: its instance is held by "
						"another one",
						link->uri.text),
				 errdetail("%s.", error->message),
				 errhint("If the data directory is a copy, remove \"%s\" from it. If this server "
						 "is to replace the other one, set \"legobase.take_over\" and restart.",
						 INSTANCE_FOLDER)));
		link->complained = link->complained_of_holder = true;
	}
	attempt_failed(link, error->message, RETRY_MS_HELD);
}

/* ---- frames of an attached node ---- */

static bool
handle_grant(NodeLink *link, const lb_frame *frame)
{
	lb_slab_list list;

	if (link->slab_request_at == 0 ||
		!lb_decode_slab_list(frame->body, frame->header.body_length, &list))
		return false;
	link->slab_request_at = 0;
	for (uint32 i = 0; i < list.count; i++)
	{
		if (!SlabTableAdd(link->node, list.slabs[i]))
			NodeLinkReturnSlab(link, list.slabs[i]); /* the pool has shrunk since we asked */
	}
	if (list.count == 0)
		link->refused_slabs_until = lb_now_ns() + SLAB_RETRY_MS * MS_NS;
	return true;
}

static void
handle_pong(NodeLink *link, const lb_frame *frame)
{
	if (frame->header.sequence != link->ping_sequence)
		return;
	link->ping_sequence = 0;
	if (link->ping_of_suspect && NodeTableState(link->node) == NODE_SUSPECT)
		NodeTableSetState(link->node, NODE_UP);
}

static void
handle_error(NodeLink *link, const lb_frame *frame)
{
	lb_error error;

	if (!lb_decode_error(frame->body, frame->header.body_length, &error))
	{
		link_lost(link, "it sent an error that could not be read");
		return;
	}
	if (error.error == LB_ERR_EPOCH)
		panic_replaced(link, &error);
	link_lost(link, error.message);
}

static void
handle_attached(NodeLink *link, const lb_frame *frame)
{
	bool good = true;

	switch (frame->header.type)
	{
		case LB_PUSH_ACK:
			good = handle_push_ack(link, frame);
			break;
		case LB_SLAB_GRANT:
			good = handle_grant(link, frame);
			break;
		case LB_PONG:
			handle_pong(link, frame);
			break;
		case LB_ERROR:
			handle_error(link, frame);
			break;
		default:
			good = false;
	}
	if (!good)
		link_lost(link,
				  psprintf("it sent an unexpected %s", lb_frame_type_name(frame->header.type)));
}

static void
handle_greeting(NodeLink *link, const lb_frame *frame)
{
	lb_welcome welcome;
	lb_error error;

	if (frame->header.type == LB_WELCOME &&
		lb_decode_welcome(frame->body, frame->header.body_length, &welcome) &&
		welcome.version == LB_PROTOCOL_VERSION)
		attach(link, &welcome);
	else if (frame->header.type == LB_ERROR &&
			 lb_decode_error(frame->body, frame->header.body_length, &error))
		handle_refusal(link, &error);
	else
		attempt_failed(link, "it does not speak this protocol", 0);
}

/* Whatever the link is doing, its connection is of no use any more. */
static void
connection_failed(NodeLink *link, const char *reason)
{
	if (link->state == LINK_ATTACHED)
		link_lost(link, reason);
	else if (link->state == LINK_CONNECTING)
		attempt_failed(link, reason, 0);
}

static void
receive(NodeLink *link)
{
	lb_status status;
	lb_frame frame;
	bool open = lb_stream_fill(link->stream, 0, &status);
	int got = 0;

	/* A node that is about to close says why first: what has come is read in any case. */
	while (link->stream != NULL)
	{
		lb_status frame_status;

		got = lb_stream_next(link->stream, &frame, &frame_status);
		if (got < 0)
			connection_failed(link, frame_status.message);
		if (got <= 0)
			break;
		if (frame.fd >= 0)
			close(frame.fd);
		link->heard_at = lb_now_ns();
		if (link->state == LINK_ATTACHED)
			handle_attached(link, &frame);
		else
			handle_greeting(link, &frame);
	}
	if (!open && link->stream != NULL)
		connection_failed(link, status.message);
}

void
NodeLinkReady(NodeLink *link, uint32 events)
{
	lb_status status;

	if (link->connecting_fd >= 0)
	{
		greet(link);
		return;
	}
	if ((events & WL_SOCKET_WRITEABLE) && link->stream && !lb_stream_flush(link->stream, &status))
		connection_failed(link, status.message);
	if ((events & WL_SOCKET_READABLE) && link->stream)
		receive(link);
}

pgsocket
NodeLinkSocket(const NodeLink *link, uint32 *events)
{
	if (link->connecting_fd >= 0)
	{
		*events = WL_SOCKET_WRITEABLE;
		return link->connecting_fd;
	}
	if (link->stream == NULL)
		return PGINVALID_SOCKET;
	*events = WL_SOCKET_READABLE | (lb_stream_wants_write(link->stream) ? WL_SOCKET_WRITEABLE : 0);
	return lb_stream_fd(link->stream);
}

/* ---- requests and time limits ---- */

static bool
send_request(NodeLink *link, lb_frame_type type, const void *body, size_t length)
{
	lb_status status;

	if (lb_stream_send(link->stream, type, ++link->sequence, body, length, NULL, 0, -1, &status))
		return true;
	link_lost(link, status.message);
	return false;
}

void
NodeLinkRequestSlabs(NodeLink *link, uint32 count)
{
	lb_slab_request request = {.slab_pages = SlabTablePages(),
							   .count = Min(count, LB_SLABS_PER_FRAME)};
	uint8 body[LB_BODY_MAX];

	if (link->state != LINK_ATTACHED || link->slab_request_at != 0 ||
		lb_now_ns() < link->refused_slabs_until)
		return;
	if (send_request(link, LB_SLAB_REQUEST, body, lb_encode_slab_request(body, &request)))
		link->slab_request_at = lb_now_ns();
}

void
NodeLinkReturnSlab(NodeLink *link, uint32 node_slab)
{
	lb_slab_list list = {.count = 1, .slabs = {node_slab}};
	uint8 body[LB_BODY_MAX];

	if (link->state == LINK_ATTACHED)
		(void) send_request(link, LB_SLAB_RETURN, body, lb_encode_slab_list(body, &list));
}

void
NodeLinkRelease(NodeLink *link, const lb_release_batch *batch)
{
	uint8 body[LB_BODY_MAX];

	if (link->state == LINK_ATTACHED)
		(void) send_request(link, LB_RELEASE, body, lb_encode_release(body, batch));
}

static void
ping(NodeLink *link, uint64 now)
{
	link->ping_of_suspect = NodeTableState(link->node) == NODE_SUSPECT;
	if (send_request(link, LB_PING, NULL, 0))
	{
		link->ping_sequence = link->sequence;
		link->ping_at = now;
	}
}

/* What does an attached node owe an answer to for too long? Null: nothing. */
static const char *
overdue(const NodeLink *link, uint64 now)
{
	uint64 limit = timeout_ns();

	if ((link->sent_count > 0 && now > link->sent[0].sent_at + limit) ||
		(link->ping_sequence != 0 && now > link->ping_at + limit))
		return "it did not answer in time";
	if (link->slab_request_at != 0 && now > link->slab_request_at + SLAB_TIMEOUT_MS * MS_NS)
		return "it did not answer a request for memory in time";
	return NULL;
}

static void
check_answers(NodeLink *link, uint64 now)
{
	bool suspect = NodeTableState(link->node) == NODE_SUSPECT;

	/* The answer may be here, and we late. */
	if (overdue(link, now))
		receive(link);
	if (link->state != LINK_ATTACHED)
		return;
	if (overdue(link, now))
		link_lost(link, overdue(link, now));
	else if (link->ping_sequence == 0 && (suspect || now > link->ping_at + PING_MS * MS_NS))
		ping(link, now);
}

/* The same for a link that is being attached. */
static void
check_attempt(NodeLink *link, uint64 now)
{
	if (now <= link->deadline)
		return;
	if (link->stream)
		receive(link);
	if (link->state == LINK_CONNECTING)
		attempt_failed(link, "it did not answer in time", 0);
}

void
NodeLinkForgive(NodeLink *link, uint64 standstill_ns)
{
	for (int i = 0; i < link->sent_count; i++)
		link->sent[i].sent_at += standstill_ns;
	link->ping_at += standstill_ns;
	link->deadline += standstill_ns;
	if (link->slab_request_at != 0)
		link->slab_request_at += standstill_ns;
}

void
NodeLinkTick(NodeLink *link, uint64 now)
{
	switch (link->state)
	{
		case LINK_WAITING:
			if (now >= link->next_attempt)
				start_attempt(link);
			break;
		case LINK_CONNECTING:
			check_attempt(link, now);
			break;
		case LINK_ATTACHED:
			check_answers(link, now);
			break;
		case LINK_DRAINING:
			continue_draining(link);
			break;
	}
}
