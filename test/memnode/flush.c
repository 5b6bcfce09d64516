/*
 * flush.c
 *	  Dirty pages on their way to their files: when, where, in which version; and what the agent is told.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lb_clock.h"
#include "tap.h"
#include "write_back.h"

static void
test_flush(const char *io)
{
	const char *options[] = {"--flush-io", io, NULL};
	lb_node_figures figures;
	write_back self;

	note("--flush-io %s", io);
	write_back_start(&self, NULL, options);
	is_number(push_pages(&self.agent, 100, 0, 64, 1, true), LB_PUSH_PUBLISHED, "dirty pages");
	is_number(push_pages(&self.agent, 200, 64, 64, 1, false), LB_PUSH_PUBLISHED, "clean pages");
	is_number(figures_of(&self).dirty_pages, 64, "64 are dirty");
	client_listen(&self.agent, 300);
	is_number(self.agent.told->clean_count, 0, "nothing is written without a reason");
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 64, 5000), "after FLUSH all are told to be clean");
	ok(file_has(&self, 100, 0, 64, 1), "they are in their file");
	ok(file_is_zero(&self, 200, 64, 64), "clean ones are not written");
	ok(file_is_zero(&self, 100, 64, 192), "nor is anything else");
	is_number((uint64_t) data_blocks(&self.data, "base/5/100"), 256, "the file has its length");
	client_wait_states(&self.agent, self.agent.told->state_count + 1, 1500);
	ok(self.agent.told->state.dirty_pages == 0 && self.agent.told->state.flushed_pages == 64 &&
		   self.agent.told->state.failures == 0 && self.agent.told->state.syncs == 1 &&
		   self.agent.told->state.write_calls > 0 && self.agent.told->state.write_calls <= 8,
	   "the state says so");
	client_listen(&self.agent, 1500);
	is_number(self.agent.told->clean_count, 64, "each page was told once");
	figures = figures_of(&self);
	ok(figures.dirty_pages == 0 && figures.flushed_pages == 64 && figures.flush_failures == 0 &&
		   figures.used_pages == 128,
	   "the node's figures");
	write_back_stop(&self);
}

static void
test_versions(void)
{
	push_plan newer = {
		.page = 100, .count = 1, .relation = 100, .version = 3, .seed = 3, .dirty = true};
	lb_push_ack ack;
	write_back self;

	write_back_start(&self, NULL, NULL);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	is_number(push_pages(&self.agent, 100, 0, 64, 1, true), LB_PUSH_OLD_VERSION,
			  "the same version in the same slot: OLD_VERSION");
	is_number(push_pages(&self.agent, 100, 0, 64, 2, true), LB_PUSH_PUBLISHED, "a newer one");
	is_number(push_pages(&self.agent, 100, 0, 64, 1, false), LB_PUSH_OLD_VERSION, "an older one");

	/* block 5 moves to slot 100 */
	newer.first = (lb_page_tag){1663, 5, 100, 0, 5};
	client_push(&self.agent, &newer, &ack);
	is_number(ack.results[0], LB_PUSH_PUBLISHED, "a newer version in another slot");
	is_number(figures_of(&self).used_pages, 64, "... empties the slot of the older one");
	is_number(figures_of(&self).dirty_pages, 64, "... and takes its dirt over");
	newer.version = 2;
	newer.page = 101;
	client_push(&self.agent, &newer, &ack);
	is_number(ack.results[0], LB_PUSH_OLD_VERSION, "an older version in another slot");
	client_release(&self.agent, 0, 5, 2);
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 64, 5000), "all are clean");
	ok(file_has(&self, 100, 0, 5, 2) && file_has(&self, 100, 6, 58, 2),
	   "the newest versions are in the file");
	ok(data_has_page(&self.data, "base/5/100", 5, 3), "... also of the page that moved");
	is_number((uint64_t) client_told_clean(&self.agent, 100, 5, 3), 1, "it was told of as such");

	push_pages(&self.agent, 100, 7, 1, 9, true);
	newer = (push_plan){.page = 102, .count = 1, .version = 10, .first = {1663, 5, 100, 0, 7}};
	client_push(&self.agent, &newer, &ack);
	is_number(ack.results[0], LB_PUSH_PUBLISHED, "clean over dirty, which must not be");
	is_number(figures_of(&self).dirty_pages, 0, "... drops the dirt");
	ok(node_log_count(&self.node, "was dirty and is replaced") == 1, "... and is logged");
	push_pages(&self.agent, 100, 8, 1, 9, true);
	client_release(&self.agent, 0, 8, 9);
	push_pages(&self.agent, 200, 9, 1, 9, true);
	push_pages(&self.agent, 100, 9, 1, 10, true);
	is_number(figures_of(&self).dirty_pages, 1,
			  "what was released, or overwritten by another page, is dirty no more");
	client_return_slabs(&self.agent, (uint32_t[]){0}, 1);
	client_ping(&self.agent);
	is_number(figures_of(&self).dirty_pages, 0, "nor what was in a slab that is returned");
	write_back_stop(&self);
}

