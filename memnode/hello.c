/*
 * hello.c
 *	  The first frame of a session: who may come in, and as what.
 */
#include <inttypes.h>

#include "hello.h"
#include "lb_fault.h"
#include "log.h"

static bool
welcome(session *session, uint64_t sequence, bool resumed)
{
	const node *node = session->node;
	const tenant *tenant = session->tenant;
	lb_welcome welcome = {.version = LB_PROTOCOL_VERSION,
						  .incarnation = node->incarnation,
						  .timeout_ms = node->options->tenant_timeout_s * 1000};
	uint8_t body[LB_BODY_MAX];

	welcome.resumed = resumed;
	if (tenant)
	{
		welcome.epoch = tenant->epoch;
		welcome.capacity_pages = tenant->quota_pages;
		welcome.free_pages = tenant_free_pages(tenant, &node->pool);
		if (session->role == LB_ROLE_AGENT)
			welcome.token = tenant->token;
	}
	return session_send(session, LB_WELCOME, sequence, body, lb_encode_welcome(body, &welcome));
}

/* The former agent and its backends have no business here any more. There may be a thousand of them: their queue pairs are only doomed. */
static void
expel_former(tenant *tenant, const lb_hello *hello)
{
	session *former = tenant->agent;

	while (!TAILQ_EMPTY(&tenant->backends))
		session_close(TAILQ_FIRST(&tenant->backends), "another session began");
	if (!former)
		return;
	session_detach_agent(former, "taken over");
	if (!session_refuse(former, 0, LB_ERR_EPOCH, hello->epoch,
						"the instance was taken over by \"%s\" with epoch %" PRIu64, hello->holder,
						hello->epoch))
		session_close(former, "taken over");
}

static bool
refuse_epoch(session *session, uint64_t sequence, const lb_hello *hello, const tenant *tenant)
{
	uint64_t known = tenant ? tenant->epoch : 0;

	if (tenant && tenant->agent)
		return session_refuse(session, sequence, LB_ERR_EPOCH, known,
							  "epoch %" PRIu64 " is not above %" PRIu64 ", held by \"%s\"",
							  hello->epoch, known, tenant->holder);
	return session_refuse(session, sequence, LB_ERR_EPOCH, known,
						  "epoch %" PRIu64 " is not above %" PRIu64, hello->epoch, known);
}

static bool
refuse_system_id(session *session, uint64_t sequence, const lb_hello *hello, const tenant *tenant)
{
	return session_refuse(session, sequence, LB_ERR_SYSTEM_ID, 0,
						  "instance %s is known here with system identifier %" PRIu64
						  ", not %" PRIu64,
						  tenant->name, tenant->system_identifier, hello->system_identifier);
}

/*
 * Who is this agent to an instance that is known here? A server shows the token of its former attachment. One that shows
 * another token than the one in force was attached before somebody else took the instance over, whether or not that
 * one is here just now (rule R10). One that shows none has just started.
 */
typedef enum acquaintance
{
	STRANGER,
	SAME_HOLDER,
	FORMER_HOLDER
} acquaintance;

static acquaintance
recognise(const tenant *tenant, const lb_hello *hello)
{
	if (!tenant || tenant->token == 0 || hello->token == 0)
		return STRANGER;
	return tenant_token_matches(tenant, hello->token) ? SAME_HOLDER : FORMER_HOLDER;
}

/*
 * Only who was attached last knows what is in the slots; and only as long as the memory was not given up. A new life of the
 * server knows nothing, and asks (RELOAD).
 */
static attachment
choose_attachment(const node *node, const tenant *tenant, acquaintance who, const lb_hello *hello)
{
	if (!tenant->alive)
		return ATTACH_EMPTY;
	if (hello->resume == LB_RESUME_LIFE)
		return ATTACH_KEEP;
	return who == SAME_HOLDER && hello->resume == node->incarnation ? ATTACH_RESUME : ATTACH_EMPTY;
}

static void
log_attachment(const session *session, const tenant *tenant, attachment attachment)
{
	log_line(LOG_NOTE, "instance %s: %s by \"%s\", from %s, epoch %" PRIu64, tenant->name,
			 attachment == ATTACH_RESUME ? "resumed" : "attached", tenant->holder, session->peer,
			 tenant->epoch);
	if (attachment == ATTACH_KEEP)
		log_line(LOG_NOTE,
				 "instance %s: %" PRIu64 " pages (%" PRIu64 " dirty) of its former life are kept",
				 tenant->name, tenant->slots.used, tenant->slots.dirty);
}

