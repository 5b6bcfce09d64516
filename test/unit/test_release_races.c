/*
 * test_release_races.c
 *	  Rule C1 of docs/recovery.md, under many threads: when all entries were asked for RELEASEs, and the node has handled what was sent, no
 *	  slot of it identifies a page that was unlinked before.
 *
 * Threads play backends, which link, forget, evict and pin pages. One thread plays the agent, the connection, which delivers frames
 * late and in order or breaks and loses them, and the memory node, which is an array of identities.
 */
#include "postgres.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <unistd.h>

#include "comm_buffer.h"
#include "lb_clock.h"
#include "page_directory.h"
#include "pg_stubs.h"
#include "slab_table.h"

#define POOL_PAGES 256
#define BLOCKS 300 /* more than the pool has room for */
#define CLIENTS 4
#define DURATION_NS UINT64_C(2500000000)
#define WIRE 65536
#define SENT 4096

/* What a slot of the node identifies; version 0: nothing. */
typedef struct Identity
{
	uint64 version;
	lb_page_tag tag;
} Identity;

/* A push without an answer that the agent has seen. */
typedef struct SentPush
{
	uint32 buffer;
	uint32 entry;
	Identity page;
	bool sent_before;
	bool answered;
	bool published;
} SentPush;

/* push: its number in sent; -1: a RELEASE */
typedef struct Frame
{
	int push;
	uint32 entry;
	uint64 version;
} Frame;

static Identity node[POOL_PAGES];
static Frame wire[WIRE];
static int wire_from, wire_to;
static SentPush sent[SENT];
static int sent_count;
static bool stop, agent_may_end;
static uint64 emptied, breaks, checkpoints, unsent, refused, links, undone;

#define COUNT(counter) __atomic_fetch_add(&(counter), 1, __ATOMIC_RELAXED)

static void
check(bool condition, const char *what)
{
	if (condition)
		return;
	fputs(what, stderr);
	fputc('\n', stderr);
	abort();
}

static uint32
random_below(uint64 *seed, uint32 limit)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32) (*seed >> 33) % limit;
}

/* --- the node ------------------------------------------------------------------------------------------------------ */

static void
handle_push(SentPush *push, uint64 *seed)
{
	push->answered = true;
	for (int i = 0; i < POOL_PAGES; i++)
	{
		if (node[i].version == 0 || !lb_page_tag_equal(&node[i].tag, &push->page.tag))
			continue;
		if (node[i].version >= push->page.version)
		{
			push->published = push->sent_before;
			return;
		}
	}
	/* Storage not proven any more, say: the slot keeps what it had. */
	if (random_below(seed, 16) == 0)
		return;
	node[push->entry].version = 0;
	if (random_below(seed, 16) == 0)
		return; /* damaged on the way */
	for (int i = 0; i < POOL_PAGES; i++)
	{
		if (node[i].version != 0 && lb_page_tag_equal(&node[i].tag, &push->page.tag))
			node[i].version = 0;
	}
	node[push->entry] = push->page;
	push->published = true;
}

static void
deliver(int frames, uint64 *seed)
{
	for (; frames > 0 && wire_from < wire_to; frames--)
	{
		const Frame *frame = &wire[wire_from++];

		if (frame->push >= 0)
			handle_push(&sent[frame->push], seed);
		else if (node[frame->entry].version != 0 && node[frame->entry].version <= frame->version)
		{
			node[frame->entry].version = 0;
			emptied++;
		}
	}
}

/* --- the agent ----------------------------------------------------------------------------------------------------- */

static void
send_frame(int push, uint32 entry, uint64 version)
{
	check(wire_to < WIRE, "the wire is too short");
	wire[wire_to++] = (Frame){.push = push, .entry = entry, .version = version};
}

static void
end_push(const SentPush *push, bool published)
{
	PageDirectoryPushEnded(push->entry, published);
	CommBufferRelease(push->buffer);
}

