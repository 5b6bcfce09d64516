/*
 * storage_fence.c
 *	  Keeping memory nodes of a former life of this server from writing to its files.
 *
 * The lock is a traditional one of fcntl: F_GETLK tells who holds it. It belongs to the process, which loses it when it closes any
 * descriptor of the file: so while it is held nothing here opens the file a second time.
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "storage/shmem.h"

#include "compat.h"
#include "instance.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "legobase.h"
#include "settings.h"
#include "storage_fence.h"

#define POLL_US 10000

/*
 * A round that is under way ends by itself, but storage under load may take long to sync, and a process that is killed meanwhile holds the
 * lock until that is over. So there is little sense in hurry, and none in giving up early: nobody starts the server again.
 */
#define PATIENCE_MS 10000 /* at least; ten times node_timeout if that is longer */
#define LIMIT_MS 300000
#define COMPLAIN_MS 10000
#define NS_PER_MS UINT64_C(1000000)

/* What the kernel keeps of "legobase-memnode" */
#define MEMNODE_PROCESS_NAME "legobase-memnod"

#define COMMAND_MAX 4096
#define COMMAND_LIMIT_MS 60000

/*
 * The instance's file is gone or can't be read: which epochs were given out is not known, but it can't have been so many since the
 * number in the fence file was written. A new instance begins above it (InstanceLoad).
 */
#define UNKNOWN_EPOCHS (UINT64_C(1) << 32)

typedef struct StorageFence
{
	pg_atomic_uint32 raised;
	uint64 number; /* in the file, as this server has written it; set before any child is started */
} StorageFence;

/* Who keeps us from getting the lock. */
typedef struct Holder
{
	int pid;       /* on this host; 0: on another one, or in another container */
	char name[32]; /* of its program, as the kernel has it; empty if not known */
	bool embedded; /* a memory node that this server, or one before it, has started itself */
} Holder;

static StorageFence *shared;

/* The postmaster's: shared memory is made anew after a crash, and this is to be compared then. */
static bool raised_before = false;
static uint64 last_number;

Size
StorageFenceShmemSize(void)
{
	return sizeof(StorageFence);
}

void
StorageFenceShmemInit(void)
{
	bool found;

	shared = ShmemInitStruct("legobase storage fence", sizeof(StorageFence), &found);
	if (!found)
		pg_atomic_init_u32(&shared->raised, 0);
}

bool
StorageFenceRaised(void)
{
	return pg_atomic_read_u32(&shared->raised) != 0;
}

/* Put the command together. False if it becomes too long. */
static bool
expand_command(char command[COMMAND_MAX], const char *uri, const char *host, int pid)
{
	size_t used = 0;

	for (const char *at = fence_command; *at; at++)
	{
		char plain[2] = {*at, '\0'};
		char pid_text[16];
		const char *piece = plain;

		if (*at == '%')
		{
			at++; /* check_fence_command has seen to it that there is something */
			snprintf(pid_text, sizeof(pid_text), "%d", pid);
			piece = *at == 'u' ? uri : *at == 'h' ? host : *at == 'p' ? pid_text : "%";
		}
		used += strlcpy(command + used, piece, COMMAND_MAX - used);
		if (used >= COMMAND_MAX)
			return false;
	}
	command[used] = '\0';
	return true;
}

