/*
 * verbs_stubs_device.c
 *	  The stand-in's devices, and what librdmacm does with them.
 *
 * librdmacm opens a device when it is first used, and has it open from then on. That it is gone it finds out when it meets one that it does not
 * know: then it closes the context and frees it, or with the last identifier that uses it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "verbs_stubs_internal.h"

stub_device *stub_devices[DEVICES_MAX];
int stub_device_count;

/* They have gone, and are back as others, and librdmacm has not found out. */
static stub_device *replaced;

static stub_device *
make_device(int number)
{
	stub_device *device = calloc(1, sizeof(*device));

	snprintf(device->device.name, sizeof(device->device.name), "stub%d", number);
	device->device.node_type = IBV_NODE_CA;
	device->device.transport_type = IBV_TRANSPORT_IB;
	device->context.device = &device->device;
	device->context.num_comp_vectors = 1;
	device->context.cmd_fd = stub_semaphore_create();
	device->context.async_fd = stub_semaphore_create();
	device->context.ops = stub_context_ops;
	return device;
}

__attribute__((constructor)) static void
make_devices(void)
{
	for (int i = 0; i < DEVICES_MAX; i++)
		stub_devices[i] = make_device(i);
	stub_device_count = DEVICES_MAX;
}

/* Closes its numbers, whatever they are by now. */
static void
free_device(stub_device *device)
{
	close(device->context.cmd_fd);
	close(device->context.async_fd);
	free(device);
}

/* What librdmacm does about devices that it finds gone. */
static void
find_out(void)
{
	while (replaced)
	{
		stub_device *device = replaced;

		replaced = device->next;
		device->dead = true;
		if (device->ids == 0)
			free_device(device);
	}
}

/* The device with this address, if it is there. */
static stub_device *
device_with(const struct sockaddr *address)
{
	char text[INET6_ADDRSTRLEN] = "";
	int found = -1;

	if (address->sa_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *) address)->sin_addr, text, sizeof(text));
	else
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *) address)->sin6_addr, text,
				  sizeof(text));
	if (strcmp(text, "127.0.0.1") == 0 || strcmp(text, "::1") == 0)
		found = 0;
	if (strcmp(text, "10.1.1.1") == 0)
		found = 1;
	return found >= 0 && found < stub_device_count && !stub_devices[found]->gone
			   ? stub_devices[found]
			   : NULL;
}

/* It looks at what devices there are when it meets one that it does not know. */
static void
open_device(stub_device *device)
{
	if (!device->open)
		find_out();
	device->open = true;
}

stub_device *
stub_device_use(const struct sockaddr *address)
{
	stub_device *device = device_with(address);

	if (device)
	{
		open_device(device);
		device->ids++;
	}
	return device;
}

/* /dev/null is something else, as is a descriptor that was closed. */
static bool
has_descriptors(const struct ibv_context *context)
{
	struct stat file;

	return fstat(context->cmd_fd, &file) == 0 && !S_ISCHR(file.st_mode);
}

void
stub_need_descriptors(const struct ibv_context *context)
{
	if (!has_descriptors(context))
		stub_misuse("something is destroyed whose device's descriptors were closed");
}

/* The last identifier gives back a protection domain that librdmacm has on the device. */
void
stub_device_leave(stub_device *device)
{
	if (--device->ids > 0)
		return;
	stub_need_descriptors(&device->context);
	if (device->dead)
		free_device(device);
}

bool
stub_device_is_open(int number)
{
	bool open;

	stub_lock();
	open = stub_devices[number]->open && has_descriptors(&stub_devices[number]->context);
	stub_unlock();
	return open;
}

static void
replace_device(int number)
{
	stub_devices[number]->next = replaced;
	replaced = stub_devices[number];
	stub_devices[number] = make_device(number);
}

void
stub_return_device(int number)
{
	stub_lock();
	if (!stub_devices[number]->gone)
		stub_misuse("a device returns that is there");
	replace_device(number);
	stub_unlock();
}

void
stub_set_transport(int number, enum ibv_transport_type transport)
{
	stub_lock();
	stub_devices[number]->device.transport_type = transport;
	stub_unlock();
}

void
stub_devices_renew(void)
{
	for (int i = 0; i < DEVICES_MAX; i++)
		replace_device(i);
	find_out();
}

/* ---- what is asked of them ---- */

struct ibv_device **
ibv_get_device_list(int *count)
{
	struct ibv_device **list = NULL;
	int present = 0;

	stub_lock();
	if (!stub_fails(CALL_ibv_get_device_list))
	{
		list = calloc(DEVICES_MAX + 1, sizeof(list[0]));
		for (int i = 0; i < stub_device_count; i++)
			if (!stub_devices[i]->gone)
				list[present++] = &stub_devices[i]->device;
		stub_count(STUB_DEVICE_LIST, 1);
	}
	if (count)
		*count = present;
	stub_unlock();
	return list;
}

void
ibv_free_device_list(struct ibv_device **list)
{
	stub_lock();
	stub_count(STUB_DEVICE_LIST, -1);
	stub_unlock();
	free(list);
}

const char *
ibv_get_device_name(struct ibv_device *device)
{
	return device->name;
}

int
ibv_fork_init(void)
{
	bool fails;

	stub_lock();
	fails = stub_fails(CALL_ibv_fork_init);
	stub_unlock();
	return fails ? errno : 0;
}

int
ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attributes)
{
	bool fails;

	stub_lock();
	fails = stub_fails(CALL_ibv_query_device);
	if (!fails && device_of(context)->gone)
	{
		fails = true;
		errno = EIO;
	}
	stub_unlock();
	if (fails)
		return errno;
	memset(attributes, 0, sizeof(*attributes));
	attributes->max_mr_size = UINT64_MAX;
	attributes->max_qp = QPS_MAX;
	attributes->max_qp_wr = QUEUE_MAX;
	attributes->max_sge = attributes->max_sge_rd = 1;
	attributes->max_cq = QPS_MAX;
	attributes->max_cqe = QUEUE_MAX;
	attributes->max_mr = REGIONS_MAX;
	attributes->max_pd = QPS_MAX;
	attributes->max_qp_rd_atom = 16;
	attributes->max_qp_init_rd_atom = 16;
	attributes->phys_port_cnt = 1;
	return 0;
}
