/*
 * lb_fault.h
 *	  Fault points: named places in the code where a test can make the process stop, fail or wait. They exist only in
 *	  builds with FAULT_POINTS=1 (LB_FAULT_POINTS); elsewhere LB_FAULT(name) is the constant false.
 *
 * A specification is a comma-separated list of name=action[@N]: the action happens at the Nth time (default: every time)
 * that this process reaches the point. Actions: kill (SIGKILL to itself), stop (SIGSTOP to itself), fail (LB_FAULT
 * returns true and the caller takes its failure path), wait:MS (sleep that long). Example:
 *	  "push.acknowledge=kill@20,read.before=wait:50"
 */
#ifndef LB_FAULT_H
#define LB_FAULT_H

#include <stdbool.h>
#include "lb_status.h"

#ifdef LB_FAULT_POINTS
extern bool lb_fault_reached(const char *name);

#define LB_FAULT(name) __builtin_expect(lb_fault_armed &&lb_fault_reached(name), 0)
#else
#define LB_FAULT(name) false
#endif

/* Set when any fault point is armed in this process. */
extern bool lb_fault_armed;

/*
 * Replace the specification and forget the counts; null or empty disarms. False with LB_INVALID, and no change, for a
 * malformed one. In builds without fault points only the empty one is accepted. Specifications are at most 500 bytes,
 * with at most 16 points. Async-signal unsafe; not for use while other threads run through fault points, which several
 * threads may do at the same time.
 */
extern bool lb_fault_set(const char *specification, lb_status *status);

/* Would lb_fault_set accept it? Changes nothing. */
extern bool lb_fault_check(const char *specification, lb_status *status);

#endif /* LB_FAULT_H */
