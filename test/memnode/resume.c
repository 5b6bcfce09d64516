/*
 * resume.c
 *	  Connections that end while pages are dirty: what stays, who may go on with it, and that nothing is flushed meanwhile.
 */
#include <string.h>
#include <unistd.h>

#include "tap.h"
#include "write_back.h"

static void
test_resume(void)
{
	lb_slot_ref slot = {0, 1};
	uint64_t token;
	write_back self;
	client backend;

	write_back_start(&self, NULL, NULL);
	token = self.agent.welcome.token;
	ok(!self.agent.welcome.resumed, "the first attachment begins empty");
	push_pages(&self.agent, 100, 0, 64, 1, true);
	push_pages(&self.agent, 200, 64, 64, 1, false);
	backend_open(&backend, self.node.tcp_uri, 9, self.epoch, token);
	ok(write_back_resume(&self), "resumed");
	ok(self.agent.welcome.token == token, "the token stays");
	is_number((uint64_t) client_receive(&backend), CLIENT_CLOSED, "former backends are closed");
	client_close(&backend);
	is_number(figures_of(&self).dirty_pages, 64, "what was dirty is");
	is_number(figures_of(&self).used_pages, 128, "all pages are there");
	is_number(push_pages(&self.agent, 100, 0, 64, 1, true), LB_PUSH_OLD_VERSION,
			  "what is pushed again is there already");
	is_number(push_pages(&self.agent, 100, 0, 1, 2, true), LB_PUSH_NO_STORAGE,
			  "new dirty pages are not taken before STORAGE");
	client_flush(&self.agent);
	client_listen(&self.agent, 500);
	ok(file_is_zero(&self, 100, 0, 64), "... nor is anything flushed");
	ok(client_storage(&self.agent, NULL), "STORAGE");
	is_number(push_pages(&self.agent, 100, 0, 1, 2, true), LB_PUSH_PUBLISHED, "then they are");
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 64, 3000), "all are flushed");
	ok(file_has(&self, 100, 0, 1, 2), "... and in the file");
	backend_open(&backend, self.node.tcp_uri, 9, self.epoch, token);
	ok(client_read(&backend, &slot, 1) == LB_READ_REPLY &&
		   is_page(backend.frame.bulk, seed_of(100, 0, 1) + 1),
	   "the pages can be read");
	client_close(&backend);

	/* nobody knows what of it reached the agent */
	ok(write_back_resume(&self) && client_storage(&self.agent, NULL), "resumed again");
	ok(client_wait_clean(&self.agent, 64, 3000), "all that became clean is told of once more");
	client_listen(&self.agent, 300);
	is_number(self.agent.told->clean_count, 64, "... but not what always was");
	ok(client_told_clean(&self.agent, 100, 0, 2) == 1, "... in its version");
	write_back_stop(&self);
}

/* Say HELLO in place of the agent. False: refused. */
static bool
come_back(write_back *self, uint64_t token, uint64_t resume)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, 9, ++self->epoch, token);

	hello.resume = resume;
	client_close(&self->agent);
	client_open(&self->agent, self->node.tcp_uri);
	return client_hello(&self->agent, &hello) == LB_WELCOME;
}

static void
test_not_resumed(void)
{
	uint64_t incarnation;
	uint64_t token;
	write_back self;

	write_back_start(&self, NULL, NULL);
	incarnation = self.agent.welcome.incarnation;
	token = self.agent.welcome.token;
	push_pages(&self.agent, 100, 0, 64, 1, true);
	ok(!come_back(&self, token ^ 1, incarnation) && self.agent.error.error == LB_ERR_EPOCH,
	   "with another token: refused");
	is_number(figures_of(&self).dirty_pages, 64, "... and nothing has changed");
	ok(come_back(&self, token, incarnation ^ 1) && !self.agent.welcome.resumed,
	   "with another incarnation: not resumed");
	is_number(figures_of(&self).dirty_pages, 0, "... and empty");
	is_number(figures_of(&self).granted_pages, 0, "... without memory");
	ok(come_back(&self, token, incarnation) && self.agent.welcome.resumed,
	   "what is resumed may be empty");
	ok(come_back(&self, token, 0) && !self.agent.welcome.resumed,
	   "who does not ask for it begins empty");
	ok(come_back(&self, 0, incarnation) && !self.agent.welcome.resumed,
	   "who shows no token is somebody else");
	ok(self.agent.welcome.token != token, "... with a token of its own");
	write_back_stop(&self);
}

