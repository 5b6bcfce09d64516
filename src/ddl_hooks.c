/*
 * ddl_hooks.c
 *	  What PostgreSQL does to the files of whole databases without asking the storage manager.
 *
 * DROP DATABASE, ALTER DATABASE SET TABLESPACE and a CREATE DATABASE that fails remove a database's folder with rmtree(), some copy one
 * with copydir(), and redo of such records does both. Two things have to hold. What is copied must be current. And the remote pages of
 * what is removed must go, with a fence, before anybody can use the same names for other files: an OID can be given again (CREATE
 * DATABASE ... OID), and a database can move back. But pages of a database that is alive may be dirty: those must not be forgotten.
 *
 * In normal running PostgreSQL's own checkpoints see to the first: before it copies, with nobody connected to the source, it makes a
 * checkpoint of everything, which (rule R1) ends when the files are current; nothing can change the source afterwards, not even a
 * hint bit. The second, for each statement:
 *
 * - DROP DATABASE drops the buffers, then makes a checkpoint, then removes the folder: by then nothing of the database is dirty or under
 *   way to storage. We forget the rest when the statement has succeeded. Its OID can't be given again before it commits. If it
 *   fails, which it does for a database that is in use, all stays as it is: a database that was half removed can't be connected to,
 *   only dropped again.
 * - A CREATE DATABASE that fails removes the folder with dirty pages of it possibly left: a memory node that wants to write them
 *   finds no file, until we forget them, before the transaction aborts. Nobody has ever been connected to that database.
 * - A database that moves is locked, checkpointed, its buffers are dropped, it is copied: then, in the middle of the statement, we forget
 *   all of it. Nobody can read any of it until the move is committed and the old folder is gone. At the statement's end
 *   it may be in use again.
 *
 * Redo makes no checkpoints: there we flush the source and wait before a copy; and before a folder is removed we drop the buffers (after
 * those who use them on a standby, as redo does itself a moment later) and fence.
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "access/xlogutils.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands_xlog.h"
#include "nodes/parsenodes.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/standby.h"
#include "tcop/utility.h"

#include "checkpoint_sync.h"
#include "ddl_hooks.h"
#include "legobase.h"
#include "pool_gate.h"
#include "remote_smgr.h"

static ProcessUtility_hook_type next_utility_hook;
static object_access_hook_type next_access_hook;
static void (*dbase_rm_redo)(XLogReaderState *record);

/* What the running statement does to which database, as it names it itself, under its locks. */
typedef enum DatabaseStatement
{
	NO_DATABASE_STATEMENT,
	CREATES_DATABASE,
	DROPS_DATABASE,
	MOVES_DATABASE
} DatabaseStatement;

static DatabaseStatement running_statement;
static Oid affected_database;

static void
note_database(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (next_access_hook)
		next_access_hook(access, class_id, object_id, sub_id, arg);
	if (class_id != DatabaseRelationId)
		return;
	if ((running_statement == CREATES_DATABASE && access == OAT_POST_CREATE) ||
		(running_statement == DROPS_DATABASE && access == OAT_DROP))
		affected_database = object_id;
	if (running_statement == MOVES_DATABASE && access == OAT_POST_ALTER)
		RemoteForgetDatabase(object_id, InvalidOid);
}

static bool
moves_database(Node *statement)
{
	ListCell *cell;

	if (!IsA(statement, AlterDatabaseStmt))
		return false;
	foreach (cell, castNode(AlterDatabaseStmt, statement)->options)
	{
		if (strcmp(lfirst_node(DefElem, cell)->defname, "tablespace") == 0)
			return true;
	}
	return false;
}

static DatabaseStatement
what_it_does(Node *statement)
{
	if (IsA(statement, CreatedbStmt))
		return CREATES_DATABASE;
	if (IsA(statement, DropdbStmt))
		return DROPS_DATABASE;
	return moves_database(statement) ? MOVES_DATABASE : NO_DATABASE_STATEMENT;
}

static void
statement_ended(void)
{
	affected_database = InvalidOid;
	running_statement = NO_DATABASE_STATEMENT;
}

static void
forget_affected(void)
{
	if (OidIsValid(affected_database))
		RemoteForgetDatabase(affected_database, InvalidOid);
}

