/*
 * lb_data_plane_rdma.h
 *	  The rdma data plane: see lb_data_plane_rdma.c. For lb_data_plane.c alone.
 */
#ifndef LB_DATA_PLANE_RDMA_H
#define LB_DATA_PLANE_RDMA_H

#include "lb_data_plane.h"

extern const lb_data_plane_ops lb_data_plane_rdma;

#endif /* LB_DATA_PLANE_RDMA_H */