/* The node has not noticed that the former connection is broken. */
static void
test_half_open(void)
{
	lb_hello hello;
	write_back self;
	client other;

	write_back_start(&self, NULL, NULL);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	hello = make_hello(LB_ROLE_AGENT, 9, 11, self.agent.welcome.token);
	hello.resume = self.agent.welcome.incarnation;
	client_open(&other, self.node.shm_uri);
	ok(client_hello(&other, &hello) == LB_WELCOME && other.welcome.resumed,
	   "resumed while the former connection looks alive, over another transport");
	is_number((uint64_t) client_receive(&self.agent), CLIENT_CLOSED, "the former one is closed");
	is_number(figures_of(&self).dirty_pages, 64, "all is there");
	ok(client_storage(&other, NULL), "STORAGE");
	client_flush(&other);
	ok(client_wait_clean(&other, 64, 3000) && file_has(&self, 100, 0, 64, 1), "all is flushed");
	client_close(&other);
	write_back_stop(&self);
}

static void
test_time_out(void)
{
	static const char *const options[] = {"--tenant-timeout", "1", NULL};
	write_back self;

	write_back_start(&self, NULL, options);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	lb_stream_close(self.agent.stream);
	self.agent.stream = NULL;
	usleep(500000);
	is_number(figures_of(&self).dirty_pages, 64, "an agent is away");
	usleep(1800000);
	is_number(figures_of(&self).dirty_pages, 0, "... for too long");
	is_number((uint64_t) node_log_count(&self.node, "WARNING:  instance 09010203-0000-0000-0000-"
													"000000000000: 64 dirty pages dropped"),
			  1, "... which the log says");
	ok(!write_back_resume(&self), "there is nothing to be resumed");
	ok(file_is_zero(&self, 100, 0, 64), "nothing was written");
	write_back_stop(&self);
}

/* The data directory is out of sight when a round ends: its pages are told of when it can be seen again. */
static void
test_proof_lost_in_a_round(void)
{
	write_back self;

	write_back_start(&self, "memnode.flush.sync=wait:800@1", NULL);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	client_flush(&self.agent);
	usleep(200000);
	data_remove_nonce(&self.data);
	ok(!client_storage(&self.agent, NULL), "STORAGE: not found");
	usleep(1200000);
	data_restore_nonce(&self.data, 9);
	ok(client_storage(&self.agent, NULL), "STORAGE: found again");
	ok(client_wait_clean(&self.agent, 64, 3000), "what became durable meanwhile is told of");
	write_back_stop(&self);
}

static void
test_keep(void)
{
	lb_slab_keep keep = {.bytes = 1, .bits = {1 << 0 | 1 << 3 | 1 << 7}};
	lb_slab_list granted;
	write_back self;

	write_back_start(&self, NULL, NULL);
	client_request_slabs(&self.agent, 256, 9, &granted);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	is_number(figures_of(&self).granted_pages, 2560, "10 slabs");
	ok(write_back_resume(&self), "resumed");
	client_keep(&self.agent, &keep);
	is_number(client_ping(&self.agent), LB_PONG, "SLAB_KEEP");
	is_number(figures_of(&self).granted_pages, 768, "3 of them are known");
	is_number(figures_of(&self).dirty_pages, 64, "what is in those stays");
	client_request_slabs(&self.agent, 256, 1, &granted);
	ok(granted.count == 1 && granted.slabs[0] == 1, "free numbers are used again");
	client_request_slabs(&self.agent, 512, 1, &granted);
	ok(self.agent.error.error == LB_ERR_SLAB, "the size of slabs stays what it was");
	keep.bytes = 0;
	client_keep(&self.agent, &keep);
	client_ping(&self.agent);
	is_number(figures_of(&self).granted_pages, 0, "none is known");
	is_number(figures_of(&self).dirty_pages, 0, "nothing is left");
	write_back_stop(&self);
}

