/*
 * tenant.h
 *	  One PostgreSQL instance and the memory it has here.
 *
 * A tenant is named by its instance UUID; the system identifier must agree, and the epoch only rises: both are remembered
 * for as long as the record is kept, also when the memory is freed. Slab numbers belong to the tenant: there is
 * no number by which the slab of another could be named.
 *
 * Slabs are granted piece by piece: grant_begin, then grant_step until it says that the answer can be sent.
 *
 * A *life* of a tenant's memory begins empty and ends when the memory is given up. An agent that comes back may resume the
 * life that its former connection had, and a new life of the server may go on with what the former one left; any other
 * attachment begins a new one.
 */
#ifndef MEMNODE_TENANT_H
#define MEMNODE_TENANT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "flushing.h"
#include "lb_rdma.h"
#include "lb_wire.h"
#include "slab.h"
#include "slot_table.h"

/* Records of tenants; beyond that the one detached for longest is forgotten. */
#define TENANTS_MAX 1024
#define TENANT_NAME_SIZE 40

struct session;

/* What becomes of a tenant's memory when an agent attaches. */
typedef enum attachment
{
	ATTACH_EMPTY,  /* nothing of it stays */
	ATTACH_RESUME, /* the same life of the server goes on with it */
	ATTACH_KEEP    /* a new life of the server: it finds what the former one left */
} attachment;

typedef struct grant
{
	bool active;
	uint64_t sequence;   /* of the request, for the answer */
	uint32_t slab_pages; /* the size asked for */
	uint32_t wanted;     /* slabs still to be granted */
	slab *filling;
	lb_slab_list granted;
} grant;

typedef struct tenant
{
	TAILQ_ENTRY(tenant) link;
	TAILQ_ENTRY(tenant) grant_link; /* among those whose grant is active */
	TAILQ_HEAD(backend_list, session) backends;
	struct session *agent; /* null: detached */

	char name[TENANT_NAME_SIZE]; /* the UUID as text */
	uint8_t uuid[LB_UUID_SIZE];
	uint64_t system_identifier;
	uint64_t epoch;
	uint64_t token;
	char holder[LB_HOLDER_MAX + 1];
	uint64_t detached_ns;
	uint64_t life_epoch; /* with which the server's present life attached first */

	uint64_t quota_pages;
	uint64_t held_pages;   /* in slabs granted or being filled */
	uint32_t slab_numbers; /* length of the array */
	slab **slabs;          /* by number; null: not in use */
	slot_table slots;      /* what is in them */
	uint64_t life;         /* counts them */
	bool alive;            /* the memory was not given up since this life began */
	lb_control control;    /* of this life: what CONTROL said last */
	bool doubtful;         /* ... and not to be relied on any more: see tenant_control */
	uint32_t returned;     /* slabs given back that the log does not tell of yet */
	grant grant;
	flushing flushing;

	/* See rdma_memory.h. */
	lb_rdma_domain *domain; /* null: it has none */
	uint32_t rdma_sessions; /* that have a queue pair in it, or an invitation to one */
	bool registering;       /* slabs that were there before it are being registered */
} tenant;

typedef struct tenant_table
{
	TAILQ_HEAD(tenant_list, tenant) all; /* in the order of their last attach */
	uint32_t count;
} tenant_table;

extern void tenant_table_init(tenant_table *table);

/* Dooms all slabs. No session may refer to a tenant any more. */
extern void tenant_table_free(tenant_table *table, slab_pool *pool);

extern tenant *tenant_find(const tenant_table *table, const uint8_t uuid[LB_UUID_SIZE]);

/* A new record with epoch 0. Null if memory is short, or the table is full of tenants in use. */
extern tenant *tenant_create(tenant_table *table, const lb_hello *hello, uint64_t quota_pages);

/* A new session begins. Unless the holder is the same there is a new token. The caller sets the agent. */
extern bool tenant_begin_session(tenant_table *table, tenant *tenant, slab_pool *pool,
								 const lb_hello *hello, attachment attachment, lb_status *status);

/*
 * Which checkpoints the pages here are good for; all zero: none. That is also so after a sync failed: the kernel forgets a failed
 * write once it has told of it, so pages that the server itself had written to that file may be lost, although they are
 * clean here. Redo of the whole WAL writes them again; redo that trusts in what is here would not.
 */
extern lb_control tenant_control(const tenant *tenant);

/* Is this the token? Takes the same time whatever the difference. */
extern bool tenant_token_matches(const tenant *tenant, uint64_t token);

/* Give up all memory, also of an unfinished grant. */
extern void tenant_discard_slabs(tenant *tenant, slab_pool *pool);

/* Pages this tenant could be granted now. */
extern uint64_t tenant_free_pages(const tenant *tenant, const slab_pool *pool);

/* Null: no such slab. */
extern slab *tenant_slab(const tenant *tenant, uint32_t number);

/* The memory of a slot; null: no such slot. */
extern uint8_t *tenant_page(const tenant *tenant, uint32_t number, uint32_t page);

/* False, and nothing done, if a number is not in use or stands there twice. */
extern bool tenant_return_slabs(tenant *tenant, slab_pool *pool, const lb_slab_list *list);

/* Give back all slabs whose numbers are not in the map. No grant is active. Returns how many. */
extern uint32_t tenant_keep_slabs(tenant *tenant, slab_pool *pool, const lb_slab_keep *keep);

/* The size is that of the slabs that are there, if there are any; no other grant is active. */
extern void tenant_grant_begin(tenant *tenant, uint64_t sequence, const lb_slab_request *request);

/*
 * Do a small piece of the work. No slab may be doomed at this time: its memory is needed first. True: the grant is
 * complete, as far as quota and memory went, and no longer active.
 */
extern bool tenant_grant_step(tenant *tenant, slab_pool *pool);

/* Forget an unfinished grant, if there is one. Slabs that are complete stay the tenant's. */
extern void tenant_grant_cancel(tenant *tenant, slab_pool *pool);

#endif /* MEMNODE_TENANT_H */
