/*
 * fences.c
 *	  Rule R8: after FENCED nothing of the pages that were meant gets to storage. And the fence file, which ends the flushing of a
 *	  former life.
 */
#include <string.h>
#include <unistd.h>

#include "lb_clock.h"
#include "tap.h"
#include "write_back.h"

/* FENCE, answered at once. */
static void
expect_fenced(write_back *self, lb_fence fence, const char *name)
{
	client_fence(&self->agent, &fence);
	ok(is_fenced(&self->agent, self->agent.sequence, 1000), "FENCE of %s", name);
}

static void
test_waiting_pages(void)
{
	lb_fence database = {.by_database = true, .from = {0, 5, 0, 0, 0}};
	lb_fence other = {.by_database = true, .from = {0, 6, 0, 0, 0}};
	write_back self;

	write_back_start(&self, NULL, NULL);
	expect_fenced(&self, fence_of_relation(100), "a relation that has no pages");
	push_pages(&self.agent, 100, 0, 64, 1, true);
	push_pages(&self.agent, 200, 64, 64, 1, true);
	expect_fenced(&self, fence_of_blocks(100, 10, 12), "two blocks");
	is_number(figures_of(&self).dirty_pages, 126, "2 are dirty no more");
	expect_fenced(&self, fence_of_blocks(100, 30, UINT32_MAX), "blocks up to the end");
	is_number(figures_of(&self).dirty_pages, 92, "34 more");
	expect_fenced(&self, other, "another database");
	is_number(figures_of(&self).dirty_pages, 92, "none of these");
	expect_fenced(&self, fence_of_relation(100), "a relation");
	is_number(figures_of(&self).dirty_pages, 64, "none of it is left");
	is_number(push_pages(&self.agent, 100, 0, 1, 1, true), LB_PUSH_PUBLISHED,
			  "its versions are forgotten");
	client_release(&self.agent, 0, 0, 1);
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 64, 3000), "the other relation is flushed");
	client_listen(&self.agent, 300);
	is_number(self.agent.told->clean_count, 64, "nothing else is told of");
	ok(file_is_zero(&self, 100, 0, 64) && file_has(&self, 200, 64, 64, 1), "nor written");
	push_pages(&self.agent, 100, 0, 10, 2, true);
	push_pages(&self.agent, 200, 10, 10, 2, true);
	expect_fenced(&self, database, "a database");
	is_number(figures_of(&self).dirty_pages, 0, "nothing is left");
	write_back_stop(&self);
}

/* The round is held before its write: FENCED comes when it is over, and then the file changes no more. */
static void
test_pages_under_way(const char *fault)
{
	lb_fence first = fence_of_relation(100);
	lb_fence second = fence_of_blocks(100, 1, 2);
	uint64_t begin_ns;
	uint64_t sequence;
	bool written;
	write_back self;

	note("%s", fault);
	write_back_start(&self, fault, NULL);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	push_pages(&self.agent, 200, 10, 2, 1, true);
	client_flush(&self.agent);
	usleep(200000);
	begin_ns = lb_now_ns();
	client_fence(&self.agent, &first);
	sequence = self.agent.sequence;
	client_fence(&self.agent, &second);
	expect_fenced(&self, fence_of_relation(300), "a relation that is not in the round");
	is_number(client_ping(&self.agent), LB_PONG, "the node goes on");
	is_number((uint64_t) client_receive_within(&self.agent, 200), (uint64_t) CLIENT_SILENT,
			  "no FENCED while the round is under way");
	ok(is_fenced(&self.agent, sequence, 3000), "FENCED when it is over");
	ok(lb_now_ns() - begin_ns > 400000000, "... not before");
	ok(is_fenced(&self.agent, sequence + 1, 1000), "... and also for the second fence");
	written = file_has(&self, 100, 0, 2, 1);
	ok(client_wait_clean(&self.agent, 2, 3000) && client_told_clean(&self.agent, 200, 10, 1) == 1,
	   "the other pages of the round are told of");
	client_flush(&self.agent);
	client_listen(&self.agent, 700);
	is_number(self.agent.told->clean_count, 2, "the fenced ones are not");
	ok(file_has(&self, 100, 0, 2, 1) == written, "the file does not change after FENCED");
	is_number(figures_of(&self).dirty_pages, 0, "nothing is dirty");
	write_back_stop(&self);
}