static void
statement_failed(int code, Datum arg)
{
	if (running_statement == CREATES_DATABASE)
		forget_affected();
	statement_ended();
}

static void
run_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
			ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *environment,
			DestReceiver *dest, QueryCompletion *completion)
{
	if (next_utility_hook)
		next_utility_hook(pstmt, query, read_only_tree, context, params, environment, dest,
						  completion);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, environment, dest,
								completion);
}

static void
legobase_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				 ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *environment,
				 DestReceiver *dest, QueryCompletion *completion)
{
	DatabaseStatement does = NO_DATABASE_STATEMENT;

	if (legobase_in_use())
		does = what_it_does(pstmt->utilityStmt);
	if (does == NO_DATABASE_STATEMENT)
	{
		run_utility(pstmt, query, read_only_tree, context, params, environment, dest, completion);
		return;
	}

	affected_database = InvalidOid;
	running_statement = does;
	PG_ENSURE_ERROR_CLEANUP(statement_failed, (Datum) 0);
	{
		run_utility(pstmt, query, read_only_tree, context, params, environment, dest, completion);
	}
	PG_END_ENSURE_ERROR_CLEANUP(statement_failed, (Datum) 0);

	if (does == DROPS_DATABASE)
		forget_affected();
	statement_ended();
}

/* The files of a database are current when this returns, and nobody but readers is at work: they set hint bits at most. */
static void
bring_to_files(Oid database)
{
	FlushDatabaseBuffers(database);
	CheckpointSyncDrain();
}

static void
redo_create(XLogReaderState *record, Oid database, Oid tablespace)
{
	dbase_rm_redo(record);
	RemoteForgetDatabase(database, tablespace);
}

static void
forget_dropped(const xl_dbase_drop_rec *dropped)
{
	for (int i = 0; i < dropped->ntablespaces; i++)
		RemoteForgetDatabase(dropped->db_id, dropped->tablespace_ids[i]);
}

/*
 * As redo does it: keep new users out, send the present ones away, drop the buffers. Then nobody can push a page after it was fenced. A
 * database that has moved is dropped only where it was.
 */
static void
redo_drop(XLogReaderState *record, const xl_dbase_drop_rec *dropped)
{
	bool standby = InHotStandby;

	if (standby)
	{
		LockSharedObjectForSession(DatabaseRelationId, dropped->db_id, 0, AccessExclusiveLock);
		ResolveRecoveryConflictWithDatabase(dropped->db_id);
	}
	DropDatabaseBuffers(dropped->db_id);
	forget_dropped(dropped);
	dbase_rm_redo(record);
	if (standby)
		UnlockSharedObjectForSession(DatabaseRelationId, dropped->db_id, 0, AccessExclusiveLock);
}

static void
legobase_dbase_redo(XLogReaderState *record)
{
	char *data = XLogRecGetData(record);

	if (!legobase_in_use())
	{
		dbase_rm_redo(record);
		return;
	}
	PoolGateWait();
	switch (XLogRecGetInfo(record) & ~XLR_INFO_MASK)
	{
		case XLOG_DBASE_CREATE_FILE_COPY:
		{
			xl_dbase_create_file_copy_rec *copied = (xl_dbase_create_file_copy_rec *) data;

			bring_to_files(copied->src_db_id);
			redo_create(record, copied->db_id, copied->tablespace_id);
			break;
		}
		case XLOG_DBASE_CREATE_WAL_LOG:
		{
			xl_dbase_create_wal_log_rec *created = (xl_dbase_create_wal_log_rec *) data;

			redo_create(record, created->db_id, created->tablespace_id);
			break;
		}
		case XLOG_DBASE_DROP:
			redo_drop(record, (xl_dbase_drop_rec *) data);
			break;
		default:
			dbase_rm_redo(record);
	}
}

void
ddl_hooks_install(void)
{
	next_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = legobase_utility;
	next_access_hook = object_access_hook;
	object_access_hook = note_database;
	dbase_rm_redo = RmgrTable[RM_DBASE_ID].rm_redo;
	RmgrTable[RM_DBASE_ID].rm_redo = legobase_dbase_redo;
}
