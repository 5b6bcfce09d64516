/*
 * smoke_losses.c
 *	  Parts of verbs_smoke: peers that are stopped or killed, limits, leaks, a device that goes away.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lb_clock.h"
#include "smoke_sides.h"

#define RECONNECTS 1000

/* ---- other processes ---- */

/* Another process of this program, and what it says. */
typedef struct peer
{
	pid_t pid;
	FILE *out;
} peer;

static peer
start_peer(const char *program, const char *address, const char *role, unsigned port)
{
	int out[2];
	char port_text[16];
	peer p;

	snprintf(port_text, sizeof(port_text), "%u", port);
	if (pipe2(out, O_CLOEXEC) != 0)
		bail_out("pipe", strerror(errno));
	p.pid = fork();
	if (p.pid == 0)
	{
		dup2(out[1], STDOUT_FILENO);
		execl(program, program, address, role, port_text, (char *) NULL);
		_exit(127);
	}
	close(out[1]);
	p.out = fdopen(out[0], "r");
	return p;
}

static int
end_peer(peer *p, int signal_number)
{
	int how = 0;

	if (signal_number != 0)
		kill(p->pid, signal_number);
	waitpid(p->pid, &how, 0);
	fclose(p->out);
	return how;
}

/* As a compute node: connect, say so, and wait to be killed. */
static int
be_client(uint16_t port)
{
	client c = {.bounce = map_pages(BOUNCE_PAGES)};
	lb_status status;

	if (client_start(&c, port, good_secret, false, &status) == NULL ||
		!client_finish(&c, NULL, &status))
		bail_out("connect", status.message);
	puts("connected");
	fflush(stdout);
	pause();
	return 0;
}

/* As a memory node: say where the memory is, and run. */
static int
be_node(void)
{
	node n;
	bool never = false;
	lb_status status;

	if (!node_start(&n, NULL, &status))
		bail_out("listen", status.message);
	printf("%u %" PRIu64 " %" PRIu32 "\n", lb_rdma_listener_port(n.listener),
		   (uint64_t) (uintptr_t) n.memory[0], lb_rdma_region_remote_key(n.slabs[0]));
	fflush(stdout);
	for (;;)
		node_wait(&n, &never);
}

/* As a compute node that may lock next to nothing: report what happens, as two statuses' codes and messages. */
static int
be_limited(uint16_t port)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	struct rlimit limit = {.rlim_cur = 65536, .rlim_max = 65536};
	client c = {.bounce = map_pages(BOUNCE_PAGES)};
	lb_status status;

	syscall(SYS_capget, &header, data);
	data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~(unsigned) CAP_TO_MASK(CAP_IPC_LOCK);
	if (syscall(SYS_capset, &header, data) != 0 || setrlimit(RLIMIT_MEMLOCK, &limit) != 0)
		bail_out("limits", strerror(errno));
	if (lb_rdma_may_lock(BOUNCE_PAGES * LB_PAGE_SIZE, &status) || !lb_rdma_may_lock(65536, &status))
		bail_out("may_lock", "says the opposite");
	lb_rdma_may_lock(BOUNCE_PAGES * LB_PAGE_SIZE, &status);
	printf("%d %s\n", status.code, status.message);
	if (client_start(&c, port, good_secret, false, &status) != NULL &&
		client_finish(&c, NULL, &status))
		bail_out("connect", "connected");
	printf("%d %s\n", status.code, status.message);
	return 0;
}

int
peer_main(const char *role, const char *port)
{
	uint16_t number = (uint16_t) strtoul(port, NULL, 10);

	if (strcmp(role, "client") == 0)
		return be_client(number);
	if (strcmp(role, "node") == 0)
		return be_node();
	if (strcmp(role, "limited") == 0)
		return be_limited(number);
	return 2;
}

/* ---- peers that are lost ---- */

