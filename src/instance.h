/*
 * instance.h
 *	  Which instance this is: a UUID and an epoch, kept in the data directory.
 *
 * They are in $PGDATA/pgsql_tmp_legobase/pgsql_tmp_instance. pg_basebackup leaves out what begins with pgsql_tmp at the top,
 * pg_rewind what begins with it inside a folder: so that a copy of the data directory is an instance of its own (rule R5),
 * all names here begin with it. The epoch is raised, and made durable, before each attachment to a memory node; a
 * memory node takes no epoch twice (rule R10). Beside it there is the fence file (storage_fence.h): attachments with epochs up to
 * the number in it are fenced off, so no epoch given out may be that low, whatever became of the instance's file.
 */
#ifndef LEGOBASE_INSTANCE_H
#define LEGOBASE_INSTANCE_H

#include "lb_status.h"
#include "lb_wire.h"

#define INSTANCE_FOLDER "pgsql_tmp_legobase"
#define INSTANCE_PREFIX "pgsql_tmp_" /* of all names in the folder */

#define INSTANCE_NONCE_FILE INSTANCE_FOLDER "/" INSTANCE_PREFIX "nonce"
#define INSTANCE_FENCE_FILE INSTANCE_FOLDER "/" INSTANCE_PREFIX "fence"

typedef struct Instance
{
	uint8 uuid[LB_UUID_SIZE];
	uint64 epoch;
} Instance;

/* Read the instance's file, or make the folder, it and the fence file if there is none. False with a status if that can't be done. */
extern bool InstanceLoad(Instance *instance, lb_status *status);

/* The same, but makes nothing: *exists says whether there is a file. */
extern bool InstanceRead(Instance *instance, bool *exists, lb_status *status);

/* Raise the epoch above at_least, and store it. False with a status if that can't be done. Through StorageFenceRaiseEpoch. */
extern bool InstanceRaiseEpoch(Instance *instance, uint64 at_least, lb_status *status);

/*
 * Make up a nonce, and put it, with the instance's UUID, into the nonce file: a memory node that can tell it sees this data
 * directory. "legobase nonce UUID NONCE", both as 32 hexadecimal digits.
 */
extern bool InstanceWriteNonce(uint8 nonce[LB_NONCE_SIZE], lb_status *status);

/*
 * The fence file, open as fd. Read: the number in it; 0 if there is none that can be believed. Write: durably; false with errno. To open it
 * by another descriptor, and close that, would end a lock on the file that this process holds.
 */
extern uint64 InstanceReadFence(int fd);
extern bool InstanceWriteFence(int fd, uint64 epoch);

#endif /* LEGOBASE_INSTANCE_H */
