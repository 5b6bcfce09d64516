/*
 * client.c
 *	  A peer of the memory node.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"
#include "lb_clock.h"
#include "lb_net.h"
#include "tap.h"

#define ANSWER_WITHIN_MS 5000
#define OUTPUT_LIMIT ((size_t) 8 << 20)

void
client_open(client *client, const char *uri)
{
	uint64_t deadline_ns = lb_now_ns() + UINT64_C(5000000000);
	lb_address address;
	lb_status status;
	lb_uri parsed;
	int fd;

	memset(client, 0, sizeof(*client));
	client->told = calloc(1, sizeof(told));
	if (!client->told)
		bail_out("out of memory");
	if (!lb_uri_parse(uri, false, &parsed, &status) ||
		!lb_net_resolve(&parsed, false, &address, &status) ||
		(fd = lb_net_connect(&address, deadline_ns, &status)) < 0 ||
		!(client->stream = lb_stream_create(fd, OUTPUT_LIMIT, &status)))
		bail_out("cannot connect to %s: %s", uri, status.message);
	client->transport = parsed.transport;
}

void
client_close(client *client)
{
	if (client->stream)
		lb_stream_close(client->stream);
	if (client->region)
		munmap(client->region, REGION_BUFFERS * LB_PAGE_SIZE);
	free(client->told);
	memset(client, 0, sizeof(*client));
}

bool
client_send_bulk(client *client, lb_frame_type type, const void *body, size_t body_length,
				 void *bulk, size_t bulk_length, int pass_fd)
{
	struct iovec piece = {bulk, bulk_length};
	lb_status status;

	if (!lb_stream_send(client->stream, type, ++client->sequence, body, body_length, &piece,
						bulk_length > 0 ? 1 : 0, pass_fd, &status))
		return false;
	while (lb_stream_wants_write(client->stream))
	{
		struct pollfd wait = {.fd = lb_stream_fd(client->stream), .events = POLLOUT};

		if (poll(&wait, 1, ANSWER_WITHIN_MS) <= 0 || !lb_stream_flush(client->stream, &status))
			return false;
	}
	return true;
}

bool
client_send(client *client, lb_frame_type type, const void *body, size_t body_length)
{
	return client_send_bulk(client, type, body, body_length, NULL, 0, -1);
}

/* Was it something that nobody asked for? Then it is put aside. */
static bool
put_aside(client *client)
{
	const lb_frame *frame = &client->frame;
	told *told = client->told;
	lb_clean clean;

	if (frame->header.type == LB_FLUSH_STATE)
	{
		if (!lb_decode_flush_state(frame->body, frame->header.body_length, &told->state))
			bail_out("the node sent a malformed FLUSH_STATE");
		told->state_count++;
		if (told->state.error[0] != '\0')
		{
			told->had_error = true;
			told->error = told->state;
		}
		return true;
	}
	if (frame->header.type != LB_CLEAN)
		return false;
	if (!lb_decode_clean(frame->body, frame->header.body_length, &clean))
		bail_out("the node sent a malformed CLEAN");
	if (frame->header.sequence != 0)
		bail_out("CLEAN with a sequence");
	for (uint32_t i = 0; i < clean.count && told->clean_count < CLEAN_MAX; i++)
	{
		told->tags[told->clean_count] = clean.tags[i];
		told->versions[told->clean_count++] = clean.versions[i];
	}
	return true;
}

/* The next frame of any kind. */
static int
receive_any(client *client, uint64_t deadline_ns)
{
	lb_status status;
	int found;

	while ((found = lb_stream_next(client->stream, &client->frame, &status)) == 0)
	{
		struct pollfd wait = {.fd = lb_stream_fd(client->stream), .events = POLLIN};

		if (poll(&wait, 1, lb_ms_until(deadline_ns)) <= 0)
			return CLIENT_SILENT;
		if (!lb_stream_fill(client->stream, LB_BULK_MAX, &status))
			return CLIENT_CLOSED;
	}
	if (found < 0)
		bail_out("the node sent nonsense: %s", status.message);
	if (client->frame.header.type == LB_ERROR &&
		!lb_decode_error(client->frame.body, client->frame.header.body_length, &client->error))
		bail_out("the node sent a malformed ERROR");
	if (client->frame.header.type == LB_WELCOME &&
		!lb_decode_welcome(client->frame.body, client->frame.header.body_length, &client->welcome))
		bail_out("the node sent a malformed WELCOME");
	return client->frame.header.type;
}

