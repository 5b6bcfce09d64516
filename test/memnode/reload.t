#!/usr/bin/perl
# A new life of a server finds what its former one left; see reload.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('reload', MemnodeTest::sanitized_node());
