/*
 * lb_data_plane_rdma.c
 *	  The rdma data plane: one-sided reads of slabs, into bounce buffers, from which pages are copied to where they are wanted.
 *	  docs/rdma.md, section 3.
 *
 * The process's session with the node, a TCP connection, is there to get the queue pair and the slabs' keys, and to ask for keys again. A
 * page that lies in a slab that is known is read without it, and without the node's process.
 *
 * Bounce buffers are a ring: batches complete in the order of their submission, so the pages of the oldest one are the next to be free.
 * They stay mapped until the queue pair is destroyed (rdma_close), whatever happened to the batches.
 */
#include <assert.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "lb_clock.h"
#include "lb_data_plane_rdma.h"
#include "lb_data_plane_socket.h"
#include "lb_rdma.h"

#define BOUNCE_PAGES LB_RDMA_READS_MAX
#define BOUNCE_LENGTH ((size_t) BOUNCE_PAGES * LB_PAGE_SIZE)

_Static_assert(BOUNCE_PAGES >= LB_BATCH_MAX, "a batch fits an empty ring");

#define CONNECT_SLICE_MS 10

/* Polling for a completion. A look at the clock takes longer than a poll in vain. */
#define POLLS_PER_CLOCK 64
#define SPIN_NS 50000 /* without a pause; then others have the processor between two polls */
#define LOOK_NS \
	5000000 /* between looks at what else may end the wait; after the first one we sleep between polls */
#define PAUSE_NS 100000

typedef struct slab_place
{
	uint64_t address;
	uint32_t key;
	uint32_t pages; /* 0: not known */
} slab_place;

typedef struct rdma_batch
{
	int count;
	void *dest[LB_BATCH_MAX];
} rdma_batch;

typedef struct rdma_plane
{
	lb_data_plane head;
	int fd;
	uint64_t sequence; /* of the last request on fd */
	lb_rdma_connection *connection;

	uint8_t *bounce;                    /* BOUNCE_PAGES pages */
	uint32_t first_page;                /* of the oldest batch under way */
	uint32_t pages_used;                /* from there on, around the ring */
	rdma_batch batches[LB_BATCHES_MAX]; /* by ticket modulo LB_BATCHES_MAX */

	slab_place *slabs; /* by slab number */
	uint32_t slab_count;
} rdma_plane;

static uint8_t *
bounce_page(const rdma_plane *rdma, uint32_t position)
{
	return rdma->bounce + (size_t) (position % BOUNCE_PAGES) * LB_PAGE_SIZE;
}

/* One request to the node's process, and its answer in body[LB_BODY_MAX]. */
static bool
ask(rdma_plane *rdma, lb_frame_type type, lb_frame_type answer, uint8_t *body, size_t *length,
	uint64_t deadline_ns, lb_status *status)
{
	rdma->sequence++;
	rdma->head.counters.round_trips++;
	return lb_data_plane_socket_send(&rdma->head, rdma->fd, type, rdma->sequence, body, *length,
									 deadline_ns, status) &&
		   lb_data_plane_socket_answer(&rdma->head, rdma->fd, answer, rdma->sequence, body, length,
									   NULL, deadline_ns, status);
}

/* Ask for a queue pair. */
static bool
get_invitation(rdma_plane *rdma, lb_rdma_invitation *invitation, uint64_t deadline_ns,
			   lb_status *status)
{
	uint8_t body[LB_BODY_MAX] = {0};
	size_t length = 0; /* of the question */

	if (!ask(rdma, LB_RDMA_OPEN, LB_RDMA_OPENED, body, &length, deadline_ns, status))
	{
		/* The session was accepted, so it is queue pairs that the node has none of. */
		rdma->head.tcp_would_do = status->code == LB_REFUSED;
		return false;
	}
	if (!lb_decode_rdma_invitation(body, length, invitation))
		return lb_fail(status, LB_PROTOCOL, "the node's RDMA_OPENED is malformed");
	return true;
}

