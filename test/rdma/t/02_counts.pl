# What reading and pushing over RDMA costs, in work requests, doorbells, completions and messages: exactly. The data plane counts what it
# does.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../../../t/lib";

use LegoBase;
use LegoBase::Rdma;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

need_rdma_device();

my $pages = 640;
my $memnode = LegoBase::Memnode->new(transport => 'rdma');
my $node = legobase_cluster('counts', nodes => [$memnode], conf => "legobase.node_timeout = 60s\nlegobase.tier1_interval = 0");

make_filler($node);
$node->safe_psql(
	'postgres', qq{
	CREATE TABLE t (id int, pad text) WITH (fillfactor = 10);
	INSERT INTO t SELECT i, repeat('x', 700) FROM generate_series(1, $pages) i;
	VACUUM (FREEZE) t});
make_remote($node);
is($node->safe_psql('postgres', q{SELECT pg_relation_size('t') / 8192}), $pages, 'a table of one row a page');
cmp_ok(remote_pages($node, 'postgres', 't'), '>=', $pages, '... is in remote memory');

# What some queries of one session cost, which reads nothing else but catalogs, one page after the other.
sub cost_of
{
	my (@queries) = @_;
	my $session = $node->background_psql('postgres');
	my $ask = q{SELECT reads, work_requests, doorbells, completions FROM legobase_nodes};

	$session->query_safe('SET legobase.read_ahead_pages = 0');
	# catalogs, and the connection
	$session->query_safe(q{SELECT pg_prewarm('filler', 'prefetch', 'main', 0, 0); SELECT pg_prewarm('filler', 'read', 'main', 0, 0)});
	$session->query_safe($ask) foreach (1 .. 2);
	my @before = split /\|/, $session->query_safe($ask);
	$session->query_safe($_) foreach @queries;
	my @after = split /\|/, $session->query_safe($ask);
	$session->quit;
	return map { $after[$_] - $before[$_] } (0 .. 3);
}

# --- a page ----------------------------------------------------------------------------------------------------------

{
	my ($reads, $work_requests, $doorbells, $completions) = cost_of(q{SELECT pg_prewarm('t', 'read', 'main', 0, 99)});

	cmp_ok($reads, '>=', 100, "100 pages, one by one: $reads reads");
	is($work_requests, $reads, '... one work request each');
	is($doorbells, $reads, '... one doorbell');
	is($completions, $reads, '... one completion');
}

# --- a batch of 16 ---------------------------------------------------------------------------------------------------

{
	my $batches = 20;
	my @queries = map {
		my ($first, $last) = (16 * $_, 16 * $_ + 15);
		(   "SELECT pg_prewarm('t', 'prefetch', 'main', $first, $last)",
			"SELECT pg_prewarm('t', 'read', 'main', $first, $last)")
	} (0 .. $batches - 1);
	my ($reads, $work_requests, $doorbells, $completions) = cost_of(@queries);

	cmp_ok($reads, '>=', 16 * $batches, "$batches batches of 16 pages: $reads reads");
	is($work_requests, $reads, '... one work request a page');
	is($work_requests - $doorbells, 15 * $batches, '... one doorbell a batch');
	is($completions, $doorbells, '... one completion a batch');
}

# --- a sequential scan -----------------------------------------------------------------------------------------------

{
	my ($reads, $work_requests, $doorbells, $completions) =
	  cost_of('SET legobase.read_ahead_pages = 16', 'SELECT count(*) FROM t');

	cmp_ok($reads, '>=', $pages - 128, "a scan: $reads reads");
	is($work_requests, $reads, '... one work request a page');
	cmp_ok($doorbells, '<', $reads / 6, "... $doorbells doorbells: half a window at a time");
	is($completions, $doorbells, '... one completion each');
}

# --- pushes ----------------------------------------------------------------------------------------------------------

SKIP:
{
	skip 'this build has no fault points (FAULT_POINTS=1)', 1 unless has_fault_points($node);

	# Load: pages come faster than the node answers messages. Those of several processes that change pages do not, on a machine that is as slow
	# as test/rdma/vm; so the node is made slower than them.
	settle($node);
	$memnode->stop;
	$memnode->start('--fault-points', 'memnode.rdma.pulled=wait:50');
	wait_for_nodes($node);
	my $work = work_since($node);

	foreach my $round (1 .. 2)
	{
		my @clients = map {
			my $part = $_;
			in_background(sub { $node->safe_psql('postgres', "UPDATE t SET pad = pad WHERE id % 4 = $part"); return 1; })
		} (0 .. 3);
		is(finish_background($_), 0, 'a client that changes pages') foreach @clients;
	}
	$node->safe_psql('postgres', 'SELECT legobase_drain()');
	$work = work_since($node, $work);
	note("$work->{pushes} pages pushed with $work->{push_messages} messages");
	cmp_ok($work->{pushes}, '>=', $pages, "pages were pushed: $work->{pushes}");
	cmp_ok($work->{push_messages} * 8, '<=', $work->{pushes}, "... with at most a message for 8 of them: $work->{push_messages}");
}

is(work_since($node)->{tcp_fallbacks}, 0, 'all of it over RDMA');
is(summary($node)->{checksum_failures}, 0, 'no page was wrong');
$node->stop;
is($memnode->stop, 0, 'the memory node stops cleanly');

done_testing();
