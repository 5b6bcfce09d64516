/*
 * reload.c
 *	  A new life of a server finds what its former one left: what is listed, who may have it, and that nothing of it is flushed, or
 *	  told to be clean, without being meant.
 */
#include <string.h>
#include <unistd.h>

#include "lb_clock.h"
#include "tap.h"
#include "write_back.h"

#define LISTED_MAX 16384

static const lb_control control = {
	.completed = UINT64_C(0x100000028),
	.pending = UINT64_C(0x1fedcba98),
	.tier1 = UINT64_MAX,
	.checksums = 1,
	.boot_id = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
};
static const lb_control no_control;

/* What RELOADs from the beginning have said. */
static lb_reload_slot listed[LISTED_MAX];
static uint32_t listed_count;
static uint32_t replies;
static lb_reload_reply last;

static void
list_all(client *agent)
{
	lb_slot_ref from = {0, 0};

	listed_count = replies = 0;
	do
	{
		if (client_reload(agent, from, &last) != LB_RELOAD_REPLY ||
			listed_count + last.count > LISTED_MAX)
			bail_out("RELOAD: no answer, or no end");
		memcpy(listed + listed_count, last.slots, last.count * sizeof(listed[0]));
		listed_count += last.count;
		replies++;
		from = last.next;
	} while (last.more);
}

static bool
same_control(const lb_control *expected)
{
	return last.control.completed == expected->completed &&
		   last.control.pending == expected->pending && last.control.tier1 == expected->tier1 &&
		   last.control.checksums == expected->checksums &&
		   memcmp(last.control.boot_id, expected->boot_id, sizeof(expected->boot_id)) == 0;
}

/* Is the next thing listed this page, pushed by push_pages into slab 0? */
static bool
is_listed(uint32_t index, uint32_t relation, uint32_t first, uint32_t page, uint64_t version,
		  lb_slot_kind kind)
{
	const lb_reload_slot *slot = &listed[index];
	lb_page_tag tag = {1663, 5, relation, 0, page};
	uint8_t contents[LB_PAGE_SIZE];
	uint32_t words[2];

	make_page(contents, seed_of(relation, first, version) + page - first);
	memcpy(words, contents, sizeof(words));
	return index < listed_count && slot->slot.slab == 0 && slot->slot.page == page &&
		   lb_page_tag_equal(&slot->tag, &tag) && slot->version == version &&
		   slot->checksum == lb_page_checksum(contents) &&
		   slot->lsn == ((uint64_t) words[0] << 32 | words[1]) && slot->kind == kind;
}

/* The same for a run of pages that were pushed together. */
static bool
are_listed(uint32_t index, uint32_t relation, uint32_t first, uint32_t count, uint64_t version,
		   lb_slot_kind kind)
{
	for (uint32_t i = 0; i < count; i++)
		if (!is_listed(index + i, relation, first, first + i, version, kind))
			return false;
	return true;
}

