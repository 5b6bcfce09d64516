/*
 * test_flush_worker.c
 *	  The flushing thread: rounds go there and come back, and can be stopped in the middle.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "flush_worker.h"
#include "round_files.h"

static flush_worker *worker;

/* The round comes back. */
static void
finish(flush_round *round)
{
	struct pollfd event = {.fd = flush_worker_event_fd(worker), .events = POLLIN};

	assert_int_equal(poll(&event, 1, 20000), 1);
	assert_ptr_equal(flush_worker_finished(worker), round);
	assert_int_equal(poll(&event, 1, 0), 0);
	assert_null(flush_worker_finished(worker));
}

static void
sleep_ms(int ms)
{
	poll(NULL, 0, ms);
}

/* state: the flush_io_kind, or null for none. */
static int
set_up(void **state)
{
	flush_io_kind *kind = *state;
	lb_status status;

	worker = kind ? flush_worker_start(*kind, NULL, &status) : NULL;
	return make_root();
}

static int
tear_down(void **state)
{
	(void) state;
	if (worker)
		flush_worker_stop(worker);
	return remove_root();
}

/* Where the kernel does not allow io_uring its tests say nothing. */
static void
need_worker(void)
{
	if (!worker)
		skip();
}

static void
one_after_the_other(void **state)
{
	(void) state;
	need_worker();
	put_file(100, 0, 64);
	for (uint32_t i = 0; i < 64; i++)
	{
		uint32_t descriptors = count_descriptors();
		flush_round *round = new_round();

		add_page(round, 100, i);
		flush_worker_submit(worker, round);
		finish(round);
		assert_int_equal(round->outcome, FLUSH_DONE);
		assert_int_equal(count_descriptors(), descriptors);
		assert_true(is_written(100, i));
		flush_round_free(round);
	}
}

/* The whole page can't be looked at before the write has ended. */
static void
wait_for_first_write(void)
{
	char path[PATH_MAX];
	uint32_t word = 0;
	int fd;

	file_path(100, 0, path);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	while (pread(fd, &word, sizeof(word), 0) == sizeof(word) && word == 0)
		sleep_ms(5);
	close(fd);
	assert_int_not_equal(word, 0);
}

/* A round of 2048 pages, which waits for a while when its first write has ended. */
static flush_round *
submit_slow_round(int agent_fd)
{
	flush_round *round = new_round();

	round->agent_fd = agent_fd;
	put_file(100, 0, PAGES_MAX);
	add_pages(round, 100, 0, PAGES_MAX);
	set_fault("memnode.flush.written=wait:500@1");
	flush_worker_submit(worker, round);
	wait_for_first_write();
	return round;
}

/* What was in flight has been written, and nothing of what followed. */
static void
expect_stopped_early(const flush_round *round)
{
	assert_in_range(round->pages_written, 1, FLUSH_IO_DEPTH * FLUSH_IO_VECTOR);
	assert_int_equal(round->pages_durable, 0);
	assert_int_equal(round->syncs, 0);
	assert_true(is_written(100, 0));
	assert_false(is_written(100, FLUSH_IO_DEPTH * FLUSH_IO_VECTOR));
}

static void
stopped(void **state)
{
	flush_round *round;

	(void) state;
	need_worker();
	round = submit_slow_round(-1);
	atomic_store(&round->stop, true);
	finish(round);
	expect_error(round, FLUSH_STOPPED, "was stopped");
	expect_stopped_early(round);
	flush_round_free(round);

	/* before it began */
	round = new_round();
	put_file(101, 0, 10);
	add_page(round, 101, 0);
	atomic_store(&round->stop, true);
	flush_worker_submit(worker, round);
	finish(round);
	assert_int_equal(round->outcome, FLUSH_STOPPED);
	assert_false(is_written(101, 0));
	flush_round_free(round);
}

static void
agent_goes(void **state)
{
	flush_round *round;
	int pair[2];

	(void) state;
	need_worker();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	round = submit_slow_round(pair[0]);
	close(pair[1]);
	finish(round);
	expect_error(round, FLUSH_STOPPED, "the connection has ended");
	expect_stopped_early(round);
	flush_round_free(round);

	/* one that is there, and has even said something, is no reason to stop */
	round = new_round();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(write(pair[1], "x", 1), 1);
	round->agent_fd = pair[0];
	add_page(round, 100, 0);
	flush_worker_submit(worker, round);
	finish(round);
	assert_int_equal(round->outcome, FLUSH_DONE);
	flush_round_free(round);
	close(pair[1]);
}

/* The file goes while it is written: what was begun ends, the next round does not find it. */
static void
file_unlinked(void **state)
{
	flush_round *round;
	char path[PATH_MAX];

	(void) state;
	need_worker();
	round = submit_slow_round(-1);
	file_path(100, 0, path);
	assert_int_equal(unlink(path), 0);
	finish(round);
	assert_int_equal(round->outcome, FLUSH_DONE);
	assert_int_equal(access(path, F_OK), -1);
	flush_round_free(round);
	round = new_round();
	add_page(round, 100, 0);
	flush_worker_submit(worker, round);
	finish(round);
	expect_error(round, FLUSH_FAILED, "No such file");
	assert_int_equal(access(path, F_OK), -1);
	flush_round_free(round);
}

/* A round that is under way, or finished and not fetched, goes with the worker. */
static void
worker_stops(void **state)
{
	(void) state;
	need_worker();
	submit_slow_round(-1);
	flush_worker_stop(worker);
	worker = flush_worker_start(FLUSH_IO_PLAIN, NULL, NULL);
	assert_non_null(worker);
	flush_worker_submit(worker, new_round());
	sleep_ms(50);
}

static void
names(void **state)
{
	lb_status fallback;
	lb_status status;

	(void) state;
	worker = flush_worker_start(FLUSH_IO_PLAIN, &fallback, &status);
	assert_non_null(worker);
	assert_string_equal(flush_worker_io_name(worker), "pwritev");
	assert_int_equal(fallback.code, LB_OK);
	assert_null(flush_worker_finished(worker));
	flush_worker_stop(worker);
	worker = flush_worker_start(FLUSH_IO_AUTO, &fallback, &status);
	assert_non_null(worker);
	assert_string_equal(flush_worker_io_name(worker),
						fallback.code == LB_OK ? "io_uring" : "pwritev");
}

static flush_io_kind uring = FLUSH_IO_URING;
static flush_io_kind plain = FLUSH_IO_PLAIN;

/* A test for each way of doing it. */
#define WITH_URING(f)                                  \
	{                                                  \
#f " (io_uring)", f, set_up, tear_down, &uring \
	}
#define WITH_PLAIN(f)                                 \
	{                                                 \
#f " (pwritev)", f, set_up, tear_down, &plain \
	}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_URING(one_after_the_other),
		WITH_PLAIN(one_after_the_other),
		WITH_URING(stopped),
		WITH_PLAIN(stopped),
		WITH_URING(agent_goes),
		WITH_PLAIN(agent_goes),
		WITH_URING(file_unlinked),
		WITH_PLAIN(file_unlinked),
		WITH_URING(worker_stops),
		WITH_PLAIN(worker_stops),
		cmocka_unit_test_setup_teardown(names, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
