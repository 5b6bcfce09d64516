/*
 * pages.c
 *	  Pages in and out: PUSH, READ, SLAB_MAP, RELEASE; what is refused; and that nobody sees another's.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"
#include "node_process.h"
#include "tap.h"

#define SLAB_BYTES ((size_t) 256 * LB_PAGE_SIZE)

/* With --tenant-timeout 0, a detached tenant's memory is free after this time. */
#define FREED_WITHIN_US 800000

static node_process node;
static uint8_t next_instance = 1;

static bool
all_are(const lb_push_ack *ack, uint32_t count, lb_push_result result)
{
	if (ack->count != count)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (ack->results[i] != result)
			return false;
	return true;
}

static uint64_t
used_pages(void)
{
	lb_node_figures figures;
	client monitor;

	monitor_open(&monitor, node.tcp_uri);
	client_status(&monitor, &figures);
	client_close(&monitor);
	return figures.used_pages;
}

/* One page by READ; false if the answer is not READ_REPLY. */
static bool
read_one(client *backend, uint32_t slab, uint32_t page, uint8_t *contents)
{
	lb_slot_ref slot = {slab, page};
	uint32_t count;

	if (client_read(backend, &slot, 1) != LB_READ_REPLY ||
		!lb_decode_count(backend->frame.body, backend->frame.header.body_length, &count) ||
		count != 1 || backend->frame.header.bulk_length != LB_PAGE_SIZE)
		return false;
	memcpy(contents, backend->frame.bulk, LB_PAGE_SIZE);
	return true;
}

static void
test_push(client *agent, client *reader, uint32_t slab)
{
	push_plan plan = {
		.slab = slab, .page = 10, .count = 64, .relation = 1, .version = 5, .seed = 1};
	uint8_t page[LB_PAGE_SIZE];
	lb_push_ack ack;

	is_number(client_push(agent, &plan, &ack), LB_PUSH_ACK, "PUSH of 64 pages");
	ok(all_are(&ack, 64, LB_PUSH_PUBLISHED), "all published");
	is_number(used_pages(), 64, "64 slots are used");
	ok(read_one(reader, slab, 10, page) && is_page(page, 1), "the first is read back");
	ok(read_one(reader, slab, 73, page) && is_page(page, 64), "the last is read back");

	plan.seed = 1000;
	client_push(agent, &plan, &ack);
	ok(all_are(&ack, 64, LB_PUSH_OLD_VERSION), "the same version again changes nothing");
	plan.version = 4;
	client_push(agent, &plan, &ack);
	ok(all_are(&ack, 64, LB_PUSH_OLD_VERSION), "nor does an older one");
	ok(read_one(reader, slab, 10, page) && is_page(page, 1), "the page is what it was");
	plan.version = 6;
	client_push(agent, &plan, &ack);
	ok(all_are(&ack, 64, LB_PUSH_PUBLISHED), "a newer one replaces it");
	ok(read_one(reader, slab, 10, page) && is_page(page, 1000), "... and is read");
	plan.relation = 2;
	plan.version = 1;
	plan.seed = 2000;
	client_push(agent, &plan, &ack);
	ok(all_are(&ack, 64, LB_PUSH_PUBLISHED), "so does another page, whatever its version");
	is_number(used_pages(), 64, "64 slots are used");

	plan.version = 2;
	plan.seed = 3000;
	plan.wrong_checksum = true;
	client_push(agent, &plan, &ack);
	ok(ack.count == 64 && ack.results[0] == LB_PUSH_BAD_CHECKSUM &&
		   ack.results[1] == LB_PUSH_PUBLISHED,
	   "a page with another checksum than announced is not published");
	is_number(used_pages(), 63, "... and its slot is empty");
	client_release(agent, slab, 11, 1);
	is_number(used_pages(), 63, "RELEASE of another version does nothing");
	client_release(agent, slab, 11, 2);
	is_number(used_pages(), 62, "RELEASE of this version empties the slot");
	client_release(agent, slab, 256, 2);
	client_release(agent, 4000000000, 0, 2);
	is_number(client_ping(agent), LB_PONG, "RELEASE of slots that are not there does nothing");

	plan = (push_plan){.slab = slab, .page = 255, .count = 2, .relation = 3, .version = 1};
	client_push(agent, &plan, &ack);
	ok(ack.count == 2 && ack.results[0] == LB_PUSH_PUBLISHED && ack.results[1] == LB_PUSH_NO_SLOT,
	   "a slot beyond the slab");
	plan.slab = 77;
	client_push(agent, &plan, &ack);
	ok(all_are(&ack, 2, LB_PUSH_NO_SLOT), "slots of a slab that is not there");
}