static void
test_killed_client(const char *program, const char *address, node *n)
{
	peer p;
	char line[256];

	n->may_read = false;
	n->established = false;
	p = start_peer(program, address, "client", lb_rdma_listener_port(n->listener));
	if (!ok(node_wait(n, &n->established) && fgets(line, sizeof(line), p.out) != NULL,
			"another process connects"))
		printf("# it says: %s", line);
	end_peer(&p, SIGKILL);
	ok(node_wait(n, &n->ended), "it is killed: the node hears of it");
	lb_rdma_close(n->accepted);
	n->accepted = NULL;
}

static void
test_lost_node(const char *program, const char *address, client *c)
{
	peer p = start_peer(program, address, "node", 0);
	unsigned port;
	uint64_t memory;
	uint32_t key;
	lb_rdma_read reads[16];
	uint64_t began;
	lb_status status;

	if (fscanf(p.out, "%u %" SCNu64 " %" SCNu32, &port, &memory, &key) != 3 ||
		client_start(c, (uint16_t) port, good_secret, false, &status) == NULL ||
		!client_finish(c, NULL, &status))
		bail_out("a node in another process", "no connection");
	kill(p.pid, SIGSTOP);
	waitpid(p.pid, NULL, WUNTRACED);
	plan_reads(reads, c, memory + 5 * LB_PAGE_SIZE, key, 16);
	ok(client_read(c, reads, 16, 1, &status) == 1 && pages_are_right(c->bounce, 0, 5, 16),
	   "a node that is stopped: its memory is read all the same");
	end_peer(&p, SIGKILL);
	began = lb_now_ns();
	ok(client_read(c, reads, 1, 2, &status) == -1 &&
		   failed_with(&status, LB_TIMEOUT, 0, "does not answer"),
	   "a node that was killed: reads fail");
	printf("# after %" PRIu64 " ms\n", (lb_now_ns() - began) / 1000000);
	lb_rdma_close(c->connection);
	c->connection = NULL;
}

static void
test_limited(const char *program, const char *address, node *n)
{
	peer p = start_peer(program, address, "limited", lb_rdma_listener_port(n->listener));
	char line[2][320] = {"", ""};

	for (int i = 0; i < 2 && fgets(line[i], sizeof(line[i]), p.out) != NULL; i++)
		printf("# %s", line[i]);
	ok(end_peer(&p, 0) == 0 && atoi(line[0]) == LB_SYSTEM && strstr(line[0], "LimitMEMLOCK"),
	   "too little locked memory: known before");
	ok(atoi(line[1]) == LB_SYSTEM && strstr(line[1], "LimitMEMLOCK"), "and when registering");
}

void
test_peers(const char *program, const char *address, node *n, client *c)
{
	test_killed_client(program, address, n);
	test_lost_node(program, address, c);
	test_limited(program, address, n);
}

/* ---- leaks ---- */

static int
count_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;

	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}

/* What the kernel counts on the devices: "pd 3 cq 2 qp 2 cm_id 2 mr 3 ctx 1". */
static void
read_resources(char *text, size_t size)
{
	FILE *command = popen("rdma resource show", "r");
	size_t length = command != NULL ? fread(text, 1, size - 1, command) : 0;

	text[length] = '\0';
	text[strcspn(text, "\n")] = '\0';
	if (command != NULL)
		pclose(command);
}

/* The kernel frees some things a moment later. */
static bool
resources_become(const char *expected, char *text, size_t size)
{
	struct timespec pause = {.tv_nsec = 100000000};
	uint64_t deadline = lb_now_ns() + PATIENCE;

	do
	{
		read_resources(text, size);
		if (strcmp(text, expected) == 0)
			return true;
		nanosleep(&pause, NULL);
	} while (lb_now_ns() < deadline);
	return false;
}

