/*
 * instance.h
 *	  Which instance this is: a UUID and an epoch, kept in the data directory.
 *
 * They are in $PGDATA/pgsql_tmp_legobase/pgsql_tmp_instance. pg_basebackup leaves out what begins with pgsql_tmp at the top,
 * pg_rewind what begins with it inside a folder: so that a copy of the data directory is an instance of its own (rule R5),
 * all names here begin with it. The epoch is raised, and made durable, before each attachment to a memory node; a
 * memory node takes no epoch twice (rule R10).
 */
#ifndef LEGOBASE_INSTANCE_H
#define LEGOBASE_INSTANCE_H

#include "lb_status.h"
#include "lb_wire.h"

#define INSTANCE_FOLDER "pgsql_tmp_legobase"
#define INSTANCE_PREFIX "pgsql_tmp_" /* of all names in the folder */

typedef struct Instance
{
	uint8 uuid[LB_UUID_SIZE];
	uint64 epoch;
} Instance;

/* Read the instance's file, or make folder and file if there is none. False with a status if that can't be done. */
extern bool InstanceLoad(Instance *instance, lb_status *status);

/* Raise the epoch above at_least, and store it. False with a status if that can't be done. */
extern bool InstanceRaiseEpoch(Instance *instance, uint64 at_least, lb_status *status);

#endif /* LEGOBASE_INSTANCE_H */
