/*
 * lb_wire.h
 *	  The messages between compute nodes and memory nodes. docs/protocol.md is the specification; this is its C side.
 *
 * Every message is a frame:
 *
 *	  32 bytes of header | body_length bytes of body | bulk_length bytes of bulk
 *
 * All integers are little-endian, without padding. The header's checksum (XXH3, 64 bits) covers the first 24 bytes of the
 * header and the body. The bulk (pages) is covered by the page checksums in the body, or in the receiver's directory. A
 * frame that breaks a limit or whose checksum is wrong ends the connection: nothing after it can be trusted.
 *
 * Encoders write into a buffer of the caller's and return the length of the body; they can't fail when the caller respects
 * the limits (asserted). Decoders take any bytes: they check the length before anything is read, return false for what is
 * malformed, and never allocate.
 */
#ifndef LB_WIRE_H
#define LB_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lb_page.h"

#define LB_WIRE_MAGIC UINT32_C(0x3142474c) /* "LGB1" as bytes on the wire */
#define LB_PROTOCOL_VERSION 4

#define LB_HEADER_SIZE 32
#define LB_BODY_MAX 16384 /* bytes */
#define LB_BATCH_MAX 64   /* pages in one PUSH, READ, RELEASE or their answers */
#define LB_BULK_MAX (LB_BATCH_MAX * LB_PAGE_SIZE)
#define LB_UUID_SIZE 16
#define LB_HOLDER_MAX 200  /* bytes of the text that names who holds an instance */
#define LB_MESSAGE_MAX 250 /* bytes of an ERROR's message */
#define LB_ERROR_BODY_MAX (11 + LB_MESSAGE_MAX)
#define LB_SLABS_PER_FRAME 64
#define LB_NONCE_SIZE 16
#define LB_VERSION_FOLDER_MAX 64 /* bytes of the name of a version's folder in a tablespace */
#define LB_KEEP_BYTES_MAX 4096   /* of the bit map of slabs: LB_SLAB_NUMBERS_MAX bits */
#define LB_SLAB_NUMBERS_MAX (8 * LB_KEEP_BYTES_MAX)

/* Slab sizes that a compute node may ask for, in pages; powers of two (2 MB to 1 GB; over rdma to 256 MB). */
#define LB_SLAB_PAGES_MIN 256
#define LB_SLAB_PAGES_MAX 131072
#define LB_RDMA_SLAB_PAGES_MAX 32768

typedef enum lb_frame_type
{
	LB_HELLO = 1,   /* both roles: first frame of a connection */
	LB_WELCOME = 2, /* answer: accepted */
	LB_ERROR = 3,   /* answer to anything: refused */
	LB_COMM_BUFFERS =
		4, /* agent, shm and rdma: here is the comm buffer region (shm: a descriptor comes along) */
	LB_SLAB_REQUEST = 5,   /* agent: give me memory */
	LB_SLAB_GRANT = 6,     /* answer: the slabs, possibly fewer than asked for, possibly none */
	LB_SLAB_RETURN = 7,    /* agent: these slabs are no longer used */
	LB_PUSH = 8,           /* agent: pull these pages into these slots */
	LB_PUSH_ACK = 9,       /* answer: which are published */
	LB_RELEASE = 10,       /* agent: these slots hold nothing of worth any more; no answer */
	LB_SLAB_MAP = 11,      /* backend, shm: let me map this slab */
	LB_SLAB_MAPPED = 12,   /* answer: a descriptor comes along */
	LB_READ = 13,          /* backend, tcp and rdma: send me these slots */
	LB_READ_REPLY = 14,    /* answer: the pages are the bulk */
	LB_PING = 15,          /* any role */
	LB_PONG = 16,          /* answer */
	LB_STATUS = 17,        /* monitor: the node's figures */
	LB_STATUS_REPLY = 18,  /* answer */
	LB_STORAGE = 19,       /* agent: can you see my data directory? */
	LB_STORAGE_REPLY = 20, /* answer: the nonce that is in it, or why not */
	LB_FLUSH = 21,         /* agent: write everything that is dirty, now; no answer */
	LB_CLEAN = 22,         /* node: these pages are durable in their files */
	LB_FENCE = 23,         /* agent: nothing of these pages may go to storage any more */
	LB_FENCED = 24,        /* answer: nothing is under way, and nothing will be */
	LB_FLUSH_STATE = 25,   /* node: how flushing gets on, or why it does not */
	LB_SLAB_KEEP = 26, /* agent, after resuming: I know these slabs, free the others; no answer */
	LB_STORAGE_LOAD = 27,    /* agent: how long reads from storage take just now; no answer */
	LB_CONTROL = 28,         /* agent: which checkpoints the pages here are good for */
	LB_CONTROLLED = 29,      /* answer */
	LB_RELOAD = 30,          /* agent, in a new life of its server: what is in the slots? */
	LB_RELOAD_REPLY = 31,    /* answer: some of it, and where to go on */
	LB_RDMA_OPEN = 32,       /* agent, backend, rdma: I want to connect a queue pair */
	LB_RDMA_OPENED = 33,     /* answer: what to show when connecting it, and where */
	LB_SLAB_KEYS = 34,       /* backend, rdma: where are the slabs, from this number on? */
	LB_SLAB_KEYS_REPLY = 35, /* answer: addresses and keys */
	LB_FRAME_TYPES           /* one more than the last */
} lb_frame_type;

