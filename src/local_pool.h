/*
 * local_pool.h
 *	  Questions to shared_buffers, the local buffer pool, and the flushing of one of its pages.
 */
#ifndef LEGOBASE_LOCAL_POOL_H
#define LEGOBASE_LOCAL_POOL_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "storage/buf.h"

#include "lb_page.h"

/* A page in shared_buffers, as it was when its header was looked at. */
typedef struct LocalPage
{
	lb_page_tag tag;
	uint32 usage; /* PostgreSQL's usage count: the higher, the more often it was used of late */
} LocalPage;

/*
 * Is the page in shared_buffers? Momentary, and "yes" if it can't be told without waiting. Takes no lock that anybody may
 * hold while waiting for a buffer, so it can be asked in the middle of buffer I/O.
 */
extern bool LocalPoolHolds(const lb_page_tag *tag);

/* Is there a buffer that never had a page, or whose page was dropped? A page read now would evict no other. Momentary. */
extern bool LocalPoolHasRoom(void);

/* The permanent pages in shared_buffers, in no order; pages has room for one a buffer (NBuffers). Returns how many. */
extern uint32 LocalPoolListPages(LocalPage *pages);

/*
 * The buffers with a permanent page that is dirty. Every page that was changed by a WAL record inserted before the call is among them, or was
 * written, or is being written, by somebody since. Except pages whose only record is the image that goes with a hint bit: it is inserted before the
 * page is marked dirty (docs/recovery.md, section 5). buffers has room for all.
 */
extern uint32 LocalPoolListDirty(Buffer *buffers);

typedef enum LocalFlush
{
	LOCAL_FLUSHED,
	LOCAL_CLEAN, /* nothing to do: somebody else wrote it, or is writing it and has got that far */
	LOCAL_WAL_FIRST /* not flushed: WAL has to be made durable first, up to *lsn */
} LocalFlush;

/*
 * Flush the buffer, if it has a dirty, permanent page: WAL first, then smgrwrite. Its usage count does not change. With durable given: if the page's
 * LSN is beyond it, nothing is done, so that nobody waits for the page while WAL is synced (InvalidXLogRecPtr: sync it, if need be).
 * For a process with a resource owner, no pins and no open relations of its own. May raise ERROR, as a write may: then the caller closes all
 * relations (smgrcloseall). May wait for the page's lock.
 */
extern LocalFlush LocalPoolFlush(Buffer buffer, XLogRecPtr durable, XLogRecPtr *lsn);

#endif /* LEGOBASE_LOCAL_POOL_H */