/* In the child. What it prints goes where the server's messages go; only what is safe after fork is called here. */
static void
become_command(const char *command)
{
	sigset_t none;
	int null_fd = open("/dev/null", O_RDONLY);

	setpgid(0, 0);
	if (null_fd >= 0)
		dup2(null_fd, STDIN_FILENO);
	dup2(STDERR_FILENO, STDOUT_FILENO);
	if (close_range(STDERR_FILENO + 1, ~0U, 0) != 0)
		_exit(127);
	for (int signal_number = 1; signal_number < NSIG; signal_number++)
		signal(signal_number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execl("/bin/sh", "sh", "-c", command, (char *) NULL);
	_exit(127);
}

/*
 * The postmaster serves no signals yet, or not at this time: look whether the server is to be stopped. In the agent: is the
 * postmaster gone?
 */
static void
check_for_shutdown(void)
{
	sigset_t pending;

	if (!IsUnderPostmaster && sigpending(&pending) == 0 &&
		(sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1 ||
		 sigismember(&pending, SIGQUIT) == 1))
		proc_exit(1);
	if (IsUnderPostmaster && !PostmasterIsAliveInternal())
		proc_exit(1);
}

/* False if it did not end within the limit, and was killed with all that it has started. */
static bool
wait_for_command(pid_t child, int *result)
{
	uint64 deadline = lb_now_ns() + COMMAND_LIMIT_MS * NS_PER_MS;

	for (;;)
	{
		pid_t ended = waitpid(child, result, WNOHANG);

		if (ended == child)
			return true;
		if (lb_now_ns() >= deadline || (ended < 0 && errno != EINTR))
			break;
		check_for_shutdown();
		pg_usleep(POLL_US);
	}
	kill(-child, SIGKILL);
	while (waitpid(child, result, 0) < 0 && errno == EINTR)
		;
	return false;
}

bool
StorageFenceRunCommand(const char *uri, const char *host, int pid)
{
	char command[COMMAND_MAX];
	pid_t child;
	int result;

	if (fence_command[0] == '\0')
		return true;
	if (!expand_command(command, uri, host, pid))
	{
		ereport(LOG, (errmsg("legobase: fence command for memory node \"%s\" is too long", uri)));
		return false;
	}
	ereport(LOG, (errmsg("legobase: running fence command for memory node \"%s\"", uri),
				  errdetail("The command is: %s", command)));
	child = fork();
	if (child < 0)
	{
		ereport(LOG, (errmsg("legobase: could not fork to run the fence command: %m")));
		return false;
	}
	if (child == 0)
		become_command(command);
	if (!wait_for_command(child, &result))
		ereport(
			LOG,
			(errmsg(
				"legobase: fence command for memory node \"%s\" did not end within %d seconds and "
				"was killed",
				uri, COMMAND_LIMIT_MS / 1000)));
	else if (result != 0)
		ereport(LOG, (errmsg("legobase: fence command for memory node \"%s\" failed: %s", uri,
							 wait_result_to_str(result))));
	else
	{
		ereport(LOG, (errmsg("legobase: fence command for memory node \"%s\" has succeeded", uri)));
		return true;
	}
	return false;
}

/* Without the fence, nothing is known about who writes to the files: better no server than one that redoes over that. */
static void
give_up_for_file(const char *what)
{
	ereport(
		FATAL,
		(errcode_for_file_access(),
		 errmsg("legobase could not %s file \"%s\": %m", what, INSTANCE_FENCE_FILE),
		 errdetail(
			 "It keeps memory nodes from writing to the data directory while the server recovers."),
		 errhint("If no memory node of this server runs, the file can be removed.")));
}

static bool
try_lock(int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_SETLK, &lock) == 0)
		return true;
	if (errno != EACCES && errno != EAGAIN && errno != EINTR)
		give_up_for_file("lock");
	return false;
}

/* An embedded node's folder is the instance's. */
static bool
runs_in_instance_folder(int pid)
{
	char path[64];
	struct stat its;
	struct stat ours;

	snprintf(path, sizeof(path), "/proc/%d/cwd", pid);
	return stat(path, &its) == 0 && stat(INSTANCE_FOLDER, &ours) == 0 &&
		   its.st_dev == ours.st_dev && its.st_ino == ours.st_ino;
}

static void
read_process_name(int pid, char *name, size_t size)
{
	char path[64];
	ssize_t length = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
	{
		length = read(fd, name, size - 1);
		close(fd);
	}
	name[Max(length, 0)] = '\0';
	name[strcspn(name, "\n")] = '\0';
}

/* False if nobody holds it any more. */
static bool
find_holder(int fd, Holder *holder)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	*holder = (Holder){.pid = 0};
	if (fcntl(fd, F_GETLK, &lock) != 0)
		give_up_for_file("look for the lock of");
	if (lock.l_type == F_UNLCK)
		return false;
	if (lock.l_pid <= 0)
		return true;
	read_process_name(lock.l_pid, holder->name, sizeof(holder->name));
	if (holder->name[0] == '\0')
		return true;
	holder->pid = lock.l_pid;
	holder->embedded =
		strcmp(holder->name, MEMNODE_PROCESS_NAME) == 0 && runs_in_instance_folder(lock.l_pid);
	return true;
}

