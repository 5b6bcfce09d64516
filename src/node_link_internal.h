/*
 * node_link_internal.h
 *	  What the files of a link share; see node_link.h.
 */
#ifndef LEGOBASE_NODE_LINK_INTERNAL_H
#define LEGOBASE_NODE_LINK_INTERNAL_H

#include "lb_clock.h"
#include "node_link.h"
#include "settings.h"

#define MS_NS UINT64_C(1000000)

#define RETRY_MS_HELD 5000 /* a person has to see to it: another server holds the instance, say */

/* Without a connection, frames that wait to be sent are at most these. */
#define LINK_OUTPUT_LIMIT \
	(PUSHES_OUTSTANDING * (LB_BULK_MAX + LB_BODY_MAX + LB_HEADER_SIZE) + 65536)

/* Is there a connection over which more than HELLO has gone? */
static inline bool
link_connected(const NodeLink *link)
{
	return link->state == LINK_ATTACHED || link->state == LINK_RELOADING ||
		   link->state == LINK_RELOADED;
}

static inline uint64
link_timeout_ns(void)
{
	return (uint64) node_timeout_ms * MS_NS;
}

/* node_link.c: handle what has come; send a frame over an attached link (false: the connection broke, and was dealt with). */
extern void link_receive(NodeLink *link);
extern bool link_send(NodeLink *link, lb_frame_type type, const void *body, size_t length);

/* node_attach.c: waiting, connecting, resuming. */
extern void attach_tick(NodeLink *link, uint64 now);
extern void attach_greet(NodeLink *link);
extern void attach_received(NodeLink *link, const lb_frame *frame);
extern void attach_failed(NodeLink *link, const char *reason);
extern bool attach_keep_slabs(NodeLink *link, lb_status *status);
extern void attach_accepted(NodeLink *link, const lb_welcome *welcome);
extern void attach_complete(NodeLink *link, const lb_welcome *welcome);
extern void attach_failed_retry(NodeLink *link, const char *reason, int retry_at_least_ms);
extern void link_retry_later(NodeLink *link, int at_least_ms);
extern void link_panic_replaced(const NodeLink *link, const lb_error *error)
	pg_attribute_noreturn();

/* node_loss.c */
extern void link_close(NodeLink *link);
extern void link_resume(NodeLink *link);                     /* begin resuming, at once */
extern void link_resume_longer(NodeLink *link);              /* resuming: it answers, but not now */
extern void link_broken(NodeLink *link, const char *reason); /* an attached link's connection */
extern void link_complained(NodeLink *link,
							const char *reason); /* by an ERROR or a senseless frame */
extern void link_not_resumed(NodeLink *link, const char *reason);
extern void link_continue_draining(NodeLink *link);
extern void link_continue_fencing(NodeLink *link, uint64 now);

/* node_push.c */
extern bool push_acknowledged(NodeLink *link, const lb_frame *frame);
extern void push_requeue_sent(NodeLink *link);
extern void push_give_up_all(NodeLink *link);

/* node_flush.c. Handlers return false for a frame that makes no sense. */
extern void flush_attached(NodeLink *link, bool resumed);
extern bool flush_proof_due(NodeLink *link); /* an answer, or room for a request, is waited for */
extern void flush_tick(NodeLink *link, uint64 now);
extern void flush_proof_void(NodeLink *link);
extern bool flush_received(NodeLink *link, const lb_frame *frame);

/* node_reload.c. reload_begin: the node has the pages of the former life. reload_failed: they are discarded; attach anew. */
extern void reload_begin(NodeLink *link, const lb_welcome *welcome);
extern void reload_tick(NodeLink *link, uint64 now);
extern bool reload_received(NodeLink *link, const lb_frame *frame);
extern void reload_failed(NodeLink *link, const char *reason);

/* node_rdma.c. rdma_continue and rdma_check may end the connection, and deal with that. */
extern bool rdma_possible(lb_status *status); /* as far as this host goes */
extern void rdma_attempt_failed(NodeLink *link, const lb_status *status);
extern void rdma_open(NodeLink *link, const lb_welcome *welcome);
extern void rdma_received(NodeLink *link, const lb_frame *frame); /* while opening and joining */
extern void rdma_continue(NodeLink *link);                        /* if it is joining */
extern void rdma_check(NodeLink *link);                           /* if it has joined */
extern void rdma_close(NodeLink *link);
extern void rdma_describe_buffers(const NodeLink *link, lb_comm_region *region);

/* node_control.c */
extern void control_attached(NodeLink *link, bool resumed);
extern void control_name_start(NodeLink *link);
extern bool control_scan(NodeLink *link); /* go on; true: the node was told of every slot */
extern bool control_received(NodeLink *link, const lb_frame *frame);

#endif /* LEGOBASE_NODE_LINK_INTERNAL_H */