/* Two writes, the first of which is held: the agent goes meanwhile. */
static void
test_detach_stops_flushing(void)
{
	write_back self;

	write_back_start(&self, "memnode.flush.write=wait:600@1", NULL);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	client_flush(&self.agent);
	usleep(200000);
	lb_stream_close(self.agent.stream);
	self.agent.stream = NULL;
	usleep(1500000);
	ok(file_is_zero(&self, 100, 32, 32), "no write begins after the connection's end");
	is_number(figures_of(&self).dirty_pages, 64, "all is dirty as before");
	ok(write_back_resume(&self), "resumed");
	client_listen(&self.agent, 500);
	ok(file_is_zero(&self, 100, 32, 32), "... nor before STORAGE");
	ok(client_storage(&self.agent, NULL), "STORAGE");
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 64, 3000) && file_has(&self, 100, 0, 64, 1),
	   "then all is flushed");
	write_back_stop(&self);
}

/* The round outlasts the connection, and the next one has begun when it ends. */
static void
test_round_outlasts(bool resumes)
{
	lb_slab_list granted;
	write_back self;

	write_back_start(&self, "memnode.flush.sync=wait:800@1", NULL);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	client_flush(&self.agent);
	usleep(200000);
	if (resumes)
		ok(write_back_resume(&self), "resumed in the middle of a round");
	else
	{
		ok(come_back(&self, 0, 0), "another life begins in the middle of a round");
		client_request_slabs(&self.agent, 256, 1, &granted);
	}
	ok(client_storage(&self.agent, NULL), "STORAGE");
	if (!resumes)
		is_number(push_pages(&self.agent, 100, 0, 2, 1, true), LB_PUSH_PUBLISHED,
				  "the same page, and version, as in the round");
	client_listen(&self.agent, 1200);
	if (!resumes)
	{
		is_number(self.agent.told->clean_count, 0, "the round says nothing of this life");
		is_number(figures_of(&self).dirty_pages, 2, "what is dirty in it stays");
	}
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 2, 3000), "in the end all is clean");
	is_number(figures_of(&self).dirty_pages, 0, "nothing is dirty");
	client_listen(&self.agent, 300);
	is_number(self.agent.told->clean_count, 2, "... and told of once");
	write_back_stop(&self);
}

/* Somebody else takes over: what the former had is gone. */
static void
test_take_over(void)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, 9, 50, 0);
	write_back self;
	client other;

	write_back_start(&self, NULL, NULL);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	hello.take_over = true;
	hello.resume = self.agent.welcome.incarnation;
	client_open(&other, self.node.shm_uri);
	ok(client_hello(&other, &hello) == LB_WELCOME && !other.welcome.resumed, "taken over");
	is_number(figures_of(&self).dirty_pages, 0, "nothing of the former is left");
	is_number((uint64_t) client_receive(&self.agent), LB_ERROR, "the former is told");
	self.agent.welcome.epoch = 60;
	client_close(&other);
	ok(!come_back(&self, self.agent.welcome.token, hello.resume), "it can't come back");
	write_back_stop(&self);
}

int
main(void)
{
	test_resume();
	test_not_resumed();
	test_half_open();
	test_time_out();
	test_proof_lost_in_a_round();
	test_keep();
	test_detach_stops_flushing();
	test_round_outlasts(true);
	test_round_outlasts(false);
	test_take_over();
	return done_testing();
}
