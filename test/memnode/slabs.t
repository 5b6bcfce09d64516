#!/usr/bin/perl
# Memory granted, returned, freed; see slabs.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('slabs', MemnodeTest::sanitized_node());
