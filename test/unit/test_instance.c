/*
 * test_instance.c
 *	  The instance's files: identity, epochs above the fence, the nonce; in a folder of the test's own.
 */
#include "postgres.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "storage/fd.h"

#include "instance.h"

#define INSTANCE_FILE INSTANCE_FOLDER "/" INSTANCE_PREFIX "instance"

static char folder[] = "/tmp/test_instance.XXXXXX";

int
BasicOpenFile(const char *path, int flags)
{
	return open(path, flags, 0600);
}

int
MakePGDirectory(const char *path)
{
	return mkdir(path, 0700);
}

FILE *
AllocateFile(const char *path, const char *mode)
{
	return fopen(path, mode);
}

int
FreeFile(FILE *file)
{
	return fclose(file);
}

int
pg_fsync(int fd)
{
	return fsync(fd);
}

void
fsync_fname(const char *path, bool is_folder)
{
}

int
durable_rename(const char *from, const char *to, int level)
{
	return rename(from, to);
}

bool
pg_strong_random(void *bytes, size_t size)
{
	return getrandom(bytes, size, 0) == (ssize_t) size;
}

static void
put(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void
get(const char *path, char text[200])
{
	FILE *file = fopen(path, "r");

	assert_non_null(file);
	text[fread(text, 1, 199, file)] = '\0';
	fclose(file);
}

static int
setup(void **state)
{
	unlink(INSTANCE_FILE);
	unlink(INSTANCE_FENCE_FILE);
	unlink(INSTANCE_NONCE_FILE);
	rmdir(INSTANCE_FOLDER);
	return 0;
}

static void
test_made_once(void **state)
{
	Instance first;
	Instance again;
	lb_status status;
	bool exists;
	char text[200];

	assert_true(InstanceRead(&first, &exists, &status));
	assert_false(exists);
	assert_int_not_equal(access(INSTANCE_FOLDER, F_OK), 0);

	assert_true(InstanceLoad(&first, &status));
	assert_int_equal(first.epoch, 0);
	get(INSTANCE_FENCE_FILE, text);
	assert_string_equal(text, "legobase fence 0000000000000000\n");

	assert_true(InstanceLoad(&again, &status));
	assert_memory_equal(&first, &again, sizeof(Instance));
	assert_true(InstanceRead(&again, &exists, &status));
	assert_true(exists);
}

static void
test_epochs_go_up(void **state)
{
	Instance instance;
	lb_status status;

	assert_true(InstanceLoad(&instance, &status));
	assert_true(InstanceRaiseEpoch(&instance, 0, &status));
	assert_int_equal(instance.epoch, 1);
	assert_true(InstanceRaiseEpoch(&instance, 10, &status));
	assert_int_equal(instance.epoch, 11);
	assert_true(InstanceLoad(&instance, &status));
	assert_int_equal(instance.epoch, 11);
	assert_false(InstanceRaiseEpoch(&instance, UINT64_MAX, &status));
	assert_int_equal(instance.epoch, 11);
}

/* Attachments with epochs up to the fence's may not write: none may be made with one. */
static void
test_stays_above_the_fence(void **state)
{
	Instance instance;
	lb_status status;
	int fd;

	assert_true(InstanceLoad(&instance, &status));
	fd = open(INSTANCE_FENCE_FILE, O_RDWR);
	assert_true(InstanceWriteFence(fd, 0x123456789));
	assert_int_equal(InstanceReadFence(fd), 0x123456789);
	close(fd);
	assert_true(InstanceLoad(&instance, &status));
	assert_int_equal(instance.epoch, 0x123456789);

	unlink(INSTANCE_FILE);
	assert_true(InstanceLoad(&instance, &status));
	assert_true(InstanceRaiseEpoch(&instance, 0, &status));
	assert_int_equal(instance.epoch, 0x12345678a);
}

static void
test_damage(void **state)
{
	const char *fences[] = {"", "legobase", "legobase fence ffffffffffffffff\n",
							"legobase fence xyz\n"};
	Instance instance;
	lb_status status;
	bool exists = false;

	assert_true(InstanceLoad(&instance, &status));
	for (int i = 0; i < lengthof(fences); i++)
	{
		put(INSTANCE_FENCE_FILE, fences[i]);
		assert_true(InstanceLoad(&instance, &status));
		assert_int_equal(instance.epoch, 0);
	}
	put(INSTANCE_FILE, "format 1\nuuid 12\nepoch 3\n");
	assert_false(InstanceLoad(&instance, &status));
	assert_non_null(strstr(status.message, "damaged"));
	assert_false(InstanceRead(&instance, &exists, &status));
	assert_true(exists);
}

static void
test_nonce(void **state)
{
	Instance instance;
	uint8 nonce[LB_NONCE_SIZE];
	uint8 other[LB_NONCE_SIZE];
	lb_status status;
	char text[200];
	char expected[200] = "legobase nonce ";

	assert_true(InstanceLoad(&instance, &status));
	assert_true(InstanceWriteNonce(nonce, &status));
	assert_true(InstanceWriteNonce(other, &status));
	assert_memory_not_equal(nonce, other, LB_NONCE_SIZE);
	for (int i = 0; i < LB_UUID_SIZE; i++)
		sprintf(expected + strlen(expected), "%02x", instance.uuid[i]);
	strcat(expected, " ");
	for (int i = 0; i < LB_NONCE_SIZE; i++)
		sprintf(expected + strlen(expected), "%02x", other[i]);
	strcat(expected, "\n");
	get(INSTANCE_NONCE_FILE, text);
	assert_string_equal(text, expected);
}

static void
test_no_folder(void **state)
{
	Instance instance;
	lb_status status;

	put(INSTANCE_FOLDER, "in the way");
	assert_false(InstanceLoad(&instance, &status));
	assert_non_null(strstr(status.message, INSTANCE_FOLDER));
	unlink(INSTANCE_FOLDER);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_made_once, setup),
		cmocka_unit_test_setup(test_epochs_go_up, setup),
		cmocka_unit_test_setup(test_stays_above_the_fence, setup),
		cmocka_unit_test_setup(test_damage, setup),
		cmocka_unit_test_setup(test_nonce, setup),
		cmocka_unit_test_setup(test_no_folder, setup),
	};
	int failed;

	if (mkdtemp(folder) == NULL || chdir(folder) != 0)
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	setup(NULL);
	rmdir(folder);
	return failed;
}
