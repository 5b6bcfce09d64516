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

/*
 * A process waits for something that the agent does (a free comm buffer, a fence, pages becoming clean): give it a hand if it is not
 * there any more. At shutdown background workers end before the checkpointer: then the checkpointer becomes the agent, and each
 * call does what there is to do and waits at most wait_ms for more. Everywhere else, and while there is an agent, it sleeps for
 * wait_ms at most. Raises no ERROR in a critical section.
 */
extern void BufferAgentAssist(int wait_ms);

/*
 * Who waits for the agent, and finds that the postmaster is gone, ends: the agent has, and nobody starts another. PANIC in a critical
 * section.
 */
extern void exit_without_postmaster(void);

extern PGDLLEXPORT void BufferAgentMain(Datum arg);

#endif /* LEGOBASE_BUFFER_AGENT_H */