/* Processes that this one starts must not share the pages: after a fork either side may be the one that gets new ones. */
static bool
map_bounce(rdma_plane *rdma, lb_status *status)
{
	void *start =
		mmap(NULL, BOUNCE_LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED)
		return lb_fail_errno(status, "could not allocate %zu bytes to read into", BOUNCE_LENGTH);
	rdma->bounce = start;
	if (madvise(start, BOUNCE_LENGTH, MADV_DONTFORK) != 0)
		return lb_fail_errno(status, "could not keep memory to read into from being inherited");
	return true;
}

/* Connect the queue pair. False with LB_TIMEOUT or LB_CANCELLED if it is we who do not wait longer. */
static bool
establish(rdma_plane *rdma, const lb_address *address, const lb_rdma_invitation *invitation,
		  uint64_t deadline_ns, lb_status *status)
{
	lb_rdma_memory memory;
	int state;

	if (!map_bounce(rdma, status))
		return false;
	memory = (lb_rdma_memory){.start = rdma->bounce, .length = BOUNCE_LENGTH};
	rdma->connection = lb_rdma_connect_start(address, invitation, &memory, status);
	if (rdma->connection == NULL)
		return false;
	for (;;)
	{
		struct pollfd wait = {.fd = lb_rdma_event_fd(rdma->connection), .events = POLLIN};

		/* Asked before looking: what has come while this process had no processor is not late. */
		bool may_wait = lb_data_plane_may_wait(&rdma->head, deadline_ns, status);

		state = lb_rdma_connect_continue(rdma->connection, status);
		if (state != 0 || !may_wait)
			break;
		/* A failure of poll would be seen as one of the connection. */
		(void) poll(&wait, 1, CONNECT_SLICE_MS);
	}
	return state > 0;
}

static void
forget_slabs(rdma_plane *rdma)
{
	for (uint32_t i = 0; i < rdma->slab_count; i++)
		rdma->slabs[i].pages = 0;
}

/* Make the array of slabs long enough for this number, which is one that the wire allows. */
static bool
reserve_slabs(rdma_plane *rdma, uint32_t slab, lb_status *status)
{
	uint32_t count = rdma->slab_count > 0 ? rdma->slab_count : 64;
	slab_place *larger;

	if (slab < rdma->slab_count)
		return true;
	while (count <= slab)
		count *= 2;
	larger = realloc(rdma->slabs, count * sizeof(*larger));
	if (larger == NULL)
		return lb_fail_errno(status, "could not allocate the list of slabs");
	memset(larger + rdma->slab_count, 0, (count - rdma->slab_count) * sizeof(*larger));
	rdma->slabs = larger;
	rdma->slab_count = count;
	return true;
}

static bool
note_slabs(rdma_plane *rdma, const lb_slab_keys *keys, lb_status *status)
{
	for (uint32_t i = 0; i < keys->count; i++)
	{
		const lb_slab_key *key = &keys->slabs[i];

		if (!reserve_slabs(rdma, key->slab, status))
			return false;
		rdma->slabs[key->slab] =
			(slab_place){.address = key->address, .key = key->key, .pages = key->pages};
	}
	return true;
}

/* Ask where the slabs are, all of them: there are few, and an answer has hundreds. */
static bool
learn_slabs(rdma_plane *rdma, uint64_t deadline_ns, lb_status *status)
{
	uint32_t next = 0;
	lb_slab_keys keys;

	forget_slabs(rdma);
	do
	{
		uint8_t body[LB_BODY_MAX];
		size_t length = lb_encode_slab_number(body, next);

		if (!ask(rdma, LB_SLAB_KEYS, LB_SLAB_KEYS_REPLY, body, &length, deadline_ns, status))
			return false;
		if (!lb_decode_slab_keys(body, length, &keys) || (keys.more && keys.next <= next))
			return lb_fail(status, LB_PROTOCOL, "the node's SLAB_KEYS_REPLY is malformed");
		if (!note_slabs(rdma, &keys, status))
			return false;
		next = keys.next;
	} while (keys.more);
	return true;
}

/* Also after a failure half-way. When lb_rdma_close has returned nothing writes to the bounce buffers any more. */
static void
release(rdma_plane *rdma)
{
	lb_rdma_close(rdma->connection);
	if (rdma->bounce)
		munmap(rdma->bounce, BOUNCE_LENGTH);
	free(rdma->slabs);
	close(rdma->fd);
}

