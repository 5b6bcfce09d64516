/*
 * test_data_plane_shm.c
 *	  The shm data plane: mappings are made when needed and last, and what a node passes is not trusted.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_node.h"
#include "lb_clock.h"
#include "lb_data_plane.h"
#include "raw_frame.h"

#define MS UINT64_C(1000000)
#define LIMIT (lb_now_ns() + 5000 * MS)
#define SLAB_PAGES LB_SLAB_PAGES_MIN

static lb_status status;
static const lb_hello identity = {.epoch = 4, .token = 5};

/* How the fake node answers SLAB_MAP. */
typedef enum conduct
{
	GOOD,
	CLOSING_AFTER_ONE,
	SILENT,
	REFUSING,
	NO_DESCRIPTOR,
	TWO_DESCRIPTORS,
	UNSEALED,
	NOT_MEMORY,
	ODD_SIZE,
	EMPTY,
	OTHER_SLAB,
	WRONG_SEQUENCE,
	WRONG_TYPE,
	SHORT_BODY
} conduct;

typedef struct behaviour
{
	conduct conduct;
	int maps; /* SLAB_MAP frames received */
} behaviour;

static uint8_t
fill_of(uint32_t slab, uint32_t page)
{
	return (uint8_t) (slab * 31 + page * 3 + 1);
}