int
client_receive_within(client *client, int timeout_ms)
{
	uint64_t deadline_ns = lb_now_ns() + (uint64_t) timeout_ms * 1000000;
	int type;

	do
		type = receive_any(client, deadline_ns);
	while (type > 0 && put_aside(client));
	return type;
}

int
client_receive(client *client)
{
	return client_receive_within(client, ANSWER_WITHIN_MS);
}

/* Send and receive; an answer to another request than this one is a failure of the node. */
static int
ask(client *client, lb_frame_type type, const void *body, size_t body_length)
{
	int answer;

	if (!client_send(client, type, body, body_length))
		return CLIENT_CLOSED;
	answer = client_receive(client);
	if (answer > 0 && client->frame.header.sequence != client->sequence)
		bail_out("answer %d to request %d", (int) client->frame.header.sequence,
				 (int) client->sequence);
	return answer;
}

lb_hello
make_hello(lb_role role, uint8_t instance, uint64_t epoch, uint64_t token)
{
	lb_hello hello = {.version_min = LB_PROTOCOL_VERSION,
					  .version_max = LB_PROTOCOL_VERSION,
					  .role = (uint16_t) role,
					  .page_size = LB_PAGE_SIZE,
					  .system_identifier = 7000 + (uint64_t) instance,
					  .uuid = {instance, 1, 2, 3},
					  .epoch = epoch,
					  .token = token,
					  .holder = "db1.example:5432, process 77, /srv/data"};

	return hello;
}

int
client_hello(client *client, const lb_hello *hello)
{
	uint8_t body[LB_BODY_MAX];

	return ask(client, LB_HELLO, body, lb_encode_hello(body, hello));
}

static void
announce_comm_buffers(client *client)
{
	lb_comm_region layout = {
		.count = REGION_BUFFERS, .stride = LB_PAGE_SIZE, .length = REGION_BUFFERS * LB_PAGE_SIZE};
	uint8_t body[LB_BODY_MAX];
	int fd = memfd_create("test comm buffers", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t) layout.length) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0)
		bail_out("cannot make comm buffers");
	client->region = mmap(NULL, layout.length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (client->region == MAP_FAILED)
		bail_out("cannot map comm buffers");
	client_send_bulk(client, LB_COMM_BUFFERS, body, lb_encode_comm_region(body, &layout), NULL, 0,
					 fd);
	close(fd);
}

static void
open_as(client *client, const char *uri, const lb_hello *hello)
{
	client_open(client, uri);
	if (client_hello(client, hello) != LB_WELCOME)
		bail_out("HELLO refused: %s", client->error.message);
}

void
agent_open(client *client, const char *uri, uint8_t instance, uint64_t epoch)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, instance, epoch, 0);

	open_as(client, uri, &hello);
	if (client->transport == LB_TRANSPORT_SHM)
		announce_comm_buffers(client);
}

void
backend_open(client *client, const char *uri, uint8_t instance, uint64_t epoch, uint64_t token)
{
	lb_hello hello = make_hello(LB_ROLE_BACKEND, instance, epoch, token);

	open_as(client, uri, &hello);
}

void
monitor_open(client *client, const char *uri)
{
	lb_hello hello = make_hello(LB_ROLE_MONITOR, 0, 0, 0);

	open_as(client, uri, &hello);
}

int
client_ping(client *client)
{
	return ask(client, LB_PING, NULL, 0);
}

int
client_request_slabs(client *client, uint32_t slab_pages, uint32_t count, lb_slab_list *granted)
{
	lb_slab_request request = {slab_pages, count};
	uint8_t body[LB_BODY_MAX];
	int answer;

	granted->count = 0;
	if (!client_send(client, LB_SLAB_REQUEST, body, lb_encode_slab_request(body, &request)))
		return CLIENT_CLOSED;
	answer = client_receive_within(client, 30000);
	if (answer == LB_SLAB_GRANT &&
		!lb_decode_slab_list(client->frame.body, client->frame.header.body_length, granted))
		bail_out("the node sent a malformed SLAB_GRANT");
	return answer;
}

int
client_read(client *client, const lb_slot_ref *slots, uint32_t count)
{
	lb_read_batch batch = {.count = count};
	uint8_t body[LB_BODY_MAX];

	memcpy(batch.slots, slots, count * sizeof(*slots));
	return ask(client, LB_READ, body, lb_encode_read(body, &batch));
}

