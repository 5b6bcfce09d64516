#!/usr/bin/perl
# Storage that fails; see flush_failures.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('flush_failures', MemnodeTest::sanitized_node());