/* A slab as a node makes it, but for what the conduct says. */
static int
make_slab(conduct conduct, uint32_t slab)
{
	size_t length = (size_t) SLAB_PAGES * LB_PAGE_SIZE;
	int fd = memfd_create("slab", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	uint8_t *start;

	if (fd < 0 || ftruncate(fd, (off_t) length) != 0)
		abort();
	start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (start == MAP_FAILED)
		abort();
	for (uint32_t page = 0; page < SLAB_PAGES; page++)
		memset(start + (size_t) page * LB_PAGE_SIZE, fill_of(slab, page), LB_PAGE_SIZE);
	munmap(start, length);
	if (conduct == ODD_SIZE && ftruncate(fd, (off_t) length - 1) != 0)
		abort();
	if (conduct == EMPTY && ftruncate(fd, 0) != 0)
		abort();
	if (conduct != UNSEALED && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
		abort();
	if (conduct == NOT_MEMORY)
	{
		close(fd);
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	}
	return fd;
}

static void
answer_map(int socket, conduct conduct, uint64_t sequence, uint32_t slab)
{
	uint8_t body[LB_BODY_MAX];
	size_t length = lb_encode_slab_number(body, conduct == OTHER_SLAB ? slab + 1 : slab);
	int fd = make_slab(conduct, slab);

	if (conduct == SILENT)
		fake_wait_closed(socket);
	else if (conduct == REFUSING)
		fake_send_error(socket, sequence, LB_ERR_SLAB, "not yours");
	else if (conduct == NO_DESCRIPTOR)
		fake_send_frame(socket, LB_SLAB_MAPPED, sequence, body, length, -1, 0);
	else if (conduct == TWO_DESCRIPTORS)
		fake_send_frame(socket, LB_SLAB_MAPPED, sequence, body, length, fd, 2);
	else if (conduct == WRONG_SEQUENCE)
		fake_send_frame(socket, LB_SLAB_MAPPED, sequence + 1, body, length, fd, 1);
	else if (conduct == WRONG_TYPE)
		fake_send_frame(socket, LB_SLAB_MAP, sequence, body, length, fd, 1);
	else if (conduct == SHORT_BODY)
		fake_send_frame(socket, LB_SLAB_MAPPED, sequence, body, 3, fd, 1);
	else
		fake_send_frame(socket, LB_SLAB_MAPPED, sequence, body, length, fd, 1);
	close(fd);
}

static void
serve(int socket, void *arg)
{
	behaviour *behaviour = arg;
	lb_hello hello;
	lb_header header;
	uint8_t body[LB_BODY_MAX];
	uint32_t slab;

	fake_welcome(socket, &hello);
	while (fake_receive(socket, &header, body))
	{
		if (header.type != LB_SLAB_MAP || !lb_decode_slab_number(body, header.body_length, &slab))
			abort();
		behaviour->maps++;
		answer_map(socket, behaviour->conduct, header.sequence, slab);
		if (behaviour->conduct == CLOSING_AFTER_ONE)
			return;
	}
}

typedef struct session
{
	behaviour behaviour;
	fake_node *node;
	lb_data_plane *plane;
} session;

static void
start(session *s, conduct conduct)
{
	memset(s, 0, sizeof(*s));
	s->behaviour.conduct = conduct;
	s->node = fake_node_start(LB_TRANSPORT_SHM, serve, &s->behaviour);
	s->plane = lb_data_plane_connect(LB_TRANSPORT_SHM, fake_node_address(s->node), &identity, NULL,
									 NULL, LIMIT, &status);
	if (s->plane == NULL)
		fail_msg("%s", status.message);
}

static void
end(session *s)
{
	lb_data_plane_close(s->plane);
	fake_node_stop(s->node);
}

static bool
read_page(session *s, uint32_t slab, uint32_t page)
{
	uint8_t dest[LB_PAGE_SIZE] = {0};
	lb_read_target target = {{slab, page}, dest};
	uint64_t ticket = lb_data_plane_submit(s->plane, &target, 1, LIMIT, &status);

	if (ticket == 0 || !lb_data_plane_wait(s->plane, ticket, LIMIT, &status))
		return false;
	for (int i = 0; i < LB_PAGE_SIZE; i++)
		if (dest[i] != fill_of(slab, page))
			fail_msg("slab %u, page %u: byte %d is %d", slab, page, i, dest[i]);
	return true;
}

static void
test_reads(void **state)
{
	int open_before = count_open_descriptors();
	int open_connected;
	session s;

	(void) state;
	start(&s, GOOD);
	assert_string_equal(s.plane->ops->name, "shm");
	assert_false(s.plane->ops->read_ahead_helps);
	open_connected = count_open_descriptors();
	for (int round = 0; round < 3; round++)
		for (uint32_t page = 0; page < SLAB_PAGES; page += 51)
		{
			assert_true(read_page(&s, 0, page));
			assert_true(read_page(&s, 63, page));
			assert_true(read_page(&s, 64, page));
			assert_true(read_page(&s, 1000, page));
		}
	assert_int_equal(s.plane->counters.round_trips, 4);
	assert_int_equal(s.plane->counters.pages, 3 * 4 * 6);
	assert_int_equal(s.plane->counters.batches, 3 * 4 * 6);
	/* A mapping does not keep a descriptor; the node's thread may need a moment to close its own. */
	for (int i = 0; i < 1000 && count_open_descriptors() != open_connected; i++)
		usleep(1000);
	assert_int_equal(count_open_descriptors(), open_connected);
	end(&s);
	assert_int_equal(s.behaviour.maps, 4);
	assert_int_equal(count_open_descriptors(), open_before);
}

static void
test_batch(void **state)
{
	static uint8_t pages[LB_BATCH_MAX][LB_PAGE_SIZE];
	lb_read_target targets[LB_BATCH_MAX];
	session s;
	uint64_t ticket;

	(void) state;
	start(&s, GOOD);
	for (uint32_t i = 0; i < LB_BATCH_MAX; i++)
		targets[i] = (lb_read_target){{i % 3, i}, pages[i]};
	ticket = lb_data_plane_submit(s.plane, targets, LB_BATCH_MAX, LIMIT, &status);
	assert_int_equal(ticket, 1);
	assert_true(lb_data_plane_wait(s.plane, ticket, LIMIT, &status));
	for (uint32_t i = 0; i < LB_BATCH_MAX; i++)
		assert_int_equal(pages[i][LB_PAGE_SIZE - 1], fill_of(i % 3, i));
	assert_int_equal(s.plane->counters.pages, LB_BATCH_MAX);
	assert_int_equal(s.plane->counters.batches, 1);
	assert_int_equal(s.plane->counters.round_trips, 3);
	assert_false(lb_data_plane_wait(s.plane, 2, LIMIT, &status));
	assert_int_equal(status.code, LB_INVALID);
	end(&s);
}

static void
test_unmap(void **state)
{
	session s;

	(void) state;
	start(&s, GOOD);
	assert_true(read_page(&s, 1, 1));
	lb_data_plane_unmap(s.plane);
	lb_data_plane_unmap(s.plane);
	assert_true(read_page(&s, 1, 1));
	assert_int_equal(s.plane->counters.round_trips, 2);
	end(&s);
}

/* The node is gone: what is mapped stays readable, what is not is refused. */
static void
test_closed_by_node(void **state)
{
	session s;

	(void) state;
	start(&s, CLOSING_AFTER_ONE);
	assert_true(read_page(&s, 1, 1));
	fake_node_stop(s.node);
	for (uint32_t page = 0; page < SLAB_PAGES; page++)
		assert_true(read_page(&s, 1, page));
	assert_false(read_page(&s, 2, 1));
	assert_int_equal(status.code, LB_CLOSED);
	lb_data_plane_close(s.plane);
}

/* A page beyond the end of the slab is an error, not SIGBUS. */
static void
test_page_beyond_end(void **state)
{
	session s;

	(void) state;
	start(&s, GOOD);
	assert_true(read_page(&s, 1, SLAB_PAGES - 1));
	assert_false(read_page(&s, 1, SLAB_PAGES));
	assert_int_equal(status.code, LB_PROTOCOL);
	assert_false(read_page(&s, 1, UINT32_MAX));
	assert_int_equal(status.code, LB_PROTOCOL);
	assert_false(read_page(&s, UINT32_MAX, 0));
	assert_int_equal(status.code, LB_INVALID);
	end(&s);
}

static void
fail_to_map(conduct conduct, lb_code code)
{
	int open_before = count_open_descriptors();
	session s;

	start(&s, conduct);
	memset(&status, 0, sizeof(status));
	assert_false(read_page(&s, 1, 1));
	if (status.code != code)
		fail_msg("conduct %d: code %d (%s), not %d", conduct, status.code, status.message, code);
	end(&s);
	assert_int_equal(count_open_descriptors(), open_before);
}

static void
test_wrong_answers(void **state)
{
	(void) state;
	fail_to_map(REFUSING, LB_REFUSED);
	assert_int_equal(status.wire_error, LB_ERR_SLAB);
	fail_to_map(NO_DESCRIPTOR, LB_PROTOCOL);
	fail_to_map(TWO_DESCRIPTORS, LB_PROTOCOL);
	fail_to_map(UNSEALED, LB_PROTOCOL);
	fail_to_map(NOT_MEMORY, LB_PROTOCOL);
	fail_to_map(ODD_SIZE, LB_PROTOCOL);
	fail_to_map(EMPTY, LB_PROTOCOL);
	fail_to_map(OTHER_SLAB, LB_PROTOCOL);
	fail_to_map(WRONG_SEQUENCE, LB_PROTOCOL);
	fail_to_map(WRONG_TYPE, LB_PROTOCOL);
	fail_to_map(SHORT_BODY, LB_PROTOCOL);
}

static void
test_time_limit(void **state)
{
	uint8_t page[LB_PAGE_SIZE];
	lb_read_target target = {{1, 1}, page};
	uint64_t before = lb_now_ns();
	session s;

	(void) state;
	start(&s, SILENT);
	before = lb_now_ns();
	assert_int_equal(lb_data_plane_submit(s.plane, &target, 1, before + 60 * MS, &status), 0);
	assert_int_equal(status.code, LB_TIMEOUT);
	assert_true(lb_now_ns() - before >= 55 * MS);
	assert_true(lb_now_ns() - before < 1000 * MS);
	end(&s);
}

/* Is a slab mapped in this process? */
static bool
has_mapped_slab(void)
{
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "r");
	bool found = false;

	if (maps == NULL)
		abort();
	while (!found && fgets(line, sizeof(line), maps))
		found = strstr(line, "memfd:slab") != NULL;
	fclose(maps);
	return found;
}

/* Programs that a server process starts do not get the connection; processes that it forks do not get the memory. */
static void
test_child(void **state)
{
	int inheritable_before = count_inheritable_descriptors();
	session s;
	pid_t child;
	int result;

	(void) state;
	start(&s, GOOD);
	assert_true(read_page(&s, 1, 1));
	assert_int_equal(count_inheritable_descriptors(), inheritable_before);
	assert_true(has_mapped_slab());
	child = fork();
	assert_true(child >= 0);
	if (child == 0)
		_exit(has_mapped_slab() ? 1 : 0);
	assert_int_equal(waitpid(child, &result, 0), child);
	assert_true(WIFEXITED(result));
	assert_int_equal(WEXITSTATUS(result), 0);
	assert_true(read_page(&s, 1, 2));
	end(&s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads),           cmocka_unit_test(test_batch),
		cmocka_unit_test(test_unmap),           cmocka_unit_test(test_closed_by_node),
		cmocka_unit_test(test_page_beyond_end), cmocka_unit_test(test_wrong_answers),
		cmocka_unit_test(test_time_limit),      cmocka_unit_test(test_child),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
