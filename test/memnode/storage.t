#!/usr/bin/perl
# STORAGE, and what may not be done before it; see storage.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('storage', MemnodeTest::sanitized_node());
