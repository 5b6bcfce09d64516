/*
 * wire_messages.h
 *	  Random messages of every kind, and how each is encoded and decoded: what test_wire.c goes through.
 */
#ifndef WIRE_MESSAGES_H
#define WIRE_MESSAGES_H

#include "lb_wire.h"

/* Any of the messages. */
typedef union message
{
	lb_hello hello;
	lb_welcome welcome;
	lb_error error;
	lb_comm_region comm_region;
	lb_slab_request slab_request;
	lb_slab_list slab_list;
	lb_push_batch push;
	lb_push_ack push_ack;
	lb_release_batch release;
	lb_read_batch read;
	lb_node_figures figures;
	lb_storage storage;
	lb_storage_reply storage_reply;
	lb_clean clean;
	lb_fence fence;
	lb_flush_state flush_state;
	lb_slab_keep slab_keep;
	lb_storage_load storage_load;
	lb_control control;
	lb_reload reload;
	lb_reload_reply reload_reply;
	lb_rdma_invitation invitation;
	lb_slab_keys slab_keys;
	uint32_t number;
} message;

/* How large a message is to be made: the smallest there is, the largest, or any between. */
typedef enum extent
{
	SMALLEST,
	LARGEST,
	ANY
} extent;

typedef struct codec
{
	lb_frame_type type;
	void (*make)(message *m, extent extent); /* *m was all zero */
	size_t (*encode)(uint8_t *out, const message *m);
	bool (*decode)(const uint8_t *in, size_t length, message *m);
} codec;

#define CODECS 28
extern const codec codecs[CODECS];

extern uint64_t random_u64(void);
extern uint32_t random_u32(void);

#endif /* WIRE_MESSAGES_H */
