#!/usr/bin/perl
# Many sessions, few descriptors, little memory; see limits.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('limits', MemnodeTest::plain_node());