typedef enum lb_wire_error
{
	LB_ERR_NONE = 0,
	LB_ERR_VERSION = 1,   /* protocol version not supported */
	LB_ERR_PAGE_SIZE = 2, /* block size differs */
	LB_ERR_SYSTEM_ID = 3, /* the instance is known with another system identifier */
	LB_ERR_EPOCH =
		4, /* the epoch is not above the one known (agent), or not the current one (backend) */
	LB_ERR_HELD = 5,       /* another live compute node holds the instance; the message names it */
	LB_ERR_TOKEN = 6,      /* a backend's session token is wrong, or no agent is attached */
	LB_ERR_ROLE = 7,       /* a request that this role, or this transport, may not make */
	LB_ERR_LIMIT = 8,      /* too many sessions or tenants, or out of descriptors */
	LB_ERR_SLAB = 9,       /* no such slab, or page beyond its end, or bad slab size */
	LB_ERR_MALFORMED = 10, /* a body that the protocol forbids */
	LB_ERR_INTERNAL = 11   /* the node could not; the message says why */
} lb_wire_error;

typedef enum lb_role
{
	LB_ROLE_AGENT = 1,   /* the buffer agent: one a tenant; its connection is the tenant's life */
	LB_ROLE_BACKEND = 2, /* a server process that reads pages */
	LB_ROLE_MONITOR = 3  /* reads figures only */
} lb_role;

typedef struct lb_header
{
	uint16_t type;  /* an lb_frame_type */
	uint16_t flags; /* 0 in version 1 */
	uint32_t body_length;
	uint32_t bulk_length;
	uint64_t sequence; /* of the request; the answer repeats it */
	uint64_t checksum;
} lb_header;

typedef struct lb_hello
{
	uint16_t version_min; /* the protocol versions that the sender speaks */
	uint16_t version_max;
	uint16_t role;  /* lb_role */
	bool take_over; /* agent: attach even though another live compute node holds the instance */
	uint32_t page_size;
	uint64_t system_identifier; /* PostgreSQL's */
	uint8_t uuid[LB_UUID_SIZE]; /* the instance's */
	uint64_t epoch;
	uint64_t token; /* backend: the one its agent's WELCOME had; agent: of its last WELCOME, or 0 */
	uint64_t
		resume; /* agent: the incarnation whose memory it wants to go on with, or LB_RESUME_LIFE; 0: begin empty */
	char holder[LB_HOLDER_MAX +
				1]; /* agent: who it is, for people: "host:port, process N, /data/directory" */
} lb_hello;

/* HELLO's resume, with token 0: a new life of the server wants whatever its former life has left (RELOAD). */
#define LB_RESUME_LIFE UINT64_MAX