/* Send it, unless nobody wants it any more. */
static void
send_push(uint32 buffer, uint32 entry, bool sent_before)
{
	SentPush *push = &sent[sent_count];
	const PageDirectoryEntry *page = PageDirectoryEntryAt(entry);

	*push = (SentPush){.buffer = buffer, .entry = entry, .sent_before = sent_before};
	if (!PageDirectoryIsLinked(entry))
	{
		unsent++;
		end_push(push, false);
		return;
	}
	push->page = (Identity){.version = page->version, .tag = page->tag};
	send_frame(sent_count++, entry, page->version);
}

static void
send_queued(uint64 *seed)
{
	uint32 buffers[16];
	uint32 entries[16];
	uint32 count = CommBufferTakeQueued(1 + random_below(seed, 16), buffers, entries);

	for (uint32 i = 0; i < count; i++)
		send_push(buffers[i], entries[i], false);
}

/* The answers to some of what was delivered; all of them, when the wire can be used from its beginning again. */
static void
take_answers(uint64 *seed)
{
	if (wire_from < wire_to && random_below(seed, 4) != 0)
		return;
	deliver(WIRE, seed);
	for (int i = 0; i < sent_count; i++)
	{
		check(sent[i].answered, "a push without an answer");
		refused += sent[i].published ? 0 : 1;
		end_push(&sent[i], sent[i].published);
	}
	sent_count = wire_from = wire_to = 0;
}

static void
take_releases(uint32 from, uint32 to)
{
	for (uint32 entry = from; entry < to; entry++)
	{
		uint64 version;

		if (PageDirectoryTakeRelease(entry, &version))
			send_frame(-1, entry, version);
	}
}

static void
break_connection(void)
{
	static SentPush again[SENT];
	int count = sent_count;

	memcpy(again, sent, sizeof(SentPush) * count);
	sent_count = wire_from = wire_to = 0;
	for (int i = 0; i < count; i++)
		send_push(again[i].buffer, again[i].entry, true);
	PageDirectoryReleaseAgain(0, POOL_PAGES);
	breaks++;
}

static void
checkpoint(uint64 *seed)
{
	uint64 first_later = PageDirectoryNextVersion();
	uint64 linked[POOL_PAGES];

	for (uint32 entry = 0; entry < POOL_PAGES; entry++)
	{
		PageDirectoryRow row;

		linked[entry] = PageDirectoryGetRow(entry, &row) ? row.version : 0;
	}
	take_releases(0, POOL_PAGES);
	deliver(WIRE, seed);
	for (int i = 0; i < POOL_PAGES; i++)
		check(node[i].version == 0 || node[i].version == linked[i] ||
				  node[i].version >= first_later,
			  "the node identifies a page that was unlinked before the checkpoint");
	checkpoints++;
}

static void *
agent(void *argument)
{
	uint64 seed = 99;

	while (!__atomic_load_n(&agent_may_end, __ATOMIC_RELAXED))
	{
		uint32 part = random_below(&seed, POOL_PAGES / 16) * 16;

		if (sent_count < SENT - 16 && wire_to < WIRE - 2 * POOL_PAGES)
		{
			send_queued(&seed);
			take_releases(part, part + 16);
		}
		deliver(random_below(&seed, 8), &seed);
		take_answers(&seed);
		if (random_below(&seed, 200) == 0)
			break_connection();
		if (random_below(&seed, 20) == 0)
			checkpoint(&seed);
		sched_yield();
	}
	do
	{
		send_queued(&seed);
		deliver(WIRE, &seed);
		take_answers(&seed);
	} while (sent_count > 0 || CommBufferFree() < CommBufferCount());
	checkpoint(&seed);
	return NULL;
}

/* --- backends ------------------------------------------------------------------------------------------------------ */

static uint32
take_slot(uint64 *seed)
{
	uint32 entry = SlabTableTakeFree(0);

	if (entry != INVALID_ENTRY)
	{
		PageDirectoryReserve(entry);
		return entry;
	}
	for (int i = 0; i < 50; i++)
	{
		entry = random_below(seed, POOL_PAGES);
		if (PageDirectoryTryEvict(entry, NULL))
			return entry;
	}
	return INVALID_ENTRY;
}

