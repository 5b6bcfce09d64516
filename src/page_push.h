/*
 * page_push.h
 *	  Sending pages to remote memory: a copy into a comm buffer, a slot, a link in the directory, and the agent does the rest.
 *
 * Nothing here raises ERROR or allocates. A push of what the file has too never waits: one that finds no comm buffer or no slot is
 * dropped and counted. A page that is written back waits for a comm buffer, at most legobase.node_timeout.
 *
 * A process that ends in the middle, by a FATAL that a signal handler raised, queues what it has linked, and gives its comm buffer back otherwise.
 */
#ifndef LEGOBASE_PAGE_PUSH_H
#define LEGOBASE_PAGE_PUSH_H

#include "page_directory.h"

/* A page was read from storage; the stamp was taken before. Pages that are new (all zero) are not worth a slot. */
extern void PagePushRead(const lb_page_tag *tag, const char *page, const PageStamp *stamp);

/*
 * A page is about to be written. Copies it into a comm buffer and returns the buffer, or INVALID_COMM_BUFFER when it can't be
 * pushed. The caller writes the copy to the file, so that file and remote memory get the same bytes even if hint bits
 * of the page change meanwhile; then it calls exactly one of the following.
 */
extern uint32 PagePushPrepare(const char *page);
extern void PagePushWritten(const lb_page_tag *tag, uint32 comm_buffer);
extern void PagePushAbandon(uint32 comm_buffer);

/*
 * Write a page back: its newest version is in remote memory from now on (docs/write_back.md). False if that can't be done: the
 * caller writes it to the file, after a fence if an older version is dirty.
 */
extern bool PagePushDirty(const lb_page_tag *tag, const char *page);

/*
 * Is so much dirty in remote memory that PagePushDirty refuses pages that are not dirty there yet? Momentary. Who may as well write later does not write
 * meanwhile: it would be to the files, which are slow just then.
 */
extern bool PagePushTooManyDirty(void);

#endif /* LEGOBASE_PAGE_PUSH_H */
