/*
 * flush_round.c
 *	  Doing a round: which request comes next, and what its result means.
 *
 * A few files are open at a time; requests of all of them are in flight together. Each file goes through
 *
 *	  opened ── all pages handed over ── all writes ended ── sync handed over ── synced ── closed
 *	                                  └─ a failure: nothing more is handed over; when the writes in flight have ended ── closed
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flush_round.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "storage.h"

#define FILES_MAX 16 /* open at a time */

typedef struct open_file
{
	int fd; /* -1: this one is not in use */
	char path[PATH_MAX];
	uint32_t next; /* the first page that is not handed over */
	uint32_t begin;
	uint32_t end;       /* its pages are begin to end - 1 */
	uint32_t in_flight; /* requests */
	bool failed;
	bool syncing; /* or synced */
} open_file;

typedef struct request
{
	flush_request io; /* must be first */
	open_file *file;  /* null: this one is not in use */
	size_t left;      /* bytes to be written */
	uint32_t pages;
} request;

typedef struct run
{
	flush_round *round;
	flush_io *io;
	bool stopped;
	uint32_t next; /* the first page whose file was not yet opened */
	uint32_t in_flight;
	open_file files[FILES_MAX];
	request requests[FLUSH_IO_DEPTH];
} run;

flush_round *
flush_round_create(uint32_t capacity)
{
	flush_round *round =
		calloc(1, sizeof(flush_round) + (size_t) capacity * sizeof(round->pages[0]));

	if (round == NULL)
		return NULL;
	round->capacity = capacity;
	round->agent_fd = -1;
	atomic_init(&round->stop, false);
	return round;
}

void
flush_round_free(flush_round *round)
{
	if (round == NULL)
		return;
	if (round->agent_fd >= 0)
		close(round->agent_fd);
	free(round);
}

static int
compare(uint32_t a, uint32_t b)
{
	return (a > b) - (a < b);
}

int
flush_page_compare(const void *a, const void *b)
{
	const lb_page_tag *left = &((const flush_page *) a)->tag;
	const lb_page_tag *right = &((const flush_page *) b)->tag;
	int result = compare(left->tablespace, right->tablespace);

	if (result == 0)
		result = compare(left->database, right->database);
	if (result == 0)
		result = compare(left->relation, right->relation);
	if (result == 0)
		result = compare(left->fork, right->fork);
	if (result == 0)
		result = compare(left->block, right->block);
	return result;
}

/* The first failure is the one that is told, unless the round was stopped. */
static void
note_failure(flush_round *round, const lb_status *status)
{
	if (round->outcome != FLUSH_DONE)
		return;
	round->outcome = FLUSH_FAILED;
	round->error = *status;
}

static void
file_failed(run *run, open_file *file, const char *what, ssize_t result)
{
	lb_status status;

	file->failed = true;
	errno = (int) -result;
	lb_fail_errno(&status, "could not %s %s", what, storage_path_end(file->path));
	note_failure(run->round, &status);
}

static bool
agent_is_gone(int fd)
{
	struct pollfd agent = {.fd = fd, .events = POLLRDHUP};

	return fd >= 0 && poll(&agent, 1, 0) != 0;
}

/* To be asked before anything is handed over that changes a file. Once it said no, it says no for the rest of the round. */
static bool
may_go_on(run *run)
{
	flush_round *round = run->round;

	if (run->stopped)
		return false;
	if (atomic_load(&round->stop))
		lb_fail(&round->error, LB_CANCELLED, "flushing was stopped");
	else if (agent_is_gone(round->agent_fd))
		lb_fail(&round->error, LB_CLOSED, "flushing stopped: the connection has ended");
	else
		return true;
	run->stopped = true;
	round->outcome = FLUSH_STOPPED;
	return false;
}

