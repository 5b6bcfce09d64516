/*
 * lb_rdma_absent.c
 *	  What there is of RDMA where rdma-core was not there at build time: the message that says so.
 */
#include "lb_rdma.h"

static void
absent(lb_status *status)
{
	lb_fail(status, LB_INVALID,
			"this build has no RDMA data plane: libibverbs and librdmacm were not found when it "
			"was built");
}

bool
lb_rdma_available(lb_status *status)
{
	absent(status);
	return false;
}

bool
lb_rdma_may_lock(uint64_t bytes, lb_status *status)
{
	(void) bytes;
	absent(status);
	return false;
}

lb_rdma_connection *
lb_rdma_connect_start(const lb_address *address, const lb_rdma_invitation *invitation,
					  const lb_rdma_memory *memory, lb_status *status)
{
	(void) address;
	(void) invitation;
	(void) memory;
	absent(status);
	return NULL;
}

int
lb_rdma_connect_continue(lb_rdma_connection *connection, lb_status *status)
{
	(void) connection;
	absent(status);
	return -1;
}

int
lb_rdma_event_fd(const lb_rdma_connection *connection)
{
	(void) connection;
	return -1;
}

bool
lb_rdma_check(lb_rdma_connection *connection, lb_status *status)
{
	(void) connection;
	absent(status);
	return false;
}

uint32_t
lb_rdma_local_key(const lb_rdma_connection *connection)
{
	(void) connection;
	return 0;
}

uint32_t
lb_rdma_remote_key(const lb_rdma_connection *connection)
{
	(void) connection;
	return 0;
}

bool
lb_rdma_post_reads(lb_rdma_connection *connection, const lb_rdma_read *reads, int count,
				   uint64_t id, lb_status *status)
{
	(void) connection;
	(void) reads;
	(void) count;
	(void) id;
	absent(status);
	return false;
}

int
lb_rdma_poll(lb_rdma_connection *connection, uint64_t *id, lb_status *status)
{
	(void) connection;
	(void) id;
	absent(status);
	return -1;
}

lb_rdma_counters
lb_rdma_get_counters(const lb_rdma_connection *connection)
{
	(void) connection;
	return (lb_rdma_counters){0};
}

void
lb_rdma_close(lb_rdma_connection *connection)
{
	(void) connection;
}

lb_rdma_listener *
lb_rdma_listen(const lb_address *address, const char *device_name, lb_status *status)
{
	(void) address;
	(void) device_name;
	absent(status);
	return NULL;
}

void
lb_rdma_listener_close(lb_rdma_listener *listener)
{
	(void) listener;
}

uint16_t
lb_rdma_listener_port(const lb_rdma_listener *listener)
{
	(void) listener;
	return 0;
}

const char *
lb_rdma_listener_device(const lb_rdma_listener *listener)
{
	(void) listener;
	return "";
}

int
lb_rdma_listener_fd(const lb_rdma_listener *listener)
{
	(void) listener;
	return -1;
}

int
lb_rdma_listener_next(lb_rdma_listener *listener, lb_rdma_event *event, lb_status *status)
{
	(void) listener;
	(void) event;
	absent(status);
	return -1;
}

lb_rdma_connection *
lb_rdma_accept(lb_rdma_listener *listener, const lb_rdma_event *event, lb_rdma_domain *domain,
			   bool may_read, void *owner, lb_status *status)
{
	(void) listener;
	(void) event;
	(void) domain;
	(void) may_read;
	(void) owner;
	absent(status);
	return NULL;
}

void
lb_rdma_reject(const lb_rdma_event *event)
{
	(void) event;
}

int
lb_rdma_completion_fd(const lb_rdma_connection *connection)
{
	(void) connection;
	return -1;
}

bool
lb_rdma_arm(lb_rdma_connection *connection, lb_status *status)
{
	(void) connection;
	absent(status);
	return false;
}

lb_rdma_domain *
lb_rdma_domain_create(lb_rdma_listener *listener, lb_status *status)
{
	(void) listener;
	absent(status);
	return NULL;
}

void
lb_rdma_domain_destroy(lb_rdma_domain *domain)
{
	(void) domain;
}

lb_rdma_region *
lb_rdma_register(lb_rdma_domain *domain, void *start, size_t length, lb_status *status)
{
	(void) domain;
	(void) start;
	(void) length;
	absent(status);
	return NULL;
}

void
lb_rdma_deregister(lb_rdma_region *region)
{
	(void) region;
}

uint32_t
lb_rdma_region_local_key(const lb_rdma_region *region)
{
	(void) region;
	return 0;
}

uint32_t
lb_rdma_region_remote_key(const lb_rdma_region *region)
{
	(void) region;
	return 0;
}