static void
test_listing(void)
{
	lb_hello former;
	uint64_t token;
	write_back self;
	client backend;
	client late;

	write_back_start(&self, NULL, NULL);
	token = self.agent.welcome.token;
	push_pages(&self.agent, 100, 0, 64, 1, true);
	client_flush(&self.agent);
	client_wait_clean(&self.agent, 64, 3000);
	push_pages(&self.agent, 200, 64, 64, 2, false);
	push_pages(&self.agent, 100, 128, 64, 3, true);
	client_release(&self.agent, 0, 70, 2);
	is_number(client_control(&self.agent, &control), LB_CONTROLLED, "CONTROL is answered");
	backend_open(&backend, self.node.tcp_uri, 9, self.epoch, token);

	ok(write_back_new_life(&self), "a new life of the server: all is there");
	ok(self.agent.welcome.token != token && self.agent.welcome.token != 0, "a new token");
	is_number((uint64_t) client_receive(&backend), CLIENT_CLOSED, "former backends are closed");
	client_close(&backend);
	list_all(&self.agent);
	is_number(listed_count, 191, "what is in the slots is listed");
	is_number(replies, 1, "... at once");
	is_number(last.slab_pages, 256, "... with the size of slabs");
	ok(same_control(&control), "... and the control record, as it was told");
	ok(are_listed(0, 100, 0, 64, 1, LB_SLOT_FLUSHED), "what was flushed");
	ok(are_listed(64, 200, 64, 6, 2, LB_SLOT_CLEAN), "what came clean");
	ok(listed[70].slot.page == 71 && listed[126].slot.page == 127, "but for what was released");
	ok(are_listed(127, 100, 128, 64, 3, LB_SLOT_DIRTY), "what is dirty");

	client_flush(&self.agent);
	client_listen(&self.agent, 300);
	ok(client_storage(&self.agent, NULL), "STORAGE");
	client_listen(&self.agent, 700);
	ok(file_is_zero(&self, 100, 128, 64), "nothing is flushed before the agent has confirmed");
	is_number(self.agent.told->clean_count, 0, "nor told to be clean: the list has said it");
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 64, 3000) && file_has(&self, 100, 128, 64, 3),
	   "then what is dirty is flushed, and told");
	list_all(&self.agent);
	ok(are_listed(127, 100, 128, 64, 3, LB_SLOT_FLUSHED), "... and listed as that");
	client_listen(&self.agent, 300);
	is_number(self.agent.told->clean_count, 64, "nothing else is told");

	former = make_hello(LB_ROLE_AGENT, 9, self.epoch + 1, token);
	client_open(&late, self.node.tcp_uri);
	ok(client_hello(&late, &former) == LB_ERROR && late.error.error == LB_ERR_EPOCH,
	   "the former life can't come back");
	client_close(&late);
	ok(write_back_resume(&self) && client_storage(&self.agent, NULL) &&
		   client_wait_clean(&self.agent, 128, 3000),
	   "this one can, and is told again of all that was flushed");
	write_back_stop(&self);
}

/* What was flushed with a higher LSN than the redo point is to be written once more: others may have written the file since. */
static void
test_flushed_above_redo(void)
{
	lb_reload_reply reply;
	uint64_t redo;
	uint32_t above = 0;
	bool right = true;
	write_back self;

	write_back_start(&self, NULL, NULL);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	client_flush(&self.agent);
	client_wait_clean(&self.agent, 64, 3000);
	if (!write_back_new_life(&self))
		bail_out("nothing is left");
	client_reload(&self.agent, (lb_slot_ref){0, 0}, &reply);
	redo = reply.slots[20].lsn;
	is_number(figures_of(&self).dirty_pages, 0,
			  "below the redo point: what was flushed stays clean");
	client_reload_above(&self.agent, (lb_slot_ref){0, 0}, redo, &reply);
	for (uint32_t i = 0; i < reply.count; i++)
	{
		right = right && reply.slots[i].kind == LB_SLOT_FLUSHED;
		above += reply.slots[i].lsn > redo;
	}
	ok(right && reply.count == 64 && above > 0 && above < 63, "it is listed as flushed");
	is_number(figures_of(&self).dirty_pages, above, "above the redo point: it is dirty again");
	ok(client_storage(&self.agent, NULL), "STORAGE");
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, above, 3000), "it is written again, and told of");
	client_listen(&self.agent, 300);
	is_number(self.agent.told->clean_count, above, "... and nothing else");
	client_reload_above(&self.agent, (lb_slot_ref){0, 0}, redo, &reply);
	is_number(figures_of(&self).dirty_pages, 0,
			  "once the agent has confirmed its storage a RELOAD changes nothing");
	write_back_stop(&self);
}

