/*
 * lb_rdma_device.c
 *	  Devices, and what is made on one: protection domains and registered memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lb_rdma_internal.h"

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int fork_error;

bool
lb_rdma_available(lb_status *status)
{
	(void) status;
	return true;
}

static void
init_fork(void)
{
	fork_error = ibv_fork_init();
}

/*
 * On kernels that do not copy pinned pages at fork (before 5.12), the parent's next write to such a page would move it away from under the device;
 * ibv_fork_init sees to it that pages that are registered from now on, and those of the queues, are not inherited. Where the kernel copies it
 * does nothing from rdma-core 51 on; before, all the same.
 */
bool
lb_rdma_prepare(lb_status *status)
{
	pthread_once(&fork_once, init_fork);
	if (fork_error != 0)
		return lb_fail(status, LB_SYSTEM, "could not make registered memory safe across fork: %s",
					   strerror(fork_error));
	return true;
}

bool
lb_rdma_set_nonblocking(int fd, lb_status *status)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
		fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
		return lb_fail_errno(status, "could not set the flags of an RDMA descriptor");
	return true;
}

struct rdma_event_channel *
lb_rdma_channel_open(lb_code no_device, lb_status *status)
{
	struct rdma_event_channel *channel;

	if (!lb_rdma_prepare(status))
		return NULL;
	channel = rdma_create_event_channel();
	if (channel == NULL)
	{
		if (errno == ENODEV || errno == ENOENT || errno == EPERM || errno == ENOSYS)
			lb_fail(status, no_device,
					"this host has no RDMA device that can be used (%s): set one up (\"rdma link\" "
					"lists them) and load rdma_ucm, or use tcp://",
					strerror(errno));
		else
			lb_fail_errno(status, "could not open an RDMA event channel");
		return NULL;
	}
	if (!lb_rdma_set_nonblocking(channel->fd, status))
	{
		rdma_destroy_event_channel(channel);
		return NULL;
	}
	return channel;
}

/* ---- devices ---- */

static pthread_mutex_t holds_mutex = PTHREAD_MUTEX_INITIALIZER;
static lb_rdma_hold *holds; /* all there are in this process */

void
lb_rdma_device_hold(lb_rdma_hold *hold, struct ibv_context *verbs)
{
	pthread_mutex_lock(&holds_mutex);
	*hold = (lb_rdma_hold){.verbs = verbs, .next = holds};
	holds = hold;
	pthread_mutex_unlock(&holds_mutex);
}

void
lb_rdma_device_removed(struct ibv_context *verbs)
{
	pthread_mutex_lock(&holds_mutex);
	for (lb_rdma_hold *hold = holds; hold != NULL; hold = hold->next)
		if (hold->verbs == verbs)
			hold->removed = true;
	pthread_mutex_unlock(&holds_mutex);
}

/* Later the context may be freed, and the numbers mean something else. */
static void
note_descriptors(lb_rdma_hold *hold, const struct ibv_context *verbs)
{
	struct stat file;

	if (fstat(verbs->cmd_fd, &file) != 0)
		return;
	hold->cmd_fd = verbs->cmd_fd;
	hold->async_fd = verbs->async_fd;
	hold->file_system = file.st_dev;
	hold->inode = file.st_ino;
	hold->to_close = true;
}

void
lb_rdma_device_release(lb_rdma_hold *hold)
{
	struct ibv_context *verbs = hold->verbs;
	bool others = false;

	if (verbs == NULL)
		return;
	pthread_mutex_lock(&holds_mutex);
	for (lb_rdma_hold **at = &holds; *at != NULL;)
	{
		if (*at == hold)
		{
			*at = hold->next;
			continue;
		}
		others = others || (*at)->verbs == verbs;
		at = &(*at)->next;
	}
	if (hold->removed && !others)
		note_descriptors(hold, verbs);
	hold->verbs = NULL;
	pthread_mutex_unlock(&holds_mutex);
}

/*
 * The context, if it was not freed with the id, stays librdmacm's, which will close these two descriptors' numbers with it; and the device that they
 * were of is not found again, even if it comes back with the same name. So the numbers must go on being open, as something harmless.
 */
