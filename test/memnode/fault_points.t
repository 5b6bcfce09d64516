#!/usr/bin/perl
# Fault points; see fault_points.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('fault_points', MemnodeTest::sanitized_node());
