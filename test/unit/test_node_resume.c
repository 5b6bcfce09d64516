/*
 * test_node_resume.c
 *	  How long a memory node with dirty pages is waited for, whose connection broke: one that is silent, one that nobody listens at, and one
 *	  over rdma that answers, but has no queue pair to give.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "miscadmin.h"
#include "storage/procsignal.h"

#include "comm_buffer.h"
#include "node_link_internal.h"
#include "node_table.h"
#include "page_directory.h"
#include "slab_table.h"
#include "storage_fence.h"
#include "write_back.h"
#include "embedded_node.h"
#include "pool_reload.h"
#include "page_fence.h"

#define INCARNATION 77

/* --- the server, and the rest of the link ---------------------------------------------------------------------------- */

extern int fake_clock_gettime(clockid_t clock, struct timespec *now);
extern int fake_connect_start(const lb_address *address, lb_status *status);
extern bool fake_connected(int fd, lb_status *status);
extern bool fake_resolve_nth(const lb_uri *uri, unsigned number, lb_address *address,
							 lb_status *status);
extern bool fake_stream_send(lb_stream *stream, lb_frame_type type, uint64_t sequence,
							 const void *body, size_t body_length, const struct iovec *bulk,
							 int bulk_count, int pass_fd, lb_status *status);
extern bool fake_may_lock(uint64_t bytes, lb_status *status);

int node_timeout_ms = 1000;
char *DataDir = "data";
pid_t PostmasterPid = 1;

static uint64 now_ms;
static NodeLink agents_link;
static Instance instance;
static lb_frame_type sent; /* the last frame that went to the node, or 0 */
static int peer = -1;      /* the node's end of the connection */
static int attempts;
static bool nobody_listens;

int
fake_clock_gettime(clockid_t clock, struct timespec *now)
{
	now->tv_sec = now_ms / 1000;
	now->tv_nsec = now_ms % 1000 * 1000000;
	return 0;
}

int
fake_connect_start(const lb_address *address, lb_status *status)
{
	int ends[2];

	attempts++;
	if (nobody_listens)
	{
		errno = ECONNREFUSED;
		lb_fail(status, LB_CLOSED, "connection refused");
		errno = ECONNREFUSED;
		return -1;
	}
	if (peer >= 0)
		close(peer);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	peer = ends[1];
	return ends[0];
}

bool
fake_connected(int fd, lb_status *status)
{
	return true;
}

bool
fake_resolve_nth(const lb_uri *uri, unsigned number, lb_address *address, lb_status *status)
{
	return true;
}

bool
fake_stream_send(lb_stream *stream, lb_frame_type type, uint64_t sequence, const void *body,
				 size_t body_length, const struct iovec *bulk, int bulk_count, int pass_fd,
				 lb_status *status)
{
	sent = type;
	return true;
}

bool
fake_may_lock(uint64_t bytes, lb_status *status)
{
	return true;
}

/* Pages are there that nobody else has. */
uint32
PageDirectoryDirtyOfNode(int node)
{
	return 5;
}

bool
StorageFenceRaiseEpoch(Instance *raised, uint64 at_least, lb_status *status)
{
	return true;
}

bool
StorageFenceRaised(void)
{
	return true;
}

int
NodeTableCount(void)
{
	return 1;
}

/* What else is called, and does nothing here. */

int
CommBufferRegion(lb_comm_region *region)
{
	memset(region, 0, sizeof(*region));
	return -1;
}

char *
CommBufferPage(uint32 buffer)
{
	return NULL;
}

uint32
SlabTableCount(void)
{
	return 0;
}

void
NodeTableSetError(int node, const char *message)
{
}

void
NodeTableSetState(int node, NodeState state)
{
}

bool
NodeTableMayTakeOver(int node)
{
	return false;
}

uint64
GetSystemIdentifier(void)
{
	return 1;
}

void
push_requeue_sent(NodeLink *link)
{
}

