/*
 * smgr_table.c
 *	  Finding PostgreSQL's storage-manager table in the running server, and putting functions of ours into it.
 */
#include "postgres.h"

#include <dlfcn.h>

#include "miscadmin.h"
#include "storage/backendid.h"
#include "utils/guc.h"

#include "lb_fault.h"
#include "server_table.h"
#include "smgr_table.h"

static bool reached = false;

/* Refuse servers whose functions have other arguments than the ones we were compiled for. */
static void
check_server_version(void)
{
	int running = atoi(GetConfigOption("server_version_num", false, false));

	if (running / 10000 != LEGOBASE_PG_MAJOR || dlsym(RTLD_DEFAULT, MDTRUNCATE_WITNESS) == NULL)
		ereport(
			FATAL,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("legobase does not support this server version"),
			 errdetail("The server is %s; this library was built for PostgreSQL %d.11 or later.",
					   GetConfigOption("server_version", false, false), LEGOBASE_PG_MAJOR),
			 errhint("Build legobase for this server, or remove it from "
					 "\"shared_preload_libraries\".")));
}

void
smgr_table_replace(const SmgrTable *replacement)
{
	static const SmgrTable md_table = MD_SMGR_TABLE;
	RelFileNode nobody = {InvalidOid, InvalidOid, InvalidOid};
	ServerTable table;

	check_server_version();
	table = server_table_find("storage-manager", &md_table, sizeof(SmgrTable));
	if (LB_FAULT("smgr_table.search"))
		table.matches = 0;
	server_table_overwrite(&table, replacement, sizeof(SmgrTable));

	/* No file is opened or looked at by these two, whatever the relation. */
	smgrclose(smgropen(nobody, InvalidBackendId));
	if (!reached)
		ereport(FATAL, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("the server does not call the storage manager through the table "
							   "that legobase found"),
						errhint("Remove legobase from \"shared_preload_libraries\".")));
}

void
smgr_table_reached(void)
{
	reached = true;
}