/* What begins empty, and what was given up. */
static void
test_nothing_left(void)
{
	static const char *const options[] = {"--tenant-timeout", "1", NULL};
	lb_slab_list granted;
	write_back self;
	client other;
	lb_hello hello;

	write_back_start(&self, NULL, options);
	hello = make_hello(LB_ROLE_AGENT, 77, 1, 0);
	hello.resume = LB_RESUME_LIFE;
	client_open(&other, self.node.shm_uri);
	ok(client_hello(&other, &hello) == LB_WELCOME && !other.welcome.resumed,
	   "an instance that is not known begins empty");
	list_all(&other);
	ok(listed_count == 0 && last.slab_pages == 0 && same_control(&no_control),
	   "... with nothing to be listed");
	client_close(&other);

	push_pages(&self.agent, 100, 0, 64, 1, true);
	client_control(&self.agent, &control);
	hello = make_hello(LB_ROLE_AGENT, 9, ++self.epoch, 0);
	client_close(&self.agent);
	client_open(&self.agent, self.node.tcp_uri);
	client_hello(&self.agent, &hello);
	list_all(&self.agent);
	ok(listed_count == 0 && last.slab_pages == 0 && same_control(&no_control),
	   "who does not ask for it begins empty, without a control record");
	is_number(figures_of(&self).granted_pages, 0, "... and without memory");

	client_request_slabs(&self.agent, 512, 1, &granted);
	push_pages(&self.agent, 100, 0, 64, 1, false);
	client_control(&self.agent, &control);
	lb_stream_close(self.agent.stream);
	self.agent.stream = NULL;
	usleep(2300000);
	ok(!write_back_new_life(&self), "after the time limit nothing is there");
	list_all(&self.agent);
	ok(listed_count == 0 && same_control(&no_control), "... nor a control record");

	client_control(&self.agent, &control);
	lb_stream_close(self.agent.stream);
	self.agent.stream = NULL;
	usleep(2300000);
	ok(!write_back_new_life(&self), "the same without any memory");
	list_all(&self.agent);
	ok(same_control(&no_control), "... nor a control record");
	write_back_stop(&self);
}

static lb_wire_error
refusal(client *client, const char *uri, const lb_hello *hello)
{
	client_open(client, uri);
	if (client_hello(client, hello) != LB_ERROR)
		client->error.error = LB_ERR_NONE;
	return (lb_wire_error) client->error.error;
}

static void
test_who_may(void)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, 9, 11, 0);
	write_back self;
	client other;

	write_back_start(&self, NULL, NULL);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	client_control(&self.agent, &control);
	hello.resume = LB_RESUME_LIFE;
	is_number(refusal(&other, self.node.shm_uri, &hello), LB_ERR_HELD,
			  "while another server is there: refused");
	client_close(&other);
	hello.token = self.agent.welcome.token;
	is_number(refusal(&other, self.node.tcp_uri, &hello), LB_ERR_MALFORMED,
			  "with a token: malformed");
	client_close(&other);
	hello.token = 0;
	hello.take_over = true;
	hello.epoch = 10;
	is_number(refusal(&other, self.node.tcp_uri, &hello), LB_ERR_EPOCH, "with its epoch: refused");
	client_close(&other);
	hello.epoch = 11;
	hello.system_identifier++;
	is_number(refusal(&other, self.node.tcp_uri, &hello), LB_ERR_SYSTEM_ID,
			  "with another system identifier: refused");
	client_close(&other);
	is_number(client_ping(&self.agent), LB_PONG, "who is there has noticed nothing");
	list_all(&self.agent);
	ok(listed_count == 64 && same_control(&control), "... and may ask too");

	hello.system_identifier--;
	client_open(&other, self.node.shm_uri);
	ok(client_hello(&other, &hello) == LB_WELCOME && other.welcome.resumed,
	   "taken over: all is there");
	is_number((uint64_t) client_receive(&self.agent), LB_ERROR, "the former one is told");
	is_number(self.agent.error.error, LB_ERR_EPOCH, "... that its epoch is over");
	list_all(&other);
	ok(are_listed(0, 100, 0, 64, 1, LB_SLOT_DIRTY) && same_control(&control),
	   "its pages are listed");
	ok(client_storage(&other, NULL), "STORAGE");
	client_flush(&other);
	ok(client_wait_clean(&other, 64, 3000) && file_has(&self, 100, 0, 64, 1), "... and flushed");
	client_close(&other);
	write_back_stop(&self);
}