typedef struct lb_welcome
{
	uint16_t version;        /* the one that both will speak */
	uint64_t epoch;          /* the one now in force */
	uint64_t token;          /* agent: what its backends must show; 0 to others */
	uint64_t incarnation;    /* random, one for the life of the memory node's process */
	uint64_t capacity_pages; /* what this tenant may have at most */
	uint64_t free_pages;     /* what it could be granted now */
	uint32_t
		timeout_ms; /* how long the node keeps a tenant's memory after its agent's connection ended */
	bool resumed;   /* agent: all memory of the former connection is there, as it was */
} lb_welcome;

typedef struct lb_error
{
	uint16_t error; /* lb_wire_error */
	uint64_t epoch; /* LB_ERR_EPOCH: the one in force */
	char message[LB_MESSAGE_MAX + 1];
} lb_error;

/* The comm buffer region: count buffers, stride bytes apart, the page at the start of each. */
typedef struct lb_comm_region
{
	uint32_t count;
	uint32_t stride;
	uint64_t length;  /* of the whole region; shm: which is the descriptor's file */
	uint64_t address; /* rdma: where the region begins for a remote read; shm: 0 */
	uint32_t key;     /* rdma: the remote key of the region; shm: 0 */
} lb_comm_region;

typedef struct lb_slab_request
{
	uint32_t slab_pages; /* the size of each: that of the slabs that are there, if there are any */
	uint32_t count;      /* how many, at most LB_SLABS_PER_FRAME */
} lb_slab_request;

typedef struct lb_slab_list /* SLAB_GRANT, SLAB_RETURN */
{
	uint32_t count;
	uint32_t slabs
		[LB_SLABS_PER_FRAME]; /* the node's numbers for them: small, dense, reused after return */
} lb_slab_list;

/* One page of a PUSH. shm, rdma: the page is in comm buffer 'buffer'. tcp: it is the next LB_PAGE_SIZE bytes of the bulk. */
typedef struct lb_push
{
	uint32_t slab;
	uint32_t page; /* within the slab: together, the slot */
	lb_page_tag tag;
	uint64_t version;
	uint64_t checksum;
	uint32_t buffer;
	bool dirty; /* the file does not have it: the node has to write it there */
} lb_push;

typedef struct lb_push_batch
{
	uint32_t count;
	lb_push pushes[LB_BATCH_MAX];
} lb_push_batch;

/* The answer, in the order of the PUSH. */
typedef enum lb_push_result
{
	LB_PUSH_PUBLISHED = 0,
	LB_PUSH_BAD_CHECKSUM = 1, /* what was pulled is not what was announced; the slot is empty */
	LB_PUSH_OLD_VERSION =
		2, /* the node has this page in the same or a newer version, which stays (R9) */
	LB_PUSH_NO_SLOT = 3,    /* no such slot */
	LB_PUSH_NO_STORAGE = 4, /* it is dirty, and the node has not seen the data directory */
	LB_PUSH_RESULTS         /* one more than the last */
} lb_push_result;

typedef struct lb_push_ack
{
	uint32_t count;
	uint8_t results[LB_BATCH_MAX]; /* lb_push_result */
} lb_push_ack;

typedef struct lb_slot_ref
{
	uint32_t slab;
	uint32_t page;
} lb_slot_ref;

typedef struct lb_read_batch /* READ */
{
	uint32_t count;
	lb_slot_ref slots[LB_BATCH_MAX];
} lb_read_batch;

typedef struct lb_release_batch /* RELEASE: a slot is emptied only if it still has this version */
{
	uint32_t count;
	lb_slot_ref slots[LB_BATCH_MAX];
	uint64_t versions[LB_BATCH_MAX];
} lb_release_batch;

