/*
 * node_process.c
 *	  A memory node that a test starts and stops.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "node_process.h"
#include "tap.h"

#define ARGUMENTS_MAX 32
#define READY_WITHIN_MS 20000

static void
sleep_ms(int ms)
{
	struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = (long) (ms % 1000) * 1000000};

	nanosleep(&pause, NULL);
}

static void
run_node(const node_process *node, const char *const *options, int descriptors, int output)
{
	const char *program = getenv("MEMNODE");
	const char *arguments[ARGUMENTS_MAX] = {program, "--listen", node->shm_uri, "--listen",
											"tcp://127.0.0.1:0"};
	int count = 5;
	int log = open(node->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	struct rlimit limit = {(rlim_t) descriptors, (rlim_t) descriptors};

	while (*options && count < ARGUMENTS_MAX - 1)
		arguments[count++] = *options++;
	arguments[count] = NULL;
	/* a test that dies must not leave its node behind */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(output, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	if (descriptors > 0)
		setrlimit(RLIMIT_NOFILE, &limit);
	execv(program, (char **) arguments);
	_exit(127);
}

/* Copy the URI that begins like this from the line. Empty if there is none. */
static void
find_uri(const char *line, const char *beginning, char *uri, size_t size)
{
	const char *found = strstr(line, beginning);

	snprintf(uri, size, "%.*s", found ? (int) strcspn(found, ",\n") : 0, found ? found : "");
}

/* Read the line that says where it listens. */
static void
wait_until_ready(node_process *node, int output)
{
	char line[512];
	size_t length = 0;

	while (length < sizeof(line) - 1 && !memchr(line, '\n', length))
	{
		struct pollfd wait = {.fd = output, .events = POLLIN};
		ssize_t got;

		if (poll(&wait, 1, READY_WITHIN_MS) <= 0)
			bail_out("the memory node is not ready, see %s", node->log);
		got = read(output, line + length, sizeof(line) - 1 - length);
		if (got <= 0)
			bail_out("the memory node did not start, see %s", node->log);
		length += (size_t) got;
	}
	line[length] = '\0';
	find_uri(line, "tcp://", node->tcp_uri, sizeof(node->tcp_uri));
	find_uri(line, "rdma://", node->rdma_uri, sizeof(node->rdma_uri));
	if (strncmp(line, "ready: listening on ", 20) != 0 || node->tcp_uri[0] == '\0')
		bail_out("unexpected line of the memory node: %s", line);
}

void
node_start_limited(node_process *node, const char *const *options, int descriptors)
{
	int output[2];

	if (!getenv("MEMNODE"))
		bail_out("MEMNODE is not set");
	snprintf(node->folder, sizeof(node->folder), "/tmp/memnode_test.XXXXXX");
	if (!mkdtemp(node->folder) || pipe2(output, O_CLOEXEC) < 0)
		bail_out("cannot make a folder or a pipe");
	snprintf(node->log, sizeof(node->log), "%s/log", node->folder);
	snprintf(node->shm_uri, sizeof(node->shm_uri), "shm://%s/node.sock", node->folder);
	node->pid = fork();
	if (node->pid < 0)
		bail_out("cannot fork");
	if (node->pid == 0)
		run_node(node, options, descriptors, output[1]);
	close(output[1]);
	wait_until_ready(node, output[0]);
	close(output[0]);
}

void
node_start(node_process *node, const char *const *options)
{
	node_start_limited(node, options, 0);
}

int
node_wait(node_process *node, int timeout_ms)
{
	for (int waited = 0; waited <= timeout_ms; waited += 10)
	{
		int status;

		if (waitpid(node->pid, &status, WNOHANG) == node->pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
		sleep_ms(10);
	}
	return -2;
}

int
node_stop(node_process *node)
{
	int exit_code;

	kill(node->pid, SIGTERM);
	exit_code = node_wait(node, 10000);
	if (exit_code == -2)
	{
		kill(node->pid, SIGKILL);
		node_wait(node, 10000);
	}
	return exit_code;
}

void
node_clean(node_process *node)
{
	char path[128];

	unlink(node->log);
	snprintf(path, sizeof(path), "%s/node.sock", node->folder);
	unlink(path);
	rmdir(node->folder);
}

int
node_log_count(const node_process *node, const char *text)
{
	FILE *file = fopen(node->log, "r");
	char line[2048];
	int count = 0;

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file))
		if (strstr(line, text))
			count++;
	fclose(file);
	return count;
}

uint64_t
node_memory_kb(const node_process *node, const char *name)
{
	char path[64];
	char line[256];
	char format[64];
	uint64_t found = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int) node->pid);
	snprintf(format, sizeof(format), "%s: %%" SCNu64, name);
	file = fopen(path, "r");
	if (!file)
		bail_out("cannot read %s", path);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, format, &found) == 1)
			break;
	fclose(file);
	return found;
}

int
node_open_descriptors(const node_process *node)
{
	char path[64];
	int count = 0;
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int) node->pid);
	folder = opendir(path);
	if (!folder)
		return -1;
	while (readdir(folder))
		count++;
	closedir(folder);
	return count - 2;
}
