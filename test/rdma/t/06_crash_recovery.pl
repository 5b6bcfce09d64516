# The crash matrix of recovery over RDMA: some of its rounds by chance.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../../../t/lib";

use LegoBase::Rdma;
use LegoBase::RecoveryMatrix;

need_rdma_device();
run_recovery_matrix('rdma', 1, rounds => 4, node_timeout => '3s');
