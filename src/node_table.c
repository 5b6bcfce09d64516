/*
 * node_table.c
 *	  The memory nodes, as all processes of the server see them.
 *
 * A node's spinlock protects everything that says who the node is and how it does. State and session are atomics as well,
 * because every page read looks at them: they are written with the lock held and read without. Nothing may raise while a
 * spinlock is held, so strings are copied only between arrays of fixed size.
 *
 * Figures that every read adds to lie on cache lines of their own, in several stripes, like those of stats.c.
 */
#include "postgres.h"

#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "embedded_node.h"
#include "lb_clock.h"
#include "node_table.h"

#define STRIPES 8

#define PROBE_INTERVAL_NS UINT64_C(1000000000)

/* The least that anything is taken to cost: averages must stay large enough to be cut into eighths. */
#define COST_MIN_NS 64

typedef struct NodeStripe
{
	pg_atomic_uint64 reads;
	pg_atomic_uint64 work_requests;
	pg_atomic_uint64 doorbells;
	pg_atomic_uint64 completions;
	pg_atomic_uint64 latency[LB_HISTOGRAM_BUCKETS];
} NodeStripe;

#define STRIPE_SIZE TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(NodeStripe))

typedef struct NodeEntry
{
	/* Read for each page; written when the node's state changes. */
	pg_atomic_uint32 state;
	pg_atomic_uint32 session; /* 0 unless up or suspect */
	slock_t lock;
	lb_address address;
	lb_hello hello;
	bool attached_once; /* since shared memory was made */
	uint64 incarnation; /* 0 if it was never attached */
	uint64 capacity_pages;
	int process;
	char last_error[NODE_ERROR_MAX];
	char fallback[NODE_ERROR_MAX]; /* the reason of the session's first fallback; empty: none yet */
	bool fallback_taken;           /* by the agent */

	/* Written by reads. */
	char pad[PG_CACHE_LINE_SIZE];
	pg_atomic_uint32 read_cost;
	pg_atomic_uint64 last_probe_ns;
	pg_atomic_uint64 pushes;
	pg_atomic_uint64 push_messages;
	pg_atomic_uint64 tcp_fallbacks;
} NodeEntry;

#define NODE_OFFSET_OF_STRIPES TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(NodeEntry))
#define NODE_SIZE (NODE_OFFSET_OF_STRIPES + STRIPES * STRIPE_SIZE)

typedef struct NodeTable
{
	pg_atomic_uint32 sessions; /* the highest session number given out */
	pg_atomic_uint32 unmap_counter;
	char pad[PG_CACHE_LINE_SIZE];
	pg_atomic_uint32 storage_cost;
	pg_atomic_uint32 kernel_cache_hits;
} NodeTable;

#define TABLE_OFFSET_OF_NODES TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(NodeTable))

/* The same in all processes: fixed at server start, and inherited. */
/* In the postmaster, and so in its children: is this its first shared memory, or was that made anew after a crash? */
static bool first_shared_memory;
static int times_made;

static NodeTable *table;
static const lb_uri *node_uris;
static int node_count;

static inline NodeEntry *
node_at(int node)
{
	Assert(node >= 0 && node < node_count);
	return (NodeEntry *) ((char *) table + TABLE_OFFSET_OF_NODES + node * NODE_SIZE);
}

static inline NodeStripe *
stripe_at(NodeEntry *entry, int stripe)
{
	return (NodeStripe *) ((char *) entry + NODE_OFFSET_OF_STRIPES + stripe * STRIPE_SIZE);
}

static inline NodeStripe *
my_stripe(NodeEntry *entry)
{
	return stripe_at(entry, MyProc == NULL ? 0 : MyProc->pgprocno % STRIPES);
}

static int
configured_nodes(const lb_uri **uris)
{
	if (settings_embedded())
	{
		*uris = embedded_node_uri();
		return 1;
	}
	return settings_node_uris(uris);
}

Size
NodeTableShmemSize(void)
{
	const lb_uri *uris;

	return TABLE_OFFSET_OF_NODES + configured_nodes(&uris) * NODE_SIZE;
}