static void
expect_slab_error(client *client, int answer, const char *name)
{
	ok(answer == LB_ERROR && client->error.error == LB_ERR_SLAB, "%s", name);
	is_number(client_ping(client), LB_PONG, "... and the session goes on");
}

static void
test_bad_reads(client *reader, uint32_t slab)
{
	lb_slot_ref slots[LB_BATCH_MAX] = {{slab, 0}, {slab, 256}};

	expect_slab_error(reader, client_read(reader, slots, 2), "READ beyond the slab");
	slots[1] = (lb_slot_ref){slab, UINT32_MAX};
	expect_slab_error(reader, client_read(reader, slots, 2), "READ far beyond the slab");
	slots[1] = (lb_slot_ref){slab + 500, 0};
	expect_slab_error(reader, client_read(reader, slots, 2), "READ of a slab that is not there");
	for (uint32_t i = 0; i < LB_BATCH_MAX; i++)
		slots[i] = (lb_slot_ref){slab, 10 + i};
	is_number(client_read(reader, slots, LB_BATCH_MAX), LB_READ_REPLY, "READ of 64 pages");
	ok(is_page(reader->frame.bulk + 63 * LB_PAGE_SIZE, 3063), "... in the order of the request");
}

/* Eight batches under way at once, 4 MB of answers, read late. */
static void
test_pipelined_reads(client *reader, uint32_t slab)
{
	lb_read_batch batch = {.count = LB_BATCH_MAX};
	uint8_t body[LB_BODY_MAX];
	bool right = true;

	for (uint32_t i = 0; i < LB_BATCH_MAX; i++)
		batch.slots[i] = (lb_slot_ref){slab, 10 + i};
	for (int i = 0; i < 8; i++)
		client_send(reader, LB_READ, body, lb_encode_read(body, &batch));
	usleep(200000);
	for (uint64_t i = 0; i < 8; i++)
		right = right && client_receive(reader) == LB_READ_REPLY &&
				reader->frame.header.sequence == reader->sequence - 7 + i &&
				is_page(reader->frame.bulk + 63 * LB_PAGE_SIZE, 3063);
	ok(right, "8 batches at once, read late");
}

static void
test_mapping(client *mapper, uint32_t slab)
{
	int fd = client_map(mapper, slab);
	uint8_t *memory;
	char byte = 1;

	ok(fd >= 0, "SLAB_MAP gives a descriptor");
	is_number((uint64_t) lseek(fd, 0, SEEK_END), SLAB_BYTES, "... of the slab's size");
	memory = mmap(NULL, SLAB_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	ok(memory != MAP_FAILED, "it can be mapped to be read");
	ok(is_page(memory + 73 * LB_PAGE_SIZE, 3063), "the pages are there");
	ok(mprotect(memory, SLAB_BYTES, PROT_READ | PROT_WRITE) < 0, "it can't be made writable");
	ok(mmap(NULL, SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED,
	   "it can't be mapped to be written");
	ok(pwrite(fd, &byte, 1, 0) < 0, "write is refused");
	ok(ftruncate(fd, 0) < 0, "it can't be shortened");
	ok(ftruncate(fd, (off_t) SLAB_BYTES * 2) < 0, "it can't be lengthened");
	ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, LB_PAGE_SIZE) < 0,
	   "no hole can be punched");
	munmap(memory, SLAB_BYTES);
	close(fd);
	fd = client_map(mapper, slab + 500);
	ok(fd < 0 && mapper->error.error == LB_ERR_SLAB, "SLAB_MAP of a slab that is not there");
	is_number(client_ping(mapper), LB_PONG, "... and the session goes on");
}

