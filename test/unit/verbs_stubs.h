/*
 * verbs_stubs.h
 *	  An in-process stand-in for libibverbs and librdmacm: what src/rdma uses of them, so that it can be tested without a
 *	  device, with every failure there is.
 *
 * There are devices with an address each, and a fabric between them on which an active side and a listener of this process find
 * each other. A READ checks key, protection domain, bounds and access on both sides, as a device does, and copies. Channels are real
 * descriptors, that can be polled. The devices do what the manual pages allow them to do, at the worst moment: reads that are under
 * way write to their destinations for the last time when the queue pair gets into the error state.
 *
 * What must never be done (destroying what is in use, posting to memory that goes away, an event that was not acknowledged, ...) ends the
 * test. All functions may be called by several threads.
 */
#ifndef VERBS_STUBS_H
#define VERBS_STUBS_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>

/* Begin anew: two devices, which librdmacm has not opened yet, nothing injected. Everything must have been freed before. */
extern void stub_reset(void);

/* Devices there are, 0 to 2: "stub0" has 127.0.0.1 and ::1, "stub1" has 10.1.1.1. */
extern void stub_set_devices(int count);

/* ---- objects alive ---- */

typedef enum stub_object
{
	STUB_CHANNEL,
	STUB_ID,
	STUB_EVENT, /* taken, and not acknowledged */
	STUB_DOMAIN,
	STUB_REGION,
	STUB_CQ,
	STUB_COMP_CHANNEL,
	STUB_QP,
	STUB_DEVICE_LIST,
	STUB_OBJECTS /* one more than the last */
} stub_object;

extern int stub_alive(stub_object object);
extern int stub_all_alive(void);

/* What is alive, for a message. */
extern const char *stub_alive_text(void);

/* ---- failures of calls ---- */

/* Calls that can fail, all but those that destroy. */
#define STUB_CALLS                       \
	STUB_CALL(rdma_create_event_channel) \
	STUB_CALL(rdma_create_id)            \
	STUB_CALL(rdma_bind_addr)            \
	STUB_CALL(rdma_listen)               \
	STUB_CALL(rdma_resolve_addr)         \
	STUB_CALL(rdma_resolve_route)        \
	STUB_CALL(rdma_create_qp)            \
	STUB_CALL(rdma_connect)              \
	STUB_CALL(rdma_accept)               \
	STUB_CALL(rdma_reject)               \
	STUB_CALL(rdma_disconnect)           \
	STUB_CALL(rdma_get_cm_event)         \
	STUB_CALL(rdma_set_option)           \
	STUB_CALL(ibv_fork_init)             \
	STUB_CALL(ibv_get_device_list)       \
	STUB_CALL(ibv_query_device)          \
	STUB_CALL(ibv_alloc_pd)              \
	STUB_CALL(ibv_reg_mr)                \
	STUB_CALL(ibv_create_comp_channel)   \
	STUB_CALL(ibv_create_cq)             \
	STUB_CALL(ibv_req_notify_cq)         \
	STUB_CALL(ibv_get_cq_event)          \
	STUB_CALL(ibv_poll_cq)               \
	STUB_CALL(ibv_post_send)             \
	STUB_CALL(ibv_modify_qp)

typedef enum stub_call
{
#define STUB_CALL(name) CALL_##name,
	STUB_CALLS
#undef STUB_CALL
		CALLS /* one more than the last */
} stub_call;

extern const char *stub_call_name(stub_call call);

/*
 * From now on the n-th call (1 is the next) of this function fails with this errno. A post fails half way: the first half of its chain
 * was posted.
 */
extern void stub_fail(stub_call call, int n, int error);
extern bool stub_has_failed(void);      /* since stub_fail */
extern int stub_called(stub_call call); /* times, since stub_reset */

/* ---- events ---- */

#define STUB_NEVER ((enum rdma_cm_event_type) - 1)

/* In place of the next event of this type, this one comes with this status; or none, with STUB_NEVER. */
extern void stub_replace_event(enum rdma_cm_event_type type, enum rdma_cm_event_type by,
							   int status);

/* An event of this type for all identifiers of this side that have a queue pair. */
extern void stub_raise(enum rdma_cm_event_type type, bool active_side);

/* The device is gone: everybody on it hears so, work requests are flushed, and calls on it fail with EIO. */
extern void stub_remove_device(int number);

/*
 * It is back, as a device of its own. When librdmacm meets that one it closes the context of the former one, and frees it: at once, or with its
 * last identifier.
 */
extern void stub_return_device(int number);

/* It is of this kind, until stub_reset; InfiniBand and RoCE are one. */
extern void stub_set_transport(int number, enum ibv_transport_type transport);

/* Does this process have the device open? Once used it has, until the device is gone and its descriptors are closed. */
extern bool stub_device_is_open(int number);

/* ---- time ---- */

/* Destroying a queue pair, and deregistering memory, take so long from now on, in all threads but this one. */
extern void stub_take_time(unsigned milliseconds);

/* ---- reads ---- */

/* Reads that are under way, or posted from now on, don't complete, until they are withheld no longer. */
extern void stub_withhold(bool withhold);

/* The n-th read that is executed from now on (1 is the next) completes with this status, and breaks its queue pair. */
extern void stub_complete_with(int n, enum ibv_wc_status status);

typedef struct stub_reads
{
	unsigned posts; /* doorbells */
	unsigned work_requests;
	unsigned signalled;
	unsigned completions; /* that were polled */
} stub_reads;

extern stub_reads stub_get_reads(void); /* since stub_reset */
extern unsigned stub_reads_pending(void);

/* Work requests that there is room for in the send queues of all queue pairs. */
extern unsigned stub_send_room(void);

/* Queue pairs that are connected and let their peer write, or read. */
extern unsigned stub_qps_writable(void);
extern unsigned stub_qps_readable(void);

#endif /* VERBS_STUBS_H */
