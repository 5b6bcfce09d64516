/*
 * smgr_table.h
 *	  Finding PostgreSQL's storage-manager table in the running server, and putting functions of ours into it.
 */
#ifndef LEGOBASE_SMGR_TABLE_H
#define LEGOBASE_SMGR_TABLE_H

#include "compat.h"

/*
 * Replace the whole table by *replacement. Called once, in the postmaster, while shared_preload_libraries are loaded;
 * children inherit the result. FATAL, with nothing changed, when the running server is not one that the replacement was
 * compiled for, or when the table is not found exactly once; FATAL too when a call through smgropen() and smgrclose() does
 * not reach replacement->smgr_close, which must call smgr_table_reached() for that.
 */
extern void smgr_table_replace(const SmgrTable *replacement);
extern void smgr_table_reached(void);

#endif /* LEGOBASE_SMGR_TABLE_H */
