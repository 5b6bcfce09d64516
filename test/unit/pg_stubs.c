/*
 * pg_stubs.c
 *	  What the extension's shared-memory modules need of a PostgreSQL server; see pg_stubs.h.
 */
#include "postgres.h"

#include <pthread.h>
#include <sched.h>

#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/s_lock.h"
#include "storage/shmem.h"

#include "pg_stubs.h"
#include "settings.h"

#define STRUCTS_MAX 16
#define LOCKS 128

typedef struct Struct
{
	const char *name;
	void *memory;
} Struct;

static Struct structs[STRUCTS_MAX];
static int struct_count;
static LWLockPadded *locks;
static uint32 pool_pages;
static uint32 slab_pages;
static int latches_set;

StaticAssertDecl(sizeof(pthread_rwlock_t) <= sizeof(LWLockPadded),
				 "an LWLock's memory holds the lock that stands for it");

/* printf and its family are the server's own in code that includes postgres.h. */
static void
say(const char *text)
{
	fputs(text, stderr);
	fputc('\n', stderr);
}

void
stub_set_pool(unsigned max_pages, unsigned pages_in_slab)
{
	pool_pages = max_pages;
	slab_pages = pages_in_slab;
}

void
stub_reset_shmem(void)
{
	for (int i = 0; i < struct_count; i++)
		free(structs[i].memory);
	struct_count = 0;
	free(locks);
	locks = NULL;
	latches_set = 0;
}

int
stub_latches_set(void)
{
	return latches_set;
}

uint32
settings_max_pages(void)
{
	return pool_pages;
}

uint32
settings_slab_pages(void)
{
	return slab_pages;
}

void *
ShmemInitStruct(const char *name, Size size, bool *found)
{
	for (int i = 0; i < struct_count; i++)
	{
		if (strcmp(structs[i].name, name) == 0)
		{
			*found = true;
			return structs[i].memory;
		}
	}
	if (struct_count == STRUCTS_MAX)
		abort();
	*found = false;
	structs[struct_count].name = name;
	structs[struct_count].memory = aligned_alloc(PG_CACHE_LINE_SIZE, CACHELINEALIGN(size));
	memset(structs[struct_count].memory, 0xa5, CACHELINEALIGN(size));
	return structs[struct_count++].memory;
}

Size
add_size(Size a, Size b)
{
	return a + b;
}

Size
mul_size(Size a, Size b)
{
	return a * b;
}

LWLockPadded *
GetNamedLWLockTranche(const char *tranche_name)
{
	if (locks == NULL)
	{
		locks = aligned_alloc(sizeof(LWLockPadded), LOCKS * sizeof(LWLockPadded));
		for (int i = 0; i < LOCKS; i++)
			pthread_rwlock_init((pthread_rwlock_t *) &locks[i], NULL);
	}
	return locks;
}

bool
LWLockAcquire(LWLock *lock, LWLockMode mode)
{
	if (mode == LW_SHARED)
		pthread_rwlock_rdlock((pthread_rwlock_t *) lock);
	else
		pthread_rwlock_wrlock((pthread_rwlock_t *) lock);
	return true;
}

bool
LWLockConditionalAcquire(LWLock *lock, LWLockMode mode)
{
	if (mode == LW_SHARED)
		return pthread_rwlock_tryrdlock((pthread_rwlock_t *) lock) == 0;
	return pthread_rwlock_trywrlock((pthread_rwlock_t *) lock) == 0;
}

void
LWLockRelease(LWLock *lock)
{
	pthread_rwlock_unlock((pthread_rwlock_t *) lock);
}

/* Called when a spinlock was not free at the first try. */
int
s_lock(volatile slock_t *lock, const char *file, int line, const char *function)
{
	while (TAS_SPIN(lock))
		sched_yield();
	return 0;
}

void
SetLatch(Latch *latch)
{
	__atomic_fetch_add(&latches_set, 1, __ATOMIC_RELAXED);
}

void
ExceptionalCondition(const char *condition, const char *type, const char *file, int line)
{
	say(condition);
	say(file);
	abort();
}

bool
errstart(int elevel, const char *domain)
{
	return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return true;
}

int
errcode(int sqlerrcode)
{
	return 0;
}

int
errmsg(const char *format, ...)
{
	say(format);
	return 0;
}

int
errmsg_internal(const char *format, ...)
{
	say(format);
	return 0;
}

int
errdetail(const char *format, ...)
{
	return 0;
}

int
errhint(const char *format, ...)
{
	return 0;
}

void
errfinish(const char *file, int line, const char *function)
{
	say(file);
	abort();
}
