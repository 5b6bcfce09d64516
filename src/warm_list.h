/*
 * warm_list.h
 *	  The file that says which pages were in shared_buffers: pgsql_tmp_legobase/pgsql_tmp_local_pool.
 *
 * It holds no data, and is not synced: whoever finds it damaged, or not at all, starts cold. Written to another name and renamed: readers
 * have the old list or the new one. As it is read where it was written, numbers are in the machine's own order.
 *
 *	  bytes	 0	magic "LBWARM\r\n"
 *			 8	format, 1		(uint32)
 *			12	bytes of an entry (uint32)
 *			16	entries			(uint64)
 *			24	the entries: LocalPage
 *		   end	XXH3 (64 bits) of all that is before it
 */
#ifndef LEGOBASE_WARM_LIST_H
#define LEGOBASE_WARM_LIST_H

#include "postgres.h"

#include "instance.h"
#include "lb_status.h"
#include "local_pool.h"

#define WARM_LIST_FILE INSTANCE_FOLDER "/" INSTANCE_PREFIX "local_pool"

/* In place: the hottest first; equally hot ones by tablespace, database, relation, fork, block, so that neighbours are read together. */
extern void WarmListSort(LocalPage *pages, uint64 count);

/* Replace the file. False with a status; then the old one is as it was. Raises no ERROR. */
extern bool WarmListWrite(const LocalPage *pages, uint64 count, lb_status *status);

typedef struct WarmList
{
	int fd;
	uint64 count;
} WarmList;

typedef enum WarmListFound
{
	WARM_LIST_GOOD,
	WARM_LIST_MISSING,
	WARM_LIST_DAMAGED /* or can't be read; the status says why */
} WarmListFound;

/*
 * Open the file. With check, all of it is read and compared with its checksum; without, only its head. If it is good, close it by
 * WarmListClose.
 */
extern WarmListFound WarmListOpen(WarmList *list, bool check, lb_status *status);

/* Entries [from, from + count), which must be in the list. False if they can't be read. */
extern bool WarmListRead(const WarmList *list, uint64 from, uint32 count, LocalPage *pages);

extern void WarmListClose(WarmList *list);

#endif /* LEGOBASE_WARM_LIST_H */
