# What must not be disturbed: a truncation by a barrier, an attachment by a standstill of the agent, a node by much to be
# released. Each of these was wrong once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use LegoBase::Proxy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# --- a barrier in the middle of a truncation -------------------------------------------------------------------------

# VACUUM looks at the size of the table, reads a page of its free space map, and truncates the segments that are open. If the
# wait for that page served interrupts, a barrier would close them all, and the file would keep its tail, with rows that were
# deleted. So: the page must come from a memory node, slowly, and barriers must come all the time. The agent sends one when
# it returns memory.
my $memnode = LegoBase::Memnode->new(uri => 'tcp://127.0.0.1:0', memory => '64MB');
my $proxy = LegoBase::Proxy->new($memnode->port);
my $node = legobase_cluster('interruptions', nodes => [$proxy], conf => 'legobase.node_timeout = 10s');
my $tables = 4;

# Resize the pool again and again until the process has ended.
sub barriers_until_end
{
	my ($pid) = @_;
	my $small = 0;

	while (alive($pid))
	{
		$small = !$small;
		$node->append_conf('postgresql.conf', 'legobase.remote_pool_size = ' . ($small ? '48MB' : '64MB'));
		kill 'HUP', (processes_of($node))[0];
		my $until = time + 0.25;
		wait_for('a quarter of a second', 5, sub { time > $until });
	}
	return;
}

make_filler($node);
for my $i (1 .. $tables)
{
	$node->safe_psql(
		'postgres', qq{
		CREATE TABLE t$i (id int, pad text);
		INSERT INTO t$i SELECT i, repeat('x', 900) FROM generate_series(1, 24) i;
		DELETE FROM t$i WHERE id > 8;
		VACUUM (TRUNCATE false) t$i;
	});
}
make_remote($node, 'postgres');
for my $i (1 .. $tables)
{
	# VACUUM waits for the lock that it needs to truncate; meanwhile all its pages leave shared_buffers again.
	my $holder = $node->background_psql('postgres');
	$holder->query_safe("BEGIN; LOCK TABLE t$i IN ACCESS SHARE MODE");
	my $vacuum = in_background(sub { $node->safe_psql('postgres', "VACUUM t$i"); return 1; });
	ok(wait_for('VACUUM wants to truncate', 10, sub {
		return $node->safe_psql('postgres', 'SELECT phase FROM pg_stat_progress_vacuum') eq 'truncating heap';
	}), "VACUUM wants to truncate t$i");
	fill_buffers($node);
	$proxy->mode('delay 100');
	$holder->quit;
	barriers_until_end($vacuum);
	is(finish_background($vacuum), 0, "VACUUM t$i has ended");
	$proxy->mode('pass');
}
$proxy->mode('pass');
for my $i (1 .. $tables)
{
	my $blocks = $node->safe_psql('postgres', "SELECT pg_relation_size('t$i') / 8192");

	is($blocks, 1, "the file of t$i is as short as VACUUM made it");
	is($node->safe_psql('postgres', "SELECT count(*), sum(id) FROM t$i"), '8|36', "t$i has the rows it should have");
}
is(count_log_lines($node, qr/were closed while it was about to be truncated/), 0, 'no segments were closed too early');

# --- standstills and ends of the agent -------------------------------------------------------------------------------

$node->safe_psql('postgres', q{ALTER SYSTEM SET legobase.node_timeout = '500ms'});
$node->reload;
wait_for_nodes($node);
my $lost = count_log_lines($node, qr/is lost/);
my $agent = server_process($node, 'buffer agent');
kill 'STOP', $agent;
$node->safe_psql('postgres', 'UPDATE t1 SET id = id');
my $until = time + 2;
wait_for('two seconds', 5, sub { time > $until });
kill 'CONT', $agent;
wait_for('the agent is at work again', 10, sub {
	$node->safe_psql('postgres', 'UPDATE t1 SET id = id; CHECKPOINT; SELECT legobase_drain()');
	return 1;
});
is(count_log_lines($node, qr/is lost/), $lost, 'the agent does not blame a node for its own standstill');

kill 'TERM', $agent;
wait_for('another agent', 30, sub {
	my $pid = server_process($node, 'buffer agent');
	return defined $pid && $pid != $agent;
});
ok(wait_for_nodes($node, 30), 'an agent that was ended is started again, and attaches');
is(count_log_lines($node, qr/PANIC/), 0, 'without a panic');

# --- many slots to release -------------------------------------------------------------------------------------------

# Emptying a large table frees thousands of slots; telling the node must not fill up the connection to it.
$proxy->mode('delay 100');
$node->safe_psql('postgres', q{SELECT legobase_evict('filler')});
$node->safe_psql('postgres', q{INSERT INTO t1 SELECT i, repeat('y', 900) FROM generate_series(1, 4000) i; CHECKPOINT});
$node->safe_psql('postgres', 'TRUNCATE t1');
$proxy->mode('pass');
my $linked = summary($node)->{used_pages};
ok(wait_for('the node has been told of the free slots', 30, sub {
	return $memnode->figures->{used_pages} <= summary($node)->{used_pages} + 64;
}), 'the node knows which slots are free');
is(count_log_lines($node, qr/is lost/), $lost, 'and was not lost meanwhile');
$node->stop;

# --- one memory node under two addresses -----------------------------------------------------------------------------

my $other = LegoBase::Proxy->new($memnode->port);
my $twice = legobase_cluster('twice', nodes => [$proxy, $other], start => 0);
$twice->start;
$twice->safe_psql('postgres', 'CREATE EXTENSION legobase');
ok(wait_for('one link is refused', 20, sub { grep { $_->{last_error} } @{ node_rows($twice) } }),
	'a memory node that is listed twice is used once');
is(up_nodes($twice), 1, 'by one of its addresses');
is(count_log_lines($twice, qr/PANIC/), 0, 'without a panic');
$twice->stop;

# --- the embedded node is killed -------------------------------------------------------------------------------------

my $embedded = legobase_cluster('embedded_killed');

sub kill_embedded
{
	my ($what) = @_;
	my $pid = embedded_node_pid($embedded);
	my $start = time;

	kill 'KILL', $pid;
	ok(wait_for('another embedded node', 15, sub {
		my $now = embedded_node_pid($embedded);
		# the server may be restarting itself
		return defined $now && $now != $pid && (eval { up_nodes($embedded) } // 0) == 1;
	}), "an embedded node that was killed $what is replaced");
	cmp_ok(time - $start, '<', 8, 'soon');
	return;
}

make_filler($embedded);
settle($embedded);
kill_embedded('without dirty pages');
is(count_log_lines($embedded, qr/PANIC/), 0, 'without a panic');
wait_for_nodes($embedded);
quieten();
$embedded->safe_psql('postgres', q{CREATE TABLE t AS SELECT i, repeat('x', 500) pad FROM generate_series(1, 3000) i});
kill_embedded('with many');
is(count_log_lines($embedded, qr/PANIC/) > 0 ? 'writeback' : 'writethrough', $write_mode, 'with a panic in write-back');
is($embedded->safe_psql('postgres', q{SELECT count(*) FROM t WHERE pad LIKE 'x%'}), 3000, 'and all rows are there');
$embedded->stop;

done_testing();
