/*
 * clean_queue.h
 *	  Pages that are durable and of which the agent is still to be told: CLEAN frames that wait for room in its connection.
 *
 * It holds one round's pages at most: no round of a tenant begins while its queue is not empty.
 */
#ifndef MEMNODE_CLEAN_QUEUE_H
#define MEMNODE_CLEAN_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include "lb_wire.h"

typedef struct clean_page
{
	lb_page_tag tag;
	uint64_t version;
} clean_page;

typedef struct clean_queue
{
	uint32_t begin;
	uint32_t end;
	uint32_t capacity;
	clean_page *pages;
} clean_queue;

/* Make room for so many, counting those that are in it. False if memory is short. All zero: empty, without memory. */
extern bool clean_queue_reserve(clean_queue *queue, uint32_t count);
extern void clean_queue_free(clean_queue *queue);

/* There is room: see clean_queue_reserve. */
extern void clean_queue_add(clean_queue *queue, const lb_page_tag *tag, uint64_t version);

/* The next batch; false if there is nothing. */
extern bool clean_queue_take(clean_queue *queue, lb_clean *batch);

/* Take out what the fence selects. */
extern void clean_queue_drop(clean_queue *queue, const lb_fence *fence);

static inline bool
clean_queue_is_empty(const clean_queue *queue)
{
	return queue->begin == queue->end;
}

static inline void
clean_queue_clear(clean_queue *queue)
{
	queue->begin = queue->end = 0;
}

#endif /* MEMNODE_CLEAN_QUEUE_H */
