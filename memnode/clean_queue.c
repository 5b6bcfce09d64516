/*
 * clean_queue.c
 *	  Pages that are durable and of which the agent is still to be told.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "clean_queue.h"
#include "fence.h"

bool
clean_queue_reserve(clean_queue *queue, uint32_t count)
{
	clean_page *larger;

	if (count <= queue->capacity)
		return true;
	larger = realloc(queue->pages, count * sizeof(clean_page));
	if (!larger)
		return false;
	queue->pages = larger;
	queue->capacity = count;
	return true;
}

void
clean_queue_free(clean_queue *queue)
{
	free(queue->pages);
	memset(queue, 0, sizeof(*queue));
}

void
clean_queue_add(clean_queue *queue, const lb_page_tag *tag, uint64_t version)
{
	if (clean_queue_is_empty(queue))
		clean_queue_clear(queue);
	assert(queue->end < queue->capacity);
	queue->pages[queue->end++] = (clean_page){*tag, version};
}

bool
clean_queue_take(clean_queue *queue, lb_clean *batch)
{
	batch->count = 0;
	while (batch->count < LB_BATCH_MAX && !clean_queue_is_empty(queue))
	{
		const clean_page *page = &queue->pages[queue->begin++];

		batch->tags[batch->count] = page->tag;
		batch->versions[batch->count++] = page->version;
	}
	return batch->count > 0;
}

void
clean_queue_drop(clean_queue *queue, const lb_fence *fence)
{
	uint32_t kept = queue->begin;

	for (uint32_t i = queue->begin; i < queue->end; i++)
		if (!fence_selects(fence, &queue->pages[i].tag))
			queue->pages[kept++] = queue->pages[i];
	queue->end = kept;
}