static void
init_node(NodeEntry *entry)
{
	memset(entry, 0, sizeof(NodeEntry));
	pg_atomic_init_u32(&entry->state, NODE_DOWN);
	pg_atomic_init_u32(&entry->session, 0);
	SpinLockInit(&entry->lock);
	pg_atomic_init_u32(&entry->read_cost, 0);
	pg_atomic_init_u64(&entry->last_probe_ns, 0);
	pg_atomic_init_u64(&entry->pushes, 0);
	pg_atomic_init_u64(&entry->push_messages, 0);
	pg_atomic_init_u64(&entry->tcp_fallbacks, 0);
	for (int i = 0; i < STRIPES; i++)
	{
		NodeStripe *stripe = stripe_at(entry, i);

		pg_atomic_init_u64(&stripe->reads, 0);
		pg_atomic_init_u64(&stripe->work_requests, 0);
		pg_atomic_init_u64(&stripe->doorbells, 0);
		pg_atomic_init_u64(&stripe->completions, 0);
		for (int bucket = 0; bucket < LB_HISTOGRAM_BUCKETS; bucket++)
			pg_atomic_init_u64(&stripe->latency[bucket], 0);
	}
}

void
NodeTableShmemInit(void)
{
	bool found;

	node_count = configured_nodes(&node_uris);
	table = ShmemInitStruct("legobase memory nodes", NodeTableShmemSize(), &found);
	if (found)
		return;
	first_shared_memory = times_made++ == 0;

	pg_atomic_init_u32(&table->sessions, 0);
	pg_atomic_init_u32(&table->unmap_counter, 0);
	pg_atomic_init_u32(&table->storage_cost, 0);
	pg_atomic_init_u32(&table->kernel_cache_hits, KERNEL_CACHE_LOOKS);
	for (int node = 0; node < node_count; node++)
		init_node(node_at(node));
}

int
NodeTableCount(void)
{
	return node_count;
}

const char *
NodeTableUri(int node)
{
	Assert(node >= 0 && node < node_count);
	return node_uris[node].text;
}

lb_transport
NodeTableTransport(int node)
{
	Assert(node >= 0 && node < node_count);
	return node_uris[node].transport;
}

NodeState
NodeTableState(int node)
{
	return (NodeState) pg_atomic_read_u32(&node_at(node)->state);
}

uint32
NodeTableSessionNumber(int node)
{
	return pg_atomic_read_u32(&node_at(node)->session);
}

bool
NodeTableSession(int node, NodeSession *session)
{
	NodeEntry *entry = node_at(node);
	bool up;

	SpinLockAcquire(&entry->lock);
	up = pg_atomic_read_u32(&entry->state) == NODE_UP;
	if (up)
	{
		session->session = pg_atomic_read_u32(&entry->session);
		session->address = entry->address;
		session->hello = entry->hello;
	}
	SpinLockRelease(&entry->lock);

	session->transport = NodeTableTransport(node);
	return up;
}

void
NodeTableSetUp(int node, const lb_address *address, const lb_hello *backend_hello,
			   const lb_welcome *welcome, int process)
{
	NodeEntry *entry = node_at(node);
	uint32 session = pg_atomic_add_fetch_u32(&table->sessions, 1);

	SpinLockAcquire(&entry->lock);
	entry->address = *address;
	entry->hello = *backend_hello;
	entry->attached_once = true;
	entry->incarnation = welcome->incarnation;
	entry->capacity_pages = welcome->capacity_pages;
	entry->process = process;
	entry->fallback[0] = '\0';
	entry->fallback_taken = false;
	pg_atomic_write_u32(&entry->session, session);
	pg_atomic_write_u32(&entry->state, NODE_UP);
	SpinLockRelease(&entry->lock);

	/* What an earlier session cost says nothing about this one: the node may be on another machine now. */
	pg_atomic_write_u32(&entry->read_cost, 0);
}

void
NodeTableSetState(int node, NodeState state)
{
	NodeEntry *entry = node_at(node);

	SpinLockAcquire(&entry->lock);
	if (state == NODE_DOWN || state == NODE_LOST)
		pg_atomic_write_u32(&entry->session, 0);
	pg_atomic_write_u32(&entry->state, state);
	SpinLockRelease(&entry->lock);
}

/* Only the agent changes what is copied here, so it needs no lock. */
bool
NodeTableAttachment(int node, NodeAttachment *attachment)
{
	const NodeEntry *entry = node_at(node);
	NodeState state = NodeTableState(node);

	if (state != NODE_UP && state != NODE_SUSPECT)
		return false;
	attachment->address = entry->address;
	attachment->epoch = entry->hello.epoch;
	attachment->token = entry->hello.token;
	attachment->incarnation = entry->incarnation;
	attachment->capacity_pages = entry->capacity_pages;
	attachment->process = entry->process;
	return true;
}

