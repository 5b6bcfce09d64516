/*
 * write_back.h
 *	  What the tests of dirty pages begin with: a data directory, a node that sees it, an agent with a slab.
 */
#ifndef WRITE_BACK_H
#define WRITE_BACK_H

#include "client.h"
#include "data_directory.h"
#include "node_process.h"

typedef struct write_back
{
	data_directory data;
	node_process node;
	client agent;
	uint64_t epoch; /* the agent's */
} write_back;

/*
 * base/5/100 and base/5/200 have 256 blocks. faults: null, or fault points. options: further ones of the node, null at the end, or
 * null. The agent is attached over tcp, has slab 0 of 256 pages, and has proved its storage.
 */
extern void write_back_start(write_back *self, const char *faults, const char *const *options);

/* The same with a data directory that is there already. */
extern void write_back_start_with(write_back *self, const char *faults, const char *const *options);

/* Ends with a test that the node's exit code is 0. */
extern void write_back_stop(write_back *self);

/* The agent's connection ends; a new one resumes. True if the node says that it has. Nothing is asked of it. */
extern bool write_back_resume(write_back *self);

/* A new life of the server attaches: without a token, and wants what is there. The same. */
extern bool write_back_new_life(write_back *self);

/* Flip a bit of this page of the first slab in the node's memory. False: this system does not allow it. */
extern bool write_back_damage(const write_back *self, uint32_t page);

/* Push to slots and blocks from 'page' on. The result of the first; the others must have the same. */
extern lb_push_result push_pages(client *agent, uint32_t relation, uint32_t page, uint32_t count,
								 uint64_t version, bool dirty);

/* Its pages have this seed. */
extern uint64_t seed_of(uint32_t relation, uint32_t page, uint64_t version);

/* Do blocks [page, page + count) of the relation's file have this version? */
extern bool file_has(const write_back *self, uint32_t relation, uint32_t page, uint32_t count,
					 uint64_t version);
extern bool file_is_zero(const write_back *self, uint32_t relation, uint32_t page, uint32_t count);

extern lb_node_figures figures_of(const write_back *self);

/* Wait for an answer to the request of this sequence. */
extern bool is_fenced(client *agent, uint64_t sequence, int timeout_ms);

#endif /* WRITE_BACK_H */
