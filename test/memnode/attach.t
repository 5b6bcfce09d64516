#!/usr/bin/perl
# Who may come in; see attach.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('attach', MemnodeTest::sanitized_node());