/* What is never called here. */

#define NEVER fail_msg("%s was called", __func__)

char *
psprintf(const char *format, ...)
{
	NEVER;
	return NULL;
}

uint64
EmitProcSignalBarrier(ProcSignalBarrierType type)
{
	NEVER;
	return 0;
}

SlabState
SlabTableState(uint32 slab)
{
	NEVER;
	return SLAB_UNUSED;
}

int
SlabTableNodeOf(uint32 slab, uint32 *node_slab)
{
	NEVER;
	return 0;
}

uint32
SlabTablePages(void)
{
	return 1024;
}

void
SlabTableDrain(uint32 slab)
{
	NEVER;
}

bool
SlabTableDrained(uint32 slab)
{
	NEVER;
	return false;
}

void
SlabTableRemove(uint32 slab)
{
	NEVER;
}

bool
StorageFenceRunCommand(const char *uri, const char *host, int pid)
{
	NEVER;
	return false;
}

uint64
NodeTableIncarnation(int node)
{
	NEVER;
	return 0;
}

void
NodeTableSetUp(int node, const lb_address *address, const lb_hello *backend_hello,
			   const lb_welcome *welcome, int process)
{
	NEVER;
}

void
NodeTableAskUnmap(void)
{
	NEVER;
}

uint64
PageDirectoryForgetRange(uint32 from, uint32 to)
{
	NEVER;
	return 0;
}

bool
PageFenceAnyOpen(void)
{
	NEVER;
	return false;
}

void
WriteBackSetNode(int node, bool proven)
{
	NEVER;
}

void
PoolReloadDiscardAll(void)
{
	NEVER;
}

bool
embedded_node_start(lb_status *status)
{
	NEVER;
	return false;
}

int
settings_resume_ms(bool answering)
{
	return answering ? 70000 : 10000;
}

bool
settings_embedded(void)
{
	return false;
}

void
control_attached(NodeLink *link, bool resumed)
{
	NEVER;
}

void
flush_attached(NodeLink *link, bool resumed)
{
	NEVER;
}

bool
flush_received(NodeLink *link, const lb_frame *frame)
{
	NEVER;
	return false;
}

void
push_give_up_all(NodeLink *link)
{
	NEVER;
}

void
reload_begin(NodeLink *link, const lb_welcome *welcome)
{
	NEVER;
}

void
reload_failed(NodeLink *link, const char *reason)
{
	NEVER;
}

void
link_receive(NodeLink *link)
{
	NEVER;
}

/* Events of the connection are handed over by receive(). */
void
NodeLinkReady(NodeLink *link, uint32 events)
{
}

/* --- the node -------------------------------------------------------------------------------------------------------- */

typedef enum Conduct
{
	SILENT,        /* accepts connections, and says nothing */
	NO_QUEUE_PAIR, /* accepts us, and refuses RDMA_OPEN: it registers its memory */
	NO_DEVICE,     /* ... its device is away */
	NOBODY_LISTENS
} Conduct;

static void
receive(lb_frame_type type, uint64 sequence, const uint8 *body, size_t length)
{
	lb_frame frame;

	memset(&frame, 0, sizeof(frame));
	frame.header.type = type;
	frame.header.sequence = sequence;
	frame.header.body_length = length;
	frame.body = body;
	frame.fd = -1;
	attach_received(&agents_link, &frame);
}

static void
answer_hello(void)
{
	lb_welcome welcome;
	uint8 body[LB_BODY_MAX];

	memset(&welcome, 0, sizeof(welcome));
	welcome.version = LB_PROTOCOL_VERSION;
	welcome.incarnation = INCARNATION;
	welcome.token = 2;
	welcome.resumed = true;
	receive(LB_WELCOME, agents_link.sequence, body, lb_encode_welcome(body, &welcome));
}

