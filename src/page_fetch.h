/*
 * page_fetch.h
 *	  Reading a page from remote memory: from the comm buffer while it is on its way there, from its slot afterwards.
 */
#ifndef LEGOBASE_PAGE_FETCH_H
#define LEGOBASE_PAGE_FETCH_H

#include "storage/smgr.h"

#include "lb_page.h"

typedef enum PageFetchResult
{
	PAGE_FETCHED,    /* the buffer has the page */
	PAGE_NOT_REMOTE, /* it has to be read from storage, and may be pushed then */
	PAGE_LEFT_ALONE  /* it has to be read from storage; its remote copy is good, and stays */
} PageFetchResult;

/*
 * Read the page into buffer, with its checksum verified. Unless it was fetched the buffer's content is undefined. Left alone is
 * a page whose node does not answer, or is slower than storage, or was not waited for because an interrupt came. None of that
 * happens to a dirty page, which the file does not have: it is waited for, interrupts or not; ERROR if it does not come in time.
 *
 * Serves no interrupts, as no storage manager's read does: callers rely on it (remote_truncate() has the case). The wait for a
 * node ends when one comes, so that a barrier is not held up. May raise ERROR where reading the file would.
 */
extern PageFetchResult PageFetch(SMgrRelation reln, const lb_page_tag *tag, char *buffer);

#endif /* LEGOBASE_PAGE_FETCH_H */