/* One page in every slab but some that are gone, and one slab that is full. */
static void
test_many_slabs(void)
{
	static const uint32_t gone[] = {3, 7, 8, 9, 19};
	static const uint32_t alone[] = {0, 1, 4, 5, 10, 18};
	lb_reload_reply reply;
	lb_slab_list granted;
	uint32_t pushed = 0;
	lb_push_ack ack;
	bool right = true;
	write_back self;

	write_back_start(&self, NULL, NULL);
	client_request_slabs(&self.agent, 256, 19, &granted);
	client_return_slabs(&self.agent, gone, 5);
	for (uint32_t n = 0; n < 6; n++)
	{
		push_plan plan = {.slab = alone[n],
						  .page = n % 2 ? 255 : 0,
						  .count = 1,
						  .version = 1,
						  .first = {1663, 5, 300, 0, n}};

		client_push(&self.agent, &plan, &ack);
		pushed += ack.results[0] == LB_PUSH_PUBLISHED;
	}
	for (uint32_t n = 0; n < 8; n++)
	{
		push_plan plan = {.slab = n < 4 ? 2 : 12,
						  .page = n % 4 * 64,
						  .count = 64,
						  .version = 1,
						  .seed = n * 64,
						  .first = {1663, 5, 400, 0, n * 64}};

		client_push(&self.agent, &plan, &ack);
		pushed += ack.count;
	}
	is_number(pushed, 518, "518 pages in 8 of 15 slabs");
	ok(write_back_new_life(&self), "a new life");
	list_all(&self.agent);
	is_number(listed_count, 518, "all are listed");
	is_number(replies, 2, "... in 2 parts, the first of which is full");
	for (uint32_t i = 1; i < listed_count; i++)
		right = right && (listed[i - 1].slot.slab < listed[i].slot.slab ||
						  (listed[i - 1].slot.slab == listed[i].slot.slab &&
						   listed[i - 1].slot.page < listed[i].slot.page));
	ok(right, "... in the order of their slots");
	ok(listed[0].slot.slab == 0 && listed[0].slot.page == 0 && listed[1].slot.page == 255 &&
		   listed[517].slot.slab == 18 && listed[517].slot.page == 255,
	   "from the first to the last");
	client_reload(&self.agent, (lb_slot_ref){5, 0}, &reply);
	ok(reply.count == 259 && reply.slots[0].slot.slab == 5 && !reply.more, "from some slab on");
	client_reload(&self.agent, (lb_slot_ref){12, 250}, &reply);
	ok(reply.count == 7 && reply.slots[0].slot.page == 250, "from some page on");
	client_reload(&self.agent, (lb_slot_ref){7, 3}, &reply);
	ok(reply.count == 258 && reply.slots[0].slot.slab == 10, "from a slab that is gone");
	client_reload(&self.agent, (lb_slot_ref){2, UINT32_MAX}, &reply);
	ok(reply.count == 260 && reply.slots[0].slot.slab == 4, "from beyond the end of a slab");
	client_reload(&self.agent, (lb_slot_ref){20, 0}, &reply);
	ok(reply.count == 0 && !reply.more && reply.slab_pages == 256, "beyond the end");
	client_reload(&self.agent, (lb_slot_ref){UINT32_MAX, UINT32_MAX}, &reply);
	ok(reply.count == 0 && !reply.more, "far beyond the end");
	write_back_stop(&self);
}

/* A request takes so long at most, whatever is in the slots. */
static void
test_empty_slots(void)
{
	static const char *const options[] = {"--memory", "128MB", NULL};
	push_plan plan = {.slab = 63, .page = 255, .count = 1, .relation = 300, .version = 1};
	lb_slab_request request = {256, 64};
	lb_reload_reply reply;
	uint8_t body[LB_BODY_MAX];
	lb_slab_list granted;
	lb_push_ack ack;
	write_back self;

	write_back_start(&self, NULL, options);
	client_request_slabs(&self.agent, 256, 63, &granted);
	is_number(granted.count, 63, "64 slabs");
	client_push(&self.agent, &plan, &ack);
	ok(write_back_new_life(&self), "a new life");
	client_reload(&self.agent, (lb_slot_ref){0, 0}, &reply);
	ok(reply.count == 0 && reply.more, "nothing was found yet");
	list_all(&self.agent);
	ok(listed_count == 1 && listed[0].slot.slab == 63 && listed[0].slot.page == 255,
	   "the last slot is found");
	ok(replies > 1 && replies < 20, "... after %u answers", replies);

	/* slabs that are being filled */
	client_keep(&self.agent, &(lb_slab_keep){.bytes = 1, .bits = {1}});
	client_send(&self.agent, LB_SLAB_REQUEST, body, lb_encode_slab_request(body, &request));
	is_number((uint64_t) client_reload(&self.agent, (lb_slot_ref){0, 0}, &reply), LB_RELOAD_REPLY,
			  "RELOAD while memory is prepared");
	ok(reply.count == 0, "... lists nothing of that");
	is_number((uint64_t) client_receive_within(&self.agent, 30000), LB_SLAB_GRANT, "granted");
	write_back_stop(&self);
}

