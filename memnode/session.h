/*
 * session.h
 *	  One connection to the memory node, from accept to close.
 *
 *	  stranger --HELLO--> settled --(an ERROR that ends it)--> refused --(peer closes, or 2 s)--> closed
 *	      \__________________________________________________/
 *
 * A refused session gets its ERROR, and what it still sends is discarded until it closes: closing at once could
 * destroy the ERROR on its way (a reset overtakes data that was not read yet).
 *
 * Flow control: while an answer waits to be sent, nothing more is read from that peer. So one session costs at most one
 * answer of memory, and a peer that never reads is dropped by TCP_USER_TIMEOUT, or does no harm on a Unix socket.
 * An agent's answers are small, and it is also sent what it did not ask for: up to ANSWERS_TO_AGENT answers may wait while
 * more is read from it. So it may go on sending before it reads, and neither side comes to wait for the other. An
 * answer counts once more for each kB of its body: RELOAD_REPLY is not small.
 *
 * While the pages of a PUSH are being pulled over RDMA, nothing more is read from that agent either, and no further frame of
 * its is handled: what comes behind a PUSH finds its pages published.
 */
#ifndef MEMNODE_SESSION_H
#define MEMNODE_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "lb_stream.h"
#include "node.h"
#include "pull.h"
#include "rdma_port.h"

#define PEER_NAME_SIZE 100
#define ANSWERS_TO_AGENT 128

typedef enum session_state
{
	SESSION_STRANGER,
	SESSION_SETTLED,
	SESSION_REFUSED
} session_state;

typedef struct session
{
	TAILQ_ENTRY(session) link;         /* in node.strangers or node.settled */
	TAILQ_ENTRY(session) backend_link; /* in its tenant's list, if a backend */
	node *node;
	lb_stream *stream;
	struct event *readable;
	struct event *writable;
	bool reads;               /* readable is waited for */
	bool writes;              /* writable is */
	uint32_t answers_waiting; /* since the output was empty last, weighed */
	session_state state;
	lb_transport transport;
	lb_role role;                /* SETTLED */
	tenant *tenant;              /* SETTLED agent or backend, else null */
	pull_source source;          /* agent */
	struct push_under_way *push; /* agent over rdma: whose pages are being pulled; else null */
	rdma_end rdma;
	uint64_t heard_ns; /* when it last sent something; a stranger or refused: when it became that */
	char peer[PEER_NAME_SIZE]; /* for people */
} session;

/* Takes over the descriptor. Null if the system refuses: it is closed then. */
extern session *session_open(node *node, int fd, lb_transport transport, const char *peer);

/*
 * Close and free. For an agent this detaches the tenant. reason: for the log. A handler must not close its own
 * session: it returns false instead.
 */
extern void session_close(session *session, const char *reason);

/* Close those that have been silent for too long. Called now and then. */
extern void sessions_expire(node *node, uint64_t now_ns);

/* The device is gone: close the agents' and backends' sessions over rdma. */
extern void sessions_close_rdma(node *node, const char *reason);

/* The completion channel of an agent's queue pair has an event. May end with the session freed. */
extern void session_completion(session *session);

/* For the log and for expiry after the whole process stood still: count everyone as heard of just now. */
extern void sessions_forgive(node *node, uint64_t now_ns);

/* Has the peer closed its side, perhaps behind data that is still unread? */
extern bool session_peer_gone(const session *session);

/* Send a frame without bulk. False: the connection is broken, and the session is to be closed. */
extern bool session_send(session *session, lb_frame_type type, uint64_t sequence, const void *body,
						 size_t body_length);

/* The same for what the peer did not ask for. It must not be sent while the output is not empty. */
extern bool session_send_unasked(session *session, lb_frame_type type, const void *body,
								 size_t body_length);

/* An answer with pages, and with a descriptor (or -1). */
extern bool session_send_bulk(session *session, lb_frame_type type, uint64_t sequence,
							  const void *body, size_t body_length, const struct iovec *bulk,
							  int bulk_count, int pass_fd);

/* Refuse one request with an ERROR; the session goes on. False as session_send. */
extern bool session_error(session *session, uint64_t sequence, lb_wire_error error,
						  const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Refuse the session: an ERROR, then it ends. epoch: the one in force, for LB_ERR_EPOCH. False as session_send. */
extern bool session_refuse(session *session, uint64_t sequence, lb_wire_error error, uint64_t epoch,
						   const char *format, ...) __attribute__((format(printf, 5, 6)));

/* A body that the protocol forbids: counted, and the session refused. */
extern bool session_refuse_malformed(session *session, uint64_t sequence, const char *reason);

/* A stranger said who it is: from now on it is settled. tenant: null for a monitor. */
extern void session_settle(session *session, lb_role role, tenant *tenant);

/* The tenant has no agent any more. */
extern void session_detach_agent(session *session, const char *reason);

#endif /* MEMNODE_SESSION_H */
