#!/usr/bin/perl
# PUSH over rdma; see rdma_pull.c.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use MemnodeTest;

MemnodeTest::need_rdma_device();
MemnodeTest::run_program('rdma_pull', MemnodeTest::sanitized_node());
