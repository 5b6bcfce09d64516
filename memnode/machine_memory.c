/*
 * machine_memory.c
 *	  How much memory this process can have at most.
 *
 * A cgroup's limit binds all below it, so every folder from the process's own cgroup up to the mount point is looked at.
 * In a container the path in /proc/self/cgroup may not exist below the mount point: then what does exist on the way up is
 * taken, at last the mount point itself, which is the container's own cgroup.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine_memory.h"

static void
apply_limit(machine_memory *memory, uint64_t bytes, const char *format, const char *name)
{
	if (bytes >= memory->bytes)
		return;
	memory->bytes = bytes;
	snprintf(memory->limited_by, sizeof(memory->limited_by), format, name);
}

static void
read_machine(const char *root, machine_memory *memory)
{
	char path[PATH_MAX];
	char line[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/proc/meminfo", root);
	file = fopen(path, "re");
	if (!file)
		return;
	while (fgets(line, sizeof(line), file))
	{
		uint64_t kilobytes;

		if (sscanf(line, "MemTotal: %" SCNu64 " kB", &kilobytes) == 1)
			apply_limit(memory, kilobytes * 1024, "%s", "the machine's memory");
	}
	fclose(file);
}

static void
read_limit(const char *path, const char *cgroup, machine_memory *memory)
{
	FILE *file = fopen(path, "re");
	uint64_t bytes;

	if (!file)
		return;
	/* "max" means no limit and is not a number; version 1 has a number beyond every machine's memory instead */
	if (fscanf(file, "%" SCNu64, &bytes) == 1)
		apply_limit(memory, bytes, "the memory limit of cgroup %s", cgroup[0] ? cgroup : "/");
	fclose(file);
}

static void
read_cgroup(const char *mount_point, const char *limit_file, char *cgroup, machine_memory *memory)
{
	for (;;)
	{
		char path[PATH_MAX + 512];
		char *last;

		snprintf(path, sizeof(path), "%s%s/%s", mount_point, cgroup, limit_file);
		read_limit(path, cgroup, memory);
		last = strrchr(cgroup, '/');
		if (!last)
			return;
		*last = '\0';
	}
}

/* Is "memory" one of the comma-separated controllers? */
static bool
has_memory_controller(char *controllers)
{
	char *rest = NULL;

	for (char *name = strtok_r(controllers, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
		if (strcmp(name, "memory") == 0)
			return true;
	return false;
}

/* Each line of /proc/self/cgroup is number:controllers:path; version 2 has number 0 and no controllers. */
static void
read_cgroups(const char *root, machine_memory *memory)
{
	char path[PATH_MAX];
	char line[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
	file = fopen(path, "re");
	if (!file)
		return;
	while (fgets(line, sizeof(line), file))
	{
		char *controllers = strchr(line, ':');
		char *cgroup = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!cgroup)
			continue;
		*cgroup++ = '\0';
		controllers++;
		cgroup[strcspn(cgroup, "\n")] = '\0';
		if (controllers[0] == '\0')
		{
			snprintf(path, sizeof(path), "%s/sys/fs/cgroup", root);
			read_cgroup(path, "memory.max", cgroup, memory);
		}
		else if (has_memory_controller(controllers))
		{
			snprintf(path, sizeof(path), "%s/sys/fs/cgroup/memory", root);
			read_cgroup(path, "memory.limit_in_bytes", cgroup, memory);
		}
	}
	fclose(file);
}

void
machine_memory_find(const char *root, machine_memory *memory)
{
	memory->bytes = UINT64_MAX;
	snprintf(memory->limited_by, sizeof(memory->limited_by), "nothing known");
	read_machine(root, memory);
	read_cgroups(root, memory);
}
