/*
 * test_machine_memory.c
 *	  The memory limit of machine and cgroups, read from a made-up /proc and /sys.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine_memory.h"

#define MB ((uint64_t) 1 << 20)

static char root[64];

/* Write root/path, with the folders that it needs. */
static void
put(const char *path, const char *text)
{
	char full[PATH_MAX];
	char command[PATH_MAX + 32];
	FILE *file;

	snprintf(full, sizeof(full), "%s%s", root, path);
	snprintf(command, sizeof(command), "mkdir -p \"$(dirname '%s')\"", full);
	assert_int_equal(system(command), 0);
	file = fopen(full, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	fclose(file);
}

static int
set_up(void **state)
{
	(void) state;
	snprintf(root, sizeof(root), "/tmp/test_machine_memory.XXXXXX");
	if (!mkdtemp(root))
		return -1;
	put("/proc/meminfo", "MemFree:  17 kB\nMemTotal:       4194304 kB\nMemAvailable: 20 kB\n");
	return 0;
}

static int
tear_down(void **state)
{
	char command[128];

	(void) state;
	snprintf(command, sizeof(command), "rm -rf '%s'", root);
	return system(command);
}

static void
expect(uint64_t bytes, const char *limited_by)
{
	machine_memory memory;

	machine_memory_find(root, &memory);
	assert_int_equal(memory.bytes, bytes);
	assert_string_equal(memory.limited_by, limited_by);
}

static void
machine_alone(void **state)
{
	(void) state;
	expect(4096 * MB, "the machine's memory");
}

static void
cgroup_v2(void **state)
{
	(void) state;
	put("/proc/self/cgroup", "0::/system.slice/memnode.service\n");
	put("/sys/fs/cgroup/system.slice/memnode.service/memory.max", "max\n");
	expect(4096 * MB, "the machine's memory");
	put("/sys/fs/cgroup/system.slice/memory.max", "104857600\n");
	expect(100 * MB, "the memory limit of cgroup /system.slice");
	put("/sys/fs/cgroup/system.slice/memnode.service/memory.max", "52428800\n");
	expect(50 * MB, "the memory limit of cgroup /system.slice/memnode.service");
}

static void
cgroup_v1(void **state)
{
	(void) state;
	put("/proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n");
	put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	put("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
	expect(4096 * MB, "the machine's memory");
	put("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "209715200\n");
	expect(200 * MB, "the memory limit of cgroup /a");
}

/* In a container the path may be that of the host, and the mount point the container's own cgroup. */
static void
cgroup_of_a_container(void **state)
{
	(void) state;
	put("/proc/self/cgroup", "4:memory:/docker/0123456789abcdef\n");
	put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "209715200\n");
	expect(200 * MB, "the memory limit of cgroup /");
}

static void
nothing_known(void **state)
{
	(void) state;
	put("/proc/meminfo", "");
	put("/proc/self/cgroup", "what\n0:\n::\n");
	expect(UINT64_MAX, "nothing known");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(machine_alone, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cgroup_v2, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cgroup_v1, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cgroup_of_a_container, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nothing_known, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("machine_memory", tests, NULL, NULL);
}
