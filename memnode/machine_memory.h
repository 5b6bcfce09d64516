/*
 * machine_memory.h
 *	  How much memory this process can have at most: the machine's, or less if a cgroup (version 1 or 2) says so.
 */
#ifndef MEMNODE_MACHINE_MEMORY_H
#define MEMNODE_MACHINE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

typedef struct machine_memory
{
	uint64_t bytes;       /* UINT64_MAX if nothing could be found out */
	char limited_by[400]; /* "the machine's memory", "the memory limit of cgroup /system.slice" */
} machine_memory;

/* root: put before /proc and /sys; empty except in tests. */
extern void machine_memory_find(const char *root, machine_memory *memory);

#endif /* MEMNODE_MACHINE_MEMORY_H */
