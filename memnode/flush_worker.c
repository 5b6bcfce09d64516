/*
 * flush_worker.c
 *	  The flushing thread, and how a round gets to it and back.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "flush_worker.h"

struct flush_worker
{
	flush_io *io; /* the thread's while it runs */
	int event_fd;
	pthread_t thread;
	flush_round *with_worker; /* the other thread's: submitted, and not yet returned */

	pthread_mutex_t lock; /* for what follows */
	pthread_cond_t changed;
	bool ending;
	flush_round *submitted;
	flush_round *finished;
};

/* Null: the worker is to end. */
static flush_round *
next_round(flush_worker *worker)
{
	flush_round *round;

	pthread_mutex_lock(&worker->lock);
	while (worker->submitted == NULL && !worker->ending)
		pthread_cond_wait(&worker->changed, &worker->lock);
	round = worker->ending ? NULL : worker->submitted;
	worker->submitted = NULL;
	pthread_mutex_unlock(&worker->lock);
	return round;
}

static void
give_back(flush_worker *worker, flush_round *round)
{
	pthread_mutex_lock(&worker->lock);
	worker->finished = round;
	pthread_mutex_unlock(&worker->lock);
	eventfd_write(worker->event_fd, 1);
}

static void *
work(void *argument)
{
	flush_worker *worker = argument;
	flush_round *round;

	while ((round = next_round(worker)) != NULL)
	{
		flush_round_run(round, worker->io);
		give_back(worker, round);
	}
	return NULL;
}

/* Signals are the event loop's: none may be handled in this thread. */
static bool
start_thread(flush_worker *worker, lb_status *status)
{
	sigset_t all;
	sigset_t before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&worker->thread, NULL, work, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error == 0)
		return true;
	errno = error;
	return lb_fail_errno(status, "could not start the flushing thread");
}

static void
release(flush_worker *worker)
{
	if (worker->io != NULL)
		flush_io_close(worker->io);
	if (worker->event_fd >= 0)
		close(worker->event_fd);
	pthread_cond_destroy(&worker->changed);
	pthread_mutex_destroy(&worker->lock);
	free(worker);
}

flush_worker *
flush_worker_start(flush_io_kind kind, lb_status *fallback, lb_status *status)
{
	flush_worker *worker = calloc(1, sizeof(*worker));

	if (worker == NULL)
	{
		lb_fail_errno(status, "could not start the flushing thread");
		return NULL;
	}
	pthread_mutex_init(&worker->lock, NULL);
	pthread_cond_init(&worker->changed, NULL);
	worker->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (worker->event_fd < 0)
		lb_fail_errno(status, "could not start the flushing thread");
	else
		worker->io = flush_io_open(kind, fallback, status);
	if (worker->io == NULL || !start_thread(worker, status))
	{
		release(worker);
		return NULL;
	}
	return worker;
}

void
flush_worker_stop(flush_worker *worker)
{
	if (worker->with_worker != NULL)
		atomic_store(&worker->with_worker->stop, true);
	pthread_mutex_lock(&worker->lock);
	worker->ending = true;
	pthread_cond_signal(&worker->changed);
	pthread_mutex_unlock(&worker->lock);
	pthread_join(worker->thread, NULL);
	flush_round_free(worker->with_worker);
	release(worker);
}

int
flush_worker_event_fd(const flush_worker *worker)
{
	return worker->event_fd;
}

const char *
flush_worker_io_name(const flush_worker *worker)
{
	return worker->io->operations->name;
}

void
flush_worker_submit(flush_worker *worker, flush_round *round)
{
	assert(worker->with_worker == NULL);
	for (uint32_t i = 1; i < round->count; i++)
		assert(flush_page_compare(&round->pages[i - 1], &round->pages[i]) < 0);
	worker->with_worker = round;
	pthread_mutex_lock(&worker->lock);
	worker->submitted = round;
	pthread_cond_signal(&worker->changed);
	pthread_mutex_unlock(&worker->lock);
}

flush_round *
flush_worker_finished(flush_worker *worker)
{
	flush_round *round;
	eventfd_t ignored;

	eventfd_read(worker->event_fd, &ignored);
	pthread_mutex_lock(&worker->lock);
	round = worker->finished;
	worker->finished = NULL;
	pthread_mutex_unlock(&worker->lock);
	if (round != NULL)
		worker->with_worker = NULL;
	return round;
}
