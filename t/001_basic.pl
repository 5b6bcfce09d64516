# Pages that leave shared_buffers come back from remote memory, right and counted; for each kind of memory node.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 20000;

# Blocks read, as legobase counts them and as PostgreSQL does, from one session that reads none itself.
sub reads_counted
{
	my ($session) = @_;

	$session->query('SELECT pg_stat_force_next_flush()');
	my ($legobase, $postgres) = split /\|/, $session->query(
		q{SELECT remote_hits + comm_buffer_hits + storage_reads, (SELECT sum(blks_read) FROM pg_stat_database)
		  FROM legobase_summary});
	return ($legobase, $postgres);
}

sub check_counts
{
	my ($node, $what) = @_;
	my $session = $node->background_psql('postgres');
	my ($legobase_before, $postgres_before, $legobase, $postgres);

	# warm up this session: catalogs that it looks at, and its own figures
	reads_counted($session) foreach (1 .. 3);
	($legobase_before, $postgres_before) = reads_counted($session);
	foreach my $i (1 .. 5)
	{
		$node->safe_psql('postgres', 'SELECT sum(v) FROM t; SELECT count(*) FROM t WHERE id % 7 = 0');
	}
	wait_for(
		'both counted',
		20,
		sub {
			($legobase, $postgres) = reads_counted($session);
			return $legobase - $legobase_before == $postgres - $postgres_before;
		});
	$session->quit;
	cmp_ok($postgres - $postgres_before, '>', 1000, "$what: blocks were read");
	is($legobase - $legobase_before, $postgres - $postgres_before,
		"$what: legobase counts as many block reads as PostgreSQL");
	return;
}

sub check_data
{
	my ($node, $what) = @_;

	is($node->safe_psql('postgres', 'SELECT count(*), sum(id), sum(v) FROM t'),
		join('|', $rows, $rows * ($rows + 1) / 2, 3 * $rows * ($rows + 1) / 2), "$what: rows are right");
	return;
}

sub check_remote_reads
{
	my ($node, $what) = @_;

	make_remote($node);
	my $before = summary($node);
	check_data($node, $what);
	my $after = summary($node);
	my $remote = $after->{remote_hits} - $before->{remote_hits};
	my $storage = $after->{storage_reads} - $before->{storage_reads};

	cmp_ok($remote, '>', 1000, "$what: a scan reads from remote memory");
	cmp_ok($storage, '<', $remote / 10, "$what: ... and hardly from storage");
	return;
}

sub check_mode
{
	my ($what, %params) = @_;
	my $node = legobase_cluster("basic_$what", %params);

	make_filler($node);
	$node->safe_psql(
		'postgres', qq{
		CREATE TABLE t (id int PRIMARY KEY, v int, pad text);
		INSERT INTO t SELECT i, i, repeat('x', 500) FROM generate_series(1, $rows) i;
		UPDATE t SET v = 3 * v;
	});
	check_remote_reads($node, $what);
	is(differing_blocks($node, 'postgres'), '', "$what: all pages read as they are in the files");
	check_counts($node, $what);

	my $summary = summary($node);
	is($summary->{write_mode}, $write_mode, "$what: write mode");
	ok(wait_for('nothing is dirty', 10, sub { $node->safe_psql('postgres',
		'SELECT legobase_drain(); SELECT dirty_pages FROM legobase_summary') =~ /^\s*0$/ }),
		"$what: no dirty pages in remote memory");
	cmp_ok($summary->{pushed_pages}, '>', 1000, "$what: pushes are counted");
	cmp_ok($summary->{used_pages}, '<=', $summary->{pool_pages}, "$what: used pages fit the pool");
	# counting may itself bring a few pages more
	cmp_ok(abs($summary->{used_pages} - $node->safe_psql('postgres', 'SELECT count(*) FROM legobase_pages')),
		'<', 10, "$what: legobase_pages lists the pages in use");
	is($summary->{checksum_failures} + $summary->{compare_mismatches}, 0, "$what: no page was wrong");

	$node->safe_psql('postgres', 'SELECT legobase_reset_stats()');
	cmp_ok(summary($node)->{remote_hits}, '<', 100, "$what: legobase_reset_stats");

	$node->safe_psql('postgres', q{SELECT legobase_evict('t')});
	is(remote_pages($node, 'postgres', 't'), 0, "$what: legobase_evict");
	check_data($node, "$what after legobase_evict");

	$node->restart;
	wait_for_nodes($node);
	check_data($node, "$what after a restart");
	check_remote_reads($node, "$what after a restart");

	$node->stop('immediate');
	$node->start;
	wait_for_nodes($node);
	check_data($node, "$what after a crash");
	check_remote_reads($node, "$what after a crash");
	return $node;
}

# --- embedded --------------------------------------------------------------------------------------------------------

{
	my $node = check_mode('embedded');
	my $pid = embedded_node_pid($node);

	ok($pid, 'the embedded memory node is a process of this host');
	is(node_rows($node)->[0]{transport}, 'shm', 'the embedded memory node is reached through shared memory');
	ok((-d $node->data_dir . '/pgsql_tmp_legobase'), 'its files are where backups leave them out');
	$node->stop;
	ok(alive($pid), 'the embedded memory node outlives the server');
	$node->start;
	wait_for_nodes($node);
	is(embedded_node_pid($node), $pid, 'the next server finds it');
	$node->stop;
}

# --- memory nodes of one's own ---------------------------------------------------------------------------------------

{
	my $memnode = LegoBase::Memnode->new(transport => 'shm');
	my $node = check_mode('shm', nodes => [$memnode]);

	cmp_ok($memnode->figures->{sessions}, '>', 0, 'legobase-memnode --status counts sessions');
	$node->stop;
	is($memnode->stop, 0, 'a memory node stops cleanly');
	$memnode->start('--exit-when-unused', '5');
	$node->start;
	ok(wait_for_nodes($node), 'a memory node that ends when it is unused, in use');
	$node->stop;
	ok($memnode->wait_end(20), 'a memory node that is told so ends when it is no longer used');
	is($memnode->exit_status, 0, '... cleanly');
}

{
	my @memnodes = map { LegoBase::Memnode->new(transport => 'tcp') } (1, 2);
	my $node = check_mode('tcp', nodes => \@memnodes);
	my @used = map { $_->{used_pages} } @{ node_rows($node) };

	cmp_ok($used[0], '>', 0, 'tcp: the first memory node holds pages');
	cmp_ok($used[1], '>', 0, 'tcp: the second memory node holds pages');
	cmp_ok(abs($used[0] - $used[1]), '<', ($used[0] + $used[1]) / 4, 'tcp: both hold about as many');
	is($_->stop, 0, 'a memory node stops cleanly while a server uses it') foreach @memnodes;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), $rows, 'the server goes on without memory nodes');
	$node->stop;
}

done_testing();