/* An agent that asks, and does not read: the node neither ends the connection nor takes more memory. */
static void
test_many_requests(void)
{
	lb_reload from = {.redo = UINT64_MAX};
	lb_reload_reply reply;
	uint8_t body[LB_BODY_MAX];
	uint32_t whole = 0;
	write_back self;

	write_back_start(&self, NULL, NULL);
	for (uint32_t page = 0; page < 256; page += 64)
		push_pages(&self.agent, 100, page, 64, 1, false);
	for (int i = 0; i < 400; i++)
		client_send(&self.agent, LB_RELOAD, body, lb_encode_reload(body, &from));
	usleep(300000);
	for (int i = 0; i < 400; i++)
		whole +=
			client_receive_reload(&self.agent, &reply) == LB_RELOAD_REPLY && reply.count == 256;
	is_number(whole, 400, "400 RELOADs before the first answer was read");
	write_back_stop(&self);
}

static void
test_dropped(void)
{
	lb_slab_keep keep = {.bytes = 1, .bits = {1 << 1}};
	push_plan plan = {
		.slab = 1, .count = 64, .version = 2, .dirty = true, .first = {1663, 5, 200, 0, 0}};
	lb_slab_list granted;
	lb_push_ack ack;
	write_back self;

	write_back_start(&self, NULL, NULL);
	client_request_slabs(&self.agent, 256, 3, &granted);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	client_push(&self.agent, &plan, &ack);
	ok(write_back_new_life(&self) && client_storage(&self.agent, NULL), "a new life");
	list_all(&self.agent);
	is_number(listed_count, 128, "128 pages");
	client_release(&self.agent, 1, 5, 3); /* that, or an older one */
	client_release(&self.agent, 1, 6, 1);
	client_keep(&self.agent, &keep);
	list_all(&self.agent);
	ok(listed_count == 63 && listed[0].slot.slab == 1 && listed[5].slot.page == 6,
	   "what was released, and slabs that are not known, are gone");
	is_number(figures_of(&self).dirty_pages, 63, "... dirty or not");
	is_number(figures_of(&self).granted_pages, 256, "... with their memory");
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 63, 3000), "the others are flushed");
	ok(file_is_zero(&self, 100, 0, 64) && file_is_zero(&self, 200, 5, 1), "only these");

	/* another size of slabs is possible when none is left */
	ok(client_request_slabs(&self.agent, 512, 1, &granted) == LB_ERROR &&
		   self.agent.error.error == LB_ERR_SLAB,
	   "another size of slabs: refused");
	keep.bytes = 0;
	client_keep(&self.agent, &keep);
	is_number(client_request_slabs(&self.agent, 512, 1, &granted), LB_SLAB_GRANT,
			  "... unless none is left");
	list_all(&self.agent);
	ok(listed_count == 0 && last.slab_pages == 512, "nothing is there but that");
	push_pages(&self.agent, 100, 256, 64, 1, false);
	list_all(&self.agent);
	ok(listed_count == 64 && listed[0].slot.page == 256, "it can be used");
	write_back_stop(&self);
}

/* A file's pages 0 and 1 are being synced, and the server has begun a new life. */
static void
begin_in_a_round(write_back *self)
{
	write_back_start(self, "memnode.flush.sync=wait:800@1", NULL);
	push_pages(&self->agent, 100, 0, 2, 1, true);
	client_flush(&self->agent);
	usleep(200000);
	if (!write_back_new_life(self))
		bail_out("nothing is left");
	list_all(&self->agent);
	ok(are_listed(0, 100, 0, 2, 1, LB_SLOT_DIRTY) && listed_count == 2,
	   "what is being written is listed as dirty");
}