static bool
rdma_connect(lb_data_plane *plane, const lb_address *address, const lb_hello *hello,
			 uint64_t deadline_ns, lb_status *status)
{
	rdma_plane *rdma = (rdma_plane *) plane;
	lb_rdma_invitation invitation;
	uint64_t now;

	rdma->fd = lb_data_plane_socket_open(plane, address, hello, deadline_ns, status);
	if (rdma->fd < 0)
		return false;
	if (!get_invitation(rdma, &invitation, deadline_ns, status))
		goto failed;

	/* The node answers, it has just done so: half of the time that is left is for reading over TCP instead. */
	now = lb_now_ns();
	if (!establish(rdma, address, &invitation,
				   now < deadline_ns ? now + (deadline_ns - now) / 2 : deadline_ns, status))
	{
		/* This host has no queue pair, device or locked memory to spare, or the node has not, or the fabric is not passable. */
		plane->tcp_would_do = status->code != LB_CANCELLED && lb_now_ns() < deadline_ns;
		goto failed;
	}
	if (learn_slabs(rdma, deadline_ns, status))
		return true;
failed:
	release(rdma);
	return false;
}

static void
note_counters(rdma_plane *rdma)
{
	lb_rdma_counters counters = lb_rdma_get_counters(rdma->connection);

	rdma->head.counters.work_requests = counters.work_requests;
	rdma->head.counters.doorbells = counters.doorbells;
	rdma->head.counters.completions = counters.completions;
}

/* Poll without a pause, for a while. As lb_rdma_poll. */
static int
spin(rdma_plane *rdma, uint64_t *ticket, lb_status *status)
{
	uint64_t until = 0;

	for (;;)
	{
		uint64_t now;

		for (int i = 0; i < POLLS_PER_CLOCK; i++)
		{
			int found = lb_rdma_poll(rdma->connection, ticket, status);

			if (found != 0)
				return found;
		}
		now = lb_now_ns();
		if (until == 0)
			until = now + SPIN_NS;
		else if (now >= until)
			return 0;
	}
}

/* The same, giving way to others between looks, until the deadline, or the caller's callback, or the end of the connection. */
static int
poll_patiently(rdma_plane *rdma, uint64_t *ticket, uint64_t deadline_ns, lb_status *status)
{
	static const struct timespec pause = {.tv_nsec = PAUSE_NS};
	uint64_t next_look = lb_now_ns() + LOOK_NS;
	bool looked = false;
	bool may_wait;
	int found;

	while ((found = lb_rdma_poll(rdma->connection, ticket, status)) == 0)
	{
		uint64_t now;

		if (looked)
			nanosleep(&pause, NULL);
		else
			sched_yield();
		now = lb_now_ns();
		if (now < next_look && now < deadline_ns)
			continue;
		next_look = now + LOOK_NS;
		looked = true;

		/* Asked before polling once more: what has come while this process had no processor is not late, nor lost with the connection. */
		may_wait = lb_data_plane_may_wait(&rdma->head, deadline_ns, status);
		found = lb_rdma_poll(rdma->connection, ticket, status);
		if (found != 0)
			break;
		/* A node that has closed the connection does not answer: without its event we would wait for the deadline. */
		if (!lb_rdma_check(rdma->connection, status) || !may_wait)
			return -1;
	}
	return found;
}

/* Wait for the oldest batch, and hand out its pages. */
static bool
complete_oldest(rdma_plane *rdma, uint64_t deadline_ns, lb_status *status)
{
	lb_data_plane *plane = &rdma->head;
	uint64_t expected = plane->completed + 1;
	const rdma_batch *batch = &rdma->batches[expected % LB_BATCHES_MAX];
	uint64_t ticket = 0;
	int found = spin(rdma, &ticket, status);

	if (found == 0)
		found = poll_patiently(rdma, &ticket, deadline_ns, status);
	note_counters(rdma);
	if (found < 0)
		return false;
	if (ticket != expected)
		return lb_fail(status, LB_PROTOCOL, "a read completed out of turn");

	for (int i = 0; i < batch->count; i++)
		memcpy(batch->dest[i], bounce_page(rdma, rdma->first_page + (uint32_t) i), LB_PAGE_SIZE);
	rdma->first_page = (rdma->first_page + (uint32_t) batch->count) % BOUNCE_PAGES;
	rdma->pages_used -= (uint32_t) batch->count;
	plane->completed = expected;
	plane->counters.pages += (uint64_t) batch->count;
	return true;
}

