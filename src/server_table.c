/*
 * server_table.c
 *	  Finding a constant table of functions in the running server, and putting functions of ours into it.
 */
#include "postgres.h"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server_table.h"

typedef struct TableSearch
{
	const void *wanted;
	Size size;
	ServerTable *table;
} TableSearch;

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
		for (uintptr_t at = from; at + search->size <= to; at += sizeof(void *))
		{
			if (memcmp((void *) at, search->wanted, search->size) == 0)
			{
				search->table->address = (void *) at;
				search->table->protection = protection_of(info, segment, at);
				search->table->matches++;
			}
		}
	}
	return 1;
}

ServerTable
server_table_find(const char *name, const void *wanted, Size size)
{
	ServerTable table = {.name = name, .address = NULL, .matches = 0, .protection = 0};
	TableSearch search = {.wanted = wanted, .size = size, .table = &table};

	dl_iterate_phdr(search_executable, &search);
	return table;
}

void
server_table_overwrite(const ServerTable *table, const void *replacement, Size size)
{
	uintptr_t page = sysconf(_SC_PAGESIZE);
	uintptr_t from = (uintptr_t) table->address & ~(page - 1);
	uintptr_t to = TYPEALIGN(page, (uintptr_t) table->address + size);

	if (table->matches != 1)
		ereport(
			FATAL,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("legobase found %d %s tables in the server, where it needs exactly one",
					table->matches, table->name),
			 errdetail("The server may have been built in an unusual way, or another module may "
					   "have changed the table."),
			 errhint("Remove legobase, or the other module, from \"shared_preload_libraries\".")));
	if (mprotect((void *) from, to - from, table->protection | PROT_WRITE) != 0)
		ereport(FATAL, (errcode(ERRCODE_SYSTEM_ERROR),
						errmsg("legobase could not make the %s table writable: %m", table->name)));
	memcpy(table->address, replacement, size);
	if (mprotect((void *) from, to - from, table->protection) != 0)
		ereport(FATAL, (errcode(ERRCODE_SYSTEM_ERROR),
						errmsg("legobase could not protect the %s table again: %m", table->name)));
}
