/*
 * verbs_stubs.c
 *	  What is injected into the stand-in, and what is counted.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "verbs_stubs_internal.h"

stub_reads stub_sums;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int alive[STUB_OBJECTS];
static int called[CALLS];

static struct
{
	stub_call call;
	int countdown; /* 0: nothing is to fail */
	int error;
	bool failed;
} failure;

static struct
{
	bool set;
	enum rdma_cm_event_type type;
	enum rdma_cm_event_type by;
	int status;
} replacement;

static unsigned time_ms;
static pthread_t timeless; /* the thread for which nothing takes time */

static bool withheld;
static int bad_read; /* 1: the next one; 0: none */
static enum ibv_wc_status bad_status;

void
stub_lock(void)
{
	pthread_mutex_lock(&mutex);
}

void
stub_unlock(void)
{
	pthread_mutex_unlock(&mutex);
}

void
stub_misuse(const char *what)
{
	fprintf(stderr, "verbs stubs: %s\n", what);
	abort();
}

void
stub_set_devices(int count)
{
	stub_lock();
	stub_device_count = count;
	stub_unlock();
}

const char *
stub_call_name(stub_call call)
{
	static const char *const names[] = {
#define STUB_CALL(name) #name,
		STUB_CALLS
#undef STUB_CALL
	};

	return names[call];
}

void
stub_fail(stub_call call, int n, int error)
{
	stub_lock();
	failure.call = call;
	failure.countdown = n;
	failure.error = error;
	failure.failed = false;
	stub_unlock();
}

bool
stub_has_failed(void)
{
	bool failed;

	stub_lock();
	failed = failure.failed;
	stub_unlock();
	return failed;
}

bool
stub_fails(stub_call call)
{
	called[call]++;
	if (failure.countdown == 0 || failure.call != call || --failure.countdown > 0)
		return false;
	failure.failed = true;
	errno = failure.error;
	return true;
}

int
stub_called(stub_call call)
{
	int times;

	stub_lock();
	times = called[call];
	stub_unlock();
	return times;
}

void
stub_count(stub_object object, int change)
{
	alive[object] += change;
	if (alive[object] < 0)
		stub_misuse("something was destroyed twice");
}

int
stub_alive(stub_object object)
{
	int count;

	stub_lock();
	count = alive[object];
	stub_unlock();
	return count;
}

int
stub_all_alive(void)
{
	int sum = 0;

	stub_lock();
	for (int i = 0; i < STUB_OBJECTS; i++)
		sum += alive[i];
	stub_unlock();
	return sum;
}

const char *
stub_alive_text(void)
{
	static const char *const names[STUB_OBJECTS] = {
		"channels", "identifiers",         "events",      "domains",     "regions",
		"CQs",      "completion channels", "queue pairs", "device lists"};
	static char text[300];
	size_t length = 0;

	stub_lock();
	text[0] = '\0';
	for (int i = 0; i < STUB_OBJECTS; i++)
		if (alive[i] > 0)
			length += (size_t) snprintf(text + length, sizeof(text) - length, "%s%d %s",
										length ? ", " : "", alive[i], names[i]);
	stub_unlock();
	return text;
}

void
stub_replace_event(enum rdma_cm_event_type type, enum rdma_cm_event_type by, int status)
{
	stub_lock();
	replacement.set = true;
	replacement.type = type;
	replacement.by = by;
	replacement.status = status;
	stub_unlock();
}

bool
stub_event_type(enum rdma_cm_event_type *type, int *status)
{
	if (!replacement.set || replacement.type != *type)
		return true;
	replacement.set = false;
	*type = replacement.by;
	*status = replacement.status;
	return *type != STUB_NEVER;
}

void
stub_take_time(unsigned milliseconds)
{
	stub_lock();
	time_ms = milliseconds;
	timeless = pthread_self();
	stub_unlock();
}

void
stub_pass_time(void)
{
	unsigned own_ms;

	stub_lock();
	own_ms = pthread_equal(timeless, pthread_self()) ? 0 : time_ms;
	stub_unlock();
	if (own_ms > 0)
		usleep(own_ms * 1000);
}

void
stub_withhold(bool withhold)
{
	stub_lock();
	withheld = withhold;
	stub_qps_progress();
	stub_unlock();
}

bool
stub_withheld(void)
{
	return withheld;
}

void
stub_complete_with(int n, enum ibv_wc_status status)
{
	stub_lock();
	bad_read = n;
	bad_status = status;
	stub_unlock();
}

enum ibv_wc_status
stub_injected_status(void)
{
	return bad_read > 0 && --bad_read == 0 ? bad_status : IBV_WC_SUCCESS;
}

stub_reads
stub_get_reads(void)
{
	stub_reads sums;

	stub_lock();
	sums = stub_sums;
	stub_unlock();
	return sums;
}

unsigned
stub_reads_pending(void)
{
	unsigned pending;

	stub_lock();
	pending = stub_qps_pending();
	stub_unlock();
	return pending;
}

unsigned
stub_send_room(void)
{
	unsigned room;

	stub_lock();
	room = stub_qps_room();
	stub_unlock();
	return room;
}

static bool
may_write(unsigned access)
{
	return (access & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)) != 0;
}

static bool
may_read(unsigned access)
{
	return (access & IBV_ACCESS_REMOTE_READ) != 0;
}

static unsigned
count_qps(bool (*which)(unsigned access))
{
	unsigned count;

	stub_lock();
	count = stub_qps_count(which);
	stub_unlock();
	return count;
}

unsigned
stub_qps_writable(void)
{
	return count_qps(may_write);
}

unsigned
stub_qps_readable(void)
{
	return count_qps(may_read);
}

int
stub_semaphore_create(void)
{
	return eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
}

void
stub_semaphore_raise(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) != sizeof(one))
		stub_misuse("a channel's descriptor was closed");
}

void
stub_semaphore_lower(int fd)
{
	uint64_t one;

	if (read(fd, &one, sizeof(one)) != sizeof(one))
		stub_misuse("something else has read from a channel's descriptor");
}

bool
stub_semaphore_blocks(int fd)
{
	return (fcntl(fd, F_GETFL) & O_NONBLOCK) == 0;
}

void
stub_reset(void)
{
	if (stub_all_alive() > 0)
		stub_misuse(stub_alive_text());
	stub_lock();
	stub_device_count = DEVICES_MAX;
	stub_devices_renew();
	memset(called, 0, sizeof(called));
	memset(&failure, 0, sizeof(failure));
	memset(&replacement, 0, sizeof(replacement));
	memset(&stub_sums, 0, sizeof(stub_sums));
	withheld = false;
	bad_read = 0;
	time_ms = 0;
	stub_unlock();
}
