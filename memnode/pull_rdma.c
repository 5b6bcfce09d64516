/*
 * pull_rdma.c
 *	  How the memory node gets pages by RDMA READ: it reads the agent's comm buffers, over the queue pair of the agent's session.
 *	  All pages of a PUSH are one chain of work requests with one doorbell and one completion.
 */
#include "pull.h"

/* There is one batch at a time, so its completion needs no name; it is one that nothing else has. */
#define BATCH_ID UINT64_C(1)

static bool
rdma_attach_region(pull_source *source, const lb_comm_region *layout, int fd, lb_status *status)
{
	(void) fd;
	if (!source->connection)
		return lb_fail(status, LB_PROTOCOL, "comm buffers: announced before a queue pair");
	if (source->layout.count > 0)
		return lb_fail(status, LB_PROTOCOL, "comm buffers: announced twice");
	if (!pull_check_layout(layout, status))
		return false;
	if (layout->address > UINT64_MAX - layout->length)
		return lb_fail(status, LB_PROTOCOL, "comm buffers: the region ends beyond all addresses");
	source->layout = *layout;
	return true;
}

/* Can't both be pulled before either is published? A slot has room for one page, and has to end with the newer version. */
static bool
conflict(const lb_push *push, const lb_push *later)
{
	return (push->slab == later->slab && push->page == later->page) ||
		   (push->version >= later->version && lb_page_tag_equal(&push->tag, &later->tag));
}

static bool
check_conflicts(const lb_push_batch *batch, lb_status *status)
{
	for (uint32_t i = 1; i < batch->count; i++)
		for (uint32_t k = 0; k < i; k++)
			if (conflict(&batch->pushes[k], &batch->pushes[i]))
				return lb_fail(status, LB_PROTOCOL,
							   "PUSH over rdma of a slot twice, or of a page twice in versions "
							   "that do not rise");
	return true;
}

static bool
rdma_check(const pull_source *source, const lb_push_batch *batch, const lb_frame *frame,
		   lb_status *status)
{
	if (source->layout.count == 0)
		return lb_fail(status, LB_PROTOCOL, "PUSH before COMM_BUFFERS");
	if (frame->header.bulk_length != 0)
		return lb_fail(status, LB_PROTOCOL, "PUSH over rdma with a bulk");
	return pull_check_buffers(source, batch, status) && check_conflicts(batch, status);
}

static bool
rdma_begin(pull_source *source, const pull_page *pages, uint32_t count, lb_status *status)
{
	lb_rdma_read reads[LB_BATCH_MAX];

	for (uint32_t i = 0; i < count; i++)
	{
		const pull_page *page = &pages[i];

		if (!page->slab->region)
			return lb_fail(status, LB_SYSTEM, "a slab is not registered");
		reads[i] = (lb_rdma_read){.dest = page->dest,
								  .local_key = lb_rdma_region_local_key(page->slab->region),
								  .address = source->layout.address +
											 (uint64_t) page->buffer * source->layout.stride,
								  .remote_key = source->layout.key};
	}
	return lb_rdma_post_reads(source->connection, reads, (int) count, BATCH_ID, status);
}

static int
rdma_completed(pull_source *source, lb_status *status)
{
	uint64_t id;

	if (!lb_rdma_arm(source->connection, status))
		return -1;
	return lb_rdma_poll(source->connection, &id, status);
}

const pull_ops pull_rdma_ops = {
	.bulk_max = 0,
	.attach_region = rdma_attach_region,
	.check = rdma_check,
	.begin = rdma_begin,
	.completed = rdma_completed,
};
