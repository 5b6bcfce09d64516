/*
 * page_fetch.h
 *	  Reading a page from remote memory: from the comm buffer while it is on its way there, from its slot afterwards.
 */
#ifndef LEGOBASE_PAGE_FETCH_H
#define LEGOBASE_PAGE_FETCH_H

#include "storage/smgr.h"

#include "lb_page.h"

/*
 * Read the page into buffer, with its checksum verified. False if storage has to be read: it is not remote, its node is not
 * available or slower than storage, or what was there was damaged. Then the buffer's content is undefined. Serves
 * interrupts that come while it waits, so it may raise ERROR.
 */
extern bool PageFetch(SMgrRelation reln, const lb_page_tag *tag, char *buffer);

#endif /* LEGOBASE_PAGE_FETCH_H */
