#!/usr/bin/perl
# FENCE, and the fence file; see fences.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('fences', MemnodeTest::sanitized_node());