int
client_status(client *client, lb_node_figures *figures)
{
	int answer = ask(client, LB_STATUS, NULL, 0);

	if (answer == LB_STATUS_REPLY &&
		!lb_decode_node_figures(client->frame.body, client->frame.header.body_length, figures))
		bail_out("the node sent a malformed STATUS_REPLY");
	return answer;
}

int
client_map(client *client, uint32_t slab)
{
	uint8_t body[LB_BODY_MAX];

	client->error.error = LB_ERR_NONE;
	if (ask(client, LB_SLAB_MAP, body, lb_encode_slab_number(body, slab)) != LB_SLAB_MAPPED)
		return -1;
	return client->frame.fd;
}

void
client_return_slabs(client *client, const uint32_t *slabs, uint32_t count)
{
	lb_slab_list list = {.count = count};
	uint8_t body[LB_BODY_MAX];

	memcpy(list.slabs, slabs, count * sizeof(*slabs));
	client_send(client, LB_SLAB_RETURN, body, lb_encode_slab_list(body, &list));
}

void
client_release(client *client, uint32_t slab, uint32_t page, uint64_t version)
{
	lb_release_batch batch = {.count = 1, .slots = {{slab, page}}, .versions = {version}};
	uint8_t body[LB_BODY_MAX];

	client_send(client, LB_RELEASE, body, lb_encode_release(body, &batch));
}

bool
client_send_push(client *client, const push_plan *plan)
{
	static uint8_t pages[LB_BULK_MAX];
	uint8_t *source = client->region ? client->region : pages;
	size_t bulk_length = client->region ? 0 : (size_t) plan->count * LB_PAGE_SIZE;
	lb_push_batch batch = {.count = plan->count};
	uint8_t body[LB_BODY_MAX];

	for (uint32_t i = 0; i < plan->count; i++)
	{
		uint8_t *page = source + (size_t) i * LB_PAGE_SIZE;

		make_page(page, plan->seed + i);
		batch.pushes[i] = (lb_push){.slab = plan->slab,
									.page = plan->page + i,
									.tag = {1663, 5, plan->relation, 0, plan->page + i},
									.version = plan->version,
									.checksum = lb_page_checksum(page),
									.buffer = i,
									.dirty = plan->dirty};
		if (plan->first.tablespace != 0)
		{
			batch.pushes[i].tag = plan->first;
			batch.pushes[i].tag.block += i;
		}
	}
	if (plan->wrong_checksum)
		batch.pushes[0].checksum ^= 1;
	return client_send_bulk(client, LB_PUSH, body, lb_encode_push(body, &batch), pages, bulk_length,
							-1);
}

int
client_push(client *client, const push_plan *plan, lb_push_ack *ack)
{
	int answer;

	ack->count = 0;
	if (!client_send_push(client, plan))
		return CLIENT_CLOSED;
	answer = client_receive(client);
	if (answer == LB_PUSH_ACK &&
		!lb_decode_push_ack(client->frame.body, client->frame.header.body_length, ack))
		bail_out("the node sent a malformed PUSH_ACK");
	return answer;
}

bool
client_storage(client *client, lb_storage_reply *reply)
{
	lb_storage storage = {"PG_15_202209061"};
	uint8_t body[LB_BODY_MAX];
	lb_storage_reply received;

	if (ask(client, LB_STORAGE, body, lb_encode_storage(body, &storage)) != LB_STORAGE_REPLY)
		bail_out("no answer to STORAGE");
	if (!lb_decode_storage_reply(client->frame.body, client->frame.header.body_length, &received))
		bail_out("the node sent a malformed STORAGE_REPLY");
	if (reply)
		*reply = received;
	return received.found;
}

void
client_flush(client *client)
{
	client_send(client, LB_FLUSH, NULL, 0);
}

void
client_load(client *client, uint32_t reads, uint32_t read_us)
{
	lb_storage_load load = {reads, read_us};
	uint8_t body[LB_BODY_MAX];

	client_send(client, LB_STORAGE_LOAD, body, lb_encode_storage_load(body, &load));
}

void
client_keep(client *client, const lb_slab_keep *keep)
{
	uint8_t body[LB_BODY_MAX];

	client_send(client, LB_SLAB_KEEP, body, lb_encode_slab_keep(body, keep));
}