static void
test_round_of_former_life(bool proven_first)
{
	write_back self;

	note("STORAGE %s the end of the round", proven_first ? "before" : "after");
	begin_in_a_round(&self);
	if (!proven_first)
		usleep(1200000);
	ok(client_storage(&self.agent, NULL), "STORAGE");
	ok(client_wait_clean(&self.agent, 2, 3000), "what became durable since is told of");
	client_listen(&self.agent, 500);
	ok(client_told_clean(&self.agent, 100, 0, 1) == 1 &&
		   client_told_clean(&self.agent, 100, 1, 1) == 1 && self.agent.told->clean_count == 2,
	   "... once");
	is_number(figures_of(&self).dirty_pages, 0, "nothing is dirty");
	list_all(&self.agent);
	ok(are_listed(0, 100, 0, 2, 1, LB_SLOT_FLUSHED), "they are listed as flushed");
	write_back_stop(&self);
}

/* The new life has dropped what is being written, and pushes a page that happens to have the same version. */
static void
test_version_used_again(bool by_release)
{
	lb_slab_keep nothing = {.bytes = 0};
	lb_slab_list granted;
	write_back self;

	note("dropped by %s", by_release ? "RELEASE" : "SLAB_KEEP");
	begin_in_a_round(&self);
	ok(client_storage(&self.agent, NULL), "STORAGE");
	if (by_release)
		client_release(&self.agent, 0, 0, 1);
	else
	{
		client_keep(&self.agent, &nothing);
		client_request_slabs(&self.agent, 256, 1, &granted);
	}
	is_number(push_pages(&self.agent, 100, 0, 1, 1, true), LB_PUSH_PUBLISHED, "pushed");
	client_listen(&self.agent, 1500);
	is_number((uint64_t) client_told_clean(&self.agent, 100, 0, 1), 0,
			  "the round says nothing of it");
	is_number(self.agent.told->clean_count, by_release ? 1 : 0, "... but of what was kept");
	is_number(figures_of(&self).dirty_pages, 1, "it is dirty");
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, by_release ? 2 : 1, 3000), "... until it is flushed");
	is_number((uint64_t) client_told_clean(&self.agent, 100, 0, 1), 1, "... which is told");
	write_back_stop(&self);
}

static void
test_fence_in_former_round(void)
{
	lb_fence fence = fence_of_relation(100);
	uint64_t begin_ns;
	write_back self;

	begin_in_a_round(&self);
	begin_ns = lb_now_ns();
	client_fence(&self.agent, &fence);
	ok(is_fenced(&self.agent, self.agent.sequence, 3000), "FENCED");
	ok(lb_now_ns() - begin_ns > 300000000, "... when the former life's round is over");
	list_all(&self.agent);
	is_number(listed_count, 0, "nothing is listed");
	ok(client_storage(&self.agent, NULL), "STORAGE");
	client_listen(&self.agent, 500);
	is_number(self.agent.told->clean_count, 0, "nothing is told");
	write_back_stop(&self);
}

/* FENCEs and memory that the former life has asked for are not answered to the new one. */
static void
test_unfinished(void)
{
	lb_fence fence = fence_of_relation(100);
	lb_slab_request request = {256, 31};
	uint8_t body[LB_BODY_MAX];
	write_back self;

	write_back_start(&self, "memnode.flush.write=wait:700@1", NULL);
	push_pages(&self.agent, 100, 0, 64, 1, true);
	client_flush(&self.agent);
	usleep(200000);
	push_pages(&self.agent, 200, 100, 2, 1, true);
	client_fence(&self.agent, &fence);
	client_send(&self.agent, LB_SLAB_REQUEST, body, lb_encode_slab_request(body, &request));
	ok(write_back_new_life(&self), "a new life");
	is_number((uint64_t) client_receive_within(&self.agent, 1500), (uint64_t) CLIENT_SILENT,
			  "nothing comes that it has not asked for");
	list_all(&self.agent);
	ok(listed_count == 2 && are_listed(0, 200, 100, 2, 1, LB_SLOT_DIRTY),
	   "what was fenced is gone, the rest is there");
	ok(file_is_zero(&self, 100, 32, 32), "no write began after the former life's end");
	ok(client_storage(&self.agent, NULL), "STORAGE");
	client_flush(&self.agent);
	ok(client_wait_clean(&self.agent, 2, 3000) && file_has(&self, 200, 100, 2, 1),
	   "the rest is flushed");
	write_back_stop(&self);
}