static void
refuse_queue_pair(lb_wire_error code)
{
	lb_error error;
	uint8 body[LB_BODY_MAX];

	memset(&error, 0, sizeof(error));
	error.error = code;
	strlcpy(error.message, "not now", sizeof(error.message));
	receive(LB_ERROR, agents_link.rdma_sequence, body, lb_encode_error(body, &error));
}

/* One millisecond of the link's life with such a node. */
static void
live(Conduct conduct)
{
	nobody_listens = conduct == NOBODY_LISTENS;
	attach_tick(&agents_link, lb_now_ns());
	if (agents_link.connecting_fd >= 0)
		attach_greet(&agents_link);
	if (conduct == NO_QUEUE_PAIR || conduct == NO_DEVICE)
	{
		if (agents_link.stream && sent == LB_HELLO)
			answer_hello();
		if (agents_link.stream && sent == LB_RDMA_OPEN)
			refuse_queue_pair(conduct == NO_QUEUE_PAIR ? LB_ERR_LIMIT : LB_ERR_INTERNAL);
	}
	now_ms++;
}

/* The connection of an attached link with dirty pages breaks. */
static int
setup(void **state)
{
	memset(&agents_link, 0, sizeof(agents_link));
	agents_link.connecting_fd = -1;
	agents_link.uri.transport = LB_TRANSPORT_RDMA;
	agents_link.instance = &instance;
	agents_link.state = LINK_ATTACHED;
	agents_link.incarnation = INCARNATION;
	agents_link.token = 1;
	agents_link.may_write = true;
	now_ms = 1000000;
	attempts = 0;
	link_resume(&agents_link);
	return 0;
}

static int
teardown(void **state)
{
	link_close(&agents_link);
	if (peer >= 0)
		close(peer);
	peer = -1;
	return 0;
}

/* How long the node is waited for, in milliseconds, when it is so first for a while, and then otherwise. */
static uint64
given_up_after(Conduct first, uint64 for_ms, Conduct then)
{
	uint64 began = now_ms;

	while (agents_link.state == LINK_RESUMING && now_ms < began + 1000000)
		live(now_ms < began + for_ms ? first : then);
	assert_int_equal(agents_link.state, LINK_FENCING);
	return now_ms - began;
}

static void
expect_about(uint64 value, uint64 expected)
{
	assert_in_range(value, expected - 600, expected + 100); /* it is asked twice a second */
}

/* --- tests ----------------------------------------------------------------------------------------------------------- */

/* Ten times node_timeout */
static void
test_silent(void **state)
{
	expect_about(given_up_after(SILENT, 0, SILENT), 10000);
}

/* Its process has ended: once node_timeout */
static void
test_nobody_listens(void **state)
{
	expect_about(given_up_after(NOBODY_LISTENS, 0, NOBODY_LISTENS), 1000);
}

/* It answers, and has the pages: a minute more, and asked twice a second */
static void
test_registering(void **state)
{
	expect_about(given_up_after(NO_QUEUE_PAIR, 0, NO_QUEUE_PAIR), 70000);
	assert_in_range(attempts, 100, 145);
}

static void
test_device_away(void **state)
{
	expect_about(given_up_after(NO_DEVICE, 0, NO_DEVICE), 70000);
}

/* From its last answer on it has the time that any other has. */
static void
test_registering_then_silent(void **state)
{
	expect_about(given_up_after(NO_QUEUE_PAIR, 30000, SILENT), 40000);
}

/* Its process ends while it registers. */
static void
test_registering_then_gone(void **state)
{
	expect_about(given_up_after(NO_QUEUE_PAIR, 3000, NOBODY_LISTENS), 4000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_silent, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_listens, setup, teardown),
		cmocka_unit_test_setup_teardown(test_registering, setup, teardown),
		cmocka_unit_test_setup_teardown(test_device_away, setup, teardown),
		cmocka_unit_test_setup_teardown(test_registering_then_silent, setup, teardown),
		cmocka_unit_test_setup_teardown(test_registering_then_gone, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
