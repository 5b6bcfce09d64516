/*
 * settings.c
 *	  The configuration parameters legobase.*
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "tcop/pquery.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/varlena.h"

#include "legobase.h"
#include "lb_fault.h"
#include "lb_page.h"
#include "lb_rdma.h"
#include "lb_wire.h"
#include "page_directory.h"
#include "settings.h"
#include "slab_size.h"
#include "write_back.h"

#define PAGES_PER_MB (1024 * 1024 / LB_PAGE_SIZE)
#define DEFAULT_EXTERNAL_POOL_MB 1024
#define MAX_POOL_MB (16 * 1024 * 1024) /* 2^31 pages: page numbers have 32 bits */

char *memory_nodes_setting;
int embedded_memory_mb;
int max_remote_pool_size_mb;
bool take_over;
int remote_pool_size_mb;
int node_timeout_ms;
int write_mode;
int redo_mode;
int warm_workers;
int tier1_interval_ms;
char *fence_command;
bool debug_compare;
int kernel_cache_reads;
int read_ahead_pages;

static lb_uri node_uris[MAX_NODES];
static int node_count;

static const struct config_enum_entry kernel_cache_options[] = {
	{"off", KERNEL_CACHE_READS_OFF, false},
	{"auto", KERNEL_CACHE_READS_AUTO, false},
	{NULL, 0, false},
};

static const struct config_enum_entry redo_options[] = {
	{"skip", REDO_SKIP, false},
	{"plain", REDO_PLAIN, false},
	{"compare", REDO_COMPARE, false},
	{NULL, 0, false},
};

static const struct config_enum_entry write_mode_options[] = {
	{"auto", WRITE_MODE_AUTO, false},
	{"writethrough", WRITE_MODE_WRITETHROUGH, false},
	{"writeback", WRITE_MODE_WRITEBACK, false},
	{NULL, 0, false},
};

static GucBoolCheckHook next_fsync_check;

bool
settings_embedded(void)
{
	return pg_strcasecmp(memory_nodes_setting, "embedded") == 0;
}

int
settings_node_uris(const lb_uri **uris)
{
	*uris = node_uris;
	return node_count;
}

static int
max_pool_mb(void)
{
	if (max_remote_pool_size_mb >= 0)
		return max_remote_pool_size_mb;
	return settings_embedded() ? embedded_memory_mb : DEFAULT_EXTERNAL_POOL_MB;
}

static bool
any_rdma_node(void)
{
	for (int i = 0; i < node_count; i++)
	{
		if (node_uris[i].transport == LB_TRANSPORT_RDMA)
			return true;
	}
	return false;
}

/*
 * Losing a node with dirty pages is a restart: one that is silent gets time to come back, from a moment without a processor, say. One that answers is
 * not lost, but is not waited for for ever either: a minute more is what registering some 200 GB of ordinary memory takes, of the whole node, after its
 * RDMA device was away.
 */
#define RESUME_TIMEOUTS 10
#define RESUME_MS_ANSWERING 60000
#define RESUME_MARGIN_MS 10000

int
settings_resume_ms(bool answering)
{
	return RESUME_TIMEOUTS * node_timeout_ms +
		   (answering && any_rdma_node() ? RESUME_MS_ANSWERING : 0);
}

int
settings_dirty_wait_ms(int at_least_ms)
{
	return Max(at_least_ms, settings_resume_ms(true) + RESUME_MARGIN_MS);
}

uint32
settings_slab_pages(void)
{
	return slab_size_pages((uint64) max_pool_mb() * PAGES_PER_MB, any_rdma_node());
}

uint32
settings_max_pages(void)
{
	uint64 pages = (uint64) max_pool_mb() * PAGES_PER_MB;

	return (uint32) (pages / settings_slab_pages() * settings_slab_pages());
}

uint32
settings_wanted_pages(void)
{
	uint64 pages = (uint64) remote_pool_size_mb * PAGES_PER_MB;

	if (remote_pool_size_mb < 0 || pages > settings_max_pages())
		return settings_max_pages();
	if (pages > 0 && pages < settings_slab_pages())
		return settings_slab_pages();
	return (uint32) (pages / settings_slab_pages() * settings_slab_pages());
}

