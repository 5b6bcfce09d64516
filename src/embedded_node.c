/*
 * embedded_node.c
 *	  The memory node that the extension starts itself when no other is configured.
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "port.h"

#include "embedded_node.h"
#include "instance.h"
#include "lb_wire.h"
#include "settings.h"

#define PROGRAM "legobase-memnode"
#define UNUSED_SECONDS "300"

static const char *
socket_name(void)
{
	static char name[64];

	snprintf(name, sizeof(name), INSTANCE_PREFIX "memnode-v%d-%dMB.sock", LB_PROTOCOL_VERSION,
			 embedded_memory_mb);
	return name;
}

const lb_uri *
embedded_node_uri(void)
{
	static lb_uri uri;

	uri.transport = LB_TRANSPORT_SHM;
	snprintf(uri.path, sizeof(uri.path), "%s/%s", INSTANCE_FOLDER, socket_name());
	snprintf(uri.text, sizeof(uri.text), "shm://%s/%s", DataDir, uri.path);
	return &uri;
}

/*
 * In a child of a child: become a process that has nothing to do with the server any more, then the memory node. Only
 * what is safe after fork is called here (the server has one thread).
 */
static void
become_node(const char *program, char *const arguments[])
{
	sigset_t none;
	int null_fd;

	if (chdir(INSTANCE_FOLDER) != 0)
		_exit(1);
	null_fd = open("/dev/null", O_RDWR);
	if (null_fd < 0)
		_exit(1);

	/* Above all the server's log pipe must go: its reader would wait for us for ever. */
	dup2(null_fd, STDIN_FILENO);
	dup2(null_fd, STDOUT_FILENO);
	dup2(null_fd, STDERR_FILENO);
	if (close_range(STDERR_FILENO + 1, ~0U, 0) != 0)
		_exit(1);

	/* If systemd waits for the server's notifications, the node's are none of its business. */
	unsetenv("NOTIFY_SOCKET");

	for (int signal_number = 1; signal_number < NSIG; signal_number++)
		signal(signal_number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv(program, arguments);
	_exit(1);
}

bool
embedded_node_start(lb_status *status)
{
	char program[MAXPGPATH];
	char listen_uri[128];
	char memory[32];
	char *arguments[] = {PROGRAM,
						 "--listen",
						 listen_uri,
						 "--memory",
						 memory,
						 "--exit-when-unused",
						 UNUSED_SECONDS,
						 "--storage",
						 DataDir,
						 "--log-file",
						 INSTANCE_PREFIX "memnode.log",
						 NULL};
	pid_t child;
	int ended;

	strlcpy(program, my_exec_path, MAXPGPATH);
	get_parent_directory(program);
	strlcat(program, "/" PROGRAM, MAXPGPATH);
	if (access(program, X_OK) != 0)
		return lb_fail_errno(status, "could not execute \"%s\"", program);
	snprintf(listen_uri, sizeof(listen_uri), "shm://./%s", socket_name());
	snprintf(memory, sizeof(memory), "%dMB", embedded_memory_mb);

	child = fork();
	if (child < 0)
		return lb_fail_errno(status, "could not fork");
	if (child == 0)
	{
		/* A second child, so that nobody has to wait for the node; a session, so that no terminal's signals reach it. */
		if (setsid() < 0 || (child = fork()) < 0)
			_exit(1);
		if (child == 0)
			become_node(program, arguments);
		_exit(0);
	}
	while (waitpid(child, &ended, 0) < 0)
	{
		if (errno != EINTR)
			return lb_fail_errno(status,
								 "could not wait for the process that starts the memory node");
	}
	if (ended != 0)
		return lb_fail(status, LB_SYSTEM, "could not start \"%s\"", program);
	return true;
}
