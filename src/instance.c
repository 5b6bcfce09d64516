/*
 * instance.c
 *	  Which instance this is: a UUID and an epoch, kept in the data directory.
 */
#include "postgres.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "storage/fd.h"

#include "instance.h"

#define INSTANCE_FILE INSTANCE_FOLDER "/" INSTANCE_PREFIX "instance"
#define INSTANCE_FILE_NEW INSTANCE_FILE ".new"
#define INSTANCE_FORMAT 1
#define FENCE_FORMAT "legobase fence %016" INT64_MODIFIER "x\n"

/* No instance gets there by counting: such an epoch comes from a node, or a file, that is not to be believed. */
#define EPOCH_MAX (UINT64_MAX / 2)

static bool
write_durably(const char *path, const char *text, int length, lb_status *status)
{
	int fd = BasicOpenFile(path, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	bool good;

	if (fd < 0)
		return lb_fail_errno(status, "could not create file \"%s\"", path);
	errno = ENOSPC; /* if write does not say why it wrote less */
	good = (write(fd, text, length) == length && pg_fsync(fd) == 0) ||
		   lb_fail_errno(status, "could not write file \"%s\"", path);
	if (close(fd) != 0 && good)
		good = lb_fail_errno(status, "could not close file \"%s\"", path);
	return good;
}

/* Others may read the file at any time: they find the old text or the new one, whole. */
static bool
replace_durably(const char *path, const char *path_new, const char *text, lb_status *status)
{
	if (!write_durably(path_new, text, strlen(text), status))
		return false;
	if (durable_rename(path_new, path, LOG) != 0)
		return lb_fail(status, LB_SYSTEM, "could not replace file \"%s\"", path);
	return true;
}

/* Two digits for each byte, and a terminating zero. */
static const char *
hexadecimal(const uint8 *bytes, int count, char *text)
{
	for (int i = 0; i < count; i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	return text;
}

static bool
store(const Instance *instance, lb_status *status)
{
	char text[200];
	char uuid[2 * LB_UUID_SIZE + 1];

	snprintf(text, sizeof(text), "format %d\nuuid %s\nepoch " UINT64_FORMAT "\n", INSTANCE_FORMAT,
			 hexadecimal(instance->uuid, LB_UUID_SIZE, uuid), instance->epoch);
	return replace_durably(INSTANCE_FILE, INSTANCE_FILE_NEW, text, status);
}

bool
InstanceWriteFence(int fd, uint64 epoch)
{
	char text[64];
	int length = snprintf(text, sizeof(text), FENCE_FORMAT, epoch);

	errno = ENOSPC; /* if pwrite does not say why it wrote less */
	return pwrite(fd, text, length, 0) == length && pg_fsync(fd) == 0;
}

/* In a folder that was there before, the postmaster has seen to it. */
static bool
create_fence(lb_status *status)
{
	int fd = BasicOpenFile(INSTANCE_FENCE_FILE, O_RDWR | O_CREAT | O_EXCL | PG_BINARY);
	bool good;

	if (fd < 0)
		return errno == EEXIST ||
			   lb_fail_errno(status, "could not create file \"%s\"", INSTANCE_FENCE_FILE);
	good = InstanceWriteFence(fd, 0) ||
		   lb_fail_errno(status, "could not write file \"%s\"", INSTANCE_FENCE_FILE);
	close(fd);
	return good;
}

static bool
create(Instance *instance, lb_status *status)
{
	if (MakePGDirectory(INSTANCE_FOLDER) != 0 && errno != EEXIST)
		return lb_fail_errno(status, "could not create directory \"%s\"", INSTANCE_FOLDER);
	if (!pg_strong_random(instance->uuid, LB_UUID_SIZE))
		return lb_fail(status, LB_SYSTEM, "could not generate a random UUID");
	instance->epoch = 0;
	if (!create_fence(status) || !store(instance, status))
		return false;
	fsync_fname(".", true); /* the folder's own entry in the data directory */
	return true;
}

static bool
parse(FILE *file, Instance *instance)
{
	int format;
	char uuid[2 * LB_UUID_SIZE + 1];

	if (fscanf(file, "format %d\nuuid %32[0-9a-f]\nepoch " UINT64_FORMAT, &format, uuid,
			   &instance->epoch) != 3 ||
		format != INSTANCE_FORMAT || strlen(uuid) != 2 * LB_UUID_SIZE ||
		instance->epoch > EPOCH_MAX)
		return false;
	for (int i = 0; i < LB_UUID_SIZE; i++)
	{
		unsigned int byte;

		sscanf(uuid + 2 * i, "%2x", &byte);
		instance->uuid[i] = (uint8) byte;
	}
	return true;
}

bool
InstanceRead(Instance *instance, bool *exists, lb_status *status)
{
	FILE *file = AllocateFile(INSTANCE_FILE, PG_BINARY_R);
	bool understood;

	*exists = file != NULL || errno != ENOENT;
	if (file == NULL)
		return !*exists || lb_fail_errno(status, "could not open file \"%s\"", INSTANCE_FILE);
	understood = parse(file, instance);
	FreeFile(file);
	if (!understood)
		return lb_fail(status, LB_INVALID, "file \"%s\" is damaged; remove it, it holds no data",
					   INSTANCE_FILE);
	return true;
}

uint64
InstanceReadFence(int fd)
{
	char text[64];
	uint64 epoch;
	ssize_t length = pread(fd, text, sizeof(text) - 1, 0);

	if (length <= 0)
		return 0;
	text[length] = '\0';
	if (sscanf(text, "legobase fence %16" SCNx64, &epoch) != 1 || epoch > EPOCH_MAX)
		return 0;
	return epoch;
}

/* The instance's file may have been removed, or be an old one: no attachment of it would be allowed to write. */
static bool
stay_above_fence(Instance *instance, lb_status *status)
{
	int fd = BasicOpenFile(INSTANCE_FENCE_FILE, O_RDONLY | PG_BINARY);

	if (fd < 0)
		return errno == ENOENT ||
			   lb_fail_errno(status, "could not open file \"%s\"", INSTANCE_FENCE_FILE);
	instance->epoch = Max(instance->epoch, InstanceReadFence(fd));
	close(fd);
	return true;
}

bool
InstanceLoad(Instance *instance, lb_status *status)
{
	bool exists;

	if (!InstanceRead(instance, &exists, status))
		return false;
	if (!exists && !create(instance, status))
		return false;
	return stay_above_fence(instance, status);
}

bool
InstanceRaiseEpoch(Instance *instance, uint64 at_least, lb_status *status)
{
	Instance raised = *instance;

	if (at_least > EPOCH_MAX)
		return lb_fail(status, LB_PROTOCOL, "an epoch of " UINT64_FORMAT " can't be right",
					   at_least);
	raised.epoch = Max(raised.epoch, at_least) + 1;
	if (!store(&raised, status))
		return false;
	*instance = raised;
	return true;
}

bool
InstanceWriteNonce(uint8 nonce[LB_NONCE_SIZE], lb_status *status)
{
	Instance instance;
	char uuid_text[2 * LB_UUID_SIZE + 1];
	char nonce_text[2 * LB_NONCE_SIZE + 1];
	char text[200];

	if (!InstanceLoad(&instance, status))
		return false;
	if (!pg_strong_random(nonce, LB_NONCE_SIZE))
		return lb_fail(status, LB_SYSTEM, "could not generate a random nonce");
	snprintf(text, sizeof(text), "legobase nonce %s %s\n",
			 hexadecimal(instance.uuid, LB_UUID_SIZE, uuid_text),
			 hexadecimal(nonce, LB_NONCE_SIZE, nonce_text));
	return replace_durably(INSTANCE_NONCE_FILE, INSTANCE_NONCE_FILE ".new", text, status);
}