/* Parse a list of URIs into uris[MAX_NODES]; -1 with the check hook's error fields set when it is not one. */
static int
parse_node_list(const char *value, lb_uri *uris)
{
	char *copy = pstrdup(value);
	List *elements;
	ListCell *cell;
	int count = 0;

	if (!SplitGUCList(copy, ',', &elements) || elements == NIL)
	{
		GUC_check_errdetail("List syntax is invalid.");
		return -1;
	}
	if (list_length(elements) > MAX_NODES)
	{
		GUC_check_errdetail("There are %d memory nodes; at most %d are supported.",
							list_length(elements), MAX_NODES);
		return -1;
	}
	foreach (cell, elements)
	{
		lb_status status;

		if (!lb_uri_parse(lfirst(cell), false, &uris[count], &status))
		{
			GUC_check_errdetail("%s.", status.message);
			GUC_check_errhint("Memory nodes are written as tcp://host:port, rdma://host:port or "
							  "shm:///path/of/socket, separated by commas, or \"embedded\".");
			return -1;
		}
		if (uris[count].transport == LB_TRANSPORT_RDMA && !lb_rdma_available(&status))
		{
			GUC_check_errcode(ERRCODE_FEATURE_NOT_SUPPORTED);
			GUC_check_errdetail("%s.", status.message);
			GUC_check_errhint("Use \"tcp%s\".", strchr(uris[count].text, ':'));
			return -1;
		}
		for (int i = 0; i < count; i++)
		{
			if (strcmp(uris[i].text, uris[count].text) == 0)
			{
				GUC_check_errdetail("Memory node \"%s\" is listed twice.", uris[count].text);
				return -1;
			}
		}
		count++;
	}
	list_free(elements);
	pfree(copy);
	return count;
}

static bool
check_memory_nodes(char **newval, void **extra, GucSource source)
{
	lb_uri *uris;
	int count;

	if (pg_strcasecmp(*newval, "embedded") == 0)
		return true;
	uris = palloc(sizeof(lb_uri) * MAX_NODES);
	count = parse_node_list(*newval, uris);
	pfree(uris);
	return count > 0;
}

static void
assign_memory_nodes(const char *newval, void *extra)
{
	node_count = pg_strcasecmp(newval, "embedded") == 0 ? 0 : parse_node_list(newval, node_uris);
}

/* What stands in the command is found out when it is written down, not when it is needed. */
static bool
check_fence_command(char **newval, void **extra, GucSource source)
{
	for (const char *at = *newval; *at; at++)
	{
		if (*at != '%')
			continue;
		at++;
		if (*at == '\0' || strchr("uhp%", *at) == NULL)
		{
			GUC_check_errdetail(
				"A percent sign must be followed by u (the node's URI), h (its host), p (a "
				"process id) or another percent sign.");
			return false;
		}
	}
	return true;
}

/*
 * Nothing becomes dirty any more (in a process that has read the new setting), and what is dirty need not wait for the next checkpoint.
 * Asked for by every process but the postmaster, which has no business in shared memory.
 */
static void
assign_write_mode(int newval, void *extra)
{
	if (newval == WRITE_MODE_WRITETHROUGH && MyProc != NULL && legobase_in_use() &&
		PageDirectoryDirty() > 0)
		WriteBackRequestFlush();
}

/* ALTER SYSTEM asks whether this is a good value for a server that starts. */
static bool
is_for_next_start(void)
{
	const Node *statement = NULL;

	if (ActivePortal != NULL && ActivePortal->stmts != NIL)
		statement = linitial_node(PlannedStmt, ActivePortal->stmts)->utilityStmt;
	return statement != NULL && IsA(statement, AlterSystemStmt);
}

/*
 * With fsync off the server does not call sync handlers, ours neither: its checkpoints would not wait for pages that are in remote
 * memory alone, and would recycle the WAL that can rebuild them. A server that is started without fsync never writes
 * back; one that was started with it may have such pages, or may get some at any moment.
 */
static bool
check_fsync(bool *newval, void **extra, GucSource source)
{
	if (next_fsync_check && !next_fsync_check(newval, extra, source))
		return false;
	if (*newval || !legobase_in_use() || !WriteBackFsyncAtStart() || is_for_next_start())
		return true;
	GUC_check_errdetail("With legobase, \"fsync\" can't be turned off while the server runs: "
						"checkpoints would not wait for "
						"pages in remote memory.");
	GUC_check_errhint("It will be off when the server is started again.");
	return false;
}

static void
guard_fsync(void)
{
	struct config_generic **variables = get_guc_variables();

	for (int i = 0; i < GetNumConfigOptions(); i++)
	{
		struct config_bool *variable = (struct config_bool *) variables[i];

		if (strcmp(variable->gen.name, "fsync") != 0)
			continue;
		next_fsync_check = variable->check_hook;
		variable->check_hook = check_fsync;
		return;
	}
	ereport(FATAL, (errcode(ERRCODE_INTERNAL_ERROR),
					errmsg("legobase did not find the parameter \"%s\"", "fsync")));
}

#ifdef LB_FAULT_POINTS
static char *fault_points_setting;

static bool
check_fault_points(char **newval, void **extra, GucSource source)
{
	lb_status status;

	if (lb_fault_check(*newval, &status))
		return true;
	GUC_check_errdetail("%s.", status.message);
	return false;
}

