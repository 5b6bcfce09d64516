/*
 * storage.c
 *	  Paths of relations, the search for a data directory, the fence's lock.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage.h"

#define DEFAULT_TABLESPACE 1663
#define GLOBAL_TABLESPACE 1664

#define NONCE_PREFIX "legobase nonce "
#define FENCE_PREFIX "legobase fence "
#define FENCE_DIGITS 16

/* By PostgreSQL's ForkNumber. */
static const char *const fork_suffixes[] = {"", "_fsm", "_vm", "_init"};
#define FORKS (sizeof(fork_suffixes) / sizeof(fork_suffixes[0]))

/* The search of storage_find, over all folders. */
typedef struct search
{
	const uint8_t *uuid;
	bool found;
	uint8_t nonce[LB_NONCE_SIZE];
	char path[PATH_MAX];
	struct stat folder; /* what path is */
	struct timespec written;
	bool ambiguous; /* another folder has the same nonce: */
	char other[STORAGE_PATH_END + 1];
	int other_instances; /* nonce files of others */
	lb_status obstacle;  /* the first; LB_OK: none */
} search;

bool
storage_page_path(const char *root, const char *version_folder, const lb_page_tag *tag,
				  char path[PATH_MAX], lb_status *status)
{
	uint32_t segment = tag->block / STORAGE_SEGMENT_BLOCKS;
	char folder[LB_VERSION_FOLDER_MAX + 64];
	char number[16] = "";
	int length;

	if (tag->fork >= FORKS)
		return lb_fail(status, LB_INVALID, "relation %u has no fork %u", tag->relation, tag->fork);
	if (tag->tablespace == GLOBAL_TABLESPACE)
		snprintf(folder, sizeof(folder), "global");
	else if (tag->tablespace == DEFAULT_TABLESPACE)
		snprintf(folder, sizeof(folder), "base/%u", tag->database);
	else if (version_folder[0] == '\0' || strchr(version_folder, '/') != NULL)
		return lb_fail(status, LB_INVALID, "no folder of tablespace %u is known", tag->tablespace);
	else
		snprintf(folder, sizeof(folder), "pg_tblspc/%u/%.*s/%u", tag->tablespace,
				 LB_VERSION_FOLDER_MAX, version_folder, tag->database);
	if (segment > 0)
		snprintf(number, sizeof(number), ".%u", segment);
	length = snprintf(path, PATH_MAX, "%s/%s/%u%s%s", root, folder, tag->relation,
					  fork_suffixes[tag->fork], number);
	if (length >= PATH_MAX)
		return lb_fail(status, LB_INVALID, "path too long: ...%s", storage_path_end(path));
	return true;
}

/* The value of a hexadecimal digit, lower case as it is written, or -1. */
static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool
parse_hex(const char *text, size_t bytes, uint8_t *out)
{
	for (size_t i = 0; i < bytes; i++)
	{
		int high = hex_digit(text[2 * i]);
		int low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);

		if (low < 0)
			return false;
		out[i] = (uint8_t) (high << 4 | low);
	}
	return true;
}

/* The whole file, which has to have exactly this length. Pipes put there by anybody must not block us. */
static bool
read_exactly(int fd, const char *path, char *text, size_t length, lb_status *status)
{
	char more;
	ssize_t got = pread(fd, text, length, 0);

	if (got < 0)
		return lb_fail_errno(status, "could not read %s", storage_path_end(path));
	if ((size_t) got != length || pread(fd, &more, 1, (off_t) length) != 0)
		return lb_fail(status, LB_INVALID, "%s is not %zu bytes long", storage_path_end(path),
					   length);
	return true;
}

