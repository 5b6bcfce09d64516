/*
 * client.h
 *	  A peer of the memory node that does one thing after the other, and may also do what the protocol forbids.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include "lb_stream.h"
#include "lb_uri.h"

#define CLIENT_CLOSED 0    /* instead of a frame type: the node closed the connection */
#define CLIENT_SILENT (-1) /* nothing came in time */

/* CLEAN and FLUSH_STATE come unasked, at any time: they are put aside here. */
#define CLEAN_MAX 16384

typedef struct told
{
	uint32_t clean_count;
	lb_page_tag tags[CLEAN_MAX];
	uint64_t versions[CLEAN_MAX];
	uint32_t state_count;
	lb_flush_state state; /* the last one */
	bool had_error;       /* a state had one */
	lb_flush_state error; /* the last state that had */
} told;

typedef struct client
{
	lb_stream *stream;
	lb_transport transport;
	uint64_t sequence;  /* of the last request */
	lb_frame frame;     /* the last one received */
	lb_error error;     /* the last ERROR */
	lb_welcome welcome; /* the last WELCOME */
	uint8_t *region;    /* comm buffers: 64 of them; null where pages are the bulk */
	told *told;
} client;

#define REGION_BUFFERS 64

/* Connect; bails out if that fails. */
extern void client_open(client *client, const char *uri);
extern void client_close(client *client);

/* Send a request. False if the connection is broken. */
extern bool client_send(client *client, lb_frame_type type, const void *body, size_t body_length);
extern bool client_send_bulk(client *client, lb_frame_type type, const void *body,
							 size_t body_length, void *bulk, size_t bulk_length, int pass_fd);

/* The next frame's type, of those that are answers, or CLIENT_CLOSED, or CLIENT_SILENT after 5 s (or after so long). */
extern int client_receive(client *client);
extern int client_receive_within(client *client, int timeout_ms);

/* Send HELLO and receive the answer. */
extern int client_hello(client *client, const lb_hello *hello);

/* A HELLO for instance number 'instance'. */
extern lb_hello make_hello(lb_role role, uint8_t instance, uint64_t epoch, uint64_t token);

/* Connect and say HELLO; bails out if that is refused. An agent over shm also announces comm buffers. */
extern void agent_open(client *client, const char *uri, uint8_t instance, uint64_t epoch);
extern void backend_open(client *client, const char *uri, uint8_t instance, uint64_t epoch,
						 uint64_t token);
extern void monitor_open(client *client, const char *uri);

/* Requests with their answers; each returns the answer's type. */
extern int client_ping(client *client);
extern int client_request_slabs(client *client, uint32_t slab_pages, uint32_t count,
								lb_slab_list *granted);
extern int client_read(client *client, const lb_slot_ref *slots, uint32_t count);
extern int client_status(client *client, lb_node_figures *figures);

/* Ask for a slab; the descriptor, or -1 with the ERROR's code in client->error. */
extern int client_map(client *client, uint32_t slab);

/* No answer unless refused. */
extern void client_return_slabs(client *client, const uint32_t *slabs, uint32_t count);
extern void client_release(client *client, uint32_t slab, uint32_t page, uint64_t version);

/*
 * PUSH of 'count' pages, page i made by make_page(.., seed + i), to slots of 'slab' from 'page' on, with relation number
 * 'relation' and block numbers as the slots. Returns the answer's type; *ack is the answer.
 */
typedef struct push_plan
{
	uint32_t slab;
	uint32_t page;
	uint32_t count;
	uint32_t relation;
	uint64_t version;
	uint64_t seed;
	bool wrong_checksum; /* of the first page */
	bool dirty;
	lb_page_tag first; /* of the first page, if its tablespace is not 0 */
} push_plan;

extern int client_push(client *client, const push_plan *plan, lb_push_ack *ack);

/* Only the request. False if the connection is broken. */
extern bool client_send_push(client *client, const push_plan *plan);

/* STORAGE; true if the answer says that the data directory was found. *reply may be null. */
extern bool client_storage(client *client, lb_storage_reply *reply);

/* No answers. */
extern void client_flush(client *client);
extern void client_load(client *client, uint32_t reads, uint32_t read_us);
extern void client_keep(client *client, const lb_slab_keep *keep);

/* CONTROL and RELOAD, with their answers; each returns the answer's type. */
extern int client_control(client *client, const lb_control *control);
extern int client_reload(client *client, lb_slot_ref from, lb_reload_reply *reply);

/* The same with a redo point; without one it is so high that everything is below. */
extern int client_reload_above(client *client, lb_slot_ref from, uint64_t redo,
							   lb_reload_reply *reply);

/* Receive the answer to a RELOAD that was sent. */
extern int client_receive_reload(client *client, lb_reload_reply *reply);

/* Send FENCE; its sequence is client->sequence. */
extern void client_fence(client *client, const lb_fence *fence);

/* FENCE of a relation, or of blocks of its main fork. */
extern lb_fence fence_of_relation(uint32_t relation);
extern lb_fence fence_of_blocks(uint32_t relation, uint32_t from, uint32_t end);

/* Receive until so many pages were told to be clean, in all, or so many states, or a state with an error; false after the time. */
extern bool client_wait_clean(client *client, uint32_t count, int timeout_ms);
extern bool client_wait_states(client *client, uint32_t count, int timeout_ms);
extern bool client_wait_error(client *client, int timeout_ms);

/* Receive what comes in this time. */
extern void client_listen(client *client, int timeout_ms);

/* How often this page was told to be clean in this version. */
extern int client_told_clean(const client *client, uint32_t relation, uint32_t block,
							 uint64_t version);

/* Contents that differ for every seed. */
extern void make_page(void *page, uint64_t seed);
extern bool is_page(const void *page, uint64_t seed);
extern bool is_zero(const void *bytes, size_t length);

#endif /* CLIENT_H */
