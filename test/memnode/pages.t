#!/usr/bin/perl
# Pages in and out; see pages.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('pages', MemnodeTest::sanitized_node());
