/*
 * node_attach.c
 *	  Attaching to a memory node, and resuming an attachment whose connection broke.
 *
 * A new attachment begins with nothing: the node frees whatever it had of this instance. To resume, HELLO names the
 * incarnation whose memory we want to go on with; the node either says that all of it is there, or it is lost. A new life of the server
 * asks for whatever its former life has left (node_reload.c), in its first attempt alone: whoever waits for the gate waits for that.
 */
#include "postgres.h"

#include <sys/socket.h>
#include <unistd.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/latch.h"

#include "comm_buffer.h"
#include "embedded_node.h"
#include "lb_fault.h"
#include "node_link_internal.h"
#include "node_table.h"
#include "page_directory.h"
#include "pool_reload.h"
#include "slab_table.h"
#include "storage_fence.h"

#define RETRY_MS_MIN 100
#define RETRY_MS_MAX 2000
#define RETRY_MS_RESUMING 50   /* processes wait for this */
#define EMBEDDED_START_MS 5000 /* an embedded node that has not come up by then is started again */
#define RESOLVE_EVERY 16       /* failures until a host name is looked up again */

void
link_retry_later(NodeLink *link, int at_least_ms)
{
	int ms = Min(RETRY_MS_MIN << Min(link->failures, 10), RETRY_MS_MAX);

	link->failures++;
	link->life_wanted = false;
	link->state = LINK_WAITING;
	link->next_attempt = lb_now_ns() + (uint64) Max(ms, at_least_ms) * MS_NS;
}

/* The node can't be attached to just now. */
void
attach_failed_retry(NodeLink *link, const char *reason, int retry_at_least_ms)
{
	NodeTableSetError(link->node, reason);
	if (link->state == LINK_RESUMING)
	{
		strlcpy(link->reason, reason, sizeof(link->reason));
		link_close(link);
		link->next_attempt = lb_now_ns() + RETRY_MS_RESUMING * MS_NS;
		return;
	}
	if (!link->complained)
		ereport(LOG, (errmsg("legobase: memory node \"%s\" is not available: %s", link->uri.text,
							 reason),
					  errdetail("Its part of the remote pool is not used until it is. It is tried "
								"again all the time.")));
	link->complained = true;
	link_close(link);
	link_retry_later(link, retry_at_least_ms);
}

void
attach_failed(NodeLink *link, const char *reason)
{
	attach_failed_retry(link, reason, 0);
}

