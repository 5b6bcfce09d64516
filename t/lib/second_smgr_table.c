/*
 * second_smgr_table.c
 *	  A library for shared_preload_libraries that makes legobase refuse to start: it writes a second copy of the
 *	  storage-manager table's contents into the server's own data, at the end of RmgrTable, where no resource manager is.
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "compat.h"
#include "fmgr.h"

PG_MODULE_MAGIC;

void _PG_init(void);

void
_PG_init(void)
{
	static const SmgrTable copy = MD_SMGR_TABLE;

	memcpy((char *) &RmgrTable[RM_MAX_ID + 1] - sizeof(copy), &copy, sizeof(copy));
}
