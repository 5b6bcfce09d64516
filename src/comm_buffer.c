/*
 * comm_buffer.c
 *	  Comm buffers: copies of pages on their way to a memory node.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "comm_buffer.h"
#include "page_directory.h"
#include "settings.h"

#define PAGES_PER_BUFFER 336 /* together with the directory this stays under 1 % of the pool */
#define BUFFERS_MIN 32
#define BUFFERS_MAX 2048

typedef struct CommBuffer
{
	pg_atomic_uint32 refs;
	uint32 next;  /* in the free list, or in the queue */
	uint32 entry; /* queued and sent: for which directory entry */
	bool sent;    /* changed by the agent alone */
} CommBuffer;

typedef struct CommBuffers
{
	uint32 count;
	slock_t lock; /* protects the lists */
	uint32 free_head;
	uint32 free_count;
	uint32 queue_head;
	uint32 queue_tail;
	uint32 queue_count;
	struct Latch *agent;            /* null when no agent runs */
	pg_atomic_uint32 wake_agent_at; /* queued buffers; 0: it is awake */
	CommBuffer buffers[FLEXIBLE_ARRAY_MEMBER];
} CommBuffers;

static CommBuffers *shared;

/* The pages; made by the postmaster, inherited by its children. */
static char *region;
static Size region_length;
static int region_fd = -1;

static uint32
buffer_count(void)
{
	return Min(Max(settings_max_pages() / PAGES_PER_BUFFER, BUFFERS_MIN), BUFFERS_MAX);
}

Size
CommBufferShmemSize(void)
{
	return add_size(offsetof(CommBuffers, buffers), mul_size(sizeof(CommBuffer), buffer_count()));
}

/*
 * Make the region. Shared memory is made anew after a crash: then there is an old region, which no living process uses
 * any more. Sealed against shrinking, so that a memory node that maps it can't be made to fault, and against writing by
 * anybody who maps it later than we do: pages are written to their files from here, and a memory node gets the
 * descriptor.
 */
