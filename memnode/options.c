/*
 * options.c
 *	  The command line of legobase-memnode.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lb_fault.h"
#include "lb_rdma.h"
#include "lb_wire.h"
#include "options.h"

#define DEFAULT_TENANT_TIMEOUT_S 300
#define DEFAULT_MAX_SESSIONS 4096
#define MAX_SESSIONS_LIMIT 1000000
#define DEFAULT_MAX_RDMA_CONNECTIONS 1000
#define SECONDS_LIMIT (30 * 24 * 3600)
#define MEMORY_MIN ((uint64_t) LB_SLAB_PAGES_MIN * LB_PAGE_SIZE)

const char options_help[] =
	"legobase-memnode lends this machine's memory to PostgreSQL servers that run LegoBase.\n"
	"\n"
	"Usage:\n"
	"  legobase-memnode --listen URI [--listen URI ...] --memory SIZE [OPTION ...]\n"
	"  legobase-memnode --status URI\n"
	"\n"
	"Options:\n"
	"  --listen URI             shm:///path/of/socket for servers on this machine, tcp://host:port "
	"or\n"
	"                           rdma://host:port (once) for others; host * is any address, port 0 "
	"any\n"
	"                           free port\n"
	"  --memory SIZE            memory to lend, with a unit: kB, MB, GB or TB\n"
	"  --tenant-quota SIZE      the most that one instance may have (default: all)\n"
	"  --tenant-timeout SECONDS keep an instance's memory this long after its server is gone "
	"(default: 300)\n"
	"  --exit-when-unused SECONDS\n"
	"                           end when no server was connected for this long (default: never)\n"
	"  --storage DIR            a data directory of a server that this machine sees too, or a "
	"folder "
	"of\n"
	"                           such: changed pages are written there by this node; up to 64 "
	"times\n"
	"  --flush-dirty-percent N  write changed pages from this part of an instance's memory on "
	"(default: 50)\n"
	"  --flush-age SECONDS      write pages that were changed this long ago (default: 300)\n"
	"  --flush-io KIND          auto, uring or plain (default: auto)\n"
	"  --max-sessions N         connections at the same time (default: 4096)\n"
	"  --rdma-device DEVICE     for --listen rdma:// (default: the one that has the address)\n"
	"  --max-rdma-connections N server processes that may read by RDMA at the same time (default: "
	"1000)\n"
	"  --log-file FILE          append the log to FILE (default: standard error)\n"
	"  --no-huge-pages          do not use huge pages even if the machine has free ones\n"
#ifdef LB_FAULT_POINTS
	"  --fault-points SPEC      for tests: name=action[@N],...\n"
#endif
	"  --status URI             print the figures of the memory node that listens on URI\n"
	"  --help                   print this\n"
	"  --version                print the version\n"
	"\n"
	"Exit status: 0 after a clean stop, 1 after a failure at run time, 2 for a bad command line "
	"or\n"
	"configuration.\n";

enum
{
	OPTION_LISTEN = 256, /* beyond every character */
	OPTION_MEMORY,
	OPTION_TENANT_QUOTA,
	OPTION_TENANT_TIMEOUT,
	OPTION_EXIT_WHEN_UNUSED,
	OPTION_MAX_SESSIONS,
	OPTION_RDMA_DEVICE,
	OPTION_MAX_RDMA_CONNECTIONS,
	OPTION_STORAGE,
	OPTION_FLUSH_DIRTY_PERCENT,
	OPTION_FLUSH_AGE,
	OPTION_FLUSH_IO,
	OPTION_LOG_FILE,
	OPTION_NO_HUGE_PAGES,
	OPTION_FAULT_POINTS,
	OPTION_STATUS,
	OPTION_HELP,
	OPTION_VERSION
};

static const struct option long_options[] = {
	{"listen", required_argument, NULL, OPTION_LISTEN},
	{"memory", required_argument, NULL, OPTION_MEMORY},
	{"tenant-quota", required_argument, NULL, OPTION_TENANT_QUOTA},
	{"tenant-timeout", required_argument, NULL, OPTION_TENANT_TIMEOUT},
	{"exit-when-unused", required_argument, NULL, OPTION_EXIT_WHEN_UNUSED},
	{"max-sessions", required_argument, NULL, OPTION_MAX_SESSIONS},
	{"rdma-device", required_argument, NULL, OPTION_RDMA_DEVICE},
	{"max-rdma-connections", required_argument, NULL, OPTION_MAX_RDMA_CONNECTIONS},
	{"storage", required_argument, NULL, OPTION_STORAGE},
	{"flush-dirty-percent", required_argument, NULL, OPTION_FLUSH_DIRTY_PERCENT},
	{"flush-age", required_argument, NULL, OPTION_FLUSH_AGE},
	{"flush-io", required_argument, NULL, OPTION_FLUSH_IO},
	{"log-file", required_argument, NULL, OPTION_LOG_FILE},
	{"no-huge-pages", no_argument, NULL, OPTION_NO_HUGE_PAGES},
#ifdef LB_FAULT_POINTS
	{"fault-points", required_argument, NULL, OPTION_FAULT_POINTS},
#endif
	{"status", required_argument, NULL, OPTION_STATUS},
	{"help", no_argument, NULL, OPTION_HELP},
	{"version", no_argument, NULL, OPTION_VERSION},
	{NULL, 0, NULL, 0}};

