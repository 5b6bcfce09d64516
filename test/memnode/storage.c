/*
 * storage.c
 *	  STORAGE: does the node see the server's data directory? And what may not be done before it was asked.
 */
#include <stdio.h>
#include <string.h>

#include "tap.h"
#include "write_back.h"

static void
test_proof(void)
{
	lb_storage_reply reply;
	client other;
	write_back self;

	write_back_start(&self, NULL, NULL);
	ok(client_storage(&self.agent, &reply), "the data directory is found, again");
	ok(memcmp(reply.nonce, self.data.nonce, LB_NONCE_SIZE) == 0, "... with its nonce");
	ok(strcmp(reply.message, self.data.path) == 0, "... and its path");

	agent_open(&other, self.node.shm_uri, 10, 1);
	ok(!client_storage(&other, &reply), "that of another instance is not");
	ok(is_zero(reply.nonce, LB_NONCE_SIZE) && reply.message[0] != '\0', "... which is explained");
	note("%s", reply.message);
	client_close(&other);

	data_remove_nonce(&self.data);
	ok(!client_storage(&self.agent, &reply), "without a nonce there is no proof");
	note("%s", reply.message);
	is_number(push_pages(&self.agent, 100, 0, 1, 1, true), LB_PUSH_NO_STORAGE,
			  "... and dirty pages are no longer taken");
	write_back_stop(&self);
}

static void
test_root_itself(void)
{
	data_directory data;
	const char *options[] = {"--memory",  "16MB",    "--storage", "/no/such/folder",
							 "--storage", data.path, NULL};
	node_process node;
	client agent;

	data_make(&data, 3);
	node_start(&node, options);
	agent_open(&agent, node.tcp_uri, 3, 1);
	ok(client_storage(&agent, NULL),
	   "a root may be the data directory itself; others need not be there");
	client_close(&agent);
	is_number((uint64_t) node_stop(&node), 0, "clean exit");
	node_clean(&node);
	data_remove(&data);
}

static void
test_without_storage(void)
{
	static const char *const options[] = {"--memory", "16MB", NULL};
	lb_storage_reply reply;
	lb_slab_list granted;
	node_process node;
	client agent;
	client backend;

	node_start(&node, options);
	agent_open(&agent, node.shm_uri, 3, 1);
	client_request_slabs(&agent, 256, 1, &granted);
	is_number(push_pages(&agent, 100, 0, 64, 1, true), LB_PUSH_NO_STORAGE,
			  "a dirty page is not taken before STORAGE");
	is_number(push_pages(&agent, 100, 0, 64, 1, false), LB_PUSH_PUBLISHED, "a clean one is");
	is_number(push_pages(&agent, 100, 0, 64, 1, true), LB_PUSH_OLD_VERSION,
			  "an old version is that first of all");
	is_number(push_pages(&agent, 100, 0, 64, 2, true), LB_PUSH_NO_STORAGE,
			  "a newer one is refused, dirty");
	is_number(push_pages(&agent, 100, 0, 64, 1, false), LB_PUSH_OLD_VERSION,
			  "... and has changed nothing");
	ok(!client_storage(&agent, &reply), "nothing is found without --storage");
	ok(strstr(reply.message, "--storage") != NULL, "... and it says so: %s", reply.message);
	client_flush(&agent);
	is_number(client_ping(&agent), LB_PONG, "FLUSH does nothing");

	backend_open(&backend, node.tcp_uri, 3, 1, agent.welcome.token);
	client_send(&backend, LB_STORAGE, "\1x", 2);
	ok(client_receive(&backend) == LB_ERROR && backend.error.error == LB_ERR_ROLE,
	   "backends may not ask");
	client_send(&backend, LB_FLUSH, NULL, 0);
	ok(client_receive(&backend) == LB_ERROR && backend.error.error == LB_ERR_ROLE,
	   "... nor have it flushed");
	client_close(&backend);
	client_send(&agent, LB_STORAGE, "\4a/.b", 5);
	ok(client_receive(&agent) == LB_ERROR && agent.error.error == LB_ERR_MALFORMED,
	   "a folder that leads elsewhere is malformed");
	client_close(&agent);
	is_number((uint64_t) node_stop(&node), 0, "clean exit");
	node_clean(&node);
}

int
main(void)
{
	test_proof();
	test_root_itself();
	test_without_storage();
	return done_testing();
}
