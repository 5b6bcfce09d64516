/*
 * remote_smgr.h
 *	  The storage manager that PostgreSQL sees: md, with remote memory between shared_buffers and the files.
 */
#ifndef LEGOBASE_REMOTE_SMGR_H
#define LEGOBASE_REMOTE_SMGR_H

#include "compat.h"

/* The functions that take md's places; see smgr_table_replace. */
extern const SmgrTable remote_smgr_table;

/*
 * Forget all remote pages of a database, dirty ones too, in one tablespace or (InvalidOid) in all; when it returns no memory node
 * writes any of them (rule R8). For what PostgreSQL does to whole databases without asking the storage manager.
 */
extern void RemoteForgetDatabase(Oid database, Oid tablespace);

/* Forget the clean remote pages of a relation's storage, all forks; returns how many. */
extern uint64 RemoteForgetRelation(RelFileNode rnode);

#endif /* LEGOBASE_REMOTE_SMGR_H */
