/*
 * smoke_sides.h
 *	  For the tests of the verbs layer with a real device: TAP, a memory node with two tenants, a compute node. Both sides may be in one process, and
 *	  take turns. Whatever waits gives up after PATIENCE.
 */
#ifndef SMOKE_SIDES_H
#define SMOKE_SIDES_H

#include "lb_rdma_internal.h"

#define SECONDS UINT64_C(1000000000)
#define PATIENCE (20 * SECONDS)
#define SLAB_PAGES 128
#define BOUNCE_PAGES 128
#define TENANTS 2

/* ---- TAP ---- */

extern bool ok(bool good, const char *name);
extern void note_status(const lb_status *status);
extern _Noreturn void bail_out(const char *what, const char *why);
extern int done_testing(void); /* the exit status */

/* A failure with this code and wire error, and a message that has this in it? Says what it is if not. */
extern bool failed_with(const lb_status *status, lb_code code, int wire_error, const char *part);

/* ---- the memory node ---- */

typedef struct node
{
	lb_rdma_listener *listener;
	lb_rdma_domain *domains[TENANTS];
	lb_rdma_region *slabs[TENANTS];
	unsigned char *memory[TENANTS];
	int tenant;    /* of the next connection ... */
	bool may_read; /* ... which may read, too */
	lb_rdma_connection *accepted;
	bool established;
	bool ended;
	bool device_gone;
	int rejected;
} node;

extern const uint8_t good_secret[LB_RDMA_SECRET_SIZE];
extern lb_address node_address;

extern unsigned char *map_pages(int count);
extern unsigned char page_byte(int tenant, int page); /* what this page is full of */

extern bool node_start(node *n, const char *device, lb_status *status);
extern void node_stop(node *n);

/* Handle the events that there are. */
extern void node_run(node *n);

/* Wait for an event that sets this flag. */
extern bool node_wait(node *n, const bool *flag);

/* ---- the compute node ---- */

typedef struct client
{
	lb_rdma_connection *connection;
	unsigned char *bounce;
} client;

extern lb_rdma_connection *client_start(client *c, uint16_t port, const uint8_t *secret,
										bool remote_read, lb_status *status);

/* Connect; n is null if the node is in another process. A connection that failed is closed. */
extern bool client_finish(client *c, node *n, lb_status *status);
extern bool client_connect(client *c, node *n, const uint8_t *secret, bool remote_read,
						   lb_status *status);

/* Close, and let the node notice. */
extern bool client_leave(client *c, node *n);

/* Both: close what there is, connect again. */
extern void join_again(client *c, node *n);

/* Poll until the next batch completes as id: then 1, else -1. */
extern int await(lb_rdma_connection *connection, uint64_t id, lb_status *status);
extern int client_read(client *c, const lb_rdma_read *reads, int count, uint64_t id,
					   lb_status *status);

/* Wait until the connection's events say that it is broken. */
extern bool client_wait_broken(client *c, lb_status *status);

/* Reads of pages at this address, with this key, into the first bounce buffers. */
extern void plan_reads(lb_rdma_read *reads, const client *c, uint64_t start, uint32_t key,
					   int count);
extern void plan_slab_reads(lb_rdma_read *reads, const client *c, const node *n, int tenant,
							int page, int count);
extern bool pages_are_right(const unsigned char *pages, int tenant, int page, int count);

/* ---- the parts of the test ---- */

extern void test_peers(const char *program, const char *address, node *n, client *c);
extern void test_leaks(node *n, client *c);
extern void test_removal(const char *device, node *n, client *c);

/* What the program does when it is another process of test_peers. */
extern int peer_main(const char *role, const char *port);

#endif /* SMOKE_SIDES_H */