/* A file that is shorter was truncated behind our back, or is not the one that it should be. */
static bool
check_length(const open_file *file, const lb_page_tag *last, lb_status *status)
{
	uint32_t block = last->block % STORAGE_SEGMENT_BLOCKS;
	struct stat info;

	if (fstat(file->fd, &info) < 0)
		return lb_fail_errno(status, "could not look at %s", storage_path_end(file->path));
	if (!S_ISREG(info.st_mode))
		return lb_fail(status, LB_INVALID, "%s is not a file", storage_path_end(file->path));
	if ((int64_t) info.st_size < ((int64_t) block + 1) * LB_PAGE_SIZE)
		return lb_fail(
			status, LB_INVALID,
			"page %u of relation %u is beyond the end of %s, which has %" PRId64 " bytes",
			last->block, last->relation, storage_path_end(file->path), (int64_t) info.st_size);
	return true;
}

static bool
open_checked(run *run, open_file *file, lb_status *status)
{
	const flush_page *pages = run->round->pages;

	if (!storage_page_path(run->round->root, run->round->version_folder, &pages[file->begin].tag,
						   file->path, status))
		return false;
	file->fd = open(file->path, O_RDWR | O_CLOEXEC);
	if (file->fd < 0)
		return lb_fail_errno(status, "could not open %s", storage_path_end(file->path));
	if (check_length(file, &pages[file->end - 1].tag, status))
		return true;
	close(file->fd);
	file->fd = -1;
	return false;
}

/* Take up the next file of the round; if it can't be opened, it has failed and the place stays free. */
static void
take_next_file(run *run, open_file *file)
{
	const flush_page *pages = run->round->pages;
	lb_status status = {0};

	*file = (open_file){.fd = -1, .begin = run->next, .next = run->next, .end = run->next};
	while (file->end < run->round->count &&
		   storage_same_file(&pages[file->begin].tag, &pages[file->end].tag))
		file->end++;
	run->next = file->end;
	if (!open_checked(run, file, &status))
		note_failure(run->round, &status);
}

static void
close_if_over(run *run, open_file *file)
{
	if (file->in_flight > 0 || !(file->failed || file->syncing || run->stopped))
		return;
	close(file->fd);
	file->fd = -1;
}

static void
hand_over(run *run, request *request)
{
	request->file->in_flight++;
	run->in_flight++;
	flush_io_submit(run->io, &request->io);
}

static void
begin_write(run *run, open_file *file, request *request)
{
	const flush_page *pages = run->round->pages;
	const flush_page *first = &pages[file->next];
	uint32_t count = 0;

	if (LB_FAULT("memnode.flush.write"))
	{
		file_failed(run, file, "write", -EIO);
		close_if_over(run, file);
		return;
	}
	while (count < FLUSH_IO_VECTOR && file->next < file->end &&
		   pages[file->next].tag.block == first->tag.block + count)
	{
		request->io.vector[count].iov_base = (void *) pages[file->next].data;
		request->io.vector[count].iov_len = LB_PAGE_SIZE;
		count++;
		file->next++;
	}
	request->file = file;
	request->pages = count;
	request->left = (size_t) count * LB_PAGE_SIZE;
	request->io.fd = file->fd;
	request->io.sync = false;
	request->io.vector_count = (int) count;
	request->io.offset = (off_t) (first->tag.block % STORAGE_SEGMENT_BLOCKS) * LB_PAGE_SIZE;
	hand_over(run, request);
}

static void
sync_failed(run *run, open_file *file, ssize_t result)
{
	run->round->sync_failed = true;
	file_failed(run, file, "sync", result);
}

static void
begin_sync(run *run, open_file *file, request *request)
{
	file->syncing = true;
	if (LB_FAULT("memnode.flush.sync"))
	{
		sync_failed(run, file, -EIO);
		close_if_over(run, file);
		return;
	}
	request->file = file;
	request->io.fd = file->fd;
	request->io.sync = true;
	hand_over(run, request);
}

static request *
free_request(run *run)
{
	for (int i = 0; i < run->io->operations->depth; i++)
		if (run->requests[i].file == NULL)
			return &run->requests[i];
	return NULL;
}

/*
 * The next thing to do: a sync that has nothing to wait for, so that its file is over; a write; another file. False if
 * nothing can be done before a request has ended, or at all.
 */
