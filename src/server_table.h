/*
 * server_table.h
 *	  Finding a constant table of functions in the running server, and putting functions of ours into it.
 *
 * The tables that PostgreSQL calls its storage through are static constants: there is no symbol to ask for, and the memory is read-only
 * after relocation. But the functions in them are exported: such a table is the one place in the executable where exactly these
 * addresses stand in exactly this order. If some other place had the same sequence (a copy in another module's constants,
 * say), we could not tell which one the server calls: then we refuse.
 */
#ifndef LEGOBASE_SERVER_TABLE_H
#define LEGOBASE_SERVER_TABLE_H

#include "postgres.h"

typedef struct ServerTable
{
	const char *name; /* for messages: "storage-manager" */
	void *address;    /* of one that was found */
	int matches;
	int protection; /* of the memory there */
} ServerTable;

/* Look through the main executable for these bytes, which are aligned like pointers. */
extern ServerTable server_table_find(const char *name, const void *wanted, Size size);

/*
 * Overwrite the first size bytes of the table. Called in the postmaster, while shared_preload_libraries are loaded; children inherit the
 * result. FATAL, with nothing changed, if it was not found exactly once, or its memory can't be made writable.
 */
extern void server_table_overwrite(const ServerTable *table, const void *replacement, Size size);

#endif /* LEGOBASE_SERVER_TABLE_H */
