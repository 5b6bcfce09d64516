/*
 * smgr_table.c
 *	  Finding PostgreSQL's storage-manager table in the running server, and putting functions of ours into it.
 *
 * smgr.c has its table as a static constant array of one element, so there is no symbol to ask for and the memory is
 * read-only after relocation. But every function in it is exported: the table is the one place in the executable where
 * exactly these addresses stand in exactly this order. If some other place had the same sequence (a copy in another
 * module's constants, say), we could not tell which one the server calls: then we refuse.
 */
#include "postgres.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/backendid.h"
#include "utils/guc.h"

#include "lb_fault.h"
#include "smgr_table.h"

typedef struct TableSearch
{
	const SmgrTable *wanted;
	SmgrTable *found;
	int matches;
	int protection; /* of the memory where it was found */
} TableSearch;

static bool reached = false;

/* The protection of a segment, as the loader has left it: what was relocated and is constant is read-only by now. */
static int
protection_of(const struct dl_phdr_info *info, const ElfW(Phdr) * segment, uintptr_t address)
{
	int protection = 0;

	for (int i = 0; i < info->dlpi_phnum; i++)
	{
		const ElfW(Phdr) *relro = &info->dlpi_phdr[i];
		uintptr_t from = info->dlpi_addr + relro->p_vaddr;

		if (relro->p_type == PT_GNU_RELRO && address >= from && address < from + relro->p_memsz)
			return PROT_READ;
	}
	protection |= (segment->p_flags & PF_R) ? PROT_READ : 0;
	protection |= (segment->p_flags & PF_W) ? PROT_WRITE : 0;
	protection |= (segment->p_flags & PF_X) ? PROT_EXEC : 0;
	return protection;
}

/* dl_iterate_phdr callback. The main executable comes first; returning 1 ends the iteration after it. */
static int
search_executable(struct dl_phdr_info *info, size_t size, void *arg)
{
	TableSearch *search = arg;

	for (int i = 0; i < info->dlpi_phnum; i++)
	{
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		uintptr_t from = TYPEALIGN(sizeof(void *), info->dlpi_addr + segment->p_vaddr);
		uintptr_t to = info->dlpi_addr + segment->p_vaddr + segment->p_memsz;

		if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_R))
			continue;
		for (uintptr_t at = from; at + sizeof(SmgrTable) <= to; at += sizeof(void *))
		{
			if (memcmp((void *) at, search->wanted, sizeof(SmgrTable)) == 0)
			{
				search->found = (SmgrTable *) at;
				search->protection = protection_of(info, segment, at);
				search->matches++;
			}
		}
	}
	return 1;
}

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

static void
overwrite(SmgrTable *table, const SmgrTable *replacement, int protection)
{
	uintptr_t page = sysconf(_SC_PAGESIZE);
	uintptr_t from = (uintptr_t) table & ~(page - 1);
	uintptr_t to = TYPEALIGN(page, (uintptr_t) table + sizeof(SmgrTable));

	if (mprotect((void *) from, to - from, protection | PROT_WRITE) != 0)
		ereport(FATAL, (errcode(ERRCODE_SYSTEM_ERROR),
						errmsg("legobase could not make the storage-manager table writable: %m")));
	memcpy(table, replacement, sizeof(SmgrTable));
	if (mprotect((void *) from, to - from, protection) != 0)
		ereport(FATAL, (errcode(ERRCODE_SYSTEM_ERROR),
						errmsg("legobase could not protect the storage-manager table again: %m")));
}

void
smgr_table_replace(const SmgrTable *replacement)
{
	static const SmgrTable md_table = MD_SMGR_TABLE;
	TableSearch search = {.wanted = &md_table};
	RelFileNode nobody = {InvalidOid, InvalidOid, InvalidOid};

	check_server_version();

	dl_iterate_phdr(search_executable, &search);
	if (LB_FAULT("smgr_table.search"))
		search.matches = 0;
	if (search.matches != 1)
		ereport(
			FATAL,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("legobase found %d storage-manager tables in the server, where it needs "
					"exactly one",
					search.matches),
			 errdetail("The server may have been built in an unusual way, or another module may "
					   "have changed its storage manager."),
			 errhint("Remove legobase, or the other module, from \"shared_preload_libraries\".")));
	overwrite(search.found, replacement, search.protection);

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