static void
make_region(void)
{
	if (region)
		munmap(region, region_length);
	if (region_fd >= 0)
		close(region_fd);

	region_length = (Size) buffer_count() * LB_PAGE_SIZE;
	region_fd = memfd_create("legobase comm buffers", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (region_fd < 0 || fallocate(region_fd, 0, 0, region_length) != 0)
		ereport(FATAL, (errcode(ERRCODE_OUT_OF_MEMORY),
						errmsg("legobase could not allocate %zu bytes for comm buffers: %m",
							   region_length)));
	region = mmap(NULL, region_length, PROT_READ | PROT_WRITE, MAP_SHARED, region_fd, 0);
	if (region == MAP_FAILED)
		ereport(FATAL,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("legobase could not map %zu bytes for comm buffers: %m", region_length)));
	if (fcntl(region_fd, F_ADD_SEALS,
			  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0)
		ereport(FATAL, (errcode(ERRCODE_SYSTEM_ERROR),
						errmsg("legobase could not seal the comm buffers: %m"),
						errdetail("This needs Linux 5.1 or later.")));
}

void
CommBufferShmemInit(void)
{
	bool found;

	shared = ShmemInitStruct("legobase comm buffers", CommBufferShmemSize(), &found);
	if (found)
		return;

	make_region();
	shared->count = buffer_count();
	SpinLockInit(&shared->lock);
	shared->queue_head = shared->queue_tail = INVALID_COMM_BUFFER;
	shared->queue_count = 0;
	shared->agent = NULL;
	pg_atomic_init_u32(&shared->wake_agent_at, 0);
	for (uint32 i = 0; i < shared->count; i++)
	{
		CommBuffer *buffer = &shared->buffers[i];

		pg_atomic_init_u32(&buffer->refs, 0);
		buffer->next = i + 1 < shared->count ? i + 1 : INVALID_COMM_BUFFER;
		buffer->entry = INVALID_ENTRY;
		buffer->sent = false;
	}
	shared->free_head = 0;
	shared->free_count = shared->count;
}

uint32
CommBufferCount(void)
{
	return shared->count;
}

uint32
CommBufferFree(void)
{
	return shared->free_count;
}

int
CommBufferRegion(lb_comm_region *description)
{
	*description =
		(lb_comm_region){.count = shared->count, .stride = LB_PAGE_SIZE, .length = region_length};
	return region_fd;
}

char *
CommBufferPage(uint32 buffer)
{
	return region + (Size) buffer * LB_PAGE_SIZE;
}

uint32
CommBufferTake(void)
{
	uint32 buffer;

	if (shared->free_count == 0) /* without the lock: nothing is lost by being a moment late */
		return INVALID_COMM_BUFFER;

	SpinLockAcquire(&shared->lock);
	buffer = shared->free_head;
	if (buffer != INVALID_COMM_BUFFER)
	{
		shared->free_head = shared->buffers[buffer].next;
		shared->free_count--;
	}
	SpinLockRelease(&shared->lock);

	if (buffer != INVALID_COMM_BUFFER)
		pg_atomic_write_u32(&shared->buffers[buffer].refs, 1);
	return buffer;
}

void
CommBufferRetain(uint32 buffer)
{
	pg_atomic_fetch_add_u32(&shared->buffers[buffer].refs, 1);
}

void
CommBufferRelease(uint32 number)
{
	CommBuffer *buffer = &shared->buffers[number];

	if (pg_atomic_fetch_sub_u32(&buffer->refs, 1) != 1)
		return;
	SpinLockAcquire(&shared->lock);
	buffer->entry = INVALID_ENTRY;
	buffer->next = shared->free_head;
	shared->free_head = number;
	shared->free_count++;
	SpinLockRelease(&shared->lock);
}

void
CommBufferQueue(uint32 number, uint32 entry)
{
	CommBuffer *buffer = &shared->buffers[number];
	uint32 wake_at;
	uint32 queued;

	buffer->entry = entry;
	buffer->next = INVALID_COMM_BUFFER;
	SpinLockAcquire(&shared->lock);
	if (shared->queue_head == INVALID_COMM_BUFFER)
		shared->queue_head = number;
	else
		shared->buffers[shared->queue_tail].next = number;
	shared->queue_tail = number;
	queued = ++shared->queue_count;
	SpinLockRelease(&shared->lock);

	/* Pairs with the barrier in CommBufferAgentSleeps: either we see that it sleeps, or it sees our buffer. */
	pg_memory_barrier();
	wake_at = pg_atomic_read_u32(&shared->wake_agent_at);
	if (wake_at != 0 && queued >= wake_at)
		CommBufferWakeAgent();
}

uint32
CommBufferTakeQueued(uint32 max, uint32 *buffers, uint32 *for_entries)
{
	uint32 count = 0;

	SpinLockAcquire(&shared->lock);
	while (count < max && shared->queue_head != INVALID_COMM_BUFFER)
	{
		CommBuffer *buffer = &shared->buffers[shared->queue_head];

		buffers[count] = shared->queue_head;
		for_entries[count] = buffer->entry;
		shared->queue_head = buffer->next;
		buffer->sent = true;
		count++;
	}
	shared->queue_count -= count;
	SpinLockRelease(&shared->lock);
	return count;
}

void
CommBufferNotSent(uint32 buffer)
{
	shared->buffers[buffer].sent = false;
}

void
CommBufferRecover(void (*found)(uint32 buffer, uint32 entry))
{
	for (uint32 i = 0; i < shared->count; i++)
	{
		if (shared->buffers[i].sent)
			found(i, shared->buffers[i].entry);
	}
}

/*
 * A buffer has references before its page gets a version, and names its entry only when that is linked: so what is older is either found
 * here or has ended. An entry that was used again since has a newer version, or another buffer.
 */
bool
CommBufferMayHoldOlder(uint32 number, uint64 version)
{
	CommBuffer *buffer = &shared->buffers[number];
	const volatile PageDirectoryEntry *entry;
	uint32 entry_number;

	if (pg_atomic_read_u32(&buffer->refs) == 0)
		return false;
	pg_read_barrier();
	entry_number = *(const volatile uint32 *) &buffer->entry;
	if (entry_number == INVALID_ENTRY)
		return true;
	pg_read_barrier();
	entry = PageDirectoryEntryAt(entry_number);
	return entry->comm_buffer == number && entry->version < version;
}

void
CommBufferSetAgent(struct Latch *latch)
{
	SpinLockAcquire(&shared->lock);
	shared->agent = latch;
	SpinLockRelease(&shared->lock);
}

bool
CommBufferHasAgent(void)
{
	return shared->agent != NULL;
}

bool
CommBufferAgentSleeps(uint32 wake_at)
{
	pg_atomic_write_u32(&shared->wake_agent_at, wake_at);
	pg_memory_barrier();
	return *(const volatile uint32 *) &shared->queue_count >= Max(wake_at, 1);
}

void
CommBufferWakeAgent(void)
{
	struct Latch *latch;

	SpinLockAcquire(&shared->lock);
	latch = shared->agent;
	SpinLockRelease(&shared->lock);

	/* The latch is one of a PGPROC: memory that stays, at worst another process is woken for nothing. */
	if (latch)
		SetLatch(latch);
}
