/*
 * ddl_hooks.c
 *	  What PostgreSQL does to the files of whole databases without asking the storage manager.
 *
 * DROP DATABASE, ALTER DATABASE SET TABLESPACE and a CREATE DATABASE that fails remove a database's folder with rmtree(), and
 * redo of such records does too. The remote pages must go before anybody can use the same names for other files: an OID
 * can be given again (CREATE DATABASE ... OID), and a database can move back. All three happen after the database's
 * buffers were dropped and while nobody can connect to it, so that no page comes back after it was forgotten; and
 * forgetting more than necessary is always safe. Therefore: forget when the statement has ended, in whatever way it ended;
 * and for a move also in its middle, see note_database().
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands_xlog.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "tcop/utility.h"

#include "ddl_hooks.h"
#include "legobase.h"
#include "remote_smgr.h"

static ProcessUtility_hook_type next_utility_hook;
static object_access_hook_type next_access_hook;
static void (*dbase_rm_redo)(XLogReaderState *record);

/* The database that the running statement creates, drops or alters, as the statement itself names it under its locks. */
static Oid affected_database;
static bool moving_database;

static void
note_database(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (next_access_hook)
		next_access_hook(access, class_id, object_id, sub_id, arg);
	if (class_id == DatabaseRelationId &&
		(access == OAT_DROP || access == OAT_POST_CREATE || access == OAT_POST_ALTER))
		affected_database = object_id;

	/*
	 * The lock on a database that moves is let go before the statement's end, but it is held here, its buffers are dropped and its
	 * files copied. After the statement would be too late: somebody else may have moved it back by then.
	 */
	if (moving_database && class_id == DatabaseRelationId && access == OAT_POST_ALTER)
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

static void
forget_affected(int code, Datum arg)
{
	if (OidIsValid(affected_database))
		RemoteForgetDatabase(affected_database, InvalidOid);
	affected_database = InvalidOid;
	moving_database = false;
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
	Node *statement = pstmt->utilityStmt;
	bool creates = IsA(statement, CreatedbStmt);

	if (!legobase_in_use() || !(creates || IsA(statement, DropdbStmt) || moves_database(statement)))
	{
		run_utility(pstmt, query, read_only_tree, context, params, environment, dest, completion);
		return;
	}

	affected_database = InvalidOid;
	moving_database = moves_database(statement);
	PG_ENSURE_ERROR_CLEANUP(forget_affected, (Datum) 0);
	{
		run_utility(pstmt, query, read_only_tree, context, params, environment, dest, completion);
	}
	PG_END_ENSURE_ERROR_CLEANUP(forget_affected, (Datum) 0);

	/* What a CREATE DATABASE that succeeded has put into remote memory is right. */
	if (!creates)
		forget_affected(0, (Datum) 0);
	affected_database = InvalidOid;
	moving_database = false;
}

/* Redo of the same: the record names the database, and the tablespace where that matters. */
static void
legobase_dbase_redo(XLogReaderState *record)
{
	uint8 info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;
	Oid database = InvalidOid;

	switch (info)
	{
		case XLOG_DBASE_CREATE_FILE_COPY:
			database = ((xl_dbase_create_file_copy_rec *) XLogRecGetData(record))->db_id;
			break;
		case XLOG_DBASE_CREATE_WAL_LOG:
			database = ((xl_dbase_create_wal_log_rec *) XLogRecGetData(record))->db_id;
			break;
		case XLOG_DBASE_DROP:
			database = ((xl_dbase_drop_rec *) XLogRecGetData(record))->db_id;
			break;
	}
	dbase_rm_redo(record);
	if (OidIsValid(database))
		RemoteForgetDatabase(database, InvalidOid);
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
