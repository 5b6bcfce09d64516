/*
 * round_files.h
 *	  For the tests of flushing: a data directory with a fence and with relations' files, and rounds for it. Failures end the
 *	  test.
 */
#ifndef ROUND_FILES_H
#define ROUND_FILES_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include "flush_round.h"

#define PAGES_MAX 2048 /* in a round */

/* The data directory, made and removed with all that is in it. Its fence has the epoch 1, rounds have 2. */
extern char root[64];
extern int make_root(void);
extern int remove_root(void);
extern void put_fence(uint64_t epoch);

/* Mount a file system of 1 MB over it, or skip the test. */
extern void mount_small(void);

/* Relations are all in database 5 of pg_default. put_file makes a file of that many blocks, all zero. */
extern void file_path(uint32_t relation, uint32_t segment, char path[PATH_MAX]);
extern void put_file(uint32_t relation, uint32_t segment, uint32_t blocks);

/* At most PAGES_MAX pages; their contents stay until remove_root. One round at a time. */
extern flush_round *new_round(void);
extern void add_page(flush_round *round, uint32_t relation, uint32_t block);
extern void add_pages(flush_round *round, uint32_t relation, uint32_t first, uint32_t count);

/* Is the block in its file as add_page makes it? If not, it must be all zero. */
extern bool is_written(uint32_t relation, uint32_t block);
extern void expect_written(const flush_round *round); /* all pages */
extern uint32_t count_durable(const flush_round *round, uint32_t relation);
extern void expect_error(const flush_round *round, flush_outcome outcome, const char *message);

extern uint32_t count_descriptors(void); /* that this process has open */
extern void set_fault(const char *specification);

#endif /* ROUND_FILES_H */
