/*
 * data_directory.h
 *	  What a memory node sees of a server's data directory, made by hand: nonce, fence, relation files.
 */
#ifndef DATA_DIRECTORY_H
#define DATA_DIRECTORY_H

#include <stdbool.h>
#include <stdint.h>
#include "lb_wire.h"

typedef struct data_directory
{
	char root[64]; /* the folder that it is in, alone */
	char path[96];
	uint8_t nonce[LB_NONCE_SIZE];
} data_directory;

/* For the instance of make_hello, with base/5, a nonce and a fence of epoch 0. */
extern void data_make(data_directory *data, uint8_t instance);
extern void data_remove(data_directory *data);

/* The same in this folder, which stays when it is removed. */
extern void data_make_in(data_directory *data, const char *folder, uint8_t instance);

extern void data_set_fence(const data_directory *data, uint64_t epoch);
extern void data_remove_nonce(const data_directory *data);
extern void data_restore_nonce(const data_directory *data, uint8_t instance);

/* A file of zeros, without space of its own. name: "base/5/77" */
extern void data_make_file(const data_directory *data, const char *name, uint32_t blocks);

/* How many blocks it has; -1: it is not there. */
extern long data_blocks(const data_directory *data, const char *name);

/* Is this block of the file as make_page makes it? And is it zero? */
extern bool data_has_page(const data_directory *data, const char *name, uint32_t block,
						  uint64_t seed);
extern bool data_is_zero(const data_directory *data, const char *name, uint32_t block);

#endif /* DATA_DIRECTORY_H */