typedef struct lb_node_figures /* STATUS_REPLY */
{
	uint64_t incarnation;
	uint64_t uptime_s;
	uint64_t capacity_pages;
	uint64_t granted_pages; /* to tenants */
	uint64_t used_pages;    /* slots with a page */
	uint64_t huge_pages;    /* pages of the capacity in use that lie in huge pages */
	uint32_t tenants;
	uint32_t sessions;
	uint64_t pushes;
	uint64_t reads;
	uint64_t rejected_pushes; /* bad checksum, old version, no slot */
	uint64_t refused_sessions;
	uint64_t malformed_frames;
	uint64_t dirty_pages;      /* waiting to be flushed */
	uint64_t flushed_pages;    /* made durable */
	uint64_t flush_failures;   /* rounds of flushing that failed */
	uint64_t registered_pages; /* pages of the capacity in use that are registered for RDMA */
	uint32_t rdma_connections; /* queue pairs that are connected */
} lb_node_figures;

/*
 * STORAGE: the name of the folder that this version of the server has in each tablespace (TABLESPACE_VERSION_DIRECTORY):
 * one path component of letters, digits, '_', '-' and '.', not beginning with '.'.
 */
typedef struct lb_storage
{
	char version_folder[LB_VERSION_FOLDER_MAX + 1];
} lb_storage;

typedef struct lb_storage_reply
{
	bool found;
	uint8_t nonce[LB_NONCE_SIZE];     /* as it stands in the data directory; zero if not found */
	char message[LB_MESSAGE_MAX + 1]; /* the path, as the node sees it; or why not */
} lb_storage_reply;

typedef struct lb_clean /* CLEAN: these versions, or newer ones, are durable */
{
	uint32_t count;
	lb_page_tag tags[LB_BATCH_MAX];
	uint64_t versions[LB_BATCH_MAX];
} lb_clean;

/* FENCE: which pages. Fields that are not compared hold whatever. */
typedef struct lb_fence
{
	bool by_tablespace;
	bool by_database;
	bool by_relation;
	bool by_fork;     /* and by block: from.block up to, but not including, end */
	lb_page_tag from; /* block: the first one, with by_fork */
	uint32_t end;     /* UINT32_MAX: no end */
} lb_fence;

/* FLUSH_STATE: sent each second while it changes, after a failure, and after the first success since. */
typedef struct lb_flush_state
{
	uint64_t dirty_pages;           /* this instance's, waiting */
	uint64_t flushed_pages;         /* this instance's, made durable since the node knows it */
	uint64_t write_calls;           /* that took (neighbours are joined) */
	uint64_t failures;              /* rounds that failed */
	uint64_t syncs;                 /* files synced */
	uint64_t damaged_pages;         /* dirty pages found to be damaged in the node's memory */
	uint64_t sync_failures;         /* rounds in which a sync failed: see flush_round.h */
	char error[LB_MESSAGE_MAX + 1]; /* of the last round; empty if it succeeded */
} lb_flush_state;

/* SLAB_KEEP: bit n % 8 of byte n / 8 is set if slab n is known. */
typedef struct lb_slab_keep
{
	uint32_t bytes;
	uint8_t bits[LB_KEEP_BYTES_MAX];
} lb_slab_keep;

typedef struct lb_storage_load
{
	uint32_t reads;   /* from storage since the last one */
	uint32_t read_us; /* their average, in microseconds */
} lb_storage_load;

/*
 * CONTROL: docs/recovery.md, section 2. The node keeps it for as long as it keeps the tenant's memory, and looks at nothing in it. All
 * zero: nothing was told, or a sync of the node's has failed since, and what is clean may not be in the files.
 */
typedef struct lb_control
{
	uint64_t completed;  /* redo point of the last completed checkpoint ... */
	uint64_t pending;    /* ... and of the one that is about to complete */
	uint64_t tier1;      /* L1 */
	uint32_t checksums;  /* pg_control's data_checksum_version */
	uint8_t boot_id[16]; /* of the compute node's kernel */
} lb_control;

/*
 * RELOAD: what is in the slots, from this one on ({0, 0} at first)? A page that the node has flushed, and whose LSN is above redo, is dirty from
 * now on: the file may have been written by others since (docs/recovery.md).
 */
typedef struct lb_reload
{
	lb_slot_ref from;
	uint64_t redo;
} lb_reload;