/* Connections of all kinds and ends. */
static bool
reconnect(node *n, client *c, int number)
{
	static const uint8_t wrong[LB_RDMA_SECRET_SIZE] = "not this one...";
	lb_rdma_read reads[4];
	lb_status status;

	if (number % 7 == 3)
		return !client_connect(c, n, wrong, number % 2 == 0, &status) && status.code == LB_CLOSED;
	if (!client_connect(c, n, good_secret, number % 2 == 0, &status))
	{
		note_status(&status);
		return false;
	}
	if (!n->may_read)
	{
		plan_slab_reads(reads, c, n, 0, number % 100, 4);
		reads[3].remote_key ^= number % 5 == 1 ? 1 : 0;
		if (!lb_rdma_post_reads(c->connection, reads, 4, 1, &status) ||
			(number % 3 != 0 && await(c->connection, 1, &status) != (number % 5 == 1 ? -1 : 1)))
			return false;
	}
	if (number % 4 == 1)
	{
		lb_rdma_close(n->accepted);
		n->accepted = NULL;
		if (!client_wait_broken(c, &status))
			return false;
	}
	return client_leave(c, n);
}

void
test_leaks(node *n, client *c)
{
	char before[512];
	char after[512];
	int descriptors;
	uint64_t began = lb_now_ns();
	int done = 0;

	n->rejected = 0;
	read_resources(before, sizeof(before));
	descriptors = count_descriptors();
	while (done < RECONNECTS && reconnect(n, c, done))
		done++;
	printf("# %d in %" PRIu64 " s, %d rejected\n", done, (lb_now_ns() - began) / SECONDS,
		   n->rejected);
	ok(done == RECONNECTS, "1000 reconnects");
	printf("# descriptors %d, now %d\n", descriptors, count_descriptors());
	ok(count_descriptors() == descriptors, "no descriptor leaks");
	ok(resources_become(before, after, sizeof(after)), "nothing of the device's leaks");
	printf("# before %s\n# after  %s\n", before, after);
}

/* ---- the device goes away ---- */

/* The command returns when nobody uses the device any more. */
static pid_t
remove_device(const char *device)
{
	pid_t pid = fork();

	if (pid == 0)
	{
		execlp("rdma", "rdma", "link", "delete", device, (char *) NULL);
		_exit(127);
	}
	return pid;
}

static bool
removed(pid_t pid)
{
	struct timespec pause = {.tv_nsec = 100000000};
	int how = -1;

	for (int tries = 0; tries < 200; tries++)
	{
		if (waitpid(pid, &how, WNOHANG) == pid)
			return how == 0;
		nanosleep(&pause, NULL);
	}
	return false;
}

static bool
add_device(const char *device)
{
	char command[128];

	snprintf(command, sizeof(command), "rdma link add %s type rxe netdev d0", device);
	return system(command) == 0;
}

void
test_removal(const char *device, node *n, client *c)
{
	lb_address any = {.storage.ss_family = AF_INET, .length = sizeof(any.storage)};
	node anywhere = {0};
	lb_rdma_read reads[1];
	pid_t pid;
	lb_status status;

	if (!client_connect(c, n, good_secret, false, &status))
		bail_out("connect", status.message);
	anywhere.listener = lb_rdma_listen(&any, NULL, &status);
	if (anywhere.listener == NULL)
		bail_out("listen", status.message);

	pid = remove_device(device);
	ok(node_wait(n, &n->device_gone), "the device is removed: the node hears of it");
	ok(node_wait(&anywhere, &anywhere.device_gone), "also if it listens at any address");
	ok(client_wait_broken(c, &status) && failed_with(&status, LB_SYSTEM, 0, "removed"),
	   "the compute node hears of it");
	lb_rdma_close(c->connection);
	c->connection = NULL;
	node_stop(n);
	node_stop(&anywhere);
	ok(!node_start(n, NULL, &status) && failed_with(&status, LB_INVALID, 0, ""),
	   "listening is refused while it is away");
	ok(removed(pid), "nothing of ours holds it");

	if (!ok(add_device(device) && node_start(n, device, &status) &&
				client_connect(c, n, good_secret, false, &status),
			"it is added again: connected"))
		return;
	plan_slab_reads(reads, c, n, 0, 9, 1);
	ok(client_read(c, reads, 1, 1, &status) == 1 && pages_are_right(c->bounce, 0, 9, 1), "a page");
	client_leave(c, n);
	node_stop(n);
}