/* A host name is looked up rarely, because that may block; each time the next of its addresses is taken. */
static bool
resolve(NodeLink *link, lb_status *status)
{
	if (link->resolved && (link->state == LINK_RESUMING || link->failures % RESOLVE_EVERY != 0))
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

/*
 * Where nobody listens any more, the node's process has ended, and its memory with it: to wait longer would be in vain. errno is that
 * of the attempt.
 */
static void
failed_to_connect(NodeLink *link, const lb_status *status)
{
	bool gone = errno == ECONNREFUSED || errno == ENOENT;
	uint64 now = lb_now_ns();

	if (!gone)
		link->refused_since = 0;
	else if (link->refused_since == 0)
		link->refused_since = now;
	if (link->state == LINK_RESUMING && gone && now > link->refused_since + link_timeout_ns())
		link_not_resumed(link, status->message);
	else
		attach_failed(link, status->message);
}

static void
start_attempt(NodeLink *link)
{
	bool resuming = link->state == LINK_RESUMING;
	lb_status status;

	/* Looked at first: the node need not be bothered each time. */
	if (link->uri.transport == LB_TRANSPORT_RDMA && !rdma_possible(&status))
	{
		rdma_attempt_failed(link, &status);
		return;
	}
	if (resolve(link, &status))
		link->connecting_fd = lb_net_connect_start(&link->address, &status);
	link->deadline = lb_now_ns() + link_timeout_ns();
	if (link->connecting_fd >= 0)
		link->state = resuming ? LINK_RESUMING : LINK_CONNECTING;
	else if (!resuming && settings_embedded() && start_embedded(link, &status))
		link_retry_later(link, 0);
	else
		failed_to_connect(link, &status);
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
	if (role == LB_ROLE_AGENT && link->state == LINK_RESUMING)
		hello->resume = link->incarnation;
	else if (role == LB_ROLE_AGENT && link->life_wanted)
		hello->resume = LB_RESUME_LIFE;
	if (gethostname(host, sizeof(host)) != 0)
		strlcpy(host, "unknown host", sizeof(host));
	host[sizeof(host) - 1] = '\0';
	snprintf(hello->holder, sizeof(hello->holder), "%s, process %d, %s", host, PostmasterPid,
			 DataDir);
}

void
attach_greet(NodeLink *link)
{
	lb_status status;
	lb_hello hello;
	uint8 body[LB_BODY_MAX];
	int fd = link->connecting_fd;

	if (!lb_net_connected(fd, &status))
	{
		failed_to_connect(link, &status);
		return;
	}
	link->connecting_fd = -1;
	link->stream = lb_stream_create(fd, LINK_OUTPUT_LIMIT, &status);
	if (link->stream == NULL || !StorageFenceRaiseEpoch(link->instance, 0, &status))
	{
		attach_failed(link, status.message);
		return;
	}
	link->epoch = link->instance->epoch;
	make_hello(link, LB_ROLE_AGENT, &hello);
	link->deadline = lb_now_ns() + link_timeout_ns();
	if (!lb_stream_send(link->stream, LB_HELLO, ++link->sequence, body,
						lb_encode_hello(body, &hello), NULL, 0, -1, &status))
		attach_failed(link, status.message);
}

/* A node that pulls from our comm buffers has to be given their memory, or to be told where it is. */
static bool
pass_comm_buffers(NodeLink *link, lb_status *status)
{
	lb_comm_region region;
	uint8 body[LB_BODY_MAX];
	int fd = CommBufferRegion(&region);

	if (link->uri.transport == LB_TRANSPORT_TCP)
		return true;
	if (link->uri.transport == LB_TRANSPORT_RDMA)
	{
		rdma_describe_buffers(link, &region);
		fd = -1;
	}
	return lb_stream_send(link->stream, LB_COMM_BUFFERS, ++link->sequence, body,
						  lb_encode_comm_region(body, &region), NULL, 0, fd, status);
}

/* Say which slabs we know. Others were granted or returned when the connection broke: the node frees them. */
bool
attach_keep_slabs(NodeLink *link, lb_status *status)
{
	lb_slab_keep keep;
	uint8 body[LB_BODY_MAX];

	memset(&keep, 0, sizeof(keep));
	for (uint32 slab = 0; slab < SlabTableCount(); slab++)
	{
		uint32 number;

		if (SlabTableState(slab) == SLAB_UNUSED || SlabTableNodeOf(slab, &number) != link->node ||
			number >= LB_SLAB_NUMBERS_MAX)
			continue;
		keep.bits[number / 8] |= 1 << number % 8;
		keep.bytes = Max(keep.bytes, number / 8 + 1);
	}
	return lb_stream_send(link->stream, LB_SLAB_KEEP, ++link->sequence, body,
						  lb_encode_slab_keep(body, &keep), NULL, 0, -1, status);
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

/* The process at the other end of a Unix socket, for legobase.fence_command; 0 if it is not on this host. */
static int
peer_process(const NodeLink *link)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	if (link->uri.transport != LB_TRANSPORT_SHM ||
		getsockopt(lb_stream_fd(link->stream), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
		return 0;
	return peer.pid;
}

/* The connection is made and everything told that has to be told first: the node is up. */
void
attach_complete(NodeLink *link, const lb_welcome *welcome)
{
	bool resumed = link->state == LINK_RESUMING;
	bool reloaded = link->state == LINK_RELOADED;
	lb_hello backend_hello;

	make_hello(link, LB_ROLE_BACKEND, &backend_hello);
	link->process = peer_process(link);
	link->state = LINK_ATTACHED;
	link->failures = 0;
	link->life_wanted = false;
	link->started_at = 0;
	link->complained = false;
	link->complained_of_holder = false;
	link->heard_at = link->ping_at = lb_now_ns();
	link->attached_or_lost_at = link->heard_at;
	NodeTableSetUp(link->node, &link->address, &backend_hello, welcome, link->process);
	if (resumed)
		ereport(LOG, (errmsg("legobase: resumed the attachment to memory node \"%s\", which has "
							 "kept everything",
							 link->uri.text)));
	else
		ereport(LOG, (errmsg("legobase: attached to memory node \"%s\", which offers " UINT64_FORMAT
							 " MB",
							 link->uri.text, welcome->free_pages / (1024 * 1024 / LB_PAGE_SIZE))));
	if (welcome->capacity_pages < SlabTablePages())
		ereport(LOG, (errmsg("legobase: memory node \"%s\" is not used: it has less than one slab "
							 "of %u MB for this server",
							 link->uri.text, SlabTablePages() / (1024 * 1024 / LB_PAGE_SIZE)),
					  errhint("Give it more memory, or lower \"legobase.max_remote_pool_size\", on "
							  "which the size of a slab depends.")));
	if (!reloaded)
		flush_attached(link, resumed);
	control_attached(link, resumed);
}

/* The node has accepted us, and the way that pages take is open. */
void
attach_accepted(NodeLink *link, const lb_welcome *welcome)
{
	lb_status status;

	if (!pass_comm_buffers(link, &status) ||
		(link->state == LINK_RESUMING && !attach_keep_slabs(link, &status)))
		attach_failed(link, status.message);
	else if (link->life_wanted && welcome->resumed)
		reload_begin(link, welcome);
	else
		attach_complete(link, welcome);
}

static void
welcomed(NodeLink *link, const lb_welcome *welcome)
{
	bool resuming = link->state == LINK_RESUMING;

	if (resuming && welcome->incarnation != link->incarnation)
	{
		link_not_resumed(link, "it is another process than before, and has none of the pages");
		return;
	}
	if (resuming && !welcome->resumed)
	{
		link_not_resumed(link, "it has not kept the pages");
		return;
	}
	if (is_used_twice(link, welcome))
	{
		attach_failed_retry(link, "it is one of the other memory nodes, under another address",
							RETRY_MS_HELD);
		return;
	}
	link->token = welcome->token;
	link->incarnation = welcome->incarnation;
	link->capacity_pages = welcome->capacity_pages;
	if (link->uri.transport == LB_TRANSPORT_RDMA)
		rdma_open(link, welcome);
	else
		attach_accepted(link, welcome);
}

/* Rule R10: whoever has been replaced must not go on writing. */
void
link_panic_replaced(const NodeLink *link, const lb_error *error)
{
	ereport(PANIC,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("legobase: another server has taken over this instance at memory node \"%s\"",
					link->uri.text),
			 errdetail("%s. The epoch in force is " UINT64_FORMAT
					   ", this server's was " UINT64_FORMAT ".",
					   error->message, error->epoch, link->epoch),
			 errhint("Two servers must never write to the same data directory. Stop this one.")));
	pg_unreachable();
}

/* The node refused the attachment. */
static void
refused(NodeLink *link, const lb_error *error)
{
	lb_status status;

	if (error->error == LB_ERR_EPOCH && link->token != 0)
		link_panic_replaced(link, error);
	if (error->error == LB_ERR_EPOCH &&
		StorageFenceRaiseEpoch(link->instance, error->epoch, &status))
	{
		/*
		 * It knows a higher epoch than our file. Ours is above it now; if there is a live holder, that will be said next. Each epoch is in
		 * the file before a node hears of it: the file, and the data directory with it, are older than what the node has.
		 */
		if (link->life_wanted)
		{
			PoolReloadDiscardAll();
			ereport(LOG,
					(errmsg("legobase: the pages that memory node \"%s\" has kept are discarded: "
							"they are newer than the data directory",
							link->uri.text)));
		}
		link_close(link);
		link_retry_later(link, 0);
		return;
	}
	if (link->state == LINK_RESUMING && error->error != LB_ERR_LIMIT)
	{
		link_not_resumed(link, error->message);
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
	attach_failed_retry(link, error->message, RETRY_MS_HELD);
}

void
attach_received(NodeLink *link, const lb_frame *frame)
{
	lb_welcome welcome;
	lb_error error;

	if (link->rdma_state != LINK_RDMA_NONE)
		rdma_received(link, frame);
	else if (frame->header.type == LB_WELCOME &&
			 lb_decode_welcome(frame->body, frame->header.body_length, &welcome) &&
			 welcome.version == LB_PROTOCOL_VERSION)
		welcomed(link, &welcome);
	else if (frame->header.type == LB_ERROR &&
			 lb_decode_error(frame->body, frame->header.body_length, &error))
		refused(link, &error);
	else
		attach_failed(link, "it does not speak this protocol");
}

static void
continue_resuming(NodeLink *link, uint64 now)
{
	bool trying = link->connecting_fd >= 0 || link->stream != NULL;

	if (now > link->resume_until)
		link_not_resumed(link, trying ? "it did not answer in time" : link->reason);
	else if (trying && now > link->deadline)
		attach_failed(link, "it did not answer in time");
	else if (!trying && now >= link->next_attempt)
		start_attempt(link);
}

void
attach_tick(NodeLink *link, uint64 now)
{
	/* The answer may be here, and we late. */
	if (link->stream &&
		(now > link->deadline || (link->state == LINK_RESUMING && now > link->resume_until)))
		NodeLinkReady(link, WL_SOCKET_READABLE);
	switch (link->state)
	{
		case LINK_WAITING:
			/* A new life of the server begins only when no node can write for the former one any more. */
			if (now >= link->next_attempt && StorageFenceRaised())
				start_attempt(link);
			break;
		case LINK_CONNECTING:
			if (now > link->deadline)
				attach_failed(link, "it did not answer in time");
			break;
		case LINK_RESUMING:
			continue_resuming(link, now);
			break;
		default:
			break;
	}
}
