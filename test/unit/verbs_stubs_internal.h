/*
 * verbs_stubs_internal.h
 *	  What the parts of the stand-in share: verbs_stubs.c (what is injected and counted), verbs_stubs_device.c (devices),
 *	  verbs_stubs_ib.c (libibverbs), verbs_stubs_cm.c (librdmacm). Everything but stub_misuse and stub_pass_time is called with the
 *	  lock held.
 */
#ifndef VERBS_STUBS_INTERNAL_H
#define VERBS_STUBS_INTERNAL_H

#include <netinet/in.h>
#include <pthread.h>

#include "verbs_stubs.h"

#define DEVICES_MAX 2
#define REGIONS_MAX 256
#define QPS_MAX 64
#define QUEUE_MAX 512

/* A device and its context, of which there is one in a process. */
typedef struct stub_device
{
	struct ibv_context context; /* first: it is found by it */
	struct ibv_device device;
	int ids;   /* that use the context */
	bool open; /* librdmacm has made the context */
	bool gone;
	bool dead; /* librdmacm knows that it is gone, and frees the context with the last id */
	struct stub_device *next; /* of those that librdmacm does not know of */
} stub_device;

extern stub_device *stub_devices[DEVICES_MAX]; /* those that are there, or have not come back yet */
extern int stub_device_count;

static inline stub_device *
device_of(struct ibv_context *context)
{
	return (stub_device *) context;
}

/* All of them as they were in the beginning. */
extern void stub_devices_renew(void);

/* One more id that uses the device with this address; null if there is none. And one less. */
extern stub_device *stub_device_use(const struct sockaddr *address);
extern void stub_device_leave(stub_device *device);

/* Something is destroyed that the kernel has to hear of: the context's descriptors must be those of the device still. */
extern void stub_need_descriptors(const struct ibv_context *context);

extern void stub_lock(void);
extern void stub_unlock(void);

/* Something that the libraries forbid, or that would block for ever: ends the test. */
extern void stub_misuse(const char *what) __attribute__((noreturn));

/* Count a call. True if it is to fail; errno says how. */
extern bool stub_fails(stub_call call);

extern void stub_count(stub_object object, int change);

/* Of what takes time; without the lock. */
extern void stub_pass_time(void);

/* A read was executed: what is its status? */
extern enum ibv_wc_status stub_injected_status(void);
extern bool stub_withheld(void);
extern stub_reads stub_sums;

/* What an event of this type is to be. False: there is to be none. */
extern bool stub_event_type(enum rdma_cm_event_type *type, int *status);

/* A queue of things to be read from a descriptor: a semaphore that counts them. */
extern int stub_semaphore_create(void);
extern void stub_semaphore_raise(int fd);
extern void stub_semaphore_lower(int fd); /* must be above 0 */
extern bool stub_semaphore_blocks(int fd);

/* Queue pairs: of verbs_stubs_ib.c. */
extern const struct ibv_context_ops stub_context_ops;
extern struct ibv_qp *stub_qp_create(struct ibv_pd *domain, struct ibv_qp_init_attr *attributes);
extern void stub_qp_destroy(struct ibv_qp *qp);
extern void stub_qp_error(struct ibv_qp *qp); /* flush everything */
extern void stub_qp_join(struct ibv_qp *one, struct ibv_qp *other);
extern void stub_qp_depths(struct ibv_qp *qp, const struct rdma_conn_param *parameters);
extern unsigned stub_qps_count(bool (*which)(unsigned access));
extern void stub_qp_ready(struct ibv_qp *qp);
extern void stub_qps_progress(void);
extern void stub_qps_of_device(stub_device *device, void (*what)(struct ibv_qp *qp));
extern unsigned stub_qps_pending(void);
extern unsigned stub_qps_room(void);

#endif /* VERBS_STUBS_INTERNAL_H */