/* Decimal digits only, as strtoull alone would take signs and spaces. Leaves *end behind them. */
static bool
parse_digits(const char *text, const char **end, uint64_t *value)
{
	char *stop;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	*value = strtoull(text, &stop, 10);
	*end = stop;
	return errno == 0;
}

static bool
parse_size(const char *option, const char *text, uint64_t *bytes, lb_status *status)
{
	static const struct
	{
		const char *name;
		int shift;
	} units[] = {{"kB", 10}, {"MB", 20}, {"GB", 30}, {"TB", 40}};
	const char *end;
	uint64_t number;

	if (parse_digits(text, &end, &number))
	{
		for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		{
			if (strcmp(end, units[i].name) != 0)
				continue;
			if (number > (UINT64_MAX >> 1) >> units[i].shift)
				return lb_fail(status, LB_INVALID, "--%s: \"%s\" is too large", option, text);
			*bytes = number << units[i].shift;
			return true;
		}
	}
	return lb_fail(status, LB_INVALID,
				   "--%s: \"%s\" is not a whole number with a unit (kB, MB, GB or TB)", option,
				   text);
}

static bool
parse_number(const char *option, const char *text, uint32_t least, uint32_t most, uint32_t *number,
			 lb_status *status)
{
	const char *end;
	uint64_t value;

	if (!parse_digits(text, &end, &value) || *end != '\0' || value < least || value > most)
		return lb_fail(status, LB_INVALID, "--%s: \"%s\" is not a whole number from %u to %u",
					   option, text, least, most);
	*number = (uint32_t) value;
	return true;
}

static bool
listens_over_rdma(const options *options)
{
	for (int i = 0; i < options->listen_count; i++)
		if (options->listen[i].transport == LB_TRANSPORT_RDMA)
			return true;
	return false;
}

/* One device, whose memory is registered with it: one listener. */
static bool
check_rdma_listener(const char *text, const options *options, lb_status *status)
{
	lb_status cause;

	if (!lb_rdma_available(&cause))
		return lb_fail(status, LB_INVALID, "--listen %.60s: %.180s", text, cause.message);
	if (listens_over_rdma(options))
		return lb_fail(status, LB_INVALID, "--listen %.60s: rdma:// can be given once", text);
	return true;
}

static bool
parse_listen(const char *text, options *options, lb_status *status)
{
	lb_uri *uri = &options->listen[options->listen_count];

	if (options->listen_count == LISTENERS_MAX)
		return lb_fail(status, LB_INVALID, "--listen: at most %d can be given", LISTENERS_MAX);
	if (!lb_uri_parse(text, true, uri, status))
		return false;
	if (uri->transport == LB_TRANSPORT_RDMA && !check_rdma_listener(text, options, status))
		return false;
	options->listen_count++;
	return true;
}

static bool
parse_status_uri(const char *text, options *options, lb_status *status)
{
	if (!lb_uri_parse(text, false, &options->status, status))
		return false;
	options->mode = RUN_STATUS;
	return true;
}

/* It may not be there yet: file systems are mounted, and servers made, while this node runs. */
static bool
parse_storage(const char *text, options *options, lb_status *status)
{
	if (text[0] != '/')
		return lb_fail(status, LB_INVALID, "--storage: \"%s\" is not an absolute path", text);
	if (options->storage_count == STORAGE_ROOTS_MAX)
		return lb_fail(status, LB_INVALID, "--storage: at most %d can be given", STORAGE_ROOTS_MAX);
	options->storage[options->storage_count++] = text;
	return true;
}

static bool
parse_flush_io(const char *text, flush_io_kind *kind, lb_status *status)
{
	static const char *const names[] = {
		[FLUSH_IO_AUTO] = "auto", [FLUSH_IO_URING] = "uring", [FLUSH_IO_PLAIN] = "plain"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		if (strcmp(text, names[i]) != 0)
			continue;
		*kind = (flush_io_kind) i;
		return true;
	}
	return lb_fail(status, LB_INVALID, "--flush-io: \"%s\" is not auto, uring or plain", text);
}

