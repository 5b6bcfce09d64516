/*
 * test_flush_round.c
 *	  Rounds of flushing, through io_uring, through pwritev, and through an io that writes little at a time and answers in
 *	  another order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "flush_round.h"
#include "round_files.h"
#include "storage.h"

static flush_io *io;

/* state: the flush_io_kind, or null for none. */
static int
set_up(void **state)
{
	flush_io_kind *kind = *state;
	lb_status status;

	io = kind ? flush_io_open(*kind, NULL, &status) : NULL;
	return make_root();
}

static int
tear_down(void **state)
{
	(void) state;
	if (io)
		flush_io_close(io);
	return remove_root();
}

/* Where the kernel does not allow io_uring its tests say nothing. */
static void
need_io(void)
{
	if (!io)
		skip();
}

/* Nothing of the round stays open. */
static void
flush(flush_round *round)
{
	uint32_t descriptors = count_descriptors();

	flush_round_run(round, io);
	assert_int_equal(count_descriptors(), descriptors);
}

static void
neighbours_are_joined(void **state)
{
	flush_round *round = new_round();

	(void) state;
	need_io();
	put_file(100, 0, 300);
	put_file(101, 0, 10);
	add_pages(round, 100, 0, 100);
	add_pages(round, 100, 200, 3);
	add_page(round, 101, 9);
	flush(round);
	assert_int_equal(round->outcome, FLUSH_DONE);
	assert_int_equal(round->write_calls, 4 + 1 + 1);
	assert_int_equal(round->syncs, 2);
	assert_int_equal(round->pages_written, 104);
	assert_int_equal(round->pages_durable, 104);
	assert_int_equal(count_durable(round, 100), 103);
	assert_int_equal(count_durable(round, 101), 1);
	assert_true(round->elapsed_ns > 0);
	expect_written(round);
	assert_false(is_written(100, 100));
	assert_false(is_written(101, 8));
	flush_round_free(round);
}

static void
segments_are_files(void **state)
{
	flush_round *round = new_round();

	(void) state;
	need_io();
	put_file(100, 0, STORAGE_SEGMENT_BLOCKS);
	put_file(100, 1, 2);
	add_pages(round, 100, STORAGE_SEGMENT_BLOCKS - 2, 4);
	flush(round);
	assert_int_equal(round->outcome, FLUSH_DONE);
	assert_int_equal(round->syncs, 2);
	expect_written(round);
	flush_round_free(round);
}

/* More than are open at a time, and a second round after the first. */
static void
many_files(void **state)
{
	(void) state;
	need_io();
	for (uint32_t i = 0; i < 100; i++)
		put_file(100 + i, 0, 4);
	for (int times = 0; times < 2; times++)
	{
		flush_round *round = new_round();

		for (uint32_t i = 0; i < 100; i++)
		{
			add_page(round, 100 + i, 0);
			add_page(round, 100 + i, 3);
		}
		flush(round);
		assert_int_equal(round->outcome, FLUSH_DONE);
		assert_int_equal(round->syncs, 100);
		assert_int_equal(round->pages_durable, 200);
		expect_written(round);
		flush_round_free(round);
	}
}

static void
empty_round(void **state)
{
	flush_round *round = new_round();

	(void) state;
	need_io();
	flush(round);
	assert_int_equal(round->outcome, FLUSH_DONE);
	flush_round_free(round);
}

static void
missing_file(void **state)
{
	flush_round *round = new_round();
	char path[PATH_MAX];

	(void) state;
	need_io();
	put_file(100, 0, 10);
	put_file(102, 0, 10);
	add_pages(round, 100, 0, 3);
	add_pages(round, 101, 0, 3);
	add_pages(round, 102, 0, 3);
	flush(round);
	expect_error(round, FLUSH_FAILED, "/base/5/101: No such file or directory");
	assert_false(round->sync_failed);
	assert_int_equal(count_durable(round, 100), 3);
	assert_int_equal(count_durable(round, 101), 0);
	assert_int_equal(count_durable(round, 102), 3);
	file_path(101, 0, path);
	assert_int_equal(access(path, F_OK), -1);
	flush_round_free(round);
}