void
lb_rdma_device_close(lb_rdma_hold *hold)
{
	struct stat file;
	int null;

	if (!hold->to_close)
		return;
	hold->to_close = false;
	if (fstat(hold->cmd_fd, &file) != 0 || file.st_dev != hold->file_system ||
		file.st_ino != hold->inode)
		return; /* freed, and the descriptors closed */
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return;
	dup3(null, hold->cmd_fd, O_CLOEXEC);
	dup3(null, hold->async_fd, O_CLOEXEC);
	close(null);
}

void
lb_rdma_address_text(const struct sockaddr *address, char text[LB_RDMA_ADDRESS_TEXT])
{
	socklen_t length =
		address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);

	if (getnameinfo(address, length, text, LB_RDMA_ADDRESS_TEXT, NULL, 0, NI_NUMERICHOST) != 0)
		snprintf(text, LB_RDMA_ADDRESS_TEXT, "an address that is not IP");
}

const char *
lb_rdma_device_name(const struct ibv_context *verbs)
{
	return ibv_get_device_name(verbs->device);
}

/* rdma_get_devices would open them all, and librdmacm has them open from then on. */
void
lb_rdma_device_names(char text[LB_RDMA_NAMES_TEXT])
{
	int count = 0;
	struct ibv_device **devices = ibv_get_device_list(&count);
	size_t length = 0;

	snprintf(text, LB_RDMA_NAMES_TEXT, "none");
	for (int i = 0; i < count && length < LB_RDMA_NAMES_TEXT; i++)
		length += (size_t) snprintf(text + length, LB_RDMA_NAMES_TEXT - length, "%s%s",
									i > 0 ? ", " : "", ibv_get_device_name(devices[i]));
	if (devices != NULL)
		ibv_free_device_list(devices);
}

bool
lb_rdma_device_is_fit(const struct ibv_context *verbs, lb_code unfit, lb_status *status)
{
	if (lb_rdma_is_fit(verbs->device))
		return true;
	return lb_fail(status, unfit,
				   "RDMA device %s is neither InfiniBand nor RoCE (iWARP is not supported): use "
				   "tcp://",
				   lb_rdma_device_name(verbs));
}

static uint8_t
depth(int limit)
{
	return (uint8_t) (limit < LB_RDMA_DEPTH_MAX ? limit : LB_RDMA_DEPTH_MAX);
}

bool
lb_rdma_device_depths(struct ibv_context *verbs, lb_rdma_depths *depths, lb_status *status)
{
	struct ibv_device_attr attributes;
	int error = ibv_query_device(verbs, &attributes);

	if (error != 0)
		return lb_fail(status, LB_SYSTEM, "could not query RDMA device %s: %s",
					   lb_rdma_device_name(verbs), strerror(error));
	depths->posted = depth(attributes.max_qp_init_rd_atom);
	depths->served = depth(attributes.max_qp_rd_atom);
	return true;
}

bool
lb_rdma_fail_make(lb_status *status, struct ibv_context *verbs, const char *what)
{
	int error = errno;
	const char *device = lb_rdma_device_name(verbs);

	switch (error)
	{
		/* Drivers do not agree on what they say when a table is full; what we ask for is otherwise the same each time, and small. */
		case ENOMEM:
		case ENOSPC:
		case EAGAIN:
		case EDQUOT:
			lb_fail(status, LB_REFUSED,
					"RDMA device %s has no %s left, or not enough memory may be locked for one: %s",
					device, what, strerror(error));
			status->wire_error = LB_ERR_LIMIT;
			return false;
		case EINVAL:
			lb_fail(status, LB_REFUSED,
					"RDMA device %s has no %s left, or the peer has gone already: %s", device, what,
					strerror(error));
			status->wire_error = LB_ERR_LIMIT;
			return false;
		default:
			return lb_fail(status, LB_SYSTEM, "could not make a %s on RDMA device %s: %s", what,
						   device, strerror(error));
	}
}

/* ---- locked memory ---- */

/* There all user ids are what they are, without exception. */
static bool
in_first_user_namespace(void)
{
	FILE *map = fopen("/proc/self/uid_map", "re");
	uint32_t inside;
	uint32_t outside;
	uint32_t count;
	bool first;

	if (map == NULL)
		return errno == ENOENT; /* the kernel has no others */
	first = fscanf(map, "%" SCNu32 " %" SCNu32 " %" SCNu32, &inside, &outside, &count) == 3 &&
			inside == 0 && outside == 0 && count == UINT32_MAX;
	fclose(map);
	return first;
}

