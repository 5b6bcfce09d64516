# The crash matrix of recovery with a tier-1 checkpoint every 10 s (two memory nodes, TCP): at least a hundred kills.
# lib/LegoBase/RecoveryMatrix.pm says how.
#
# LEGOBASE_LONG=1: six times as many, all compared with a plain redo. LEGOBASE_SEED: the seed of the plan, to have the same again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase::RecoveryMatrix;

run_recovery_matrix('tcp', 10);