uint64
NodeTableIncarnation(int node)
{
	NodeState state = NodeTableState(node);

	return state == NODE_UP || state == NODE_SUSPECT ? node_at(node)->incarnation : 0;
}

bool
NodeTableMayTakeOver(int node)
{
	return take_over && first_shared_memory && !node_at(node)->attached_once;
}

void
NodeTableSetError(int node, const char *error)
{
	NodeEntry *entry = node_at(node);
	char text[NODE_ERROR_MAX];

	strlcpy(text, error, sizeof(text));
	SpinLockAcquire(&entry->lock);
	memcpy(entry->last_error, text, sizeof(text));
	SpinLockRelease(&entry->lock);
}

/* The session is compared under the lock: an old connection's trouble must not be held against a new session. */
bool
NodeTableSuspect(int node, uint32 session)
{
	NodeEntry *entry = node_at(node);
	bool news;

	SpinLockAcquire(&entry->lock);
	news = pg_atomic_read_u32(&entry->session) == session &&
		   pg_atomic_read_u32(&entry->state) == NODE_UP;
	if (news)
		pg_atomic_write_u32(&entry->state, NODE_SUSPECT);
	SpinLockRelease(&entry->lock);
	return news;
}

/*
 * Moving average over about eight samples. A sample counts for at most four times the average, so that one read that was
 * held up (the process had to wait for a processor, say) does not make a fast node look slow. Small changes are not
 * stored: all processes read the average for each page, and would have to fetch its cache line each time.
 */
static void
note_cost(pg_atomic_uint32 *cost, uint64 elapsed_ns)
{
	int64 average = pg_atomic_read_u32(cost);
	int64 sample = Max(COST_MIN_NS, Min(elapsed_ns, (uint64) PG_INT32_MAX));
	int64 change;

	if (average == 0)
	{
		pg_atomic_write_u32(cost, (uint32) sample);
		return;
	}
	/* A node that was slow for a while should not have to be fast for as long again before it is believed. */
	change = (Min(sample, 4 * average) - average) / (sample < average / 4 ? 2 : 8);
	if (Abs(change) > average / 64)
		pg_atomic_write_u32(cost, (uint32) Min(average + change, PG_INT32_MAX));
}

void
NodeTableCountReads(int node, uint32 pages, uint64 elapsed_ns)
{
	NodeEntry *entry = node_at(node);
	NodeStripe *stripe = my_stripe(entry);

	pg_atomic_fetch_add_u64(&stripe->reads, pages);
	if (elapsed_ns == 0)
		return;
	pg_atomic_fetch_add_u64(&stripe->latency[lb_histogram_bucket(elapsed_ns)], 1);
	note_cost(&entry->read_cost, elapsed_ns / Max(pages, 1));
}

void
NodeTableNoteTimeout(int node, uint64 elapsed_ns)
{
	pg_atomic_write_u32(&node_at(node)->read_cost,
						(uint32) Min(Max(elapsed_ns, COST_MIN_NS), PG_INT32_MAX));
}

void
NodeTableCountPushes(int node, uint32 pages)
{
	pg_atomic_fetch_add_u64(&node_at(node)->pushes, pages);
}

void
NodeTableCountPushMessages(int node, uint32 messages)
{
	pg_atomic_fetch_add_u64(&node_at(node)->push_messages, messages);
}

void
NodeTableCountWork(int node, uint64 work_requests, uint64 doorbells, uint64 completions)
{
	NodeStripe *stripe = my_stripe(node_at(node));

	if (work_requests > 0)
		pg_atomic_fetch_add_u64(&stripe->work_requests, work_requests);
	if (doorbells > 0)
		pg_atomic_fetch_add_u64(&stripe->doorbells, doorbells);
	if (completions > 0)
		pg_atomic_fetch_add_u64(&stripe->completions, completions);
}

void
NodeTableNoteFallback(int node, const char *reason)
{
	NodeEntry *entry = node_at(node);
	char text[NODE_ERROR_MAX];

	pg_atomic_fetch_add_u64(&entry->tcp_fallbacks, 1);
	strlcpy(text, reason, sizeof(text));
	SpinLockAcquire(&entry->lock);
	if (entry->fallback[0] == '\0')
		memcpy(entry->fallback, text, sizeof(text));
	SpinLockRelease(&entry->lock);
}