/* A page of the relation's next life must not be taken for one of its former. */
static void
test_next_life(void)
{
	lb_fence fence = fence_of_relation(100);
	write_back self;

	write_back_start(&self, "memnode.flush.write=wait:600@1", NULL);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	client_flush(&self.agent);
	usleep(200000);
	client_fence(&self.agent, &fence);
	push_pages(&self.agent, 100, 0, 2, 2, true);
	ok(is_fenced(&self.agent, self.agent.sequence - 1, 3000), "FENCED");
	is_number(figures_of(&self).dirty_pages, 2, "what was pushed after FENCE is dirty");
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 2, 3000) && file_has(&self, 100, 0, 2, 2),
	   "... and is flushed");
	is_number((uint64_t) client_told_clean(&self.agent, 100, 0, 2), 1, "only that is told of");
	write_back_stop(&self);
}

/* A later start of the server has raised the fence: this attachment is over. */
static void
test_fence_file(void)
{
	lb_storage_reply reply;
	write_back self;

	write_back_start(&self, NULL, NULL);
	data_set_fence(&self.data, 9);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 2, 3000), "a fence below our epoch does not matter");
	data_set_fence(&self.data, 10);
	push_pages(&self.agent, 100, 0, 2, 2, true);
	client_flush(&self.agent);
	ok(client_wait_error(&self.agent, 3000), "one of our epoch does: %s",
	   self.agent.told->error.error);
	client_listen(&self.agent, 1500);
	ok(file_has(&self, 100, 0, 2, 1), "nothing is written");
	is_number(self.agent.told->error.failures, 1, "nor tried again");
	is_number(push_pages(&self.agent, 100, 0, 2, 3, true), LB_PUSH_NO_STORAGE,
			  "dirty pages are refused");
	ok(!client_storage(&self.agent, &reply), "storage can't be proved any more");
	note("%s", reply.message);
	ok(write_back_resume(&self) && client_storage(&self.agent, NULL),
	   "an attachment with a higher epoch may");
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 2, 3000) && file_has(&self, 100, 0, 2, 2),
	   "what is still dirty is flushed");
	write_back_stop(&self);
}

/* As many as may wait, and one more. */
static void
test_many(void)
{
	lb_fence fence = fence_of_relation(100);
	uint64_t first;
	bool all = true;
	write_back self;

	write_back_start(&self, "memnode.flush.write=wait:700@1", NULL);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	client_flush(&self.agent);
	usleep(200000);
	first = self.agent.sequence + 1;
	for (int i = 0; i < 257; i++)
		client_fence(&self.agent, &fence);
	ok(client_receive(&self.agent) == LB_ERROR && self.agent.error.error == LB_ERR_LIMIT &&
		   self.agent.frame.header.sequence == first + 256,
	   "256 may wait, not one more");
	for (uint64_t i = 0; i < 256; i++)
		all = is_fenced(&self.agent, first + i, 3000) && all;
	ok(all, "all that wait are answered, in order");
	is_number(client_ping(&self.agent), LB_PONG, "the session goes on");
	write_back_stop(&self);
}

static void
test_fault_points(void)
{
	lb_fence fence = fence_of_relation(100);
	write_back self;

	write_back_start(&self, "memnode.fence=fail@1,memnode.fenced=fail@1,memnode.resume=fail@2",
					 NULL);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	client_fence(&self.agent, &fence);
	is_number((uint64_t) client_receive(&self.agent), CLIENT_CLOSED, "fence=fail: closed");
	is_number(figures_of(&self).dirty_pages, 2, "... before anything was done");
	ok(write_back_resume(&self), "resumed");
	client_fence(&self.agent, &fence);
	is_number((uint64_t) client_receive(&self.agent), CLIENT_CLOSED, "fenced=fail: closed");
	is_number(figures_of(&self).dirty_pages, 0, "... when all was done");
	write_back_stop(&self);
}

int
main(void)
{
	test_waiting_pages();
	test_pages_under_way("memnode.flush.write=wait:700@1");
	test_pages_under_way("memnode.flush.sync=wait:700@1");
	test_next_life();
	test_fence_file();
	test_many();
	test_fault_points();
	return done_testing();
}
