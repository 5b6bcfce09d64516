/*
 * lb_data_plane_rdma.h
 *	  The rdma data plane: see lb_data_plane_rdma.c. For lb_data_plane.c alone.
 *
 * It is compiled in every build, and knows RDMA by lb_rdma.h alone, so that its tests can stand in for that: they need a fake node that
 * answers HELLO, RDMA_OPEN and SLAB_KEYS on its socket, and these functions, of which they are free to let each one fail:
 *
 *	  lb_rdma_available			true, or else lb_data_plane_ops_for() has no rdma
 *	  lb_rdma_connect_start		is given one lb_rdma_memory of LB_RDMA_READS_MAX pages
 *	  lb_rdma_connect_continue	called at once, then after each 10 ms or when the event descriptor is readable
 *	  lb_rdma_event_fd			a descriptor that poll() takes
 *	  lb_rdma_check				called about every 5 ms of a wait that has taken more than 50 microseconds, and not before
 *	  lb_rdma_local_key
 *	  lb_rdma_post_reads		the ids are the tickets, which count from 1; targets lie within the memory, each in a page of its own, which
 *								is not used again before the batch was polled
 *	  lb_rdma_poll				the stand-in writes the pages when it says that they are there
 *	  lb_rdma_get_counters
 *	  lb_rdma_close				called once for each connection that was started; until it returns the memory is mapped
 */
#ifndef LB_DATA_PLANE_RDMA_H
#define LB_DATA_PLANE_RDMA_H

#include "lb_data_plane.h"

extern const lb_data_plane_ops lb_data_plane_rdma;

#endif /* LB_DATA_PLANE_RDMA_H */