/*
 * What can be done about a holder that does not let go by itself: it is stopped, or its storage does not answer. Which of the nodes
 * it is shows in nothing but the lock, so the command is run for one after the other, until the lock is free.
 */
static void
end_holder(int fd, const Holder *holder)
{
	const lb_uri *uris;
	int count;

	if (holder->embedded)
	{
		ereport(LOG, (errmsg("legobase: ending the embedded memory node, process %d, which does "
							 "not let go of file "
							 "\"%s\"",
							 holder->pid, INSTANCE_FENCE_FILE)));
		kill(holder->pid, SIGKILL);
		return;
	}
	if (fence_command[0] == '\0')
		return;
	count = settings_node_uris(&uris);
	for (int i = 0; i < count; i++)
	{
		Holder now;

		check_for_shutdown();
		if (!find_holder(fd, &now))
			return;
		(void) StorageFenceRunCommand(uris[i].text, uris[i].host[0] ? uris[i].host : "localhost",
									  now.pid);
	}
}

static void
report_holder(const Holder *holder)
{
	ereport(
		LOG,
		(errmsg("legobase: waiting for a memory node to end what it writes to the data directory"),
		 holder->pid != 0 ? errdetail("Process %d (%s) holds a lock on file \"%s\".", holder->pid,
									  holder->name, INSTANCE_FENCE_FILE)
						  : errdetail("A process on another host, or in another container, "
									  "holds a lock on file \"%s\".",
									  INSTANCE_FENCE_FILE)));
}

static void
give_up_for_holder(const Holder *holder)
{
	ereport(FATAL, (errcode(ERRCODE_OBJECT_IN_USE),
					errmsg("legobase: a memory node may still be writing to the data directory"),
					holder->pid != 0 ? errdetail("Process %d (%s) holds a lock on file \"%s\".",
												 holder->pid, holder->name, INSTANCE_FENCE_FILE)
									 : errdetail("A process on another host, or in another "
												 "container, holds a lock on file \"%s\".",
												 INSTANCE_FENCE_FILE),
					errhint("End that memory node, and start the server again; "
							"\"legobase.fence_command\" can do the first.")));
}

/* Nodes look for our epoch only when they begin a round: wait for the end of those under way. */
static void
take_lock(int fd)
{
	uint64 limit_ns = LIMIT_MS * NS_PER_MS;
	uint64 limit = lb_now_ns() + limit_ns;
	uint64 patience = lb_now_ns() + Max(PATIENCE_MS, 10 * node_timeout_ms) * NS_PER_MS;
	uint64 complain = lb_now_ns() + COMPLAIN_MS / 5 * NS_PER_MS;
	bool acted = false;
	Holder holder = {.pid = 0};

	while (!try_lock(fd))
	{
		check_for_shutdown();
		if (lb_now_ns() >= complain && find_holder(fd, &holder))
		{
			complain = lb_now_ns() + COMPLAIN_MS * NS_PER_MS;
			report_holder(&holder);
		}
		if (!acted && lb_now_ns() >= patience && find_holder(fd, &holder))
		{
			acted = true;
			end_holder(fd, &holder);
			limit = lb_now_ns() + limit_ns; /* the command may have taken long */
		}
		if (lb_now_ns() >= limit && find_holder(fd, &holder))
			give_up_for_holder(&holder);
		pg_usleep(POLL_US);
	}
}

/* The number never goes down. */
static uint64
epoch_to_fence(int fd)
{
	uint64 present = InstanceReadFence(fd);
	Instance instance;
	bool exists;
	lb_status status;

	if (!InstanceRead(&instance, &exists, &status))
	{
		ereport(LOG, (errmsg("legobase: %s", status.message)));
		exists = false;
	}
	return exists ? Max(present, instance.epoch) : present + UNKNOWN_EPOCHS;
}

static void
write_epoch(int fd, uint64 epoch)
{
	if (!InstanceWriteFence(fd, epoch))
		give_up_for_file("write");
}

