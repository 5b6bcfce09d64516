/*
 * lb_data_plane.c
 *	  Choosing the implementation of a data plane, and opening connections.
 */
#include <stdlib.h>

#include "lb_data_plane_rdma.h"
#include "lb_data_plane_socket.h"
#include "lb_rdma.h"

const lb_data_plane_ops *
lb_data_plane_ops_for(lb_transport transport)
{
	lb_status status;

	switch (transport)
	{
		case LB_TRANSPORT_SHM:
			return &lb_data_plane_shm;
		case LB_TRANSPORT_TCP:
			return &lb_data_plane_tcp;
		case LB_TRANSPORT_RDMA:
			return lb_rdma_available(&status) ? &lb_data_plane_rdma : NULL;
	}
	return NULL;
}

/* A connection that begins as *head does. *tcp_would_do: if it fails, see there. */
static lb_data_plane *
connect_as(const lb_data_plane *head, const lb_address *address, const lb_hello *hello,
		   uint64_t deadline_ns, bool *tcp_would_do, lb_status *status)
{
	lb_data_plane *plane = calloc(1, head->ops->size);

	*tcp_would_do = false;
	if (plane == NULL)
	{
		lb_fail_errno(status, "could not allocate a connection");
		return NULL;
	}
	*plane = *head;
	if (plane->ops->connect(plane, address, hello, deadline_ns, status))
		return plane;
	*tcp_would_do = plane->tcp_would_do;
	free(plane);
	return NULL;
}

lb_data_plane *
lb_data_plane_connect(lb_transport transport, const lb_address *address, const lb_hello *hello,
					  lb_cancel_fn cancel, void *cancel_arg, uint64_t deadline_ns,
					  lb_status *status)
{
	lb_data_plane head = {
		.ops = lb_data_plane_ops_for(transport),
		.cancel = cancel,
		.cancel_arg = cancel_arg,
	};
	lb_data_plane *plane;
	lb_status reason;
	bool tcp_would_do;

	if (head.ops == NULL)
	{
		lb_fail(status, LB_INVALID, "this build has no %s transport", lb_transport_name(transport));
		return NULL;
	}
	plane = connect_as(&head, address, hello, deadline_ns, &tcp_would_do, status);
	if (plane || !tcp_would_do)
		return plane;

	reason = *status;
	head.ops = &lb_data_plane_tcp;
	head.fell_back = true;
	plane = connect_as(&head, address, hello, deadline_ns, &tcp_would_do, status);
	if (plane)
		*status = reason;
	return plane;
}
