#!/usr/bin/perl
# Queue pairs and registered memory; see rdma.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::need_rdma_device();
MemnodeTest::run_program('rdma', MemnodeTest::sanitized_node());