#define LB_RELOAD_MAX 300 /* slots in one RELOAD_REPLY */

typedef enum lb_slot_kind
{
	LB_SLOT_CLEAN = 1,   /* pushed clean */
	LB_SLOT_FLUSHED = 2, /* pushed dirty, written and synced by the node */
	LB_SLOT_DIRTY = 3
} lb_slot_kind;

typedef struct lb_reload_slot
{
	lb_slot_ref slot;
	lb_page_tag tag;
	uint64_t version;
	uint64_t checksum;
	uint64_t
		lsn; /* in the page's header: its first two 32-bit words, in the machine's byte order, high word first */
	uint8_t kind; /* lb_slot_kind */
} lb_reload_slot;

typedef struct lb_reload_reply
{
	lb_control control;
	uint32_t slab_pages; /* 0: there are no slabs */
	bool more;           /* else this was the last part ... */
	lb_slot_ref next;    /* ... if so: what to ask for next */
	uint32_t count;      /* slots that are not empty; may be 0 */
	lb_reload_slot slots[LB_RELOAD_MAX];
} lb_reload_reply;

/*
 * RDMA_OPENED. The secret goes into the private data of the connection request, to the node's address and this port of rdma_cm; it is good
 * for one connection of this session.
 */
#define LB_RDMA_SECRET_SIZE 16

typedef struct lb_rdma_invitation
{
	uint16_t port;
	uint8_t secret[LB_RDMA_SECRET_SIZE];
} lb_rdma_invitation;

#define LB_SLAB_KEYS_MAX 800 /* slabs in one SLAB_KEYS_REPLY */

typedef struct lb_slab_key
{
	uint32_t slab;
	uint32_t pages;
	uint64_t address; /* of its first page, for a remote read */
	uint32_t key;     /* remote key: read only, in the tenant's protection domain */
} lb_slab_key;

typedef struct lb_slab_keys /* in the order of their numbers, which rise */
{
	bool more;     /* else these were the last ones ... */
	uint32_t next; /* ... if so: the number to go on with */
	uint32_t count;
	lb_slab_key slabs[LB_SLAB_KEYS_MAX];
} lb_slab_keys;

/*
 * Frames. encode_header computes the checksum over header and body and writes LB_HEADER_SIZE bytes. decode_header checks
 * magic, type and lengths (body and bulk at most what this type may have), not the checksum, because the body may not be
 * there yet; frame_intact checks it when it is.
 */
extern void lb_encode_header(uint8_t out[LB_HEADER_SIZE], lb_frame_type type, uint64_t sequence,
							 const void *body, size_t body_length, size_t bulk_length);
extern bool lb_decode_header(const uint8_t in[LB_HEADER_SIZE], lb_header *header);
extern bool lb_frame_intact(const uint8_t in[LB_HEADER_SIZE], const void *body);

/* Encoders: out has LB_BODY_MAX bytes; they return the length used. */
extern size_t lb_encode_hello(uint8_t *out, const lb_hello *hello);
extern size_t lb_encode_welcome(uint8_t *out, const lb_welcome *welcome);
extern size_t lb_encode_error(uint8_t *out, const lb_error *error);
extern size_t lb_encode_comm_region(uint8_t *out, const lb_comm_region *region);
extern size_t lb_encode_slab_request(uint8_t *out, const lb_slab_request *request);
extern size_t lb_encode_slab_list(uint8_t *out, const lb_slab_list *list);
extern size_t lb_encode_push(uint8_t *out, const lb_push_batch *batch);
extern size_t lb_encode_push_ack(uint8_t *out, const lb_push_ack *ack);
extern size_t lb_encode_read(uint8_t *out, const lb_read_batch *batch);
extern size_t lb_encode_release(uint8_t *out, const lb_release_batch *batch);
extern size_t lb_encode_slab_number(uint8_t *out,
									uint32_t slab);          /* SLAB_MAP, SLAB_MAPPED, SLAB_KEYS */