static bool
read_nonce(int fd, const char *path, uint8_t uuid[LB_UUID_SIZE], uint8_t nonce[LB_NONCE_SIZE],
		   lb_status *status)
{
	/* prefix, uuid, space, nonce, newline */
	char text[sizeof(NONCE_PREFIX) - 1 + 2 * LB_UUID_SIZE + 1 + 2 * LB_NONCE_SIZE + 1];
	const char *uuid_text = text + sizeof(NONCE_PREFIX) - 1;
	const char *nonce_text = uuid_text + 2 * LB_UUID_SIZE + 1;

	if (!read_exactly(fd, path, text, sizeof(text), status))
		return false;
	if (memcmp(text, NONCE_PREFIX, sizeof(NONCE_PREFIX) - 1) != 0 ||
		!parse_hex(uuid_text, LB_UUID_SIZE, uuid) || nonce_text[-1] != ' ' ||
		!parse_hex(nonce_text, LB_NONCE_SIZE, nonce) || text[sizeof(text) - 1] != '\n')
		return lb_fail(status, LB_INVALID, "%s does not have a nonce", storage_path_end(path));
	return true;
}

static void
note_obstacle(search *search, const lb_status *status)
{
	if (search->obstacle.code == LB_OK)
		search->obstacle = *status;
}

