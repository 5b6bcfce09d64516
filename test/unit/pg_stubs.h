/*
 * pg_stubs.h
 *	  What the extension's shared-memory modules need of a PostgreSQL server, for tests that run them in a plain program.
 *
 * Locks are real (pthread rwlocks), so the tests may use threads in place of processes. Shared memory comes from malloc
 * and is full of garbage at first. Anything the server would report as an error ends the program.
 */
#ifndef PG_STUBS_H
#define PG_STUBS_H

/* Sizes of the pool, in pages: what settings.c gives out. Set before a test makes the shared memory. */
extern void stub_set_pool(unsigned max_pages, unsigned slab_pages);

/* Forget all shared memory and locks, as a server does that starts again. */
extern void stub_reset_shmem(void);

/* How often SetLatch was called. */
extern int stub_latches_set(void);

#endif /* PG_STUBS_H */
