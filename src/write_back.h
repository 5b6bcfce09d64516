/*
 * write_back.h
 *	  May pages be written back just now? What all processes of the server know about it. docs/write_back.md has the whole.
 *
 * A node is *proven* when it has shown that it sees this data directory. The agent sets that; it lasts until the node is lost.
 */
#ifndef LEGOBASE_WRITE_BACK_H
#define LEGOBASE_WRITE_BACK_H

#include "storage/relfilenode.h"
#include "storage/smgr.h"

#include "lb_wire.h"

extern Size WriteBackShmemSize(void);
extern void WriteBackShmemInit(void);

/*
 * Could this server write back at all, if a node were proven? write_mode is not writethrough, fsync was on at server
 * start, wal_level is not minimal. *reason, if not null: why not, for people.
 */
extern bool WriteBackPossible(const char **reason);

/* Is there a node that dirty pages can go to? Possible, a proven node, the checkpointer's request registered. One read. */
extern bool WriteBackActive(void);

/* Has this node proved its storage, and is it active? */
extern bool WriteBackNode(int node);

/* Agent. Proven: the sync request must have been registered before (CheckpointSyncRegister). */
extern void WriteBackSetNode(int node, bool proven);

/* Was fsync on when the server started? It can't be turned off later (settings.c). */
extern bool WriteBackFsyncAtStart(void);

/* Agent: what a node said last of its flushing; any process: read it. Consistent copies. */
typedef struct FlushProgress
{
	lb_flush_state state;    /* error: empty if the last round succeeded */
	uint64 error_number;     /* counts the rounds that failed, of this node, since server start */
	double pages_per_second; /* made durable, as a moving average; 0: nothing known */
} FlushProgress;

/* What has happened there since the last message that the server can't go on after? */
typedef enum FlushNews
{
	FLUSH_NEWS_NONE,
	FLUSH_NEWS_SYNC_FAILED, /* a sync of a file has failed */
	FLUSH_NEWS_DAMAGED      /* the newest version of a page is not what it was */
} FlushNews;

/* Agent. */
extern FlushNews WriteBackNoteFlushState(int node, const lb_flush_state *state);
extern void WriteBackGetFlushProgress(int node, FlushProgress *progress);

/* Any process: have everything flushed that is dirty now. Who waits for that asks again, at least once a second. */
extern void WriteBackRequestFlush(void);

/* Agent: has somebody asked since the last WriteBackFlushDone? That is called before the nodes are told, so that nothing is missed. */
extern bool WriteBackFlushWanted(void);
extern void WriteBackFlushDone(void);

/*
 * Something that is only in remote memory is lost, or can't be kept from being written: PANIC, whose redo puts it right. For the startup
 * process the agent does it, as the server would not restart itself after that one. Allocates nothing.
 */
extern void WriteBackPanic(const char *reason) pg_attribute_noreturn();

/* Agent: do it, if somebody asks. */
extern void WriteBackPanicIfAsked(void);

#endif /* LEGOBASE_WRITE_BACK_H */
