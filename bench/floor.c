/*
 * floor.c
 *	  The floor under a remote page read: what the same bytes cost without a database, a directory or checksums.
 *
 *	  floor memcpy REGION_MB DESTINATION_MB SAMPLES
 *		  copies of 8 kB from random pages of a region of shared memory, as large as a remote pool, into the pages of a
 *		  destination in turn, which is as large as shared_buffers
 *	  floor socket REGION_MB SAMPLES
 *		  requests of 8 bytes and answers of 8 kB over one blocking TCP connection on loopback; the other end, a process
 *		  of its own, sends the page of its region that was asked for
 *
 * Prints P50 and P99 in microseconds. Clock and histogram are the ones that the extension uses, so that what the
 * clock costs and how percentiles are rounded is the same on both sides of a comparison.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lb_clock.h"
#include "lb_histogram.h"
#include "lb_page.h"

#define PAGES_PER_MB (1024 * 1024 / LB_PAGE_SIZE)

static uint64_t histogram[LB_HISTOGRAM_BUCKETS];

static void
die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t
next_random(void)
{
	static uint64_t state = 88172645463325252U;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* Shared memory in huge pages if the system has any to give, as in a memory node. Every page is written to once. */
static char *
make_region(size_t bytes)
{
	int fd = memfd_create("floor", MFD_CLOEXEC | MFD_HUGETLB);
	char *region = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, (off_t) bytes) == 0)
		region = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (region == MAP_FAILED)
	{
		close(fd);
		fd = memfd_create("floor", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, (off_t) bytes) != 0)
			die("memory file");
		region = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (region == MAP_FAILED)
			die("mmap");
	}
	for (size_t at = 0; at < bytes; at += sizeof(uint64_t))
		*(uint64_t *) (region + at) = next_random();
	return region;
}

static void
print_percentiles(void)
{
	printf("%.3f %.3f\n", lb_histogram_percentile(histogram, 50) / 1000,
		   lb_histogram_percentile(histogram, 99) / 1000);
}

static void
measure_memcpy(size_t region_pages, size_t destination_pages, long samples)
{
	char *region = make_region(region_pages * LB_PAGE_SIZE);
	char *destination = make_region(destination_pages * LB_PAGE_SIZE);

	for (long i = 0; i < samples; i++)
	{
		const char *from = region + next_random() % region_pages * LB_PAGE_SIZE;
		char *to = destination + (size_t) i % destination_pages * LB_PAGE_SIZE;
		uint64_t start = lb_now_ns();

		memcpy(to, from, LB_PAGE_SIZE);
		/* the copy is complete before the clock is read again, and is not optimised away */
		__asm__ volatile("" : : "r"(to) : "memory");
		histogram[lb_histogram_bucket(lb_now_ns() - start)]++;
	}
}

static void
serve(int fd, const char *region, size_t region_pages)
{
	uint64_t page;

	while (recv(fd, &page, sizeof(page), MSG_WAITALL) == sizeof(page))
	{
		const char *from = region + page % region_pages * LB_PAGE_SIZE;

		if (send(fd, from, LB_PAGE_SIZE, 0) != LB_PAGE_SIZE)
			die("send");
	}
}

static void
request(int fd, char *to)
{
	uint64_t page = next_random();

	if (send(fd, &page, sizeof(page), 0) != sizeof(page))
		die("send");
	if (recv(fd, to, LB_PAGE_SIZE, MSG_WAITALL) != LB_PAGE_SIZE)
		die("recv");
}

static void
set_no_delay(int fd)
{
	int on = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		die("TCP_NODELAY");
}

/* A connected pair of TCP sockets on loopback, the second one in a child process that serves it. */
static int
start_server(size_t region_pages, pid_t *child)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int server;

	if (listener < 0 || client < 0 || bind(listener, (struct sockaddr *) &address, length) < 0 ||
		listen(listener, 1) < 0 ||
		getsockname(listener, (struct sockaddr *) &address, &length) < 0 ||
		connect(client, (struct sockaddr *) &address, length) < 0)
		die("socket");
	server = accept(listener, NULL, NULL);
	if (server < 0)
		die("accept");
	set_no_delay(client);
	set_no_delay(server);
	close(listener);

	*child = fork();
	if (*child < 0)
		die("fork");
	if (*child == 0)
	{
		close(client);
		serve(server, make_region(region_pages * LB_PAGE_SIZE), region_pages);
		_exit(0);
	}
	close(server);
	return client;
}

static void
measure_socket(size_t region_pages, long samples)
{
	static char page[LB_PAGE_SIZE];
	pid_t child;
	int fd = start_server(region_pages, &child);

	/* The first answers come when the server has filled its region. */
	for (long i = 0; i < samples / 10 + 1; i++)
		request(fd, page);
	for (long i = 0; i < samples; i++)
	{
		uint64_t start = lb_now_ns();

		request(fd, page);
		histogram[lb_histogram_bucket(lb_now_ns() - start)]++;
	}
	close(fd);
	waitpid(child, NULL, 0);
}

static long
positive(const char *text)
{
	char *end;
	long number = strtol(text, &end, 10);

	if (*end != '\0' || number <= 0 || number > 100000000)
	{
		fprintf(stderr, "floor: \"%s\" is not a positive number\n", text);
		exit(2);
	}
	return number;
}

int
main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "memcpy") == 0)
		measure_memcpy((size_t) positive(argv[2]) * PAGES_PER_MB,
					   (size_t) positive(argv[3]) * PAGES_PER_MB, positive(argv[4]));
	else if (argc == 4 && strcmp(argv[1], "socket") == 0)
		measure_socket((size_t) positive(argv[2]) * PAGES_PER_MB, positive(argv[3]));
	else
	{
		fprintf(stderr, "use: floor memcpy REGION_MB DESTINATION_MB SAMPLES | floor socket "
						"REGION_MB SAMPLES\n");
		return 2;
	}
	print_percentiles();
	return 0;
}
