/*
 * data_directory.c
 *	  What a memory node sees of a server's data directory, made by hand.
 */
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client.h"
#include "data_directory.h"
#include "tap.h"

static void
make_folder(const data_directory *data, const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", data->path, name);
	if (mkdir(path, 0700) < 0)
		bail_out("cannot make %s", path);
}

static void
write_file(const data_directory *data, const char *name, const char *text)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", data->path, name);
	file = fopen(path, "w");
	if (!file || fputs(text, file) < 0 || fclose(file) != 0)
		bail_out("cannot write %s", path);
}

static void
write_nonce(const data_directory *data, const uint8_t *uuid)
{
	char text[128] = "legobase nonce ";
	char *at = text + strlen(text);

	for (int i = 0; i < LB_UUID_SIZE; i++)
		at += sprintf(at, "%02x", uuid[i]);
	*at++ = ' ';
	for (int i = 0; i < LB_NONCE_SIZE; i++)
		at += sprintf(at, "%02x", data->nonce[i]);
	strcpy(at, "\n");
	write_file(data, "pgsql_tmp_legobase/pgsql_tmp_nonce", text);
}

void
data_set_fence(const data_directory *data, uint64_t epoch)
{
	char text[64];

	snprintf(text, sizeof(text), "legobase fence %016" PRIx64 "\n", epoch);
	write_file(data, "pgsql_tmp_legobase/pgsql_tmp_fence", text);
}

void
data_make_in(data_directory *data, const char *folder, uint8_t instance)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, instance, 1, 0);

	snprintf(data->root, sizeof(data->root), "%s", folder);
	snprintf(data->path, sizeof(data->path), "%s/data", folder);
	for (int i = 0; i < LB_NONCE_SIZE; i++)
		data->nonce[i] = (uint8_t) (instance * 7 + i * 13 + getpid());
	if (mkdir(data->path, 0700) < 0)
		bail_out("cannot make %s", data->path);
	make_folder(data, "pgsql_tmp_legobase");
	make_folder(data, "base");
	make_folder(data, "base/5");
	write_nonce(data, hello.uuid);
	data_set_fence(data, 0);
}

void
data_make(data_directory *data, uint8_t instance)
{
	char folder[] = "/tmp/memnode_data.XXXXXX";

	if (!mkdtemp(folder))
		bail_out("cannot make a folder");
	data_make_in(data, folder, instance);
}

static int
remove_one(const char *path, const struct stat *stat, int type, struct FTW *at)
{
	(void) stat;
	(void) type;
	(void) at;
	return remove(path);
}

void
data_remove(data_directory *data)
{
	nftw(data->root, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void
data_restore_nonce(const data_directory *data, uint8_t instance)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, instance, 1, 0);

	write_nonce(data, hello.uuid);
}

void
data_remove_nonce(const data_directory *data)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/pgsql_tmp_legobase/pgsql_tmp_nonce", data->path);
	if (unlink(path) < 0)
		bail_out("cannot remove %s", path);
}

static int
open_file(const data_directory *data, const char *name, int flags)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", data->path, name);
	return open(path, flags, 0600);
}

void
data_make_file(const data_directory *data, const char *name, uint32_t blocks)
{
	int fd = open_file(data, name, O_WRONLY | O_CREAT | O_EXCL);

	if (fd < 0 || ftruncate(fd, (off_t) blocks * LB_PAGE_SIZE) < 0)
		bail_out("cannot make %s", name);
	close(fd);
}

long
data_blocks(const data_directory *data, const char *name)
{
	int fd = open_file(data, name, O_RDONLY);
	off_t length;

	if (fd < 0)
		return -1;
	length = lseek(fd, 0, SEEK_END);
	close(fd);
	return length % LB_PAGE_SIZE == 0 ? (long) (length / LB_PAGE_SIZE) : -2;
}

static bool
read_block(const data_directory *data, const char *name, uint32_t block, uint8_t *page)
{
	int fd = open_file(data, name, O_RDONLY);
	ssize_t got;

	if (fd < 0)
		return false;
	got = pread(fd, page, LB_PAGE_SIZE, (off_t) block * LB_PAGE_SIZE);
	close(fd);
	return got == LB_PAGE_SIZE;
}

bool
data_has_page(const data_directory *data, const char *name, uint32_t block, uint64_t seed)
{
	uint8_t page[LB_PAGE_SIZE];

	return read_block(data, name, block, page) && is_page(page, seed);
}

bool
data_is_zero(const data_directory *data, const char *name, uint32_t block)
{
	uint8_t page[LB_PAGE_SIZE];

	return read_block(data, name, block, page) && is_zero(page, LB_PAGE_SIZE);
}
