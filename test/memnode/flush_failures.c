/*
 * flush_failures.c
 *	  Storage that fails: pages stay dirty, the agent is told why, and when it is over; nothing is told to be clean too early.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "tap.h"
#include "write_back.h"

/* The first attempt fails; without another FLUSH the next ones are made, until all is clean. */
static void
test_fails_once(const char *fault, bool of_sync)
{
	lb_flush_state *error;
	write_back self;

	write_back_start(&self, fault, NULL);
	error = &self.agent.told->error;
	push_pages(&self.agent, 100, 0, 64, 1, true);
	client_flush(&self.agent);
	ok(client_wait_error(&self.agent, 3000), "%s: an error is told: %s", fault, error->error);
	is_number(self.agent.told->clean_count, 0, "... and nothing is clean");
	ok(error->dirty_pages == 64 && error->flushed_pages == 0 && error->failures == 1 &&
		   error->sync_failures == (of_sync ? 1 : 0),
	   "... as the figures say");
	ok(client_wait_clean(&self.agent, 64, 3000), "then it succeeds by itself");
	ok(file_has(&self, 100, 0, 64, 1), "the pages are in the file");
	ok(client_wait_states(&self.agent, self.agent.told->state_count + 1, 1500) &&
		   self.agent.told->state.error[0] == '\0' && self.agent.told->state.failures == 1,
	   "the first success is told");
	is_number(figures_of(&self).flush_failures, 1, "the node has counted it");
	ok(node_log_count(&self.node, "can't be written to storage") == 1 &&
		   node_log_count(&self.node, "written to storage again") == 1,
	   "both are in the log, once");
	write_back_stop(&self);
}

/* CLEAN only after a sync that succeeded: until then nothing is told, however often it is tried. */
static void
test_sync_fails_always(void)
{
	write_back self;

	write_back_start(&self, "memnode.flush.sync=fail", NULL);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	client_flush(&self.agent);
	client_listen(&self.agent, 2500);
	is_number(self.agent.told->clean_count, 0, "no sync succeeds: nothing is clean");
	ok(self.agent.told->state.failures >= 3 && self.agent.told->state.failures <= 7,
	   "it was tried again, not too often: %d times", (int) self.agent.told->state.failures);
	is_number(figures_of(&self).dirty_pages, 64, "all is dirty");
	write_back_stop(&self);
}

/* No file, or none of that length: never made, never extended. Other files are flushed all the same. */
static void
test_missing(void)
{
	char path[256];
	write_back self;

	write_back_start(&self, NULL, NULL);
	data_make_file(&self.data, "base/5/400", 10);
	push_pages(&self.agent, 300, 0, 2, 1, true);
	push_pages(&self.agent, 400, 9, 3, 1, true);
	push_pages(&self.agent, 200, 20, 2, 1, true);
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 2, 3000) && file_has(&self, 200, 20, 2, 1),
	   "what has a file is flushed");
	ok(client_wait_error(&self.agent, 3000), "the others are an error: %s",
	   self.agent.told->error.error);
	client_listen(&self.agent, 1200);
	is_number(self.agent.told->clean_count, 2, "no more is clean");
	is_number((uint64_t) data_blocks(&self.data, "base/5/300"), (uint64_t) -1, "no file was made");
	is_number((uint64_t) data_blocks(&self.data, "base/5/400"), 10, "none was extended");
	is_number(figures_of(&self).dirty_pages, 5, "5 pages are dirty");
	data_make_file(&self.data, "base/5/300", 10);
	snprintf(path, sizeof(path), "%s/base/5/400", self.data.path);
	if (truncate(path, 20 * LB_PAGE_SIZE) < 0)
		bail_out("cannot extend %s", path);
	ok(client_wait_clean(&self.agent, 7, 3000), "when there is a place for them, they are flushed");
	write_back_stop(&self);
}

/* A file system of 4 MB that is full; files without space of their own. */
static void
test_full(void)
{
	char folder[] = "/tmp/memnode_full.XXXXXX";
	char filler[64];
	static char zeros[1 << 16];
	write_back self;
	int fd;

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		!mkdtemp(folder) || mount("none", folder, "tmpfs", 0, "size=4m") < 0)
	{
		note("not tested: a file system of its own needs root: %s", strerror(errno));
		return;
	}
	data_make_in(&self.data, folder, 9);
	data_make_file(&self.data, "base/5/100", 256);
	snprintf(filler, sizeof(filler), "%s/filler", folder);
	fd = open(filler, O_WRONLY | O_CREAT, 0600);
	while (write(fd, zeros, sizeof(zeros)) > 0)
		;
	close(fd);
	write_back_start_with(&self, NULL, NULL);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	client_flush(&self.agent);
	ok(client_wait_error(&self.agent, 3000) &&
		   strstr(self.agent.told->error.error, strerror(ENOSPC)) != NULL,
	   "storage is full: %s", self.agent.told->error.error);
	client_listen(&self.agent, 1200);
	is_number(self.agent.told->clean_count, 0, "nothing is clean");
	is_number(figures_of(&self).dirty_pages, 64, "all is dirty");
	unlink(filler);
	ok(client_wait_clean(&self.agent, 64, 3000), "with space it recovers by itself");
	ok(file_has(&self, 100, 0, 64, 1), "the pages are in the file");
	write_back_stop(&self);
	umount(folder);
	rmdir(folder);
}

static void
test_fault_points(void)
{
	write_back self;

	write_back_start(&self, "memnode.flush.collect=fail@1", NULL);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	client_flush(&self.agent);
	ok(client_wait_error(&self.agent, 3000), "collect=fail: told");
	ok(client_wait_clean(&self.agent, 2, 3000), "... and done the next time");
	write_back_stop(&self);

	write_back_start(&self, "memnode.flush.clean=fail@1", NULL);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	client_flush(&self.agent);
	is_number((uint64_t) client_receive(&self.agent), CLIENT_CLOSED, "clean=fail: closed");
	ok(file_has(&self, 100, 0, 2, 1), "... when the pages were durable");
	ok(write_back_resume(&self), "... and resumed");
	ok(client_storage(&self.agent, NULL) && client_wait_clean(&self.agent, 2, 3000),
	   "... when they are told of");
	write_back_stop(&self);
}

int
main(void)
{
	test_fails_once("memnode.flush.write=fail@1", false);
	test_fails_once("memnode.flush.sync=fail@1", true);
	test_sync_fails_always();
	test_missing();
	test_fault_points();
	test_full();
	return done_testing();
}
