#!/usr/bin/perl
# Who says nothing for too long; see silence.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('silence', MemnodeTest::sanitized_node());
