# The crash matrix of write-back over RDMA, in short: at each of its own fault points, and some of the other rounds by chance.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../../../t/lib";

use LegoBase::CrashMatrix;
use LegoBase::Rdma;

need_rdma_device();
run_crash_matrix_rdma(rounds => 3, node_timeout => '3s');
