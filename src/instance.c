/*
 * instance.c
 *	  Which instance this is: a UUID and an epoch, kept in the data directory.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "storage/fd.h"

#include "instance.h"

#define INSTANCE_FILE INSTANCE_FOLDER "/" INSTANCE_PREFIX "instance"
#define INSTANCE_FILE_NEW INSTANCE_FILE ".new"
#define INSTANCE_FORMAT 1

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

static bool
store(const Instance *instance, lb_status *status)
{
	char text[200];
	int length;

	length = snprintf(text, sizeof(text), "format %d\nuuid ", INSTANCE_FORMAT);
	for (int i = 0; i < LB_UUID_SIZE; i++)
		length += snprintf(text + length, sizeof(text) - length, "%02x", instance->uuid[i]);
	length += snprintf(text + length, sizeof(text) - length, "\nepoch " UINT64_FORMAT "\n",
					   instance->epoch);

	if (!write_durably(INSTANCE_FILE_NEW, text, length, status))
		return false;
	if (durable_rename(INSTANCE_FILE_NEW, INSTANCE_FILE, LOG) != 0)
		return lb_fail(status, LB_SYSTEM, "could not replace file \"%s\"", INSTANCE_FILE);
	return true;
}

static bool
create(Instance *instance, lb_status *status)
{
	if (MakePGDirectory(INSTANCE_FOLDER) != 0 && errno != EEXIST)
		return lb_fail_errno(status, "could not create directory \"%s\"", INSTANCE_FOLDER);
	if (!pg_strong_random(instance->uuid, LB_UUID_SIZE))
		return lb_fail(status, LB_SYSTEM, "could not generate a random UUID");
	instance->epoch = 0;
	if (!store(instance, status))
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
InstanceLoad(Instance *instance, lb_status *status)
{
	FILE *file = AllocateFile(INSTANCE_FILE, PG_BINARY_R);
	bool understood;

	if (file == NULL && errno == ENOENT)
		return create(instance, status);
	if (file == NULL)
		return lb_fail_errno(status, "could not open file \"%s\"", INSTANCE_FILE);
	understood = parse(file, instance);
	FreeFile(file);
	if (!understood)
		return lb_fail(status, LB_INVALID, "file \"%s\" is damaged; remove it, it holds no data",
					   INSTANCE_FILE);
	return true;
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
