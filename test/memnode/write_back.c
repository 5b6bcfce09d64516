/*
 * write_back.c
 *	  What the tests of dirty pages begin with.
 */
#include <stdio.h>
#include <string.h>

#include "tap.h"
#include "write_back.h"

#define OPTIONS_MAX 24
#define INSTANCE 9

void
write_back_start_with(write_back *self, const char *faults, const char *const *options)
{
	const char *all[OPTIONS_MAX] = {"--memory", "64MB", "--storage", self->data.root};
	lb_slab_list granted;
	int count = 4;

	if (faults)
	{
		all[count++] = "--fault-points";
		all[count++] = faults;
	}
	while (options && *options && count < OPTIONS_MAX - 1)
		all[count++] = *options++;
	node_start(&self->node, all);
	self->epoch = 10;
	agent_open(&self->agent, self->node.tcp_uri, INSTANCE, self->epoch);
	client_request_slabs(&self->agent, 256, 1, &granted);
	if (!client_storage(&self->agent, NULL))
		bail_out("the data directory is not found");
}

void
write_back_start(write_back *self, const char *faults, const char *const *options)
{
	data_make(&self->data, INSTANCE);
	data_make_file(&self->data, "base/5/100", 256);
	data_make_file(&self->data, "base/5/200", 256);
	write_back_start_with(self, faults, options);
}

void
write_back_stop(write_back *self)
{
	client_close(&self->agent);
	is_number((uint64_t) node_stop(&self->node), 0, "clean exit");
	node_clean(&self->node);
	data_remove(&self->data);
}

static bool
attach_again(write_back *self, uint64_t token, uint64_t resume)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, INSTANCE, ++self->epoch, token);

	hello.resume = resume;
	client_close(&self->agent);
	client_open(&self->agent, self->node.tcp_uri);
	if (client_hello(&self->agent, &hello) != LB_WELCOME)
		bail_out("HELLO refused: %s", self->agent.error.message);
	return self->agent.welcome.resumed;
}

bool
write_back_resume(write_back *self)
{
	lb_welcome former = self->agent.welcome;

	return attach_again(self, former.token, former.incarnation);
}

bool
write_back_new_life(write_back *self)
{
	return attach_again(self, 0, LB_RESUME_LIFE);
}

bool
write_back_damage(const write_back *self, uint32_t page)
{
	char path[64];
	char line[512];
	unsigned long at = 0;
	uint8_t byte = 0;
	FILE *file;
	bool done;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int) self->node.pid);
	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file))
		if (strstr(line, "memfd:legobase slab"))
			sscanf(line, "%lx", &at);
	if (file)
		fclose(file);
	if (at == 0)
		return false;
	at += (unsigned long) page * LB_PAGE_SIZE + 5000;
	snprintf(path, sizeof(path), "/proc/%d/mem", (int) self->node.pid);
	file = fopen(path, "r+");
	if (!file)
		return false;
	done = fseek(file, (long) at, SEEK_SET) == 0 && fread(&byte, 1, 1, file) == 1 &&
		   fseek(file, (long) at, SEEK_SET) == 0 && fputc(byte ^ 1, file) != EOF;
	return fclose(file) == 0 && done;
}

uint64_t
seed_of(uint32_t relation, uint32_t page, uint64_t version)
{
	return version * 1000000 + relation * 1000 + page;
}

lb_push_result
push_pages(client *agent, uint32_t relation, uint32_t page, uint32_t count, uint64_t version,
		   bool dirty)
{
	push_plan plan = {.page = page,
					  .count = count,
					  .relation = relation,
					  .version = version,
					  .seed = seed_of(relation, page, version),
					  .dirty = dirty};
	lb_push_ack ack;

	if (client_push(agent, &plan, &ack) != LB_PUSH_ACK || ack.count != count)
		bail_out("PUSH was not acknowledged");
	for (uint32_t i = 1; i < count; i++)
		if (ack.results[i] != ack.results[0])
			bail_out("PUSH with several results");
	return (lb_push_result) ack.results[0];
}

bool
file_has(const write_back *self, uint32_t relation, uint32_t page, uint32_t count, uint64_t version)
{
	char name[32];

	snprintf(name, sizeof(name), "base/5/%u", relation);
	for (uint32_t i = 0; i < count; i++)
		if (!data_has_page(&self->data, name, page + i, seed_of(relation, page, version) + i))
			return false;
	return true;
}

bool
file_is_zero(const write_back *self, uint32_t relation, uint32_t page, uint32_t count)
{
	char name[32];

	snprintf(name, sizeof(name), "base/5/%u", relation);
	for (uint32_t i = 0; i < count; i++)
		if (!data_is_zero(&self->data, name, page + i))
			return false;
	return true;
}

lb_node_figures
figures_of(const write_back *self)
{
	lb_node_figures figures = {0};
	client monitor;

	monitor_open(&monitor, self->node.shm_uri);
	client_status(&monitor, &figures);
	client_close(&monitor);
	return figures;
}

bool
is_fenced(client *agent, uint64_t sequence, int timeout_ms)
{
	return client_receive_within(agent, timeout_ms) == LB_FENCED &&
		   agent->frame.header.sequence == sequence;
}
