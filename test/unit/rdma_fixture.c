/*
 * rdma_fixture.c
 *	  What the tests of the verbs layer begin and end with.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "raw_frame.h"
#include "rdma_fixture.h"
#include "verbs_stubs.h"

lb_status status;
rdma_pair pair;
int descriptors;

int
begin(void **state)
{
	(void) state;
	stub_reset();
	descriptors = count_open_descriptors();
	memset(&status, 0, sizeof(status));
	return 0;
}

int
end(void **state)
{
	(void) state;
	pair_close(&pair);
	assert_string_equal(stub_alive_text(), "");
	assert_int_equal(count_open_descriptors(), descriptors);
	return 0;
}

void
connect_pair(bool pull)
{
	pair_prepare(&pair, pull);
	if (!pair_listen(&pair, &status) || !pair_connect(&pair, &status))
		fail_msg("%s", status.message);
}

lb_rdma_connection *
reader(void)
{
	return pair.pull ? pair.accepted : pair.connection;
}

void
expect_failure(void)
{
	assert_int_not_equal(status.code, LB_OK);
	assert_true(strlen(status.message) > 10);
	assert_null(strchr(status.message, '\n'));
}

void
expect_code(lb_code code)
{
	expect_failure();
	if (status.code != code)
		fail_msg("code %d, not %d: %s", status.code, code, status.message);
}
