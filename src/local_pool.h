/*
 * local_pool.h
 *	  Questions to shared_buffers, the local buffer pool.
 */
#ifndef LEGOBASE_LOCAL_POOL_H
#define LEGOBASE_LOCAL_POOL_H

#include "lb_page.h"

/*
 * Is the page in shared_buffers? Momentary, and "yes" if it can't be told without waiting. Takes no lock that anybody may
 * hold while waiting for a buffer, so it can be asked in the middle of buffer I/O.
 */
extern bool LocalPoolHolds(const lb_page_tag *tag);

#endif /* LEGOBASE_LOCAL_POOL_H */