/* A newer version is published while the older one is being written. */
static void
test_superseded(void)
{
	write_back self;

	write_back_start(&self, "memnode.flush.write=wait:600@1", NULL);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	client_flush(&self.agent);
	usleep(200000);
	push_pages(&self.agent, 100, 0, 1, 2, true);
	is_number(self.agent.told->clean_count, 0, "published in the middle of the round");
	client_wait_clean(&self.agent, 2, 3000);
	ok(client_told_clean(&self.agent, 100, 0, 1) == 1 &&
		   client_told_clean(&self.agent, 100, 1, 1) == 1,
	   "the older version is told of all the same");
	ok(file_has(&self, 100, 0, 2, 1), "... and is in the file");
	is_number(figures_of(&self).dirty_pages, 1, "the newer one is dirty");
	client_flush(&self.agent);
	client_wait_clean(&self.agent, 3, 3000);
	ok(client_told_clean(&self.agent, 100, 0, 2) == 1 && file_has(&self, 100, 0, 1, 2),
	   "... until the next FLUSH");
	write_back_stop(&self);
}

/* FLUSH while a pass for another FLUSH runs: what has become dirty since has one of its own. */
static void
test_flush_again(void)
{
	write_back self;

	write_back_start(&self, "memnode.flush.write=wait:500@1", NULL);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	client_flush(&self.agent);
	usleep(200000);
	push_pages(&self.agent, 100, 100, 2, 1, true);
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 4, 3000), "both are satisfied");
	ok(file_has(&self, 100, 0, 2, 1) && file_has(&self, 100, 100, 2, 1), "all is in the file");
	write_back_stop(&self);
}

/* Without FLUSH: so much is dirty, or has been for so long. */
static void
test_triggers(void)
{
	static const char *const ratio[] = {"--flush-dirty-percent", "20", NULL};
	static const char *const age[] = {"--flush-age", "2", NULL};
	uint64_t begin_ns;
	write_back self;

	write_back_start(&self, NULL, ratio);
	client_load(&self.agent, 0, 0);
	push_pages(&self.agent, 100, 0, 40, 1, true);
	client_listen(&self.agent, 500);
	is_number(self.agent.told->clean_count, 0, "16 %% are dirty");
	push_pages(&self.agent, 100, 40, 40, 1, true);
	ok(client_wait_clean(&self.agent, 80, 3000), "31 %%: they are written");
	write_back_stop(&self);

	write_back_start(&self, NULL, ratio);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	push_pages(&self.agent, 100, 64, 64, 1, true);
	client_listen(&self.agent, 500);
	is_number(self.agent.told->clean_count, 0,
			  "nothing is written before the agent has confirmed the proof");
	client_load(&self.agent, 0, 0);
	ok(client_wait_clean(&self.agent, 128, 3000), "STORAGE_LOAD does that");
	write_back_stop(&self);

	write_back_start(&self, NULL, age);
	client_load(&self.agent, 100, 200);
	begin_ns = lb_now_ns();
	push_pages(&self.agent, 100, 0, 3, 1, true);
	ok(client_wait_clean(&self.agent, 3, 6000), "pages that are old are written");
	ok(lb_now_ns() - begin_ns > UINT64_C(900000000), "... not before");
	write_back_stop(&self);
}

static void
push_to(client *agent, uint32_t page, lb_page_tag tag)
{
	push_plan plan = {
		.page = page, .count = 1, .version = 1, .seed = page, .dirty = true, .first = tag};
	lb_push_ack ack;

	client_push(agent, &plan, &ack);
}

/* Segments, forks, tablespaces. */
static void
test_places(void)
{
	static const char *const folders[] = {"pg_tblspc", "pg_tblspc/777",
										  "pg_tblspc/777/PG_15_202209061",
										  "pg_tblspc/777/PG_15_202209061/5", "global"};
	static const char *const files[] = {"base/5/100.2", "base/5/100_vm", "global/1260",
										"pg_tblspc/777/PG_15_202209061/5/300"};
	char path[256];
	write_back self;

	write_back_start(&self, NULL, NULL);
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
	{
		snprintf(path, sizeof(path), "mkdir %s/%s", self.data.path, folders[i]);
		if (system(path) != 0)
			bail_out("cannot make folders");
	}
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		data_make_file(&self.data, files[i], 20);
	push_to(&self.agent, 1, (lb_page_tag){1663, 5, 100, 0, 2 * 131072 + 11});
	push_to(&self.agent, 2, (lb_page_tag){1663, 5, 100, 2, 12});
	push_to(&self.agent, 3, (lb_page_tag){1664, 0, 1260, 0, 13});
	push_to(&self.agent, 4, (lb_page_tag){777, 5, 300, 0, 14});
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 4, 3000), "4 files, 4 places");
	for (uint32_t i = 0; i < 4; i++)
		ok(data_has_page(&self.data, files[i], 11 + i, 1 + i), "%s", files[i]);
	write_back_stop(&self);
}