static bool
is_newer(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* This folder has the uuid. Is it the one? Roots may overlap, so it may be one that was seen before. */
static void
consider(search *search, const char *folder, const struct stat *folder_stat,
		 const struct timespec *written, const uint8_t nonce[LB_NONCE_SIZE])
{
	if (search->found && folder_stat->st_dev == search->folder.st_dev &&
		folder_stat->st_ino == search->folder.st_ino)
		return;
	if (search->found && memcmp(nonce, search->nonce, LB_NONCE_SIZE) == 0)
	{
		search->ambiguous = true;
		snprintf(search->other, sizeof(search->other), "%s", storage_path_end(folder));
		return;
	}
	if (search->found && !is_newer(written, &search->written))
		return;
	search->found = true;
	search->ambiguous = false;
	search->folder = *folder_stat;
	search->written = *written;
	memcpy(search->nonce, nonce, LB_NONCE_SIZE);
	snprintf(search->path, PATH_MAX, "%s", folder);
}

static void
look_at_nonce(search *search, const char *folder, const char *path, int fd)
{
	uint8_t uuid[LB_UUID_SIZE];
	uint8_t nonce[LB_NONCE_SIZE];
	struct stat folder_stat;
	struct stat file_stat;
	lb_status status = {0};

	if (fstat(fd, &file_stat) < 0 || stat(folder, &folder_stat) < 0)
	{
		lb_fail_errno(&status, "could not look at %s", storage_path_end(path));
		note_obstacle(search, &status);
	}
	else if (!read_nonce(fd, path, uuid, nonce, &status))
		note_obstacle(search, &status);
	else if (memcmp(uuid, search->uuid, LB_UUID_SIZE) != 0)
		search->other_instances++;
	else
		consider(search, folder, &folder_stat, &file_stat.st_mtim, nonce);
}

static void
look_at_folder(search *search, const char *folder)
{
	char path[PATH_MAX];
	lb_status status = {0};
	int fd;

	if (snprintf(path, sizeof(path), "%s/%s", folder, STORAGE_NONCE_FILE) >= PATH_MAX)
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
	{
		look_at_nonce(search, folder, path, fd);
		close(fd);
	}
	else if (errno != ENOENT && errno != ENOTDIR)
	{
		lb_fail_errno(&status, "could not open %s", storage_path_end(path));
		note_obstacle(search, &status);
	}
}

static void
look_below(search *search, const char *root)
{
	DIR *folder = opendir(root);
	lb_status status = {0};
	struct dirent *entry;

	if (folder == NULL)
	{
		lb_fail_errno(&status, "could not open %s", storage_path_end(root));
		note_obstacle(search, &status);
		return;
	}
	while ((entry = readdir(folder)) != NULL)
	{
		char path[PATH_MAX];

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (snprintf(path, sizeof(path), "%s/%s", root, entry->d_name) < PATH_MAX)
			look_at_folder(search, path);
	}
	closedir(folder);
}

/* "/a, /b", cut where the message would get too long. */
static void
list_roots(const char *const *roots, int count, char *list, size_t size)
{
	size_t length = 0;

	list[0] = '\0';
	for (int i = 0; i < count && length < size; i++)
		length += (size_t) snprintf(list + length, size - length, "%s%s", i > 0 ? ", " : "",
									storage_path_end(roots[i]));
}

static bool
not_found(const search *search, const char *const *roots, int count, lb_status *status)
{
	char list[STORAGE_PATH_END];
	char others[64] = "";

	if (count == 0)
		return lb_fail(status, LB_INVALID, "this memory node has no storage (--storage)");
	list_roots(roots, count, list, sizeof(list));
	if (search->obstacle.code != LB_OK)
		return lb_fail(status, search->obstacle.code,
					   "%s; no " STORAGE_NONCE_FILE " in or below %s", search->obstacle.message,
					   list);
	if (search->other_instances > 0)
		snprintf(others, sizeof(others), " (but of %d other instances)", search->other_instances);
	return lb_fail(status, LB_INVALID,
				   "no " STORAGE_NONCE_FILE " of this instance in or one folder below %s%s", list,
				   others);
}

bool
storage_find(const char *const *roots, int count, const uint8_t uuid[LB_UUID_SIZE],
			 uint8_t nonce[LB_NONCE_SIZE], char path[PATH_MAX], lb_status *status)
{
	search search = {.uuid = uuid};

	for (int i = 0; i < count; i++)
	{
		look_at_folder(&search, roots[i]);
		look_below(&search, roots[i]);
	}
	if (!search.found)
		return not_found(&search, roots, count, status);
	if (search.ambiguous)
		return lb_fail(status, LB_INVALID, "two folders have the same nonce: %.90s and %.90s",
					   storage_path_end(search.path), search.other);
	memcpy(nonce, search.nonce, LB_NONCE_SIZE);
	memcpy(path, search.path, PATH_MAX);
	return true;
}

static bool
read_fence(int fd, const char *path, uint64_t *epoch, lb_status *status)
{
	char text[sizeof(FENCE_PREFIX) - 1 + FENCE_DIGITS + 1];
	uint8_t bytes[FENCE_DIGITS / 2];

	if (!read_exactly(fd, path, text, sizeof(text), status))
		return false;
	if (memcmp(text, FENCE_PREFIX, sizeof(FENCE_PREFIX) - 1) != 0 ||
		!parse_hex(text + sizeof(FENCE_PREFIX) - 1, sizeof(bytes), bytes) ||
		text[sizeof(text) - 1] != '\n')
		return lb_fail(status, LB_INVALID, "%s does not have an epoch", storage_path_end(path));
	*epoch = 0;
	for (size_t i = 0; i < sizeof(bytes); i++)
		*epoch = *epoch << 8 | bytes[i];
	return true;
}

static bool
lock_shared(int fd, const char *path, lb_status *status)
{
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_SETLK, &lock) == 0)
		return true;
	if (errno != EAGAIN && errno != EACCES)
		return lb_fail_errno(status, "could not lock %s", storage_path_end(path));
	if (fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
		return lb_fail(status, LB_SYSTEM, "process %d has %s locked: this instance is being fenced",
					   (int) lock.l_pid, storage_path_end(path));
	return lb_fail(status, LB_SYSTEM, "%s was locked: this instance is being fenced",
				   storage_path_end(path));
}

storage_fence_result
storage_fence_lock(const char *root, uint64_t epoch, int *fence, lb_status *status)
{
	storage_fence_result result = STORAGE_FENCE_BUSY;
	char path[PATH_MAX];
	uint64_t fenced = 0;
	int fd;

	if (snprintf(path, sizeof(path), "%s/%s", root, STORAGE_FENCE_FILE) >= PATH_MAX)
	{
		lb_fail(status, LB_INVALID, "path too long: ...%s", storage_path_end(path));
		return STORAGE_FENCE_BUSY;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
	{
		lb_fail_errno(status, "could not open %s", storage_path_end(path));
		return STORAGE_FENCE_BUSY;
	}
	if (lock_shared(fd, path, status) && read_fence(fd, path, &fenced, status))
	{
		if (epoch > fenced)
		{
			*fence = fd;
			return STORAGE_FENCE_HELD;
		}
		result = STORAGE_FENCE_TOO_OLD;
		lb_fail(status, LB_REFUSED, "fenced: the epoch %" PRIu64 " is not above %" PRIu64 " in %s",
				epoch, fenced, storage_path_end(path));
	}
	close(fd);
	return result;
}

void
storage_fence_unlock(int fence)
{
	close(fence);
}