static void
test_over(const char *uri)
{
	uint8_t instance = next_instance++;
	lb_slab_list granted;
	client agent;
	client reader;
	client mapper;

	note("agent over %s", uri);
	agent_open(&agent, uri, instance, 1);
	is_number(client_request_slabs(&agent, 256, 1, &granted), LB_SLAB_GRANT, "SLAB_GRANT");
	is_number(granted.count, 1, "one slab");
	backend_open(&reader, node.tcp_uri, instance, 1, agent.welcome.token);
	backend_open(&mapper, node.shm_uri, instance, 1, agent.welcome.token);
	test_push(&agent, &reader, granted.slabs[0]);
	test_bad_reads(&reader, granted.slabs[0]);
	test_pipelined_reads(&reader, granted.slabs[0]);
	test_mapping(&mapper, granted.slabs[0]);
	client_return_slabs(&agent, granted.slabs, 1);
	is_number(client_ping(&agent), LB_PONG, "slab returned");
	client_close(&agent);
	client_close(&reader);
	client_close(&mapper);
}

/* Another instance has slab 0 too, but its own. */
static void
test_tenants_apart(void)
{
	uint8_t first = next_instance++;
	uint8_t second = next_instance++;
	push_plan plan = {.count = 64, .relation = 1, .version = 1, .seed = 1};
	uint8_t page[LB_PAGE_SIZE];
	lb_slab_list granted;
	lb_push_ack ack;
	lb_hello hello;
	client agents[2];
	client backend;
	uint8_t *memory;
	int fd;

	agent_open(&agents[0], node.tcp_uri, first, 1);
	client_request_slabs(&agents[0], 256, 2, &granted);
	is_number(granted.count, 2, "first instance: 2 slabs");
	client_push(&agents[0], &plan, &ack);
	plan.slab = 1;
	client_push(&agents[0], &plan, &ack);

	agent_open(&agents[1], node.tcp_uri, second, 1);
	client_push(&agents[1], &plan, &ack);
	ok(all_are(&ack, 64, LB_PUSH_NO_SLOT), "second instance, without slabs, has no slots");
	backend_open(&backend, node.tcp_uri, second, 1, agents[1].welcome.token);
	ok(!read_one(&backend, 0, 0, page) && backend.error.error == LB_ERR_SLAB,
	   "... and its backends read none");
	client_close(&backend);
	backend_open(&backend, node.shm_uri, second, 1, agents[1].welcome.token);
	ok(client_map(&backend, 0) < 0 && backend.error.error == LB_ERR_SLAB, "... and map none");

	client_request_slabs(&agents[1], 256, 1, &granted);
	is_number(granted.count, 1, "second instance: 1 slab");
	is_number(granted.slabs[0], 0, "numbers begin at 0 for each instance");
	fd = client_map(&backend, 0);
	memory = mmap(NULL, SLAB_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	ok(fd >= 0 && memory != MAP_FAILED && is_zero(memory, SLAB_BYTES),
	   "slab 0 of the second is its own");
	munmap(memory, SLAB_BYTES);
	close(fd);
	ok(client_map(&backend, 1) < 0 && backend.error.error == LB_ERR_SLAB,
	   "the second instance has no slab 1, which the first has");
	client_close(&backend);

	hello = make_hello(LB_ROLE_BACKEND, second, 1, agents[0].welcome.token);
	client_open(&backend, node.tcp_uri);
	ok(client_hello(&backend, &hello) == LB_ERROR && backend.error.error == LB_ERR_TOKEN,
	   "the first instance's token does not open the second");
	client_close(&backend);
	client_close(&agents[0]);
	client_close(&agents[1]);
}

/* All of the node's memory is filled by one, given up, and had by another: nothing is left in it. */
static void
test_zeroed(bool by_return)
{
	uint8_t first = next_instance++;
	uint8_t second = next_instance++;
	uint32_t zero_slabs = 0;
	lb_slab_list granted;
	lb_push_ack ack;
	client agent;
	client backend;

	agent_open(&agent, node.tcp_uri, first, 1);
	client_request_slabs(&agent, 256, 32, &granted);
	for (uint32_t slab = 0; slab < granted.count; slab++)
		for (uint32_t page = 0; page < 256; page += 64)
		{
			push_plan plan = {
				.slab = slab, .page = page, .count = 64, .relation = 1, .version = 1, .seed = 1};

			client_push(&agent, &plan, &ack);
		}
	if (by_return)
	{
		client_return_slabs(&agent, granted.slabs, granted.count);
		client_ping(&agent);
	}
	client_close(&agent);
	if (!by_return)
		usleep(FREED_WITHIN_US);

	agent_open(&agent, node.shm_uri, second, 1);
	client_request_slabs(&agent, 256, 32, &granted);
	backend_open(&backend, node.shm_uri, second, 1, agent.welcome.token);
	for (uint32_t slab = 0; slab < granted.count; slab++)
	{
		int fd = client_map(&backend, slab);
		void *memory = mmap(NULL, SLAB_BYTES, PROT_READ, MAP_SHARED, fd, 0);

		if (memory != MAP_FAILED && is_zero(memory, SLAB_BYTES))
			zero_slabs++;
		munmap(memory, SLAB_BYTES);
		close(fd);
	}
	is_number(zero_slabs, 32, "memory given up by %s is zeroed for the next",
			  by_return ? "SLAB_RETURN" : "time-out");
	client_return_slabs(&agent, granted.slabs, granted.count);
	client_close(&backend);
	client_close(&agent);
}

static void
expect_malformed(client *client, const char *name)
{
	int answer = client_receive(client);

	ok(answer == LB_ERROR && client->error.error == LB_ERR_MALFORMED, "%s: refused", name);
	note("%s", client->error.message);
	ok(client_receive(client) == CLIENT_CLOSED, "%s: closed", name);
	client_close(client);
}

/* An agent over shm that announces this file as its comm buffers. */
static void
announce_bad_region(uint64_t length, off_t file_length, unsigned memfd_flags, int seals,
					const char *name)
{
	lb_comm_region layout = {.count = REGION_BUFFERS, .stride = LB_PAGE_SIZE, .length = length};
	lb_hello hello = make_hello(LB_ROLE_AGENT, next_instance++, 1, 0);
	uint8_t body[LB_BODY_MAX];
	client agent;
	int fd = memfd_create("bad comm buffers", MFD_CLOEXEC | MFD_ALLOW_SEALING | memfd_flags);

	if (fd < 0 || ftruncate(fd, file_length) < 0 || fcntl(fd, F_ADD_SEALS, seals) < 0)
	{
		note("not tested: %s: %s", name, strerror(errno));
		return;
	}
	client_open(&agent, node.shm_uri);
	client_hello(&agent, &hello);
	client_send_bulk(&agent, LB_COMM_BUFFERS, body, lb_encode_comm_region(body, &layout), NULL, 0,
					 fd);
	close(fd);
	expect_malformed(&agent, name);
}

static void
test_bad_regions(void)
{
	lb_comm_region layout = {
		.count = REGION_BUFFERS, .stride = LB_PAGE_SIZE, .length = REGION_BUFFERS * LB_PAGE_SIZE};
	off_t length = (off_t) layout.length;
	uint8_t body[LB_BODY_MAX];
	client agent;
	int pipe_fds[2];

	announce_bad_region(layout.length, length, 0, F_SEAL_GROW, "region that could get shorter");
	announce_bad_region(layout.length, length - 1, 0, F_SEAL_SHRINK, "region that is too short");
	announce_bad_region(UINT64_MAX, length, 0, F_SEAL_SHRINK, "region of 2^64 bytes");
	announce_bad_region(layout.length, 2 << 20, MFD_HUGETLB, F_SEAL_SHRINK, "region of huge pages");

	agent_open(&agent, node.shm_uri, next_instance++, 1);
	client_send(&agent, LB_COMM_BUFFERS, body, lb_encode_comm_region(body, &layout));
	expect_malformed(&agent, "second region");
	if (pipe(pipe_fds) < 0)
		bail_out("cannot make a pipe");
	agent_open(&agent, node.shm_uri, next_instance++, 1);
	client_send_bulk(&agent, LB_COMM_BUFFERS, body, lb_encode_comm_region(body, &layout), NULL, 0,
					 pipe_fds[0]);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	expect_malformed(&agent, "second region, a pipe");
}

static void
test_bad_pushes(void)
{
	lb_push_batch batch = {.count = 2, .pushes = {{.buffer = 0}, {.buffer = REGION_BUFFERS}}};
	lb_hello hello = make_hello(LB_ROLE_AGENT, next_instance++, 1, 0);
	static uint8_t page[LB_PAGE_SIZE];
	uint8_t body[LB_BODY_MAX];
	size_t length = lb_encode_push(body, &batch);
	client agent;

	client_open(&agent, node.shm_uri);
	client_hello(&agent, &hello);
	client_send(&agent, LB_PUSH, body, length);
	expect_malformed(&agent, "PUSH before COMM_BUFFERS");
	agent_open(&agent, node.shm_uri, next_instance++, 1);
	client_send(&agent, LB_PUSH, body, length);
	expect_malformed(&agent, "PUSH from a comm buffer that is not there");
	agent_open(&agent, node.tcp_uri, next_instance++, 1);
	client_send_bulk(&agent, LB_PUSH, body, length, page, LB_PAGE_SIZE, -1);
	expect_malformed(&agent, "PUSH of two pages with one");
	agent_open(&agent, node.tcp_uri, next_instance++, 1);
	client_send(&agent, LB_PUSH, body, length);
	expect_malformed(&agent, "PUSH of two pages with none");

	agent_open(&agent, node.shm_uri, next_instance++, 1);
	client_send_bulk(&agent, LB_PUSH, body, length, page, LB_PAGE_SIZE, -1);
	is_number(client_receive(&agent), CLIENT_CLOSED, "PUSH over shm with pages: closed");
	client_close(&agent);
}

/* An agent that dies in the middle of a PUSH leaves nothing half done. */
static void
test_cut_off(void)
{
	lb_push_batch batch = {.count = 64};
	uint8_t body[LB_BODY_MAX];
	uint8_t header[LB_HEADER_SIZE];
	size_t length = lb_encode_push(body, &batch);
	lb_slab_list granted;
	client agent;

	agent_open(&agent, node.tcp_uri, next_instance++, 1);
	client_request_slabs(&agent, 256, 1, &granted);
	lb_encode_header(header, LB_PUSH, 9, body, length, LB_BULK_MAX);
	ok(send(lb_stream_fd(agent.stream), header, sizeof(header), 0) == LB_HEADER_SIZE &&
		   send(lb_stream_fd(agent.stream), body, length, 0) == (ssize_t) length &&
		   send(lb_stream_fd(agent.stream), body, 5000, 0) == 5000,
	   "part of a PUSH");
	client_close(&agent);
	is_number(used_pages(), 0, "nothing is published");
}

int
main(void)
{
	static const char *const options[] = {"--memory", "64MB", "--tenant-timeout", "0", NULL};
	lb_node_figures figures;
	client monitor;

	node_start(&node, options);
	test_over(node.shm_uri);
	test_over(node.tcp_uri);
	test_tenants_apart();
	usleep(FREED_WITHIN_US);
	test_zeroed(true);
	test_zeroed(false);
	test_bad_regions();
	test_bad_pushes();
	test_cut_off();
	usleep(FREED_WITHIN_US);
	monitor_open(&monitor, node.tcp_uri);
	is_number(client_status(&monitor, &figures), LB_STATUS_REPLY, "STATUS_REPLY");
	is_number(figures.granted_pages, 0, "no memory is granted any more");
	is_number(figures.tenants, 0, "no tenants");
	is_number(figures.capacity_pages, 8192, "capacity");
	ok(figures.pushes > 0 && figures.reads > 0 && figures.rejected_pushes > 0 &&
		   figures.malformed_frames > 0 && figures.refused_sessions > 0,
	   "all was counted");
	client_close(&monitor);
	is_number(node_stop(&node), 0, "clean exit");
	node_clean(&node);
	return done_testing();
}
