/*
 * raw_frame.c
 *	  Frames as arrays of bytes.
 */
#include <dirent.h>
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

int
count_open_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;

	if (folder == NULL)
		abort();
	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}
