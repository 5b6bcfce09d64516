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

#define INSTANCE_FILE INSTANCE_FOLDER "/instance"
#define INSTANCE_FILE_NEW INSTANCE_FOLDER "/instance.new"
#define INSTANCE_FORMAT 1

static void
store(const Instance *instance)
{
	char text[200];
	int length;
	int fd;

	length = snprintf(text, sizeof(text), "format %d\nuuid ", INSTANCE_FORMAT);
	for (int i = 0; i < LB_UUID_SIZE; i++)
		length += snprintf(text + length, sizeof(text) - length, "%02x", instance->uuid[i]);
	length += snprintf(text + length, sizeof(text) - length, "\nepoch " UINT64_FORMAT "\n",
					   instance->epoch);

	fd = OpenTransientFile(INSTANCE_FILE_NEW, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not create file \"%s\": %m", INSTANCE_FILE_NEW),
						errhint("legobase keeps its instance's identity there. Until it can, the "
								"server runs without remote memory.")));
	if (write(fd, text, length) != length || pg_fsync(fd) != 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not write file \"%s\": %m", INSTANCE_FILE_NEW)));
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not close file \"%s\": %m", INSTANCE_FILE_NEW)));
	durable_rename(INSTANCE_FILE_NEW, INSTANCE_FILE, ERROR);
}

static void
create(Instance *instance)
{
	if (MakePGDirectory(INSTANCE_FOLDER) != 0 && errno != EEXIST)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not create directory \"%s\": %m", INSTANCE_FOLDER),
						errhint("legobase keeps its instance's identity there. Until it can, the "
								"server runs without remote memory.")));
	if (!pg_strong_random(instance->uuid, LB_UUID_SIZE))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate a random UUID")));
	instance->epoch = 0;
	store(instance);
	fsync_fname(INSTANCE_FOLDER, true);
}

static bool
parse(FILE *file, Instance *instance)
{
	int format;
	char uuid[2 * LB_UUID_SIZE + 1];

	if (fscanf(file, "format %d\nuuid %32[0-9a-f]\nepoch " UINT64_FORMAT, &format, uuid,
			   &instance->epoch) != 3 ||
		format != INSTANCE_FORMAT || strlen(uuid) != 2 * LB_UUID_SIZE)
		return false;
	for (int i = 0; i < LB_UUID_SIZE; i++)
	{
		unsigned int byte;

		sscanf(uuid + 2 * i, "%2x", &byte);
		instance->uuid[i] = (uint8) byte;
	}
	return true;
}

void
InstanceLoad(Instance *instance)
{
	FILE *file = AllocateFile(INSTANCE_FILE, PG_BINARY_R);
	bool understood;

	if (file == NULL && errno == ENOENT)
	{
		create(instance);
		return;
	}
	if (file == NULL)
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not open file \"%s\": %m", INSTANCE_FILE),
				 errhint("legobase keeps its instance's identity there. Until it can, the server "
						 "runs without remote memory.")));
	understood = parse(file, instance);
	FreeFile(file);
	if (!understood)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED), errmsg("file \"%s\" is damaged", INSTANCE_FILE),
				 errhint("Remove it: legobase makes a new one. It holds no data.")));
}

void
InstanceRaiseEpoch(Instance *instance, uint64 at_least)
{
	instance->epoch = Max(instance->epoch, at_least) + 1;
	store(instance);
}