static void
file_too_short(void **state)
{
	flush_round *round = new_round();
	char path[PATH_MAX];
	struct stat info;

	(void) state;
	need_io();
	put_file(100, 0, 10);
	put_file(101, 0, 10);
	add_pages(round, 100, 0, 11);
	add_pages(round, 101, 0, 10);
	flush(round);
	expect_error(round, FLUSH_FAILED, "page 10 of relation 100 is beyond the end of");
	assert_int_equal(count_durable(round, 100), 0);
	assert_int_equal(count_durable(round, 101), 10);
	assert_false(is_written(100, 0));
	file_path(100, 0, path);
	assert_int_equal(stat(path, &info), 0);
	assert_int_equal(info.st_size, 10 * LB_PAGE_SIZE);
	flush_round_free(round);
}

static void
not_a_file(void **state)
{
	flush_round *round = new_round();
	lb_page_tag bad_fork = {1663, 5, 101, 7, 0};
	char path[PATH_MAX];

	(void) state;
	need_io();
	file_path(100, 0, path);
	assert_int_equal(mkfifo(path, 0600), 0);
	add_page(round, 100, 0);
	flush(round);
	expect_error(round, FLUSH_FAILED, "/base/5/100 is not a file");
	flush_round_free(round);

	round = new_round();
	add_page(round, 101, 0);
	round->pages[0].tag = bad_fork;
	flush(round);
	expect_error(round, FLUSH_FAILED, "no fork 7");
	flush_round_free(round);
}

static void
write_fails(void **state)
{
	flush_round *round = new_round();

	(void) state;
	need_io();
	put_file(100, 0, 200);
	put_file(101, 0, 10);
	add_pages(round, 100, 0, 100);
	add_pages(round, 101, 0, 10);
	set_fault("memnode.flush.write=fail@2");
	flush(round);
	expect_error(round, FLUSH_FAILED, "/base/5/100: Input/output error");
	assert_false(round->sync_failed);
	assert_int_equal(count_durable(round, 100), 0);
	assert_int_equal(count_durable(round, 101), 10);
	assert_int_equal(round->syncs, 1);
	flush_round_free(round);
}

static void
sync_fails(void **state)
{
	flush_round *round = new_round();

	(void) state;
	need_io();
	put_file(100, 0, 10);
	put_file(101, 0, 10);
	add_pages(round, 100, 0, 10);
	add_pages(round, 101, 0, 10);
	set_fault("memnode.flush.sync=fail@1");
	flush(round);
	expect_error(round, FLUSH_FAILED, "could not sync ");
	assert_true(round->sync_failed);
	assert_int_equal(round->pages_durable, 10);
	assert_int_equal(count_durable(round, 100) + count_durable(round, 101), 10);
	assert_int_equal(round->syncs, 1);
	flush_round_free(round);

	/* once more, all of it is written again */
	round = new_round();
	add_pages(round, 100, 0, 10);
	add_pages(round, 101, 0, 10);
	flush(round);
	assert_int_equal(round->outcome, FLUSH_DONE);
	assert_int_equal(round->pages_written, 20);
	flush_round_free(round);
}

static void
epoch_too_low(void **state)
{
	(void) state;
	need_io();
	put_file(100, 0, 10);
	for (uint64_t epoch = 1; epoch <= 3; epoch++)
	{
		flush_round *round = new_round();

		put_fence(2);
		round->epoch = epoch;
		add_page(round, 100, 0);
		flush(round);
		if (epoch <= 2)
			expect_error(round, FLUSH_FENCED, "fenced: the epoch");
		else
			assert_int_equal(round->outcome, FLUSH_DONE);
		assert_int_equal(is_written(100, 0), epoch == 3);
		assert_int_equal(round->pages[0].durable, epoch == 3);
		flush_round_free(round);
	}
}