static bool
rdma_wait(lb_data_plane *plane, uint64_t ticket, uint64_t deadline_ns, lb_status *status)
{
	assert(ticket <= plane->submitted);
	while (plane->completed < ticket)
		if (!complete_oldest((rdma_plane *) plane, deadline_ns, status))
			return false;
	return true;
}

static bool
is_known(const rdma_plane *rdma, uint32_t slab)
{
	return slab < rdma->slab_count && rdma->slabs[slab].pages > 0;
}

/* Where the node has this slot. */
static bool
locate(rdma_plane *rdma, const lb_slot_ref *slot, lb_rdma_read *read, uint64_t deadline_ns,
	   lb_status *status)
{
	const slab_place *place;

	if (!is_known(rdma, slot->slab) && !learn_slabs(rdma, deadline_ns, status))
		return false;
	if (!is_known(rdma, slot->slab))
	{
		/* What the node says to a SLAB_MAP, or a READ. */
		lb_fail(status, LB_REFUSED, "the node has no slab %u for this instance", slot->slab);
		status->wire_error = LB_ERR_SLAB;
		return false;
	}
	place = &rdma->slabs[slot->slab];
	if (slot->page >= place->pages)
		return lb_fail(status, LB_PROTOCOL, "slab %u has %u pages: no page %u", slot->slab,
					   place->pages, slot->page);
	read->address = place->address + (uint64_t) slot->page * LB_PAGE_SIZE;
	read->remote_key = place->key;
	return true;
}

static bool
rdma_submit(lb_data_plane *plane, const lb_read_target *targets, int count, uint64_t deadline_ns,
			lb_status *status)
{
	rdma_plane *rdma = (rdma_plane *) plane;
	uint64_t ticket = plane->submitted + 1;
	rdma_batch *batch = &rdma->batches[ticket % LB_BATCHES_MAX];
	uint32_t local_key = lb_rdma_local_key(rdma->connection);
	lb_rdma_read reads[LB_BATCH_MAX];
	bool posted;

	assert(count > 0 && count <= LB_BATCH_MAX);
	while (plane->submitted - plane->completed == LB_BATCHES_MAX ||
		   rdma->pages_used + (uint32_t) count > BOUNCE_PAGES)
	{
		if (!complete_oldest(rdma, deadline_ns, status))
			return false;
	}
	for (int i = 0; i < count; i++)
	{
		uint32_t position = rdma->first_page + rdma->pages_used + (uint32_t) i;

		if (!locate(rdma, &targets[i].slot, &reads[i], deadline_ns, status))
			return false;
		reads[i].dest = bounce_page(rdma, position);
		reads[i].local_key = local_key;
		batch->dest[i] = targets[i].dest;
	}
	batch->count = count;
	posted = lb_rdma_post_reads(rdma->connection, reads, count, ticket, status);
	note_counters(rdma);
	if (!posted)
		return false;
	rdma->pages_used += (uint32_t) count;
	plane->submitted = ticket;
	plane->counters.batches++;
	return true;
}

/* Batches that are under way have their addresses and keys. If a slab of theirs goes, they fail, and the connection with them. */
static void
rdma_unmap(lb_data_plane *plane)
{
	forget_slabs((rdma_plane *) plane);
}

static void
rdma_close(lb_data_plane *plane)
{
	release((rdma_plane *) plane);
	free(plane);
}

const lb_data_plane_ops lb_data_plane_rdma = {
	.name = "rdma",
	.size = sizeof(rdma_plane),
	.descriptors = 2,         /* the session's socket, rdma_cm's event channel */
	.process_descriptors = 2, /* the device and its events: librdmacm does not close them */
	.read_ahead_helps = true,
	.connect = rdma_connect,
	.submit = rdma_submit,
	.wait = rdma_wait,
	.unmap = rdma_unmap,
	.close = rdma_close,
};
