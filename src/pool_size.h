/*
 * pool_size.h
 *	  Keeping the remote pool at the size that legobase.remote_pool_size asks for, evenly over the nodes that are there.
 */
#ifndef LEGOBASE_POOL_SIZE_H
#define LEGOBASE_POOL_SIZE_H

#include "node_link.h"

/*
 * One step, in the agent: ask nodes for slabs they should have granted, drain slabs that are too many, give back those that are
 * drained. Returns true while there is something left to be done soon.
 */
extern bool PoolSizeTick(NodeLink *links, int count, uint64 now);

#endif /* LEGOBASE_POOL_SIZE_H */
