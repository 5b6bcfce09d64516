/*
 * rdma_fixture.h
 *	  What the tests of the verbs layer begin and end with: the stand-in made anew, a pair, and nothing left of either.
 */
#ifndef RDMA_FIXTURE_H
#define RDMA_FIXTURE_H

#include "lb_status.h"
#include "rdma_pair.h"

extern lb_status status;
extern rdma_pair pair;
extern int descriptors; /* that were open when the test began */

/* Set-up and tear-down of a test: no object of the stand-in, and no descriptor, may be left. */
extern int begin(void **state);
extern int end(void **state);

/* Connect the pair, or fail the test. */
extern void connect_pair(bool pull);

/* The side that posts reads. */
extern lb_rdma_connection *reader(void);

/* The status is that of a failure: it has a code (this one), and one line for people. */
extern void expect_failure(void);
extern void expect_code(lb_code code);

#endif /* RDMA_FIXTURE_H */
