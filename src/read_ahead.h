/*
 * read_ahead.h
 *	  Pages read from memory nodes before they are asked for: those that smgrprefetch announces, and those that follow in a
 *	  sequential scan. In batches, one message each, and only for nodes where that saves time.
 *
 * A copy read ahead belongs to this process. It is used only if the directory, at the moment of use, still shows the page in
 * the same entry and the same version as when it was asked for; so nothing needs to be pinned or told to anybody.
 */
#ifndef LEGOBASE_READ_AHEAD_H
#define LEGOBASE_READ_AHEAD_H

#include "storage/smgr.h"

#include "page_directory.h"

/*
 * smgrprefetch: true if the page is in remote memory, and asked for if that saves time. False if storage should be asked.
 */
extern bool ReadAheadPrefetch(SMgrRelation reln, const lb_page_tag *tag);

/* Copy the page out if it was read ahead in the version of this pin. Waits for it to arrive, until the deadline. */
extern bool ReadAheadTake(const lb_page_tag *tag, const PagePin *pin, char *buffer,
						  uint64 deadline);

/* A page was read from a memory node: if it continues a sequence, ask for the pages after it. */
extern void ReadAheadContinue(SMgrRelation reln, const lb_page_tag *tag);

#endif /* LEGOBASE_READ_AHEAD_H */
