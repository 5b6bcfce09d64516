/*
 * instance.h
 *	  Which instance this is: a UUID and an epoch, kept in the data directory.
 *
 * They are in $PGDATA/pgsql_tmp_legobase/instance: pg_basebackup leaves files out whose names begin with pgsql_tmp, so that a
 * copy of the data directory is an instance of its own (rule R5). The epoch is raised, and made durable, before each
 * attachment to a memory node; a memory node takes no epoch twice (rule R10).
 */
#ifndef LEGOBASE_INSTANCE_H
#define LEGOBASE_INSTANCE_H

#include "lb_wire.h"

#define INSTANCE_FOLDER "pgsql_tmp_legobase"

typedef struct Instance
{
	uint8 uuid[LB_UUID_SIZE];
	uint64 epoch;
} Instance;

/* Read the instance's file, or make folder and file if there is none. ERROR if that can't be done. */
extern void InstanceLoad(Instance *instance);

/* Raise the epoch above at_least, and store it. ERROR if that can't be done. */
extern void InstanceRaiseEpoch(Instance *instance, uint64 at_least);

#endif /* LEGOBASE_INSTANCE_H */
