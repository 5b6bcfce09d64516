/*
 * options.h
 *	  The command line of legobase-memnode.
 */
#ifndef MEMNODE_OPTIONS_H
#define MEMNODE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include "flush_io.h"
#include "flush_policy.h"
#include "lb_uri.h"

#define MEMNODE_VERSION "1.0"
#define LISTENERS_MAX 8 /* one of them over rdma */
#define STORAGE_ROOTS_MAX 64

typedef enum run_mode
{
	RUN_SERVER,
	RUN_STATUS,
	RUN_HELP,
	RUN_VERSION
} run_mode;

typedef struct options
{
	run_mode mode;
	lb_uri listen[LISTENERS_MAX];
	int listen_count;
	lb_uri status; /* RUN_STATUS */
	uint64_t memory_bytes;
	uint64_t quota_bytes; /* of each tenant; memory_bytes unless given */
	uint32_t tenant_timeout_s;
	uint32_t exit_when_unused_s; /* 0: never */
	uint32_t max_sessions;
	const char *rdma_device; /* null: the one that has the address of --listen rdma:// */
	uint32_t max_rdma_connections;
	const char *storage[STORAGE_ROOTS_MAX]; /* where data directories may be */
	int storage_count;
	flush_policy_options flush;
	flush_io_kind flush_io;
	const char *log_file; /* null: standard error */
	bool use_huge_pages;
	const char *fault_points; /* null: none */
} options;

/* False with LB_INVALID and a message for the user. The strings point into argv. */
extern bool options_parse(int argc, char **argv, options *options, lb_status *status);

/* What --help prints. */
extern const char options_help[];

#endif /* MEMNODE_OPTIONS_H */
