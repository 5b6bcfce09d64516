/*
 * raw_frame.c
 *	  Frames as arrays of bytes.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "raw_frame.h"

raw_frame *
raw_frame_make(lb_frame_type type, uint64_t sequence, const void *body, size_t body_length,
			   int pages, uint8_t first_fill)
{
	raw_frame *frame = malloc(sizeof(*frame));
	uint8_t *bulk;

	if (frame == NULL)
		abort();
	bulk = frame->bytes + LB_HEADER_SIZE + body_length;
	lb_encode_header(frame->bytes, type, sequence, body, body_length,
					 (size_t) pages * LB_PAGE_SIZE);
	if (body_length > 0)
		memcpy(frame->bytes + LB_HEADER_SIZE, body, body_length);
	for (int i = 0; i < pages; i++)
		memset(bulk + (size_t) i * LB_PAGE_SIZE, first_fill + i, LB_PAGE_SIZE);
	frame->length = LB_HEADER_SIZE + body_length + (size_t) pages * LB_PAGE_SIZE;
	return frame;
}

static int
count_descriptors(bool all)
{
	DIR *folder = opendir("/proc/self/fd");
	struct dirent *entry;
	int count = 0;

	if (folder == NULL)
		abort();
	while ((entry = readdir(folder)) != NULL)
	{
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.' || fd == dirfd(folder))
			continue;
		if (all || (fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0)
			count++;
	}
	closedir(folder);
	return count;
}

int
count_open_descriptors(void)
{
	return count_descriptors(true);
}

int
count_inheritable_descriptors(void)
{
	return count_descriptors(false);
}
