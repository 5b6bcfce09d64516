/*
 * round_files.c
 *	  A data directory with relations' files, and rounds for it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "lb_fault.h"
#include "round_files.h"
#include "storage.h"

char root[64];
static bool mounted;
static uint8_t (*contents)[LB_PAGE_SIZE]; /* what the pages of a round have */

/* The format gets the root. */
static void
run_command(const char *format)
{
	char command[256];

	snprintf(command, sizeof(command), format, root);
	assert_int_equal(system(command), 0);
}

void
put_fence(uint64_t epoch)
{
	char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", root, STORAGE_FENCE_FILE);
	file = fopen(path, "w");
	assert_non_null(file);
	fprintf(file, "legobase fence %016llx\n", (unsigned long long) epoch);
	fclose(file);
}

int
make_root(void)
{
	snprintf(root, sizeof(root), "/tmp/test_flush.XXXXXX");
	contents = calloc(PAGES_MAX, LB_PAGE_SIZE);
	if (!mkdtemp(root) || !contents)
		return -1;
	run_command("mkdir -p '%s/base/5' '%1$s/pgsql_tmp_legobase'");
	put_fence(1);
	return 0;
}

int
remove_root(void)
{
	set_fault("");
	if (mounted)
		umount2(root, MNT_DETACH);
	mounted = false;
	free(contents);
	run_command("rm -rf '%s'");
	return 0;
}

void
mount_small(void)
{
	if (geteuid() != 0 || mount("tmpfs", root, "tmpfs", 0, "size=1m,mode=700") != 0)
		skip();
	mounted = true;
	run_command("mkdir -p '%s/base/5' '%1$s/pgsql_tmp_legobase'");
	put_fence(1);
}

void
file_path(uint32_t relation, uint32_t segment, char path[PATH_MAX])
{
	lb_page_tag tag = {1663, 5, relation, 0, segment * STORAGE_SEGMENT_BLOCKS};
	lb_status status;

	assert_true(storage_page_path(root, "", &tag, path, &status));
}

void
put_file(uint32_t relation, uint32_t segment, uint32_t blocks)
{
	char path[PATH_MAX];
	int fd;

	file_path(relation, segment, path);
	fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t) blocks * LB_PAGE_SIZE), 0);
	close(fd);
}

static uint32_t
stamp(uint32_t relation, uint32_t block)
{
	return relation * 1000003 + block + 1;
}

void
add_page(flush_round *round, uint32_t relation, uint32_t block)
{
	flush_page *page = &round->pages[round->count];
	uint32_t *words = (uint32_t *) contents[round->count];

	assert_true(round->count < round->capacity);
	for (size_t i = 0; i < LB_PAGE_SIZE / sizeof(uint32_t); i++)
		words[i] = stamp(relation, block) + (uint32_t) i;
	page->tag = (lb_page_tag){1663, 5, relation, 0, block};
	page->data = contents[round->count];
	round->count++;
}

void
add_pages(flush_round *round, uint32_t relation, uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		add_page(round, relation, first + i);
}

flush_round *
new_round(void)
{
	flush_round *round = flush_round_create(PAGES_MAX);

	assert_non_null(round);
	snprintf(round->root, sizeof(round->root), "%s", root);
	round->epoch = 2;
	return round;
}

bool
is_written(uint32_t relation, uint32_t block)
{
	char path[PATH_MAX];
	uint32_t words[LB_PAGE_SIZE / sizeof(uint32_t)];
	uint32_t expected;
	int fd;

	file_path(relation, block / STORAGE_SEGMENT_BLOCKS, path);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(
		pread(fd, words, sizeof(words), (off_t) (block % STORAGE_SEGMENT_BLOCKS) * LB_PAGE_SIZE),
		sizeof(words));
	close(fd);
	expected = words[0] == 0 ? 0 : stamp(relation, block);
	for (size_t i = 0; i < LB_PAGE_SIZE / sizeof(uint32_t); i++)
		assert_int_equal(words[i], expected == 0 ? 0 : expected + i);
	return expected != 0;
}

void
expect_written(const flush_round *round)
{
	for (uint32_t i = 0; i < round->count; i++)
		assert_true(is_written(round->pages[i].tag.relation, round->pages[i].tag.block));
}

uint32_t
count_durable(const flush_round *round, uint32_t relation)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < round->count; i++)
		count += round->pages[i].tag.relation == relation && round->pages[i].durable;
	return count;
}

uint32_t
count_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	uint32_t count = 0;

	assert_non_null(folder);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

void
expect_error(const flush_round *round, flush_outcome outcome, const char *message)
{
	assert_int_equal(round->outcome, outcome);
	if (!strstr(round->error.message, message))
		fail_msg("\"%s\" does not say \"%s\"", round->error.message, message);
}

void
set_fault(const char *specification)
{
	lb_status status;

	assert_true(lb_fault_set(specification, &status));
}