static bool
parse_one(int option, const char *name, options *options, lb_status *status)
{
	switch (option)
	{
		case OPTION_LISTEN:
			return parse_listen(optarg, options, status);
		case OPTION_MEMORY:
			return parse_size(name, optarg, &options->memory_bytes, status);
		case OPTION_TENANT_QUOTA:
			return parse_size(name, optarg, &options->quota_bytes, status);
		case OPTION_TENANT_TIMEOUT:
			return parse_number(name, optarg, 0, SECONDS_LIMIT, &options->tenant_timeout_s, status);
		case OPTION_EXIT_WHEN_UNUSED:
			return parse_number(name, optarg, 1, SECONDS_LIMIT, &options->exit_when_unused_s,
								status);
		case OPTION_MAX_SESSIONS:
			return parse_number(name, optarg, 1, MAX_SESSIONS_LIMIT, &options->max_sessions,
								status);
		case OPTION_RDMA_DEVICE:
			options->rdma_device = optarg;
			return true;
		case OPTION_MAX_RDMA_CONNECTIONS:
			return parse_number(name, optarg, 1, MAX_SESSIONS_LIMIT, &options->max_rdma_connections,
								status);
		case OPTION_STORAGE:
			return parse_storage(optarg, options, status);
		case OPTION_FLUSH_DIRTY_PERCENT:
			return parse_number(name, optarg, 1, 100, &options->flush.dirty_percent, status);
		case OPTION_FLUSH_AGE:
			return parse_number(name, optarg, 1, SECONDS_LIMIT, &options->flush.age_s, status);
		case OPTION_FLUSH_IO:
			return parse_flush_io(optarg, &options->flush_io, status);
		case OPTION_LOG_FILE:
			options->log_file = optarg;
			return true;
		case OPTION_NO_HUGE_PAGES:
			options->use_huge_pages = false;
			return true;
		case OPTION_FAULT_POINTS:
			options->fault_points = optarg;
			return lb_fault_check(optarg, status);
		case OPTION_STATUS:
			return parse_status_uri(optarg, options, status);
		case OPTION_HELP:
			options->mode = RUN_HELP;
			return true;
		default:
			options->mode = RUN_VERSION;
			return true;
	}
}

/* What one option can't say: is anything missing, do they fit together? */
static bool
check_server_options(options *options, lb_status *status)
{
	if (options->listen_count == 0)
		return lb_fail(status, LB_INVALID, "--listen is missing");
	if (options->memory_bytes == 0)
		return lb_fail(status, LB_INVALID, "--memory is missing, or 0");
	if (options->memory_bytes < MEMORY_MIN)
		return lb_fail(status, LB_INVALID, "--memory: at least 2MB are needed");
	if (options->quota_bytes == UINT64_MAX)
		options->quota_bytes = options->memory_bytes;
	if (options->quota_bytes < MEMORY_MIN)
		return lb_fail(status, LB_INVALID, "--tenant-quota: at least 2MB are needed");
	if (options->quota_bytes > options->memory_bytes)
		return lb_fail(status, LB_INVALID, "--tenant-quota is larger than --memory");
	if (options->rdma_device && !listens_over_rdma(options))
		return lb_fail(status, LB_INVALID, "--rdma-device without --listen rdma://");
	return true;
}

/* getopt_long's own messages are off, so that all messages look alike. */
static bool
fail_unknown(int option, char **argv, lb_status *status)
{
	const char *given = argv[optind - 1];

	if (option == ':')
		return lb_fail(status, LB_INVALID, "option %s needs a value", given);
	if (optopt >= OPTION_LISTEN)
		return lb_fail(status, LB_INVALID, "option %s takes no value", given);
	if (optopt > 0)
		return lb_fail(status, LB_INVALID, "unknown option: -%c", optopt);
	return lb_fail(status, LB_INVALID, "unknown option: %s", given);
}

bool
options_parse(int argc, char **argv, options *options, lb_status *status)
{
	int option;
	int index;

	*options = (struct options){.mode = RUN_SERVER,
								.quota_bytes = UINT64_MAX,
								.tenant_timeout_s = DEFAULT_TENANT_TIMEOUT_S,
								.max_sessions = DEFAULT_MAX_SESSIONS,
								.max_rdma_connections = DEFAULT_MAX_RDMA_CONNECTIONS,
								.flush = {FLUSH_POLICY_DIRTY_PERCENT, FLUSH_POLICY_AGE_S},
								.use_huge_pages = true};
	opterr = 0;
	while ((option = getopt_long(argc, argv, ":", long_options, &index)) != -1)
	{
		if (option == '?' || option == ':')
			return fail_unknown(option, argv, status);
		if (!parse_one(option, long_options[index].name, options, status))
			return false;
		if (options->mode == RUN_HELP || options->mode == RUN_VERSION)
			return true;
	}
	if (optind < argc)
		return lb_fail(status, LB_INVALID, "unexpected argument: %s", argv[optind]);
	return options->mode == RUN_STATUS ? true : check_server_options(options, status);
}
