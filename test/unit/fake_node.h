/*
 * fake_node.h
 *	  The other side of a data plane: a thread that accepts connections and follows a script, which may answer, answer wrongly, or
 *	  not at all.
 */
#ifndef FAKE_NODE_H
#define FAKE_NODE_H

#include "lb_net.h"
#include "lb_wire.h"

typedef struct fake_node fake_node;

/* Runs in the thread with the accepted, blocking socket, which is closed when it returns. */
typedef void (*fake_script)(int socket, void *arg);

/* One connection; or any number of them, one after the other, until fake_node_stop. */
extern fake_node *fake_node_start(lb_transport transport, fake_script script, void *arg);
extern fake_node *fake_node_start_many(lb_transport transport, fake_script script, void *arg);
extern const lb_address *fake_node_address(const fake_node *node);

/* Wait until the script has returned, and clean up. */
extern void fake_node_stop(fake_node *node);

/* For scripts. A frame without bulk: false when the other side has closed. body: LB_BODY_MAX bytes. */
extern bool fake_receive(int socket, lb_header *header, uint8_t *body);

/* All the bytes; that the other side closes meanwhile is no error. */
extern void fake_send(int socket, const void *bytes, size_t length);

/* A frame without bulk, and a descriptor (or -1) so many times along with it. */
extern void fake_send_frame(int socket, lb_frame_type type, uint64_t sequence, const void *body,
							size_t body_length, int pass_fd, int times);
extern void fake_send_error(int socket, uint64_t sequence, lb_wire_error error,
							const char *message);

/* Receive a HELLO and answer it. */
extern void fake_welcome(int socket, lb_hello *hello);

/* Wait until the other side has closed. */
extern void fake_wait_closed(int socket);

#endif /* FAKE_NODE_H */