/*
 * Make the file. Where there was none, no node can have written anything, so that a server that can't make it, or can't lock it, is
 * safe as it is; but no memory node may be used.
 */
static int
make_file(void)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = BasicOpenFile(INSTANCE_FENCE_FILE, O_RDWR | O_CREAT | O_EXCL | PG_BINARY);

	if (fd >= 0 && fcntl(fd, F_SETLK, &lock) == 0)
	{
		write_epoch(fd, 0);
		fsync_fname(INSTANCE_FOLDER, true);
		return fd;
	}
	ereport(LOG, (errcode_for_file_access(),
				  errmsg("legobase does not use remote memory: could not %s file \"%s\": %m",
						 fd < 0 ? "create" : "lock", INSTANCE_FENCE_FILE)));
	if (fd >= 0)
	{
		close(fd);
		unlink(INSTANCE_FENCE_FILE);
	}
	return -1;
}

/*
 * Rule R10: the file has a number that we did not write. Another server works with this data directory, perhaps on another host, where the
 * lock file does not show us.
 */
static void
give_up_replaced(int level)
{
	ereport(level,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("legobase: another server has taken over this data directory"),
			 errdetail("It has raised the fence in file \"%s\" since this server did.",
					   INSTANCE_FENCE_FILE),
			 errhint("Two servers must never write to the same data directory. Stop this one.")));
}

bool
StorageFenceRaiseEpoch(Instance *instance, uint64 at_least, lb_status *status)
{
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
	int fd = BasicOpenFile(INSTANCE_FENCE_FILE, O_RDONLY | PG_BINARY);
	bool good;

	if (fd < 0)
		return lb_fail_errno(status, "could not open file \"%s\"", INSTANCE_FENCE_FILE);
	if (fcntl(fd, F_SETLK, &lock) != 0)
	{
		lb_fail_errno(status, "could not lock file \"%s\"", INSTANCE_FENCE_FILE);
		close(fd);
		return false;
	}
	if (InstanceReadFence(fd) > shared->number)
		give_up_replaced(PANIC);
	good = InstanceRaiseEpoch(instance, at_least, status);
	close(fd);
	return good;
}

/* False: there is no fence, and can't be one. */
static bool
raise_fence(void)
{
	int fd = BasicOpenFile(INSTANCE_FENCE_FILE, O_RDWR | PG_BINARY);

	if (fd < 0 && errno != ENOENT)
		give_up_for_file("open");
	if (fd < 0)
		fd = make_file();
	if (fd < 0)
		return false;
	take_lock(fd);
	(void) LB_FAULT("fence.locked");
	if (raised_before && InstanceReadFence(fd) > last_number)
		give_up_replaced(FATAL);
	last_number = epoch_to_fence(fd);
	raised_before = true;
	write_epoch(fd, last_number);
	close(fd);
	return true;
}

void
StorageFenceRaise(void)
{
	struct stat folder;
	bool absent = stat(INSTANCE_FOLDER, &folder) != 0 || !S_ISDIR(folder.st_mode);
	bool raised = absent || raise_fence();

	/* The file will be made with the folder, with number 0: any higher one is another server's. */
	if (absent)
		raised_before = true;

	if (!legobase_in_use())
		return;
	shared->number = last_number;
	pg_atomic_write_u32(&shared->raised, raised ? 1 : 0);
}

/* Is the data directory's lock file of another server by now? */
static bool
lock_file_of_another(void)
{
	FILE *file = fopen(SERVER_LOCK_FILE, "r");
	int pid = 0;
	long started = 0;
	bool understood;

	if (file == NULL)
		return false;
	understood = fscanf(file, "%d\n%*[^\n]\n%ld", &pid, &started) == 2;
	fclose(file);
	return understood && (abs(pid) != MyProcPid || started != (long) MyStartTime);
}

/*
 * PostgreSQL removes its lock files when it ends, without a look at whose they are. A server that was replaced must leave the one that keeps
 * others away from its successor's data directory, so it ends before that; its socket's lock file stays, and is found to be stale.
 */
static void
spare_lock_file(int code, Datum arg)
{
	if (lock_file_of_another())
		_exit(code);
}

void
StorageFenceInstall(void)
{
	on_proc_exit(spare_lock_file, 0);
}