bool
NodeTableTakeFallback(int node, char *reason)
{
	NodeEntry *entry = node_at(node);
	bool news;

	SpinLockAcquire(&entry->lock);
	news = entry->fallback[0] != '\0' && !entry->fallback_taken;
	if (news)
	{
		memcpy(reason, entry->fallback, sizeof(entry->fallback));
		entry->fallback_taken = true;
	}
	SpinLockRelease(&entry->lock);
	return news;
}

void
NodeTableResetStats(void)
{
	for (int node = 0; node < node_count; node++)
	{
		NodeEntry *entry = node_at(node);

		pg_atomic_write_u64(&entry->pushes, 0);
		pg_atomic_write_u64(&entry->push_messages, 0);
		pg_atomic_write_u64(&entry->tcp_fallbacks, 0);
		for (int i = 0; i < STRIPES; i++)
		{
			NodeStripe *stripe = stripe_at(entry, i);

			pg_atomic_write_u64(&stripe->reads, 0);
			pg_atomic_write_u64(&stripe->work_requests, 0);
			pg_atomic_write_u64(&stripe->doorbells, 0);
			pg_atomic_write_u64(&stripe->completions, 0);
			for (int bucket = 0; bucket < LB_HISTOGRAM_BUCKETS; bucket++)
				pg_atomic_write_u64(&stripe->latency[bucket], 0);
		}
	}
}

void
NodeTableGetRow(int node, NodeRow *row)
{
	NodeEntry *entry = node_at(node);

	memset(row, 0, sizeof(NodeRow));
	strlcpy(row->uri, NodeTableUri(node), sizeof(row->uri));
	row->transport = NodeTableTransport(node);

	SpinLockAcquire(&entry->lock);
	row->state = (NodeState) pg_atomic_read_u32(&entry->state);
	row->incarnation = entry->incarnation;
	row->capacity_pages = entry->capacity_pages;
	memcpy(row->last_error, entry->last_error, sizeof(row->last_error));
	SpinLockRelease(&entry->lock);

	row->pushes = pg_atomic_read_u64(&entry->pushes);
	row->push_messages = pg_atomic_read_u64(&entry->push_messages);
	row->tcp_fallbacks = pg_atomic_read_u64(&entry->tcp_fallbacks);
	for (int i = 0; i < STRIPES; i++)
	{
		NodeStripe *stripe = stripe_at(entry, i);

		row->reads += pg_atomic_read_u64(&stripe->reads);
		row->work_requests += pg_atomic_read_u64(&stripe->work_requests);
		row->doorbells += pg_atomic_read_u64(&stripe->doorbells);
		row->completions += pg_atomic_read_u64(&stripe->completions);
		for (int bucket = 0; bucket < LB_HISTOGRAM_BUCKETS; bucket++)
			row->latency[bucket] += pg_atomic_read_u64(&stripe->latency[bucket]);
	}
}

uint32
NodeTableReadCost(int node)
{
	return pg_atomic_read_u32(&node_at(node)->read_cost);
}

uint32
NodeTableStorageCost(void)
{
	return pg_atomic_read_u32(&table->storage_cost);
}

uint32
NodeTableKernelCacheHits(void)
{
	return pg_atomic_read_u32(&table->kernel_cache_hits);
}

/* Over about 32 looks. */
void
NodeTableNoteKernelCacheLook(bool hit)
{
	int32 average = (int32) pg_atomic_read_u32(&table->kernel_cache_hits);
	int32 changed = average + ((hit ? KERNEL_CACHE_LOOKS : 0) - average) / 32;

	if (changed != average)
		pg_atomic_write_u32(&table->kernel_cache_hits, (uint32) changed);
}

void
NodeTableNoteStorageRead(uint64 elapsed_ns)
{
	note_cost(&table->storage_cost, elapsed_ns);
}

bool
NodeTableMayProbe(int node)
{
	NodeEntry *entry = node_at(node);
	uint64 now = lb_now_ns();
	uint64 last = pg_atomic_read_u64(&entry->last_probe_ns);

	/* Another process may have stored a time after ours was taken. */
	if (now < last || now - last < PROBE_INTERVAL_NS)
		return false;
	return pg_atomic_compare_exchange_u64(&entry->last_probe_ns, &last, now);
}

uint32
NodeTableUnmapCounter(void)
{
	return pg_atomic_read_u32(&table->unmap_counter);
}

void
NodeTableAskUnmap(void)
{
	pg_atomic_fetch_add_u32(&table->unmap_counter, 1);
}
