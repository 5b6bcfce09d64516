/*
 * buffer_agent.h
 *	  The buffer agent: the background worker that talks to the memory nodes. (Remote Buffer Agent of the LegoBase paper.)
 *
 * It attaches to the memory nodes, keeps the pool at its size, and pushes what server processes have put into comm buffers. It runs
 * from the start of the postmaster, also during recovery. Server processes read pages from the nodes without it.
 */
#ifndef LEGOBASE_BUFFER_AGENT_H
#define LEGOBASE_BUFFER_AGENT_H

#include "postgres.h"

/* Register the worker. From _PG_init, in the postmaster. */
extern void BufferAgentRegister(void);

extern PGDLLEXPORT void BufferAgentMain(Datum arg);

#endif /* LEGOBASE_BUFFER_AGENT_H */
