/*
 * node_process.h
 *	  A memory node that a test starts and stops.
 *
 * It listens on shm://FOLDER/node.sock and tcp://127.0.0.1:PORT, FOLDER a private one and PORT any free one. Its log is
 * FOLDER/log. The program is the environment's MEMNODE.
 */
#ifndef NODE_PROCESS_H
#define NODE_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

typedef struct node_process
{
	pid_t pid;
	char folder[64];
	char log[96];
	char shm_uri[96];
	char tcp_uri[96];
	char rdma_uri[96]; /* if an option says so; else empty */
} node_process;

/* options: further ones, null at the end. Bails out if the node is not ready within 20 s. */
extern void node_start(node_process *node, const char *const *options);

/* The same, with the hard limit of descriptors set to this. */
extern void node_start_limited(node_process *node, const char *const *options, int descriptors);

/* Wait up to so long for the process to end. Its exit code, or -1 for a signal, or -2 if it goes on. */
extern int node_wait(node_process *node, int timeout_ms);

/* SIGTERM, then node_wait for 10 s. */
extern int node_stop(node_process *node);

/* After node_wait or node_stop: remove the folder. */
extern void node_clean(node_process *node);

/* How often a text is in the log. */
extern int node_log_count(const node_process *node, const char *text);

/* Of /proc/PID/smaps_rollup, in kB: "Rss", "Pss", "Shared_Clean" ... */
extern uint64_t node_memory_kb(const node_process *node, const char *name);

extern int node_open_descriptors(const node_process *node);

#endif /* NODE_PROCESS_H */
