#!/usr/bin/perl
# Malformed and random frames; see garbage.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('garbage', MemnodeTest::sanitized_node());
