/*
 * test_storage.c
 *	  Paths of relations, the search for a data directory, the fence's lock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "storage.h"

#define UUID_TEXT "00112233445566778899aabbccddeeff"
#define OTHER_UUID_TEXT "10112233445566778899aabbccddeeff"
#define NONCE_A "a0000000000000000000000000000001"
#define NONCE_B "b0000000000000000000000000000002"

static const uint8_t uuid[LB_UUID_SIZE] = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
										   0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};
static char root[64];

/* Write root/path, with the folders that it needs. */
static void
put(const char *path, const char *text)
{
	char full[PATH_MAX];
	char command[PATH_MAX + 32];
	FILE *file;

	snprintf(full, sizeof(full), "%s/%s", root, path);
	snprintf(command, sizeof(command), "mkdir -p \"$(dirname '%s')\"", full);
	assert_int_equal(system(command), 0);
	file = fopen(full, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	fclose(file);
}

/* A nonce file in root/folder that was written that many seconds after some fixed time. */
static void
put_nonce(const char *folder, const char *uuid_text, const char *nonce_text, int seconds)
{
	const struct timespec times[2] = {{1000000000 + seconds, 0}, {1000000000 + seconds, 0}};
	char path[256];
	char full[512];
	char text[256];

	snprintf(path, sizeof(path), "%s/%s", folder, STORAGE_NONCE_FILE);
	snprintf(text, sizeof(text), "legobase nonce %s %s\n", uuid_text, nonce_text);
	put(path, text);
	snprintf(full, sizeof(full), "%s/%s", root, path);
	assert_int_equal(utimensat(AT_FDCWD, full, times, 0), 0);
}

static int
set_up(void **state)
{
	(void) state;
	snprintf(root, sizeof(root), "/tmp/test_storage.XXXXXX");
	return mkdtemp(root) ? 0 : -1;
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
expect_path(lb_page_tag tag, const char *expected)
{
	char path[PATH_MAX];
	lb_status status = {0};

	assert_true(storage_page_path("/data", "PG_15_202209061", &tag, path, &status));
	assert_string_equal(path, expected);
}

static void
paths(void **state)
{
	(void) state;
	expect_path((lb_page_tag){1664, 0, 1262, 0, 0}, "/data/global/1262");
	expect_path((lb_page_tag){1664, 0, 1262, 2, 0}, "/data/global/1262_vm");
	expect_path((lb_page_tag){1663, 5, 16384, 0, 131071}, "/data/base/5/16384");
	expect_path((lb_page_tag){1663, 5, 16384, 0, 131072}, "/data/base/5/16384.1");
	expect_path((lb_page_tag){1663, 5, 16384, 1, 0}, "/data/base/5/16384_fsm");
	expect_path((lb_page_tag){1663, 5, 16384, 1, 262144}, "/data/base/5/16384_fsm.2");
	expect_path((lb_page_tag){1663, 5, 16384, 3, 0}, "/data/base/5/16384_init");
	expect_path((lb_page_tag){16400, 5, 4294967295, 0, 4294967294},
				"/data/pg_tblspc/16400/PG_15_202209061/5/4294967295.32767");
}

static void
paths_refused(void **state)
{
	lb_page_tag tag = {1663, 5, 16384, 4, 0};
	char path[PATH_MAX];
	char long_root[PATH_MAX];
	lb_status status = {0};

	(void) state;
	assert_false(storage_page_path("/data", "PG_15", &tag, path, &status));
	assert_int_equal(status.code, LB_INVALID);
	tag.fork = UINT32_MAX;
	assert_false(storage_page_path("/data", "PG_15", &tag, path, &status));

	tag = (lb_page_tag){16400, 5, 16384, 0, 0};
	assert_false(storage_page_path("/data", "", &tag, path, &status));
	assert_false(storage_page_path("/data", "../..", &tag, path, &status));

	memset(long_root, 'a', sizeof(long_root));
	long_root[sizeof(long_root) - 10] = '\0';
	assert_false(storage_page_path(long_root, "PG_15", &tag, path, &status));
	assert_int_equal(status.code, LB_INVALID);
}

static bool
find(uint8_t nonce[LB_NONCE_SIZE], char path[PATH_MAX], lb_status *status)
{
	const char *roots[] = {root};

	memset(status, 0, sizeof(*status));
	return storage_find(roots, 1, uuid, nonce, path, status);
}

static void
expect_found(const char *folder, uint8_t first_byte)
{
	uint8_t nonce[LB_NONCE_SIZE];
	char path[PATH_MAX];
	char expected[PATH_MAX];
	lb_status status;

	if (!find(nonce, path, &status))
		fail_msg("%s", status.message);
	snprintf(expected, sizeof(expected), "%s%s%s", root, folder[0] ? "/" : "", folder);
	assert_string_equal(path, expected);
	assert_int_equal(nonce[0], first_byte);
}

static void
expect_not_found(lb_code code, const char *message)
{
	uint8_t nonce[LB_NONCE_SIZE];
	char path[PATH_MAX];
	lb_status status;

	assert_false(find(nonce, path, &status));
	assert_int_equal(status.code, code);
	if (!strstr(status.message, message))
		fail_msg("\"%s\" does not say \"%s\"", status.message, message);
}

static void
found_in_the_root_or_below(void **state)
{
	(void) state;
	put_nonce(".", UUID_TEXT, NONCE_A, 0);
	expect_found("", 0xa0);
	put_nonce(".", OTHER_UUID_TEXT, NONCE_A, 0);
	expect_not_found(LB_INVALID, "(but of 1 other instances)");
	put_nonce("pg15", UUID_TEXT, NONCE_B, 0);
	put_nonce("pg16", OTHER_UUID_TEXT, NONCE_A, 0);
	put("a_file", "");
	expect_found("pg15", 0xb0);
}

/* A copy of a data directory, made with everything in it. */
static void
copies(void **state)
{
	(void) state;
	put_nonce("one", UUID_TEXT, NONCE_A, 10);
	put_nonce("two", UUID_TEXT, NONCE_B, 20);
	expect_found("two", 0xb0);
	put_nonce("one", UUID_TEXT, NONCE_A, 30);
	expect_found("one", 0xa0);
	put_nonce("two", UUID_TEXT, NONCE_A, 20);
	expect_not_found(LB_INVALID, "the same nonce");
}

static void
roots_that_overlap(void **state)
{
	uint8_t nonce[LB_NONCE_SIZE];
	char path[PATH_MAX];
	char below[PATH_MAX];
	const char *roots[] = {root, below, "/nonexistent"};
	lb_status status;

	(void) state;
	put_nonce("pg15", UUID_TEXT, NONCE_A, 0);
	snprintf(below, sizeof(below), "%s/pg15", root);
	assert_true(storage_find(roots, 3, uuid, nonce, path, &status));
	assert_string_equal(path, below);
}

static void
not_found(void **state)
{
	const char *nowhere[] = {"/nonexistent"};
	uint8_t nonce[LB_NONCE_SIZE];
	char path[PATH_MAX];
	lb_status status = {0};

	(void) state;
	expect_not_found(LB_INVALID, root);
	assert_false(storage_find(NULL, 0, uuid, nonce, path, &status));
	assert_string_equal(status.message, "this memory node has no storage (--storage)");
	assert_false(storage_find(nowhere, 1, uuid, nonce, path, &status));
	assert_int_equal(status.code, LB_SYSTEM);
	assert_non_null(strstr(status.message, "could not open /nonexistent: No such file"));
}

static void
nonce_files_that_are_none(void **state)
{
	const char *texts[] = {
		"",
		"legobase nonce " UUID_TEXT " " NONCE_A,
		"legobase nonce " UUID_TEXT " " NONCE_A "\nx",
		"legobase nonce " UUID_TEXT "-" NONCE_A "\n",
		"legobase nance " UUID_TEXT " " NONCE_A "\n",
		"legobase nonce 0011223344556677 899aabbccddeeff " NONCE_A "\n",
		"legobase nonce " UUID_TEXT " A0000000000000000000000000000001\n",
	};

	(void) state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
	{
		put(STORAGE_NONCE_FILE, texts[i]);
		expect_not_found(LB_INVALID, "pgsql_tmp_nonce");
	}
	put("folder/" STORAGE_NONCE_FILE "/x", "");
	expect_not_found(LB_INVALID, "pgsql_tmp_nonce");
	/* and they are not in the way of the right one */
	put_nonce("z", UUID_TEXT, NONCE_A, 0);
	expect_found("z", 0xa0);
}

static void
nonce_file_is_a_pipe(void **state)
{
	char path[PATH_MAX];

	(void) state;
	put(STORAGE_FENCE_FILE, "");
	snprintf(path, sizeof(path), "%s/%s", root, STORAGE_NONCE_FILE);
	assert_int_equal(mkfifo(path, 0600), 0);
	expect_not_found(LB_SYSTEM, "could not read");
}

static storage_fence_result
try_fence(uint64_t epoch, int *fence, const char *message)
{
	lb_status status = {0};
	storage_fence_result result = storage_fence_lock(root, epoch, fence, &status);

	if (message != NULL && !strstr(status.message, message))
		fail_msg("\"%s\" does not say \"%s\"", status.message, message);
	return result;
}

/*
 * Another process locks the fence file exclusively, if it can; the answer is the process that it was told holds a lock (0:
 * none). It keeps the lock until it is told to go, through *go.
 */
static pid_t
lock_elsewhere(int *go, pid_t *holder)
{
	int answer[2];
	int end[2];
	pid_t child;

	assert_int_equal(pipe(answer), 0);
	assert_int_equal(pipe(end), 0);
	child = fork();
	if (child == 0)
	{
		struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
		char path[PATH_MAX];
		pid_t found = 0;
		char byte;
		int fd;

		close(end[1]);
		snprintf(path, sizeof(path), "%s/%s", root, STORAGE_FENCE_FILE);
		fd = open(path, O_RDWR);
		if (fcntl(fd, F_SETLK, &lock) != 0 && fcntl(fd, F_GETLK, &lock) == 0)
			found = lock.l_pid;
		if (write(answer[1], &found, sizeof(found)) != sizeof(found))
			_exit(1);
		(void) !read(end[0], &byte, 1);
		_exit(0);
	}
	close(answer[1]);
	close(end[0]);
	assert_int_equal(read(answer[0], holder, sizeof(*holder)), sizeof(*holder));
	close(answer[0]);
	*go = end[1];
	return child;
}

static void
unlock_elsewhere(pid_t child, int go)
{
	int result;

	close(go);
	assert_int_equal(waitpid(child, &result, 0), child);
	assert_int_equal(result, 0);
}

static void
fence_epochs(void **state)
{
	int fence = -1;

	(void) state;
	put(STORAGE_FENCE_FILE, "legobase fence 00000001ffffffff\n");
	assert_int_equal(
		try_fence(UINT64_C(0x1ffffffff), &fence, "fenced: the epoch 8589934591 is not"),
		STORAGE_FENCE_TOO_OLD);
	assert_int_equal(try_fence(0, &fence, "fenced"), STORAGE_FENCE_TOO_OLD);
	assert_int_equal(fence, -1);
	assert_int_equal(try_fence(UINT64_C(0x200000000), &fence, NULL), STORAGE_FENCE_HELD);
	storage_fence_unlock(fence);
}

static void
fence_files_that_are_none(void **state)
{
	const char *texts[] = {"", "legobase fence 0000000000000001",
						   "legobase fence 000000000000001\n", "legobase fence 000000000000000x\n",
						   "legobase fense 0000000000000001\n"};
	int fence = -1;

	(void) state;
	assert_int_equal(try_fence(5, &fence, "could not open"), STORAGE_FENCE_BUSY);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
	{
		put(STORAGE_FENCE_FILE, texts[i]);
		assert_int_equal(try_fence(5, &fence, "pgsql_tmp_fence"), STORAGE_FENCE_BUSY);
	}
	assert_int_equal(fence, -1);
}

static void
fence_locked_by_another(void **state)
{
	int fence = -1;
	pid_t child;
	pid_t holder;
	char expected[64];
	int go;

	(void) state;
	put(STORAGE_FENCE_FILE, "legobase fence 0000000000000001\n");
	child = lock_elsewhere(&go, &holder);
	assert_int_equal(holder, 0);
	snprintf(expected, sizeof(expected), "process %d has ", (int) child);
	assert_int_equal(try_fence(5, &fence, expected), STORAGE_FENCE_BUSY);
	unlock_elsewhere(child, go);
	assert_int_equal(try_fence(5, &fence, NULL), STORAGE_FENCE_HELD);
	storage_fence_unlock(fence);
}

/* The other side finds out who is in the middle of a round; afterwards, and after a refusal, nothing is locked. */
static void
fence_held_by_us(void **state)
{
	int fence;
	int ignored;
	pid_t holder;
	pid_t child;
	int go;

	(void) state;
	put(STORAGE_FENCE_FILE, "legobase fence 0000000000000001\n");
	assert_int_equal(try_fence(2, &fence, NULL), STORAGE_FENCE_HELD);
	child = lock_elsewhere(&go, &holder);
	assert_int_equal(holder, getpid());
	unlock_elsewhere(child, go);
	storage_fence_unlock(fence);
	child = lock_elsewhere(&go, &holder);
	assert_int_equal(holder, 0);
	unlock_elsewhere(child, go);
	assert_int_equal(try_fence(1, &ignored, "fenced"), STORAGE_FENCE_TOO_OLD);
	child = lock_elsewhere(&go, &holder);
	assert_int_equal(holder, 0);
	unlock_elsewhere(child, go);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths),
		cmocka_unit_test(paths_refused),
		cmocka_unit_test_setup_teardown(found_in_the_root_or_below, set_up, tear_down),
		cmocka_unit_test_setup_teardown(copies, set_up, tear_down),
		cmocka_unit_test_setup_teardown(roots_that_overlap, set_up, tear_down),
		cmocka_unit_test_setup_teardown(not_found, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nonce_files_that_are_none, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nonce_file_is_a_pipe, set_up, tear_down),
		cmocka_unit_test_setup_teardown(fence_epochs, set_up, tear_down),
		cmocka_unit_test_setup_teardown(fence_files_that_are_none, set_up, tear_down),
		cmocka_unit_test_setup_teardown(fence_locked_by_another, set_up, tear_down),
		cmocka_unit_test_setup_teardown(fence_held_by_us, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