static bool
attach_agent(session *session, uint64_t sequence, const lb_hello *hello)
{
	node *node = session->node;
	tenant *tenant = tenant_find(&node->tenants, hello->uuid);
	acquaintance who = recognise(tenant, hello);
	attachment attachment;
	lb_status status;

	if (hello->resume == LB_RESUME_LIFE && hello->token != 0)
		return session_refuse_malformed(session, sequence, "a new life of a server with a token");
	if (tenant && tenant->system_identifier != hello->system_identifier)
		return refuse_system_id(session, sequence, hello, tenant);
	if (who == FORMER_HOLDER)
		return session_refuse(session, sequence, LB_ERR_EPOCH, tenant->epoch,
							  "the instance was taken over by \"%.120s\" with epoch %" PRIu64,
							  tenant->holder, tenant->epoch);
	/* Looked at before anything is closed: a late HELLO must not end the session that came after it. */
	if (hello->epoch <= (tenant ? tenant->epoch : 0))
		return refuse_epoch(session, sequence, hello, tenant);

	/* A server may be back before the end of its former connection was noticed. */
	if (tenant && tenant->agent && (who == SAME_HOLDER || session_peer_gone(tenant->agent)))
		session_close(tenant->agent, "connection closed");
	if (tenant && tenant->agent && !hello->take_over)
		return session_refuse(session, sequence, LB_ERR_HELD, 0, "held by \"%.150s\", from %s",
							  tenant->holder, tenant->agent->peer);
	if (!tenant)
		tenant = tenant_create(&node->tenants, hello, node->options->quota_bytes / LB_PAGE_SIZE);
	if (!tenant)
		return session_refuse(session, sequence, LB_ERR_LIMIT, 0,
							  "this memory node has no room for another instance");

	expel_former(tenant, hello);
	attachment = choose_attachment(node, tenant, who, hello);
	if (attachment != ATTACH_EMPTY && LB_FAULT("memnode.resume"))
		return false;
	if (attachment == ATTACH_EMPTY && tenant->slots.dirty > 0)
		log_line(LOG_NOTE, "instance %s: %" PRIu64 " dirty pages of its former life dropped",
				 tenant->name, tenant->slots.dirty);
	if (!tenant_begin_session(&node->tenants, tenant, &node->pool, hello, attachment, &status))
		return session_refuse(session, sequence, LB_ERR_INTERNAL, 0, "%s", status.message);
	node_wake_worker(node);
	session_settle(session, LB_ROLE_AGENT, tenant);
	log_attachment(session, tenant, attachment);
	return welcome(session, sequence, attachment != ATTACH_EMPTY);
}

static bool
attach_backend(session *session, uint64_t sequence, const lb_hello *hello)
{
	tenant *tenant = tenant_find(&session->node->tenants, hello->uuid);

	if (!tenant || !tenant->agent)
		return session_refuse(session, sequence, LB_ERR_TOKEN, 0,
							  "no buffer agent of this instance is attached");
	if (tenant->system_identifier != hello->system_identifier)
		return refuse_system_id(session, sequence, hello, tenant);
	if (tenant->epoch != hello->epoch)
		return session_refuse(session, sequence, LB_ERR_EPOCH, tenant->epoch,
							  "epoch %" PRIu64 " is not %" PRIu64 ", which is in force",
							  hello->epoch, tenant->epoch);
	if (!tenant_token_matches(tenant, hello->token))
		return session_refuse(session, sequence, LB_ERR_TOKEN, 0, "wrong session token");
	session_settle(session, LB_ROLE_BACKEND, tenant);
	return welcome(session, sequence, false);
}

static bool
speaks_our_version(unsigned version_min, unsigned version_max)
{
	return version_min <= LB_PROTOCOL_VERSION && LB_PROTOCOL_VERSION <= version_max;
}

static bool
refuse_version(session *session, uint64_t sequence, unsigned version_min, unsigned version_max)
{
	return session_refuse(session, sequence, LB_ERR_VERSION, 0,
						  "this memory node speaks protocol version %d, not %u to %u",
						  LB_PROTOCOL_VERSION, version_min, version_max);
}

/*
 * A body that can't be decoded. If it comes from a later version of the protocol, the versions still stand at its
 * start, and say so is more helpful than "malformed".
 */
static bool
refuse_undecodable(session *session, const lb_frame *frame)
{
	const uint8_t *body = frame->body;

	if (frame->header.body_length >= 4)
	{
		unsigned version_min = body[0] | (unsigned) body[1] << 8;
		unsigned version_max = body[2] | (unsigned) body[3] << 8;

		if (version_min <= version_max && !speaks_our_version(version_min, version_max))
			return refuse_version(session, frame->header.sequence, version_min, version_max);
	}
	return session_refuse_malformed(session, frame->header.sequence, "malformed HELLO");
}

bool
hello_handle(session *session, const lb_frame *frame)
{
	const node *node = session->node;
	uint64_t sequence = frame->header.sequence;
	lb_hello hello;

	if (frame->header.type != LB_HELLO)
		return session_refuse_malformed(session, sequence, "the first frame is not HELLO");
	if (!lb_decode_hello(frame->body, frame->header.body_length, &hello))
		return refuse_undecodable(session, frame);
	if (!speaks_our_version(hello.version_min, hello.version_max))
		return refuse_version(session, sequence, hello.version_min, hello.version_max);
	if (hello.role == LB_ROLE_MONITOR)
	{
		session_settle(session, LB_ROLE_MONITOR, NULL);
		return welcome(session, sequence, false);
	}
	if (hello.page_size != LB_PAGE_SIZE)
		return session_refuse(session, sequence, LB_ERR_PAGE_SIZE, 0,
							  "this memory node serves pages of %d bytes, not %u", LB_PAGE_SIZE,
							  hello.page_size);
	if (node->session_count - node->stranger_count >= node->options->max_sessions)
		return session_refuse(session, sequence, LB_ERR_LIMIT, 0,
							  "this memory node has reached its limit of %u sessions",
							  node->options->max_sessions);
	if (hello.role == LB_ROLE_AGENT)
		return attach_agent(session, sequence, &hello);
	return attach_backend(session, sequence, &hello);
}
