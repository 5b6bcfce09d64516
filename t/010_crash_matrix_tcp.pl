# The crash matrix of write-back (two memory nodes, tcp): at least a hundred kills. lib/LegoBase/CrashMatrix.pm says how.
#
# LEGOBASE_LONG=1: six times as many. LEGOBASE_SEED: the seed of the plan, to have the same again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase::CrashMatrix;

run_crash_matrix('tcp');