static bool
begin_next(run *run)
{
	request *request = free_request(run);
	open_file *to_write = NULL;
	open_file *unused = NULL;
	open_file *to_sync = NULL;

	for (int i = FILES_MAX - 1; i >= 0; i--)
	{
		open_file *file = &run->files[i];

		if (file->fd < 0)
			unused = file;
		else if (!file->failed && file->next < file->end)
			to_write = file;
		else if (!file->failed && !file->syncing && file->in_flight == 0)
			to_sync = file;
	}
	if (request == NULL || !(to_sync || to_write || (unused && run->next < run->round->count)))
		return false;
	if (!may_go_on(run))
		return false;
	if (to_sync)
		begin_sync(run, to_sync, request);
	else if (to_write)
		begin_write(run, to_write, request);
	else
		take_next_file(run, unused);
	return true;
}

static void
sync_ended(run *run, open_file *file, ssize_t result)
{
	flush_round *round = run->round;

	if (result < 0)
	{
		sync_failed(run, file, result);
		return;
	}
	for (uint32_t i = file->begin; i < file->end; i++)
		round->pages[i].durable = true;
	round->pages_durable += file->end - file->begin;
	round->syncs++;
	(void) LB_FAULT("memnode.flush.synced");
}

/* Leave out of a request what is written already. */
static void
advance(request *request, size_t written)
{
	flush_request *io = &request->io;
	int done = 0;

	request->left -= written;
	io->offset += (off_t) written;
	while (done < io->vector_count && written >= io->vector[done].iov_len)
		written -= io->vector[done++].iov_len;
	io->vector_count -= done;
	memmove(io->vector, io->vector + done, (size_t) io->vector_count * sizeof(io->vector[0]));
	if (io->vector_count > 0)
	{
		io->vector[0].iov_base = (uint8_t *) io->vector[0].iov_base + written;
		io->vector[0].iov_len -= written;
	}
}

/* True if the rest of it was handed over again. A file's end is not reached by writing: nothing written means no space. */
static bool
write_ended(run *run, request *request, ssize_t result)
{
	if (result <= 0 && result != -EINTR)
	{
		file_failed(run, request->file, "write", result < 0 ? result : -ENOSPC);
		return false;
	}
	if (result > 0)
	{
		run->round->write_calls++;
		advance(request, (size_t) result);
	}
	if (request->left == 0)
	{
		run->round->pages_written += request->pages;
		(void) LB_FAULT("memnode.flush.written");
		return false;
	}
	if (request->file->failed || !may_go_on(run))
		return false;
	hand_over(run, request);
	return true;
}

static void
request_ended(run *run, request *request)
{
	open_file *file = request->file;

	run->in_flight--;
	file->in_flight--;
	if (request->io.sync)
		sync_ended(run, file, request->io.result);
	else if (write_ended(run, request, request->io.result))
		return;
	request->file = NULL;
	close_if_over(run, file);
}

/* Nothing is in flight any more when it returns, whatever happened. */
static void
write_and_sync(run *run)
{
	for (int i = 0; i < FILES_MAX; i++)
		run->files[i].fd = -1;
	for (;;)
	{
		while (begin_next(run))
			continue;
		if (run->in_flight == 0)
			break;
		request_ended(run, (request *) flush_io_wait(run->io));
	}
	for (int i = 0; i < FILES_MAX; i++)
		if (run->files[i].fd >= 0)
			close(run->files[i].fd);
}

void
flush_round_run(flush_round *round, flush_io *io)
{
	uint64_t began_ns = lb_now_ns();
	run run = {.round = round, .io = io};
	lb_status status = {0};
	int fence;

	round->outcome = FLUSH_DONE;
	switch (storage_fence_lock(round->root, round->epoch, &fence, &status))
	{
		case STORAGE_FENCE_HELD:
			write_and_sync(&run);
			storage_fence_unlock(fence);
			break;
		case STORAGE_FENCE_BUSY:
			note_failure(round, &status);
			break;
		case STORAGE_FENCE_TOO_OLD:
			round->outcome = FLUSH_FENCED;
			round->error = status;
			break;
	}
	round->elapsed_ns = lb_now_ns() - began_ns;
}