/* A process that has the fence file locked exclusively until it is killed. */
static pid_t
lock_fence_elsewhere(void)
{
	int ready[2];
	char byte;
	pid_t child;

	assert_int_equal(pipe(ready), 0);
	child = fork();
	if (child == 0)
	{
		struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
		char path[PATH_MAX];

		snprintf(path, sizeof(path), "%s/%s", root, STORAGE_FENCE_FILE);
		if (fcntl(open(path, O_RDWR), F_SETLKW, &lock) == 0 && write(ready[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return child;
}

static void
kill_child(pid_t child)
{
	int result;

	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &result, 0), child);
}

static void
being_fenced(void **state)
{
	flush_round *round = new_round();
	pid_t child;

	(void) state;
	need_io();
	put_file(100, 0, 10);
	add_page(round, 100, 0);
	child = lock_fence_elsewhere();
	flush(round);
	expect_error(round, FLUSH_FAILED, "is being fenced");
	assert_false(is_written(100, 0));
	flush_round_free(round);

	kill_child(child);
	round = new_round();
	add_page(round, 100, 0);
	flush(round);
	assert_int_equal(round->outcome, FLUSH_DONE);
	flush_round_free(round);
}

static void
storage_full(void **state)
{
	flush_round *round;

	(void) state;
	need_io();
	mount_small();
	round = new_round();
	put_file(100, 0, 10);
	put_file(101, 0, 500); /* of holes: 4 MB */
	add_pages(round, 100, 0, 10);
	add_pages(round, 101, 0, 500);
	flush(round);
	expect_error(round, FLUSH_FAILED, "/base/5/101: No space left on device");
	assert_false(round->sync_failed);
	assert_int_equal(count_durable(round, 100), 10);
	assert_int_equal(count_durable(round, 101), 0);
	flush_round_free(round);

	/* there is space again */
	assert_int_equal(mount("tmpfs", root, "tmpfs", MS_REMOUNT, "size=16m"), 0);
	round = new_round();
	add_pages(round, 101, 0, 500);
	flush(round);
	assert_int_equal(round->outcome, FLUSH_DONE);
	expect_written(round);
	flush_round_free(round);
}

static void
storage_read_only(void **state)
{
	flush_round *round;

	(void) state;
	need_io();
	mount_small();
	round = new_round();
	put_file(100, 0, 10);
	assert_int_equal(mount("tmpfs", root, "tmpfs", MS_REMOUNT | MS_RDONLY, "size=1m"), 0);
	add_page(round, 100, 0);
	flush(round);
	expect_error(round, FLUSH_FAILED, "/base/5/100: Read-only file system");
	flush_round_free(round);
}

/*
 * An io of the test's own: the last request submitted is the first to end, a write writes little, and every third one is
 * interrupted.
 */
typedef struct odd_io
{
	flush_io io;
	flush_request *requests[FLUSH_IO_DEPTH];
	int count;
	int writes;
} odd_io;

static void
odd_submit(flush_io *io, flush_request *request)
{
	odd_io *self = (odd_io *) io;

	assert_true(self->count < FLUSH_IO_DEPTH);
	self->requests[self->count++] = request;
}

static flush_request *
odd_wait(flush_io *io)
{
	odd_io *self = (odd_io *) io;
	flush_request *request;
	struct iovec little;

	assert_true(self->count > 0);
	request = self->requests[--self->count];
	if (request->sync)
		request->result = fdatasync(request->fd);
	else if (++self->writes % 3 == 0)
		request->result = -EINTR;
	else
	{
		little = request->vector[0];
		if (little.iov_len > 5000)
			little.iov_len = 5000;
		request->result = pwritev(request->fd, &little, 1, request->offset);
	}
	return request;
}

static void
odd_close(flush_io *io)
{
	(void) io;
}

static const flush_io_operations odd_operations = {
	.name = "odd",
	.depth = FLUSH_IO_DEPTH,
	.submit = odd_submit,
	.wait = odd_wait,
	.close = odd_close,
};

static void
short_writes(void **state)
{
	odd_io odd = {.io = {&odd_operations}};
	flush_round *round = new_round();

	(void) state;
	for (uint32_t i = 0; i < 20; i++)
	{
		put_file(100 + i, 0, 200);
		add_pages(round, 100 + i, 0, 70);
	}
	flush_round_run(round, &odd.io);
	assert_int_equal(round->outcome, FLUSH_DONE);
	assert_int_equal(round->pages_durable, 1400);
	assert_int_equal(round->pages_written, 1400);
	assert_int_equal(round->syncs, 20);
	assert_int_equal(odd.count, 0);
	expect_written(round);
	flush_round_free(round);
}

static flush_request *
nothing_wait(flush_io *io)
{
	odd_io *self = (odd_io *) io;
	flush_request *request = self->requests[--self->count];

	request->result = 0;
	return request;
}

/* A write that writes nothing and gives no reason must not be tried for ever. */
static void
writes_of_nothing(void **state)
{
	const flush_io_operations operations = {
		.name = "nothing", .depth = 1, .submit = odd_submit, .wait = nothing_wait};
	odd_io odd = {.io = {&operations}};
	flush_round *round = new_round();

	(void) state;
	put_file(100, 0, 200);
	add_pages(round, 100, 0, 70);
	flush_round_run(round, &odd.io);
	expect_error(round, FLUSH_FAILED, "No space left");
	assert_int_equal(round->syncs, 0);
	flush_round_free(round);
}

static void
sorting(void **state)
{
	const lb_page_tag sorted[] = {{1, 9, 9, 9, 9},         {2, 1, 9, 9, 9}, {2, 2, 1, 9, 9},
								  {2, 2, 2, 1, 9},         {2, 2, 2, 2, 1}, {2, 2, 2, 2, 2},
								  {2, 2, 2, 2, UINT32_MAX}};
	size_t count = sizeof(sorted) / sizeof(sorted[0]);

	(void) state;
	for (size_t i = 0; i < count; i++)
		for (size_t j = 0; j < count; j++)
		{
			flush_page a = {.tag = sorted[i]};
			flush_page b = {.tag = sorted[j]};

			assert_int_equal(flush_page_compare(&a, &b), (i > j) - (i < j));
		}
}

/* What opening says when the kernel refuses a system call: 0 if it fell back and said why. */
static int
open_without(unsigned call)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
	lb_status fallback = {0};
	lb_status status = {0};
	flush_io *opened;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		return 77;
	if (flush_io_open(FLUSH_IO_URING, NULL, &status) != NULL || status.code != LB_SYSTEM)
		return 1;
	opened = flush_io_open(FLUSH_IO_AUTO, &fallback, &status);
	if (opened == NULL || strcmp(opened->operations->name, "pwritev") != 0)
		return 2;
	if (fallback.code != LB_SYSTEM || !strstr(fallback.message, "Operation not permitted"))
		return 3;
	flush_io_close(opened);
	return 0;
}

static void
without_io_uring(void **state)
{
	const unsigned calls[] = {SYS_io_uring_setup, SYS_io_uring_enter};

	(void) state;
	for (int i = 0; i < 2; i++)
	{
		pid_t child = fork();
		int result;

		if (child == 0)
			_exit(open_without(calls[i]));
		assert_int_equal(waitpid(child, &result, 0), child);
		if (WEXITSTATUS(result) == 77)
			skip();
		assert_int_equal(result, 0);
	}
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
		WITH_URING(neighbours_are_joined),
		WITH_PLAIN(neighbours_are_joined),
		WITH_URING(segments_are_files),
		WITH_PLAIN(segments_are_files),
		WITH_URING(many_files),
		WITH_PLAIN(many_files),
		WITH_URING(empty_round),
		WITH_PLAIN(empty_round),
		WITH_URING(missing_file),
		WITH_PLAIN(missing_file),
		WITH_URING(file_too_short),
		WITH_PLAIN(file_too_short),
		WITH_URING(not_a_file),
		WITH_PLAIN(not_a_file),
		WITH_URING(write_fails),
		WITH_PLAIN(write_fails),
		WITH_URING(sync_fails),
		WITH_PLAIN(sync_fails),
		WITH_URING(epoch_too_low),
		WITH_PLAIN(epoch_too_low),
		WITH_URING(being_fenced),
		WITH_PLAIN(being_fenced),
		WITH_URING(storage_full),
		WITH_PLAIN(storage_full),
		WITH_URING(storage_read_only),
		WITH_PLAIN(storage_read_only),
		cmocka_unit_test_setup_teardown(short_writes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(writes_of_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(without_io_uring, set_up, tear_down),
		cmocka_unit_test(sorting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