static void
assign_fault_points(const char *newval, void *extra)
{
	lb_status status;

	lb_fault_set(newval, &status);
}
#endif

static void
define_server_settings(void)
{
	DefineCustomStringVariable("legobase.memory_nodes",
							   "Memory nodes that hold the remote buffer pool.",
							   "A comma-separated list of tcp://host:port, rdma://host:port and "
							   "shm:///path, or \"embedded\": the server starts one of its own on "
							   "this host.",
							   &memory_nodes_setting, "embedded", PGC_POSTMASTER, 0,
							   check_memory_nodes, assign_memory_nodes, NULL);
	DefineCustomIntVariable("legobase.embedded_memory", "Memory of the embedded memory node.", NULL,
							&embedded_memory_mb, 128, 2, MAX_POOL_MB, PGC_POSTMASTER, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable(
		"legobase.max_remote_pool_size",
		"Largest size that the remote buffer pool can be given while the server runs.",
		"The page directory is made for this size. -1: embedded_memory, or 1GB with memory nodes "
		"of one's own.",
		&max_remote_pool_size_mb, -1, -1, MAX_POOL_MB, PGC_POSTMASTER, GUC_UNIT_MB, NULL, NULL,
		NULL);
	DefineCustomIntVariable("legobase.remote_pool_size", "Size of the remote buffer pool.",
							"At most max_remote_pool_size, which is also what -1 means. 0 stops "
							"the use of remote memory.",
							&remote_pool_size_mb, -1, -1, MAX_POOL_MB, PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomBoolVariable(
		"legobase.take_over",
		"Attach to memory nodes even though another live server holds this instance.",
		"The other server is fenced off. For failover; leave it off otherwise.", &take_over, false,
		PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"legobase.node_timeout",
		"Time after which a memory node that does not answer is treated as lost.",
		"A page read that takes a quarter of it goes to storage.", &node_timeout_ms, 1000, 20,
		60000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

static void
define_write_back_settings(void)
{
	DefineCustomEnumVariable("legobase.write_mode", "Who writes changed pages to storage.",
							 "auto, writeback: the memory node, where it has proved that it sees "
							 "this data directory, else "
							 "the server. writethrough: always the server.",
							 &write_mode, WRITE_MODE_AUTO, write_mode_options, PGC_SIGHUP, 0, NULL,
							 assign_write_mode, NULL);
	DefineCustomStringVariable("legobase.fence_command",
							   "Shell command that makes sure that a memory node no longer runs.",
							   "Run before a node that holds changed pages and does not answer is "
							   "declared lost. %u: the node's URI, "
							   "%h: its host, %p: its process id if it is known, else 0.",
							   &fence_command, "", PGC_SIGHUP, 0, check_fence_command, NULL, NULL);
}

static void
define_recovery_settings(void)
{
	DefineCustomIntVariable(
		"legobase.tier1_interval",
		"Time between two tier-1 checkpoints, each of which brings all changes to remote memory.",
		"0 switches them off. Only where pages are written back.", &tier1_interval_ms, 1000, 0,
		3600000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomEnumVariable(
		"legobase.redo", "What recovery after a crash does about pages in remote memory.",
		"skip: WAL records that these pages have already are skipped. plain: everything is redone. "
		"compare: everything is redone, and the pages are compared.",
		&redo_mode, REDO_SKIP, redo_options, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"legobase.warm_workers",
		"Workers that read back, after a restart, what was in shared_buffers before.",
		"0 switches that off.", &warm_workers, 2, 0, 16, PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

void
settings_define(void)
{
	define_server_settings();
	define_write_back_settings();
	define_recovery_settings();
	guard_fsync();
	DefineCustomBoolVariable("legobase.debug_compare",
							 "Compare each page that comes from remote memory with the file.", NULL,
							 &debug_compare, false, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable(
		"legobase.kernel_cache_reads",
		"Read a page from the operating system's cache where that is cheaper than remote memory.",
		"auto: for memory nodes that are slower than the cache.", &kernel_cache_reads,
		KERNEL_CACHE_READS_AUTO, kernel_cache_options, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"legobase.read_ahead_pages", "Pages read ahead of a sequential scan from a memory node.",
		"0 switches read-ahead off. Nodes reached through shared memory need none.",
		&read_ahead_pages, 16, 0, LB_BATCH_MAX, PGC_USERSET, 0, NULL, NULL, NULL);
#ifdef LB_FAULT_POINTS
	DefineCustomStringVariable("legobase.fault_points",
							   "Places in the code where this server is made to fail, for tests.",
							   NULL, &fault_points_setting, "", PGC_SUSET, 0, check_fault_points,
							   assign_fault_points, NULL);
#endif
	MarkGUCPrefixReserved("legobase");
}
