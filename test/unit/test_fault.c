/*
 * test_fault.c
 *	  Fault points, and statuses.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lb_clock.h"
#include "lb_fault.h"

static lb_status status;

static void
test_disarmed(void **state)
{
	(void) state;
	assert_false(LB_FAULT("anything"));
	assert_true(lb_fault_set("push.pulled=fail", &status));
	assert_true(lb_fault_armed);
	assert_true(lb_fault_set(NULL, &status));
	assert_false(lb_fault_armed);
	assert_true(lb_fault_set("push.pulled=fail", &status));
	assert_true(lb_fault_set("", &status));
	assert_false(lb_fault_armed);
	assert_false(LB_FAULT("push.pulled"));
}

static void
test_fail(void **state)
{
	(void) state;
	assert_true(lb_fault_set("a.b=fail,c-d_1=fail@3", &status));
	assert_false(LB_FAULT("a"));
	assert_false(LB_FAULT("a.b.c"));
	for (int i = 1; i <= 5; i++)
	{
		assert_true(LB_FAULT("a.b"));
		assert_int_equal(LB_FAULT("c-d_1"), i == 3);
	}

	/* A new specification forgets the counts; a malformed one changes nothing. */
	assert_true(lb_fault_set("a.b=fail@2", &status));
	assert_false(LB_FAULT("a.b"));
	assert_false(lb_fault_set("a.b=fail@1,x", &status));
	assert_true(LB_FAULT("a.b"));
	assert_true(lb_fault_check("q=stop", &status));
	assert_false(LB_FAULT("q"));
}

static void
test_wait(void **state)
{
	uint64_t before = lb_now_ns();

	(void) state;
	assert_true(lb_fault_set("slow=wait:50", &status));
	assert_false(LB_FAULT("slow"));
	assert_true(lb_now_ns() - before >= UINT64_C(50000000));
}

/* A child that goes to the point a few times and then exits with the number 7. */
static int
child_result(const char *specification)
{
	pid_t child = fork();
	int result;

	assert_true(child >= 0);
	if (child == 0)
	{
		if (lb_fault_set(specification, &status))
			for (int i = 0; i < 3; i++)
				(void) LB_FAULT("here");
		_exit(7);
	}
	assert_int_equal(waitpid(child, &result, WUNTRACED), child);
	if (WIFSTOPPED(result))
	{
		int end;

		kill(child, SIGCONT);
		assert_int_equal(waitpid(child, &end, 0), child);
		assert_true(WIFEXITED(end) && WEXITSTATUS(end) == 7);
	}
	return result;
}

static void
test_signals(void **state)
{
	int result;

	(void) state;
	result = child_result("here=kill@3");
	assert_true(WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL);
	result = child_result("here=kill@4");
	assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 7);
	result = child_result("here=stop@2");
	assert_true(WIFSTOPPED(result) && WSTOPSIG(result) == SIGSTOP);
}

static void
test_malformed(void **state)
{
	static const char *const bad[] = {
		"x",         "x=",
		"=fail",     "x=fall",
		"x=fail@",   "x=fail@0",
		"x=fail@-1", "x=fail@1x",
		"x=wait",    "x=wait:",
		"x=wait:y",  "x=wait:9999999999",
		"X=fail",    "x y=fail",
		",",         "x=fail,",
		",x=fail",   "x=fail,,y=fail",
		"x=fail y",  "x=fail@4294967296",
	};
	char text[600] = "";

	(void) state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
	{
		memset(&status, 0, sizeof(status));
		if (lb_fault_check(bad[i], &status))
			fail_msg("\"%s\" was accepted", bad[i]);
		assert_int_equal(status.code, LB_INVALID);
		assert_true(strlen(status.message) > 0);
	}
	for (int i = 0; i < 16; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%sp%d=fail", i ? "," : "", i);
	assert_true(lb_fault_check(text, &status));
	strcat(text, ",one.more=fail");
	assert_false(lb_fault_check(text, &status));
	memset(text, 'x', 501);
	strcpy(text + 501, "");
	assert_false(lb_fault_check(text, &status));
	memset(text, 'x', 64);
	strcpy(text + 64, "=fail");
	assert_false(lb_fault_check(text, &status));
}

static void
test_statuses(void **state)
{
	char name[400];

	(void) state;
	memset(&status, 0xff, sizeof(status));
	assert_false(lb_fail(&status, LB_PROTOCOL, "got %d", 5));
	assert_int_equal(status.code, LB_PROTOCOL);
	assert_int_equal(status.wire_error, 0);
	assert_string_equal(status.message, "got 5");

	errno = ENOENT;
	assert_false(lb_fail_errno(&status, "could not open \"%s\"", "x"));
	assert_int_equal(errno, ENOENT);
	assert_int_equal(status.code, LB_SYSTEM);
	assert_string_equal(status.message, "could not open \"x\": No such file or directory");

	/* However long the name is, the reason is there. */
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_false(lb_fail_errno(&status, "%s", name));
	assert_int_equal(strlen(status.message), sizeof(status.message) - 1);
	assert_non_null(strstr(status.message, "n: No such file or directory"));
	assert_false(lb_fail(&status, LB_INVALID, "%s", name));
	assert_int_equal(strlen(status.message), sizeof(status.message) - 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disarmed),  cmocka_unit_test(test_fail),
		cmocka_unit_test(test_wait),      cmocka_unit_test(test_signals),
		cmocka_unit_test(test_malformed), cmocka_unit_test(test_statuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
