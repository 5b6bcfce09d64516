# Concurrent readers and writers over RDMA: queries that fail when a sum is wrong, every page compared with its file, DDL beside them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../../../t/lib";

use LegoBase;
use LegoBase::Rdma;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

need_rdma_device();

my $seconds = $ENV{LEGOBASE_LONG} ? 300 : 20;
my @memnodes = map { LegoBase::Memnode->new(transport => 'rdma') } (1, 2);
my $node = legobase_cluster(
	'concurrency',
	nodes => \@memnodes,
	conf => "legobase.node_timeout = 40s\nlegobase.debug_compare = on\neffective_io_concurrency = 64\nmax_wal_size = 4GB");
my $workload = LegoBase::Workload->new($node, rows => 1000);

make_filler($node);

# Tables come and go, so that files' numbers and slots are used again; and the pool is made smaller and larger, so that memory is
# returned to the nodes, and its keys with it.
sub come_and_go
{
	my ($until) = @_;
	my $round = 0;

	while (time < $until)
	{
		my $size = $round++ % 2 ? '16MB' : '-1';

		$node->safe_psql('postgres', "ALTER SYSTEM SET legobase.remote_pool_size = '$size'");
		$node->reload;
		$node->safe_psql(
			'postgres', q{
			CREATE TABLE passing AS SELECT i, repeat('x', 500) pad FROM generate_series(1, 1000) i;
			CREATE INDEX ON passing (i);
			DELETE FROM passing WHERE i > 100;
			VACUUM passing;
			SELECT 1 / (sum(i) = 5050)::int FROM passing;
			DROP TABLE passing;
			CHECKPOINT});
	}
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET legobase.remote_pool_size');
	$node->reload;
	return $round;
}

my $before = summary($node);
my $run = $workload->start(clients => 8, seconds => $seconds);
my $until = time + $seconds;
my $child = in_background(sub { come_and_go($until) });

ok(LegoBase::Workload::finish($run), 'no query of 8 clients failed, no sum was wrong');
is(finish_background($child), 0, 'tables come and go, the pool shrinks and grows');
ok(wait_for_nodes($node), 'the nodes are up');

my $after = summary($node);
cmp_ok($after->{remote_hits} - $before->{remote_hits}, '>', 1000, 'pages came from remote memory');
is($after->{compare_mismatches}, 0, 'none differed from its file');
is($after->{checksum_failures}, 0, 'none was damaged');
is(work_since($node)->{tcp_fallbacks}, 0, 'all of it over RDMA');
is(count_log_lines($node, qr/memory node .* lost/), 0, 'no node was given up');
$workload->check('afterwards');
is(differing_blocks($node, 'postgres'), '', 'all pages read as they are in the files');
amcheck_clean($node, 'afterwards');
$node->stop;
is($_->stop, 0, 'a memory node stops cleanly') foreach @memnodes;

done_testing();