int
client_control(client *client, const lb_control *control)
{
	uint8_t body[LB_BODY_MAX];

	return ask(client, LB_CONTROL, body, lb_encode_control(body, control));
}

int
client_receive_reload(client *client, lb_reload_reply *reply)
{
	int answer = client_receive(client);

	memset(reply, 0, sizeof(*reply));
	if (answer == LB_RELOAD_REPLY &&
		!lb_decode_reload_reply(client->frame.body, client->frame.header.body_length, reply))
		bail_out("the node sent a malformed RELOAD_REPLY");
	return answer;
}

int
client_reload(client *client, lb_slot_ref from, lb_reload_reply *reply)
{
	return client_reload_above(client, from, UINT64_MAX, reply);
}

int
client_reload_above(client *client, lb_slot_ref from, uint64_t redo, lb_reload_reply *reply)
{
	lb_reload reload = {.from = from, .redo = redo};
	uint8_t body[LB_BODY_MAX];

	if (!client_send(client, LB_RELOAD, body, lb_encode_reload(body, &reload)))
		return CLIENT_CLOSED;
	return client_receive_reload(client, reply);
}

void
client_fence(client *client, const lb_fence *fence)
{
	uint8_t body[LB_BODY_MAX];

	client_send(client, LB_FENCE, body, lb_encode_fence(body, fence));
}

lb_fence
fence_of_relation(uint32_t relation)
{
	return (lb_fence){.by_tablespace = true,
					  .by_database = true,
					  .by_relation = true,
					  .from = {1663, 5, relation, 0, 0}};
}

lb_fence
fence_of_blocks(uint32_t relation, uint32_t from, uint32_t end)
{
	lb_fence fence = fence_of_relation(relation);

	fence.by_fork = true;
	fence.from.block = from;
	fence.end = end;
	return fence;
}

/* Receive one frame that nobody asked for. False after the time, or at the end. */
static bool
listen_once(client *client, uint64_t deadline_ns)
{
	int type = receive_any(client, deadline_ns);

	if (type > 0 && !put_aside(client))
		bail_out("%s instead of what nobody asked for", lb_frame_type_name((unsigned) type));
	return type > 0;
}

bool
client_wait_clean(client *client, uint32_t count, int timeout_ms)
{
	uint64_t deadline_ns = lb_now_ns() + (uint64_t) timeout_ms * 1000000;

	while (client->told->clean_count < count)
		if (!listen_once(client, deadline_ns))
			return false;
	return true;
}

bool
client_wait_states(client *client, uint32_t count, int timeout_ms)
{
	uint64_t deadline_ns = lb_now_ns() + (uint64_t) timeout_ms * 1000000;

	while (client->told->state_count < count)
		if (!listen_once(client, deadline_ns))
			return false;
	return true;
}

bool
client_wait_error(client *client, int timeout_ms)
{
	uint64_t deadline_ns = lb_now_ns() + (uint64_t) timeout_ms * 1000000;

	while (!client->told->had_error)
		if (!listen_once(client, deadline_ns))
			return false;
	return true;
}

void
client_listen(client *client, int timeout_ms)
{
	uint64_t deadline_ns = lb_now_ns() + (uint64_t) timeout_ms * 1000000;

	while (listen_once(client, deadline_ns))
		;
}

int
client_told_clean(const client *client, uint32_t relation, uint32_t block, uint64_t version)
{
	const told *told = client->told;
	int count = 0;

	for (uint32_t i = 0; i < told->clean_count; i++)
		if (told->tags[i].relation == relation && told->tags[i].block == block &&
			told->versions[i] == version)
			count++;
	return count;
}

void
make_page(void *page, uint64_t seed)
{
	uint64_t *words = page;
	uint64_t value = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

	for (size_t i = 0; i < LB_PAGE_SIZE / sizeof(*words); i++)
		words[i] = value += UINT64_C(0x9e3779b97f4a7c15);
}

bool
is_page(const void *page, uint64_t seed)
{
	uint64_t expected[LB_PAGE_SIZE / sizeof(uint64_t)];

	make_page(expected, seed);
	return memcmp(page, expected, LB_PAGE_SIZE) == 0;
}

bool
is_zero(const void *bytes, size_t length)
{
	const uint8_t *at = bytes;

	return length == 0 || (at[0] == 0 && memcmp(at, at + 1, length - 1) == 0);
}
