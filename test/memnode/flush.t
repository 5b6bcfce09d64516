#!/usr/bin/perl
# Dirty pages on their way to their files; see flush.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('flush', MemnodeTest::sanitized_node());