/* More than a round, in slots of another order than the blocks; the agent does not read while it pushes. */
static void
test_much(void)
{
	static uint8_t pages[LB_BULK_MAX];
	lb_push_batch batch = {.count = LB_BATCH_MAX};
	uint8_t body[LB_BODY_MAX];
	uint32_t acknowledged = 0;
	lb_slab_list granted;
	bool all = true;
	write_back self;

	write_back_start(&self, NULL, NULL);
	data_make_file(&self.data, "base/5/300", 4096);
	client_request_slabs(&self.agent, 256, 16, &granted);
	is_number(granted.count, 16, "16 slabs more");
	for (uint32_t n = 0; n < 64; n++)
	{
		for (uint32_t i = 0; i < LB_BATCH_MAX; i++)
		{
			uint32_t number = n * LB_BATCH_MAX + i;
			uint32_t block = number * 1237 % 4096;
			uint8_t *page = pages + (size_t) i * LB_PAGE_SIZE;

			make_page(page, block);
			batch.pushes[i] = (lb_push){.slab = granted.slabs[number / 256],
										.page = number % 256,
										.tag = {1663, 5, 300, 0, block},
										.version = 1 + number,
										.checksum = lb_page_checksum(page),
										.dirty = true};
		}
		all = all && client_send_bulk(&self.agent, LB_PUSH, body, lb_encode_push(body, &batch),
									  pages, sizeof(pages), -1);
		client_flush(&self.agent);
	}
	ok(all, "4096 pages pushed, and FLUSH after every 64, before anything is read");
	while (acknowledged < 64 && client_receive(&self.agent) == LB_PUSH_ACK)
		acknowledged++;
	is_number(acknowledged, 64, "all are acknowledged");
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 4096, 20000), "all are clean");
	for (uint32_t block = 0; block < 4096; block++)
		all = all && data_has_page(&self.data, "base/5/300", block, block);
	ok(all, "all are in the file");
	write_back_stop(&self);
}

/* Two servers, the same relation, block and version in both: each has its own files, and is told of its own pages. */
static void
test_two_instances(void)
{
	data_directory second_data;
	const char *options[] = {"--storage", second_data.root, NULL};
	lb_fence fence = fence_of_relation(100);
	lb_slab_list granted;
	write_back first;
	client second;

	data_make(&second_data, 10);
	data_make_file(&second_data, "base/5/100", 256);
	write_back_start(&first, "memnode.flush.write=wait:500@1", options);
	agent_open(&second, first.node.shm_uri, 10, 1);
	client_request_slabs(&second, 256, 1, &granted);
	ok(client_storage(&second, NULL), "the second has its own data directory");
	push_pages(&first.agent, 100, 0, 2, 1, true);
	client_flush(&first.agent);
	usleep(200000);
	push_pages(&second, 100, 0, 3, 1, true);
	client_flush(&second);
	client_fence(&second, &fence);
	ok(is_fenced(&second, second.sequence, 200),
	   "its fence has nothing to do with the first's round");
	push_pages(&second, 100, 1, 3, 1, true);
	client_flush(&second);
	ok(client_wait_clean(&second, 3, 3000) && client_wait_clean(&first.agent, 2, 3000),
	   "both are flushed");
	ok(file_has(&first, 100, 0, 2, 1) && data_is_zero(&first.data, "base/5/100", 2) &&
		   data_is_zero(&second_data, "base/5/100", 0) &&
		   data_has_page(&second_data, "base/5/100", 3, seed_of(100, 1, 1) + 2),
	   "each in its own file");
	client_listen(&second, 300);
	ok(first.agent.told->clean_count == 2 && second.told->clean_count == 3,
	   "each is told of its own pages");
	client_close(&second);
	data_remove(&second_data);
	write_back_stop(&first);
}

/* What was damaged in the node's memory does not get to storage. */
static void
test_damaged(void)
{
	write_back self;

	write_back_start(&self, NULL, NULL);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	if (!write_back_damage(&self, 0))
	{
		note("not tested: the node's memory can't be changed here");
		write_back_stop(&self);
		return;
	}
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 1, 3000), "the page that is whole is written");
	is_number((uint64_t) client_told_clean(&self.agent, 100, 1, 1), 1, "... and told of");
	ok(client_wait_error(&self.agent, 3000) &&
		   strstr(self.agent.told->error.error, "block 0 of relation 1663/5/100 is damaged"),
	   "the other one is an error: %s", self.agent.told->error.error);
	client_listen(&self.agent, 1000);
	is_number(self.agent.told->clean_count, 1, "it is not told of");
	ok(file_is_zero(&self, 100, 0, 1), "... nor written");
	ok(self.agent.told->state.damaged_pages > 0, "it is counted: the server has to recover it");
	ok(self.agent.told->state.error[0] != '\0', "the error stands");
	write_back_stop(&self);
}

int
main(void)
{
	test_flush("auto");
	test_flush("plain");
	test_versions();
	test_superseded();
	test_flush_again();
	test_triggers();
	test_places();
	test_much();
	test_two_instances();
	test_damaged();
	return done_testing();
}