/* After a failed sync nobody knows what the files have: nothing is vouched for, until an attachment begins empty. */
static void
test_sync_failed(void)
{
	lb_hello hello;
	write_back self;

	write_back_start(&self, "memnode.flush.sync=fail@1", NULL);
	client_control(&self.agent, &control);
	push_pages(&self.agent, 100, 0, 2, 1, true);
	client_flush(&self.agent);
	ok(client_wait_error(&self.agent, 3000), "a sync failed: %s", self.agent.told->error.error);
	is_number(client_control(&self.agent, &control), LB_CONTROLLED, "CONTROL");
	ok(write_back_new_life(&self), "a new life");
	list_all(&self.agent);
	ok(listed_count == 2 && same_control(&no_control), "the pages are listed, without a record");
	hello = make_hello(LB_ROLE_AGENT, 9, ++self.epoch, 0);
	client_close(&self.agent);
	client_open(&self.agent, self.node.tcp_uri);
	client_hello(&self.agent, &hello);
	client_control(&self.agent, &control);
	ok(write_back_new_life(&self), "after one that began empty");
	list_all(&self.agent);
	ok(same_control(&control), "... the record counts again");
	write_back_stop(&self);
}

static void
test_damaged(void)
{
	write_back self;

	write_back_start(&self, NULL, NULL);
	push_pages(&self.agent, 100, 0, 3, 1, true);
	if (!write_back_damage(&self, 1))
		note("not tested: the node's memory can't be changed here");
	else
	{
		ok(write_back_new_life(&self), "a new life");
		list_all(&self.agent);
		ok(listed_count == 2 && are_listed(0, 100, 0, 1, 1, LB_SLOT_DIRTY) &&
			   listed[1].slot.page == 2,
		   "a damaged page is not listed");
		is_number((uint64_t) node_log_count(&self.node, "is damaged in this node's memory"), 1,
				  "... which the log says");
		is_number(figures_of(&self).dirty_pages, 2, "... and is gone");
		ok(client_storage(&self.agent, NULL), "STORAGE");
		is_number(push_pages(&self.agent, 100, 1, 1, 1, true), LB_PUSH_PUBLISHED,
				  "the page may come again");
		client_flush(&self.agent);
		ok(client_wait_clean(&self.agent, 3, 3000) && file_has(&self, 100, 0, 1, 1),
		   "all are flushed");
		push_pages(&self.agent, 100, 0, 3, 2, true);
		write_back_damage(&self, 1);
		list_all(&self.agent);
		is_number(listed_count, 2, "once storage is confirmed it is not listed either");
		is_number(figures_of(&self).dirty_pages, 3, "... but stays, for flushing to find");
	}
	write_back_stop(&self);
}

static void
test_fault_points(void)
{
	lb_reload_reply reply;
	write_back self;

	write_back_start(&self, "memnode.reload=fail@1,memnode.control=fail@2", NULL);
	client_control(&self.agent, &control);
	is_number((uint64_t) client_control(&self.agent, &no_control), CLIENT_CLOSED,
			  "control=fail: closed");
	ok(write_back_new_life(&self), "a new life");
	is_number((uint64_t) client_reload(&self.agent, (lb_slot_ref){0, 0}, &reply), CLIENT_CLOSED,
			  "reload=fail: closed");
	ok(write_back_new_life(&self), "one more");
	list_all(&self.agent);
	ok(same_control(&control), "the control record is the one before");
	write_back_stop(&self);
}

int
main(void)
{
	test_listing();
	test_flushed_above_redo();
	test_nothing_left();
	test_who_may();
	test_many_slabs();
	test_empty_slots();
	test_many_requests();
	test_dropped();
	test_round_of_former_life(true);
	test_round_of_former_life(false);
	test_version_used_again(true);
	test_version_used_again(false);
	test_fence_in_former_round();
	test_unfinished();
	test_sync_failed();
	test_damaged();
	test_fault_points();
	return done_testing();
}
