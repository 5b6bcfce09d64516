/*
 * warm_list.c
 *	  The file that says which pages were in shared_buffers.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "storage/fd.h"

#include "warm_list.h"

#define WARM_LIST_NEW WARM_LIST_FILE ".new"
#define MAGIC "LBWARM\r\n"
#define FORMAT 1
#define READ_AT_ONCE 8192 /* entries, when the whole file is checked */
#define WRITE_AT_ONCE (16 * 1024 * 1024)

typedef struct Head
{
	char magic[8];
	uint32 format;
	uint32 entry_size;
	uint64 count;
} Head;

StaticAssertDecl(sizeof(Head) == 24, "the head has no padding");

/* By the fields of the tag, in their order: they are compared as numbers. */
static int
compare_pages(const void *left, const void *right)
{
	const LocalPage *a = left;
	const LocalPage *b = right;

	if (a->usage != b->usage)
		return a->usage > b->usage ? -1 : 1;
	if (a->tag.tablespace != b->tag.tablespace)
		return a->tag.tablespace < b->tag.tablespace ? -1 : 1;
	if (a->tag.database != b->tag.database)
		return a->tag.database < b->tag.database ? -1 : 1;
	if (a->tag.relation != b->tag.relation)
		return a->tag.relation < b->tag.relation ? -1 : 1;
	if (a->tag.fork != b->tag.fork)
		return a->tag.fork < b->tag.fork ? -1 : 1;
	if (a->tag.block != b->tag.block)
		return a->tag.block < b->tag.block ? -1 : 1;
	return 0;
}

void
WarmListSort(LocalPage *pages, uint64 count)
{
	qsort(pages, count, sizeof(LocalPage), compare_pages);
}

static bool
write_all(int fd, const void *data, size_t size)
{
	const char *at = data;

	while (size > 0)
	{
		ssize_t written = write(fd, at, Min(size, WRITE_AT_ONCE));

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			if (written == 0)
				errno = ENOSPC;
			return false;
		}
		at += written;
		size -= written;
	}
	return true;
}

static bool
write_list(int fd, const LocalPage *pages, uint64 count)
{
	Head head = {.format = FORMAT, .entry_size = sizeof(LocalPage), .count = count};
	size_t size = count * sizeof(LocalPage);
	XXH3_state_t *state = XXH3_createState();
	uint64 checksum;

	if (state == NULL)
	{
		errno = ENOMEM;
		return false;
	}
	memcpy(head.magic, MAGIC, sizeof(head.magic));
	XXH3_64bits_reset(state);
	XXH3_64bits_update(state, &head, sizeof(head));
	XXH3_64bits_update(state, pages, size);
	checksum = XXH3_64bits_digest(state);
	XXH3_freeState(state);
	return write_all(fd, &head, sizeof(head)) && write_all(fd, pages, size) &&
		   write_all(fd, &checksum, sizeof(checksum));
}

bool
WarmListWrite(const LocalPage *pages, uint64 count, lb_status *status)
{
	int fd = BasicOpenFile(WARM_LIST_NEW, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	bool good;

	if (fd < 0)
		return lb_fail_errno(status, "could not create file \"%s\"", WARM_LIST_NEW);
	good = write_list(fd, pages, count) ||
		   lb_fail_errno(status, "could not write file \"%s\"", WARM_LIST_NEW);
	if (close(fd) != 0 && good)
		good = lb_fail_errno(status, "could not close file \"%s\"", WARM_LIST_NEW);
	if (good && rename(WARM_LIST_NEW, WARM_LIST_FILE) != 0)
		good = lb_fail_errno(status, "could not replace file \"%s\"", WARM_LIST_FILE);
	if (!good)
		unlink(WARM_LIST_NEW);
	return good;
}

static bool
read_all(int fd, off_t from, void *data, size_t size)
{
	char *at = data;

	while (size > 0)
	{
		ssize_t got = pread(fd, at, size, from);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		at += got;
		from += got;
		size -= got;
	}
	return true;
}

static off_t
entry_at(uint64 entry)
{
	return sizeof(Head) + entry * sizeof(LocalPage);
}

/* The head, and that the file has the length that goes with it. */
static bool
read_head(int fd, Head *head)
{
	struct stat file;

	return fstat(fd, &file) == 0 && read_all(fd, 0, head, sizeof(*head)) &&
		   memcmp(head->magic, MAGIC, sizeof(head->magic)) == 0 && head->format == FORMAT &&
		   head->entry_size == sizeof(LocalPage) &&
		   head->count <= (uint64) file.st_size / sizeof(LocalPage) &&
		   (uint64) file.st_size == (uint64) entry_at(head->count) + sizeof(uint64);
}

static bool
checksum_holds(const WarmList *list, const Head *head)
{
	XXH3_state_t *state = XXH3_createState();
	LocalPage *pages = malloc(READ_AT_ONCE * sizeof(LocalPage));
	uint64 checksum = 0;
	bool good = state != NULL && pages != NULL;

	if (good)
	{
		XXH3_64bits_reset(state);
		XXH3_64bits_update(state, head, sizeof(*head));
	}
	for (uint64 from = 0; good && from < list->count; from += READ_AT_ONCE)
	{
		uint32 count = (uint32) Min(READ_AT_ONCE, list->count - from);

		good = WarmListRead(list, from, count, pages);
		if (good)
			XXH3_64bits_update(state, pages, count * sizeof(LocalPage));
	}
	good = good && read_all(list->fd, entry_at(list->count), &checksum, sizeof(checksum)) &&
		   checksum == XXH3_64bits_digest(state);
	free(pages);
	XXH3_freeState(state);
	return good;
}

WarmListFound
WarmListOpen(WarmList *list, bool check, lb_status *status)
{
	Head head;

	list->fd = BasicOpenFile(WARM_LIST_FILE, O_RDONLY | PG_BINARY);
	if (list->fd < 0)
	{
		if (errno == ENOENT || errno == ENOTDIR)
			return WARM_LIST_MISSING;
		lb_fail_errno(status, "could not open file \"%s\"", WARM_LIST_FILE);
		return WARM_LIST_DAMAGED;
	}
	if (read_head(list->fd, &head))
	{
		list->count = head.count;
		if (!check || checksum_holds(list, &head))
			return WARM_LIST_GOOD;
	}
	WarmListClose(list);
	lb_fail(status, LB_INVALID, "file \"%s\" is damaged", WARM_LIST_FILE);
	return WARM_LIST_DAMAGED;
}

bool
WarmListRead(const WarmList *list, uint64 from, uint32 count, LocalPage *pages)
{
	return read_all(list->fd, entry_at(from), pages, count * sizeof(LocalPage));
}

void
WarmListClose(WarmList *list)
{
	close(list->fd);
	list->fd = -1;
}
