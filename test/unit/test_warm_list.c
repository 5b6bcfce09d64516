/*
 * test_warm_list.c
 *	  The file that says which pages were in shared_buffers: order, what is written is read, damage of every kind is found.
 */
#include "postgres.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "warm_list.h"

#define HEAD_SIZE 24
#define NEW_FILE WARM_LIST_FILE ".new"

static char folder[] = "/tmp/test_warm_list.XXXXXX";

int
BasicOpenFile(const char *path, int flags)
{
	return open(path, flags, 0600);
}

static LocalPage
page(uint32 usage, uint32 tablespace, uint32 database, uint32 relation, uint32 fork, uint32 block)
{
	return (LocalPage){.tag = {tablespace, database, relation, fork, block}, .usage = usage};
}

static LocalPage *
make_pages(uint32 count)
{
	LocalPage *pages = calloc(Max(count, 1), sizeof(LocalPage));

	for (uint32 i = 0; i < count; i++)
		pages[i] = page(i % 6, 1663, 5, 16384 + i % 7, i % 3, i);
	return pages;
}

static void
write_list(uint32 count)
{
	LocalPage *pages = make_pages(count);
	lb_status status;

	assert_true(WarmListWrite(pages, count, &status));
	free(pages);
}

static WarmListFound
open_list(bool check)
{
	WarmList list;
	lb_status status;
	WarmListFound found = WarmListOpen(&list, check, &status);

	if (found == WARM_LIST_GOOD)
		WarmListClose(&list);
	if (found == WARM_LIST_DAMAGED)
		assert_non_null(strstr(status.message, WARM_LIST_FILE));
	return found;
}

static off_t
file_size(void)
{
	struct stat file;

	assert_int_equal(stat(WARM_LIST_FILE, &file), 0);
	return file.st_size;
}

static void
flip_bit(off_t at)
{
	int fd = open(WARM_LIST_FILE, O_RDWR);
	uint8 byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

/* Numbers, not bytes: 256 comes after 1. */
static void
test_order(void **state)
{
	LocalPage sorted[] = {
		page(5, 9, 9, 9, 9, 9),   page(3, 1, 1, 1, 0, 1),   page(3, 1, 1, 1, 0, 256),
		page(3, 1, 1, 1, 1, 0),   page(3, 1, 1, 256, 0, 0), page(3, 1, 256, 1, 0, 0),
		page(3, 256, 1, 1, 0, 0), page(0, 1, 1, 1, 0, 0),   page(0, 1, 1, 1, 0, PG_UINT32_MAX - 1),
	};
	LocalPage pages[lengthof(sorted)];

	for (int shift = 0; shift < lengthof(sorted); shift++)
	{
		for (int i = 0; i < lengthof(sorted); i++)
			pages[(i * 4 + shift) % lengthof(sorted)] = sorted[i];
		WarmListSort(pages, lengthof(pages));
		assert_memory_equal(pages, sorted, sizeof(sorted));
	}
	WarmListSort(NULL, 0);
}

static void
test_round_trip(void **state)
{
	static const uint32 counts[] = {0, 1, 8191, 8192, 8193, 50000};

	for (int i = 0; i < lengthof(counts); i++)
	{
		LocalPage *pages = make_pages(counts[i]);
		LocalPage *read = calloc(Max(counts[i], 1), sizeof(LocalPage));
		WarmList list;
		lb_status status;

		assert_true(WarmListWrite(pages, counts[i], &status));
		assert_int_equal(access(NEW_FILE, F_OK), -1);
		assert_int_equal(WarmListOpen(&list, true, &status), WARM_LIST_GOOD);
		assert_int_equal(list.count, counts[i]);
		assert_true(WarmListRead(&list, 0, counts[i], read));
		assert_memory_equal(pages, read, counts[i] * sizeof(LocalPage));
		if (counts[i] > 1000)
		{
			assert_true(WarmListRead(&list, 777, 100, read));
			assert_memory_equal(pages + 777, read, 100 * sizeof(LocalPage));
			assert_false(WarmListRead(&list, counts[i] - 50, 100, read));
		}
		WarmListClose(&list);
		free(pages);
		free(read);
	}
}

static void
test_missing(void **state)
{
	unlink(WARM_LIST_FILE);
	assert_int_equal(open_list(true), WARM_LIST_MISSING);
}

static void
test_flipped_bits(void **state)
{
	write_list(100);
	for (off_t at = 0; at < file_size(); at++)
	{
		flip_bit(at);
		assert_int_equal(open_list(true), WARM_LIST_DAMAGED);
		if (at < HEAD_SIZE)
			assert_int_equal(open_list(false), WARM_LIST_DAMAGED);
		flip_bit(at);
	}
	assert_int_equal(open_list(true), WARM_LIST_GOOD);
}

static void
test_wrong_length(void **state)
{
	off_t size;

	write_list(100);
	size = file_size();
	for (off_t shorter = 0; shorter < size; shorter++)
	{
		assert_int_equal(truncate(WARM_LIST_FILE, shorter), 0);
		assert_int_equal(open_list(false), WARM_LIST_DAMAGED);
		write_list(100);
	}
	for (off_t longer = size + 1; longer < size + 50; longer++)
	{
		assert_int_equal(truncate(WARM_LIST_FILE, longer), 0);
		assert_int_equal(open_list(false), WARM_LIST_DAMAGED);
	}
}

/* A count that goes with the file's length only because it overflows. */
static void
test_huge_count(void **state)
{
	uint64 count = PG_UINT64_MAX / sizeof(LocalPage) + 1;
	int fd;

	write_list(0);
	fd = open(WARM_LIST_FILE, O_RDWR);
	assert_int_equal(pwrite(fd, &count, sizeof(count), 16), sizeof(count));
	close(fd);
	assert_int_equal(open_list(false), WARM_LIST_DAMAGED);
	assert_int_equal(open_list(true), WARM_LIST_DAMAGED);
}

/* What is in the way of a new list leaves the old one as it is. */
static void
test_failed_write(void **state)
{
	LocalPage *pages = make_pages(10);
	lb_status status;

	write_list(100);
	assert_int_equal(mkdir(NEW_FILE, 0700), 0);
	assert_false(WarmListWrite(pages, 10, &status));
	assert_non_null(strstr(status.message, NEW_FILE));
	assert_int_equal(rmdir(NEW_FILE), 0);
	assert_int_equal(file_size(), HEAD_SIZE + 100 * sizeof(LocalPage) + 8);
	assert_int_equal(open_list(true), WARM_LIST_GOOD);

	/* And what was left of a writer that was killed is no obstacle. */
	assert_int_equal(rename(WARM_LIST_FILE, NEW_FILE), 0);
	assert_true(WarmListWrite(pages, 10, &status));
	assert_int_equal(file_size(), HEAD_SIZE + 10 * sizeof(LocalPage) + 8);
	free(pages);
}

static int
set_up(void **state)
{
	return mkdtemp(folder) && chdir(folder) == 0 && mkdir(INSTANCE_FOLDER, 0700) == 0 ? 0 : -1;
}

static int
tear_down(void **state)
{
	unlink(WARM_LIST_FILE);
	rmdir(INSTANCE_FOLDER);
	return chdir("/") == 0 && rmdir(folder) == 0 ? 0 : -1;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),        cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_missing),      cmocka_unit_test(test_flipped_bits),
		cmocka_unit_test(test_wrong_length), cmocka_unit_test(test_huge_count),
		cmocka_unit_test(test_failed_write),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
