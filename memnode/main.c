/*
 * main.c
 *	  legobase-memnode: lends this machine's memory to PostgreSQL servers that run LegoBase.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>

#include "lb_wire.h"
#include "log.h"
#include "machine_memory.h"
#include "options.h"
#include "server.h"
#include "status_client.h"

#define EXIT_RUNTIME 1
#define EXIT_CONFIGURATION 2

static int
fail(int exit_code, const lb_status *status)
{
	fprintf(stderr, "legobase-memnode: %s\n", status->message);
	return exit_code;
}

/* Memory that isn't there would show only when it is lent, and then as the kernel killing processes. */
static bool
check_memory(const options *options, const machine_memory *memory, lb_status *status)
{
	if (options->memory_bytes <= memory->bytes)
		return true;
	return lb_fail(status, LB_INVALID,
				   "--memory: %" PRIu64 " MB are more than %s, which is %" PRIu64 " MB",
				   options->memory_bytes >> 20, memory->limited_by, memory->bytes >> 20);
}

/* Not refused, because huge pages are not counted everywhere. */
static void
warn_of_little_memory(const options *options, const machine_memory *memory)
{
	if (memory->bytes - options->memory_bytes < options->memory_bytes / 50)
		log_line(
			LOG_WARNING,
			"--memory leaves less than 2 %% of %s for the memory node itself: it may be killed",
			memory->limited_by);
}

/* Each session and each slab takes a descriptor. */
static void
raise_descriptor_limit(const options *options)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max < options->max_sessions)
		log_line(LOG_WARNING,
				 "at most %" PRIu64 " descriptors are allowed (ulimit -Hn), fewer than the %u of "
				 "--max-sessions",
				 (uint64_t) limit.rlim_max, options->max_sessions);
}

/* Where the node has a log file, nobody may be reading its standard error. */
static int
fail_serving(const options *options, int exit_code, const lb_status *status)
{
	if (options->log_file)
		log_line(LOG_ERROR, "%s", status->message);
	return fail(exit_code, status);
}

static int
serve(const options *options)
{
	machine_memory memory;
	lb_status status;
	int exit_code;

	if (options->log_file && !log_to_file(options->log_file, &status))
		return fail(EXIT_RUNTIME, &status);
	machine_memory_find("", &memory);
	if (!check_memory(options, &memory, &status))
		return fail_serving(options, EXIT_CONFIGURATION, &status);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	warn_of_little_memory(options, &memory);
	raise_descriptor_limit(options);
	exit_code = server_run(options);
	log_close();
	return exit_code;
}

int
main(int argc, char **argv)
{
	options options;
	lb_status status;

	if (!options_parse(argc, argv, &options, &status))
	{
		fail(EXIT_CONFIGURATION, &status);
		fprintf(stderr, "Try \"legobase-memnode --help\".\n");
		return EXIT_CONFIGURATION;
	}
	switch (options.mode)
	{
		case RUN_HELP:
			fputs(options_help, stdout);
			return 0;
		case RUN_VERSION:
			printf("legobase-memnode %s (protocol %d, pages of %d bytes)\n", MEMNODE_VERSION,
				   LB_PROTOCOL_VERSION, LB_PAGE_SIZE);
			return 0;
		case RUN_STATUS:
			return status_print(&options.status, &status) ? 0 : fail(EXIT_RUNTIME, &status);
		case RUN_SERVER:
			break;
	}
	return serve(&options);
}