/* The kernel counts this capability in the first user namespace alone. In one of its own, as of a container, everybody may have it. */
static bool
has_ipc_lock(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

	if (syscall(SYS_capget, &header, data) != 0)
		return false;
	return (data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK)) != 0 &&
		   in_first_user_namespace();
}

/* RLIMIT_MEMLOCK; UINT64_MAX: none. */
static uint64_t
lock_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
		return UINT64_MAX;
	return limit.rlim_cur;
}

bool
lb_rdma_may_lock(uint64_t bytes, lb_status *status)
{
	uint64_t limit = lock_limit();

	if (bytes <= limit || has_ipc_lock())
		return true;
	return lb_fail(
		status, LB_SYSTEM,
		"the limit on locked memory is %" PRIu64 " kB, and %" PRIu64
		" kB are needed for RDMA: raise it (LimitMEMLOCK= of the systemd unit, or ulimit -l)",
		limit / 1024, (bytes + 1023) / 1024);
}

/* ---- domains and regions ---- */

lb_rdma_domain *
lb_rdma_domain_on(struct ibv_context *verbs, lb_status *status)
{
	lb_rdma_domain *domain = calloc(1, sizeof(*domain));

	if (domain == NULL)
	{
		lb_fail_errno(status, "could not allocate memory for a protection domain");
		return NULL;
	}
	domain->pd = ibv_alloc_pd(verbs);
	if (domain->pd == NULL)
	{
		lb_rdma_fail_make(status, verbs, "protection domain");
		free(domain);
		return NULL;
	}
	return domain;
}

void
lb_rdma_domain_destroy(lb_rdma_domain *domain)
{
	if (domain == NULL)
		return;
	domain->given_up = true;
	if (domain->regions > 0 || domain->queue_pairs > 0)
		return;
	ibv_dealloc_pd(domain->pd);
	free(domain);
}

static void
fail_register(lb_status *status, size_t length)
{
	int error = errno;
	uint64_t limit = lock_limit();

	if ((error == ENOMEM || error == EPERM || error == EAGAIN) && limit != UINT64_MAX)
		lb_fail(status, LB_SYSTEM,
				"could not lock %zu kB of memory for RDMA (%s): the limit is %" PRIu64
				" kB for all that the process locks; raise it (LimitMEMLOCK= of the systemd unit, "
				"or ulimit -l)",
				length / 1024, strerror(error), limit / 1024);
	else
		lb_fail(status, LB_SYSTEM, "could not register %zu kB of memory for RDMA: %s",
				length / 1024, strerror(error));
}

lb_rdma_region *
lb_rdma_register_for(lb_rdma_domain *domain, void *start, size_t length, unsigned access,
					 lb_status *status)
{
	lb_rdma_region *region = calloc(1, sizeof(*region));

	if (region == NULL)
	{
		lb_fail_errno(status, "could not allocate memory for an RDMA region");
		return NULL;
	}
	region->mr = ibv_reg_mr(domain->pd, start, length, (int) access);
	if (region->mr == NULL)
	{
		fail_register(status, length);
		free(region);
		return NULL;
	}
	region->domain = domain;
	domain->regions++;
	return region;
}

lb_rdma_region *
lb_rdma_register(lb_rdma_domain *domain, void *start, size_t length, lb_status *status)
{
	return lb_rdma_register_for(domain, start, length,
								IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ, status);
}

void
lb_rdma_deregister(lb_rdma_region *region)
{
	lb_rdma_domain *domain;

	if (region == NULL)
		return;
	domain = region->domain;
	ibv_dereg_mr(region->mr);
	free(region);
	if (--domain->regions == 0 && domain->given_up)
		lb_rdma_domain_destroy(domain);
}

uint32_t
lb_rdma_region_local_key(const lb_rdma_region *region)
{
	return region->mr->lkey;
}

uint32_t
lb_rdma_region_remote_key(const lb_rdma_region *region)
{
	return region->mr->rkey;
}
