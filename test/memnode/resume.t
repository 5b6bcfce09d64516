#!/usr/bin/perl
# Connections that end while pages are dirty; see resume.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::run_program('resume', MemnodeTest::sanitized_node());
