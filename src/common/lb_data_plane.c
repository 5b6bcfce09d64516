/*
 * lb_data_plane.c
 *	  Choosing the implementation of a data plane, and opening connections.
 */
#include <stdlib.h>

#include "lb_data_plane_socket.h"

const lb_data_plane_ops *
lb_data_plane_ops_for(lb_transport transport)
{
	switch (transport)
	{
		case LB_TRANSPORT_SHM:
			return &lb_data_plane_shm;
		case LB_TRANSPORT_TCP:
			return &lb_data_plane_tcp;
		case LB_TRANSPORT_RDMA:
			return NULL;
	}
	return NULL;
}

lb_data_plane *
lb_data_plane_connect(lb_transport transport, const lb_address *address, const lb_hello *hello,
					  lb_cancel_fn cancel, void *cancel_arg, uint64_t deadline_ns,
					  lb_status *status)
{
	const lb_data_plane_ops *ops = lb_data_plane_ops_for(transport);
	lb_data_plane *plane;

	if (ops == NULL)
	{
		lb_fail(status, LB_INVALID, "this build has no %s transport", lb_transport_name(transport));
		return NULL;
	}
	plane = calloc(1, ops->size);
	if (plane == NULL)
	{
		lb_fail_errno(status, "could not allocate a connection");
		return NULL;
	}
	plane->ops = ops;
	plane->cancel = cancel;
	plane->cancel_arg = cancel_arg;
	if (!ops->connect(plane, address, hello, deadline_ns, status))
	{
		free(plane);
		return NULL;
	}
	return plane;
}