static void
push(const lb_page_tag *tag, bool is_read, uint64 *seed)
{
	PageStamp stamp = PageDirectoryStamp(tag);
	uint32 buffer = CommBufferTake();
	uint32 entry;
	uint64 next = PageDirectoryNextVersion();

	if (buffer == INVALID_COMM_BUFFER)
		return;
	entry = take_slot(seed);
	if (random_below(seed, 4) == 0)
		sched_yield();
	if (entry == INVALID_ENTRY)
	{
		CommBufferRelease(buffer);
		return;
	}
	if (PageDirectoryLink(entry, tag, 1, buffer, is_read ? &stamp : NULL, 0) == 0)
	{
		/* A version was given to it, and nobody else got one: it was linked and unlinked again at once. */
		if (PageDirectoryEntryAt(entry)->version >= next)
			COUNT(undone);
		CommBufferRelease(buffer);
		return;
	}
	COUNT(links);
	if (random_below(seed, 4) == 0)
		sched_yield();
	CommBufferQueue(buffer, entry);
}

static void *
client(void *argument)
{
	uint64 seed = (uintptr_t) argument * 7919;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
	{
		lb_page_tag tag = {.tablespace = 1663,
						   .database = 5,
						   .relation = 1000,
						   .block = random_below(&seed, BLOCKS)};
		PagePin pin;

		switch (random_below(&seed, 8))
		{
			case 0:
				PageDirectoryForget(&tag);
				break;
			case 1:
			case 2:
				if (!PageDirectoryPin(&tag, false, &pin))
					break;
				sched_yield();
				PageDirectoryUnpin(&pin);
				break;
			default:
				push(&tag, random_below(&seed, 2) == 0, &seed);
		}
	}
	return NULL;
}

/* Truncates: what is being linked meanwhile may have to be taken back. */
static void *
truncater(void *argument)
{
	uint64 seed = 4711;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
	{
		uint32 from = random_below(&seed, BLOCKS);
		PageSelection selection = {
			.by_relation = true,
			.by_fork = true,
			.from = {.tablespace = 1663, .database = 5, .relation = 1000, .block = from},
			.end = from + 10};

		PageDirectoryForgetSelected(&selection);
		for (int i = 0; i < 10; i++)
			sched_yield();
	}
	return NULL;
}

static void
test_release_races(void **state)
{
	pthread_t clients[CLIENTS];
	pthread_t others[2];
	uint64 end = lb_now_ns() + DURATION_NS;

	stub_set_pool(POOL_PAGES, POOL_PAGES);
	PageDirectoryShmemInit();
	SlabTableShmemInit();
	CommBufferShmemInit();
	assert_true(SlabTableAdd(0, 0));
	assert_true(CommBufferCount() < SENT - 16);

	pthread_create(&others[0], NULL, agent, NULL);
	pthread_create(&others[1], NULL, truncater, NULL);
	for (intptr_t i = 0; i < CLIENTS; i++)
		pthread_create(&clients[i], NULL, client, (void *) (i + 1));
	while (lb_now_ns() < end)
		usleep(10000);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < CLIENTS; i++)
		pthread_join(clients[i], NULL);
	pthread_join(others[1], NULL);
	__atomic_store_n(&agent_may_end, true, __ATOMIC_RELAXED);
	pthread_join(others[0], NULL);

	/* At rest the node has what is linked, and nothing else. */
	for (uint32 entry = 0; entry < POOL_PAGES; entry++)
	{
		PageDirectoryRow row;

		assert_int_equal(node[entry].version,
						 PageDirectoryGetRow(entry, &row) ? row.version : UINT64_C(0));
	}
	print_message(
		"%lu links, %lu undone, %lu not sent, %lu refused, %lu slots emptied, %lu breaks, "
		"%lu checkpoints\n",
		links, undone, unsent, refused, emptied, breaks, checkpoints);
	assert_true(links > 1000 && unsent > 10 && refused > 10 && emptied > 100 && breaks > 2 &&
				checkpoints > 20);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_release_races),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
