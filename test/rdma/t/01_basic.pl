# Pages come back from memory nodes over RDMA, right and counted: what t/001_basic.pl asks of the other transports, in short.

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

my $rows = 2500;
# One of them over IPv6, on the machine whose addresses are known.
my @memnodes = map { LegoBase::Memnode->new(transport => 'rdma', @{$_}) } ([], [ $ENV{LEGOBASE_RDMA_ADDRESS} ? () : (listen => 'rdma://[fd99::1]:0') ]);
my $node = legobase_cluster('rdma', nodes => \@memnodes, conf => 'legobase.node_timeout = 40s');

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

sub check_data
{
	my ($what) = @_;

	is(sql('SELECT count(*), sum(id), sum(v) FROM t'),
		join('|', $rows, $rows * ($rows + 1) / 2, 3 * $rows * ($rows + 1) / 2), "$what: rows are right");
	return;
}

sub check_remote_reads
{
	my ($what) = @_;

	make_remote($node);
	my $work = work_since($node);
	my $before = summary($node);
	check_data($what);
	my $after = summary($node);
	my $remote = $after->{remote_hits} - $before->{remote_hits};

	$work = work_since($node, $work);
	cmp_ok($remote, '>', 100, "$what: a scan reads from remote memory");
	cmp_ok($after->{storage_reads} - $before->{storage_reads}, '<', $remote / 10, "$what: ... and hardly from storage");
	cmp_ok($work->{work_requests}, '>=', $remote, "$what: ... with RDMA reads");
	is($work->{tcp_fallbacks}, 0, "$what: ... and no other");
	return;
}

make_filler($node);
sql(qq{
	CREATE TABLE t (id int PRIMARY KEY, v int, pad text);
	INSERT INTO t SELECT i, i, repeat('x', 500) FROM generate_series(1, $rows) i;
	UPDATE t SET v = 3 * v});
check_remote_reads('rdma');
is(differing_blocks($node, 'postgres'), '', 'all pages read as they are in the files');

# --- what is shown ---------------------------------------------------------------------------------------------------

{
	my @shown = @{ node_rows($node) };

	is($_->{transport}, 'rdma', 'legobase_nodes: transport') foreach @shown;
	is($_->{last_error}, undef, 'legobase_nodes: no error') foreach @shown;
	cmp_ok($_->{used_pages}, '>', 0, 'legobase_nodes: the memory node holds pages') foreach @shown;
	cmp_ok($_->{read_p50_us}, '>', 0, 'legobase_nodes: the time of a read') foreach @shown;
	is(sql(q{SELECT string_agg(DISTINCT transport, ',') FROM legobase_latency WHERE tier = 'node'}), 'rdma', 'legobase_latency');

	my $summary = summary($node);
	is($summary->{write_mode}, $write_mode, 'write mode');
	cmp_ok($summary->{pushed_pages}, '>', 300, 'pages were pushed');
	is($summary->{checksum_failures} + $summary->{compare_mismatches}, 0, 'no page was wrong');
	foreach my $memnode (@memnodes)
	{
		my $figures = $memnode->figures;

		cmp_ok($figures->{rdma_connections}, '>=', 1, 'legobase-memnode --status: connections');
		cmp_ok($figures->{registered_pages}, '>=', $figures->{granted_pages}, 'legobase-memnode --status: registered pages');
	}
}

# --- a batch ---------------------------------------------------------------------------------------------------------

{
	my $work = work_since($node);

	check_data('read ahead');
	$work = work_since($node, $work);
	cmp_ok($work->{doorbells}, '<', $work->{work_requests} / 2, 'a scan reads several pages with one doorbell');
	is($work->{completions}, $work->{doorbells}, 'one completion for each');
}

# --- removed, restarted, crashed -------------------------------------------------------------------------------------

sql(q{SELECT legobase_evict('t')});
is(remote_pages($node, 'postgres', 't'), 0, 'legobase_evict');
check_data('after legobase_evict');

$node->restart;
wait_for_nodes($node);
check_data('after a restart');

$node->stop('immediate');
$node->start;
wait_for_nodes($node);
check_remote_reads('after a crash');

# --- the end ---------------------------------------------------------------------------------------------------------

$node->stop;
ok(wait_for('no queue pair is left', 10, sub { $memnodes[0]->figures->{rdma_connections} == 0 && $memnodes[1]->figures->{rdma_connections} == 0 }),
	'a server that has stopped leaves no queue pairs behind');
is($_->stop, 0, 'a memory node stops cleanly') foreach @memnodes;

done_testing();