extern size_t lb_encode_count(uint8_t *out, uint32_t count); /* READ_REPLY */
extern size_t lb_encode_node_figures(uint8_t *out, const lb_node_figures *figures);
extern size_t lb_encode_storage(uint8_t *out, const lb_storage *storage);
extern size_t lb_encode_storage_reply(uint8_t *out, const lb_storage_reply *reply);
extern size_t lb_encode_clean(uint8_t *out, const lb_clean *clean);
extern size_t lb_encode_fence(uint8_t *out, const lb_fence *fence);
extern size_t lb_encode_flush_state(uint8_t *out, const lb_flush_state *state);
extern size_t lb_encode_slab_keep(uint8_t *out, const lb_slab_keep *keep);
extern size_t lb_encode_storage_load(uint8_t *out, const lb_storage_load *load);
extern size_t lb_encode_control(uint8_t *out, const lb_control *control);
extern size_t lb_encode_reload(uint8_t *out, const lb_reload *reload);
extern size_t lb_encode_reload_reply(uint8_t *out, const lb_reload_reply *reply);
extern size_t lb_encode_rdma_invitation(uint8_t *out, const lb_rdma_invitation *invitation);
extern size_t lb_encode_slab_keys(uint8_t *out, const lb_slab_keys *keys);

/* Decoders: false for anything that is not exactly one well-formed body. PING, PONG, STATUS, FLUSH,
 * FENCED, CONTROLLED and RDMA_OPEN have an empty one. */
extern bool lb_decode_hello(const uint8_t *in, size_t length, lb_hello *hello);
extern bool lb_decode_welcome(const uint8_t *in, size_t length, lb_welcome *welcome);
extern bool lb_decode_error(const uint8_t *in, size_t length, lb_error *error);
extern bool lb_decode_comm_region(const uint8_t *in, size_t length, lb_comm_region *region);
extern bool lb_decode_slab_request(const uint8_t *in, size_t length, lb_slab_request *request);
extern bool lb_decode_slab_list(const uint8_t *in, size_t length, lb_slab_list *list);
extern bool lb_decode_push(const uint8_t *in, size_t length, lb_push_batch *batch);
extern bool lb_decode_push_ack(const uint8_t *in, size_t length, lb_push_ack *ack);
extern bool lb_decode_read(const uint8_t *in, size_t length, lb_read_batch *batch);
extern bool lb_decode_release(const uint8_t *in, size_t length, lb_release_batch *batch);
extern bool lb_decode_slab_number(const uint8_t *in, size_t length, uint32_t *slab);
extern bool lb_decode_count(const uint8_t *in, size_t length, uint32_t *count);
extern bool lb_decode_node_figures(const uint8_t *in, size_t length, lb_node_figures *figures);
extern bool lb_decode_storage(const uint8_t *in, size_t length, lb_storage *storage);
extern bool lb_decode_storage_reply(const uint8_t *in, size_t length, lb_storage_reply *reply);
extern bool lb_decode_clean(const uint8_t *in, size_t length, lb_clean *clean);
extern bool lb_decode_fence(const uint8_t *in, size_t length, lb_fence *fence);
extern bool lb_decode_flush_state(const uint8_t *in, size_t length, lb_flush_state *state);
extern bool lb_decode_slab_keep(const uint8_t *in, size_t length, lb_slab_keep *keep);
extern bool lb_decode_storage_load(const uint8_t *in, size_t length, lb_storage_load *load);
extern bool lb_decode_control(const uint8_t *in, size_t length, lb_control *control);
extern bool lb_decode_reload(const uint8_t *in, size_t length, lb_reload *reload);
extern bool lb_decode_reload_reply(const uint8_t *in, size_t length, lb_reload_reply *reply);
extern bool lb_decode_rdma_invitation(const uint8_t *in, size_t length,
									  lb_rdma_invitation *invitation);
extern bool lb_decode_slab_keys(const uint8_t *in, size_t length, lb_slab_keys *keys);

/* For people: "PUSH", "epoch"; never null. */
extern const char *lb_frame_type_name(unsigned type);
extern const char *lb_wire_error_name(unsigned error);

#endif /* LB_WIRE_H */
