/*
 * pull.c
 *	  How the memory node gets the pages that a compute node pushes.
 */
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "pull.h"

/* A comm buffer region is a few MB; what is far beyond that is a mistake. */
#define REGION_MAX_BYTES ((uint64_t) 1 << 30)

bool
pull_check_layout(const lb_comm_region *layout, lb_status *status)
{
	if (layout->count == 0 || layout->stride < LB_PAGE_SIZE || layout->length > REGION_MAX_BYTES ||
		(uint64_t) layout->count * layout->stride > layout->length)
		return lb_fail(status, LB_PROTOCOL,
					   "comm buffers: %u buffers of %u bytes do not fit a region of %llu bytes",
					   layout->count, layout->stride, (unsigned long long) layout->length);
	return true;
}

/*
 * The file belongs to the peer. Reading it must not be able to raise SIGBUS here: so it has to be at least as long as
 * announced and sealed against getting shorter, and must not be hugetlb, where a hole that can't be filled raises it too.
 */
static bool
check_region_file(const lb_comm_region *layout, int fd, lb_status *status)
{
	struct stat file;
	struct statfs file_system;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || !(seals & F_SEAL_SHRINK))
		return lb_fail(status, LB_PROTOCOL,
					   "comm buffers: the descriptor is not a memfd with F_SEAL_SHRINK");
	if (fstatfs(fd, &file_system) < 0 || file_system.f_type == HUGETLBFS_MAGIC)
		return lb_fail(status, LB_PROTOCOL, "comm buffers: the memfd must not be hugetlb");
	if (fstat(fd, &file) < 0 || file.st_size < 0 || (uint64_t) file.st_size < layout->length)
		return lb_fail(status, LB_PROTOCOL,
					   "comm buffers: the memfd is shorter than the %llu bytes announced",
					   (unsigned long long) layout->length);
	return true;
}

static bool
shm_attach_region(pull_source *source, const lb_comm_region *layout, int fd, lb_status *status)
{
	void *region;

	if (source->region)
		return lb_fail(status, LB_PROTOCOL, "comm buffers: announced twice");
	if (fd < 0)
		return lb_fail(status, LB_PROTOCOL, "comm buffers: no descriptor came along");
	if (!pull_check_layout(layout, status) || !check_region_file(layout, fd, status))
		return false;
	region = mmap(NULL, layout->length, PROT_READ, MAP_SHARED, fd, 0);
	if (region == MAP_FAILED)
		return lb_fail_errno(status, "comm buffers: cannot map the region");
	madvise(region, layout->length, MADV_DONTDUMP);
	source->region = region;
	source->layout = *layout;
	return true;
}

static void
shm_detach_region(pull_source *source)
{
	if (source->region)
		munmap((void *) source->region, source->layout.length);
	source->region = NULL;
}

bool
pull_check_buffers(const pull_source *source, const lb_push_batch *batch, lb_status *status)
{
	for (uint32_t i = 0; i < batch->count; i++)
		if (batch->pushes[i].buffer >= source->layout.count)
			return lb_fail(status, LB_PROTOCOL, "PUSH from comm buffer %u of %u",
						   batch->pushes[i].buffer, source->layout.count);
	return true;
}

static bool
shm_check(const pull_source *source, const lb_push_batch *batch, const lb_frame *frame,
		  lb_status *status)
{
	if (!source->region)
		return lb_fail(status, LB_PROTOCOL, "PUSH before COMM_BUFFERS");
	if (frame->header.bulk_length != 0)
		return lb_fail(status, LB_PROTOCOL, "PUSH over shared memory with a bulk");
	return pull_check_buffers(source, batch, status);
}

static void
shm_pull(const pull_source *source, const lb_push_batch *batch, uint32_t index,
		 const lb_frame *frame, void *dest)
{
	(void) frame;
	memcpy(dest, source->region + (size_t) batch->pushes[index].buffer * source->layout.stride,
		   LB_PAGE_SIZE);
}

static bool
tcp_check(const pull_source *source, const lb_push_batch *batch, const lb_frame *frame,
		  lb_status *status)
{
	(void) source;
	if (frame->header.bulk_length != (size_t) batch->count * LB_PAGE_SIZE)
		return lb_fail(status, LB_PROTOCOL, "PUSH of %u pages with %u bytes of bulk", batch->count,
					   frame->header.bulk_length);
	return true;
}

static void
tcp_pull(const pull_source *source, const lb_push_batch *batch, uint32_t index,
		 const lb_frame *frame, void *dest)
{
	(void) source;
	(void) batch;
	memcpy(dest, frame->bulk + (size_t) index * LB_PAGE_SIZE, LB_PAGE_SIZE);
}

static const pull_ops shm_ops = {
	.bulk_max = 0,
	.attach_region = shm_attach_region,
	.detach_region = shm_detach_region,
	.check = shm_check,
	.pull = shm_pull,
};

static const pull_ops tcp_ops = {
	.bulk_max = LB_BULK_MAX,
	.check = tcp_check,
	.pull = tcp_pull,
};

void
pull_source_init(pull_source *source, lb_transport transport)
{
	static const pull_ops *const ops[] = {
		[LB_TRANSPORT_SHM] = &shm_ops,
		[LB_TRANSPORT_TCP] = &tcp_ops,
		[LB_TRANSPORT_RDMA] = &pull_rdma_ops,
	};

	*source = (pull_source){.ops = ops[transport]};
}

void
pull_source_close(pull_source *source)
{
	if (source->ops && source->ops->detach_region)
		source->ops->detach_region(source);
}
