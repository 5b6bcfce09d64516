# The tier-1 checkpointer: L1 goes on, under load and without; what was dirty in shared_buffers is in remote memory a moment later, without a
# checkpoint, and without any page becoming hotter for it. It does nothing where nothing is written back.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $interval_ms = 100;
my $memnode = LegoBase::Memnode->new(transport => 'shm', memory => '128MB');
my $node = legobase_cluster(
	'tier1',
	nodes => [$memnode],
	write_mode => 'writeback',
	conf => "legobase.tier1_interval = ${interval_ms}ms\nlegobase.node_timeout = 2s\nshared_buffers = 8MB\n"
	  . "legobase.write_mode = auto\n"
	  . "bgwriter_lru_maxpages = 0\nmax_wal_size = 4GB\nlog_min_messages = debug1");
my $fault_points = has_fault_points($node);
if ($fault_points)
{
	$node->append_conf('postgresql.conf', "legobase.fault_points = ''");
	$node->reload;
}

$node->safe_psql('postgres', 'CREATE EXTENSION pg_buffercache');

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# What the server says of each tier-1 checkpoint, since a position in its log: L1 and the pages flushed.
sub tier1_checkpoints
{
	my ($position) = @_;

	return map { [/tier-1 checkpoint at (\S+): (\d+) of/] } grep { /tier-1 checkpoint at/ } split /\n/,
	  log_since($node, $position);
}

# Wait for a tier-1 checkpoint that began after now. The one under way began before.
sub wait_for_tier1
{
	my $position = log_position($node);

	return wait_for('two more tier-1 checkpoints', 20, sub { tier1_checkpoints($position) >= 2 });
}

# No tier-1 checkpoint for several intervals.
sub is_idle
{
	my ($what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	sql("SELECT pg_sleep($interval_ms * 2 / 1000.0)");    # one may be under way
	my $position = log_position($node);
	sql("SELECT pg_sleep($interval_ms * 10 / 1000.0)");
	is(scalar tier1_checkpoints($position), 0, $what);
	return;
}

sub set_option
{
	my ($name, $value) = @_;

	$node->adjust_conf('postgresql.conf', $name, $value);
	$node->reload;
	return;
}

# Dirty buffers of this relation, all forks.
sub dirty_buffers
{
	my ($name) = @_;

	return sql("SELECT count(*) FROM pg_buffercache
		WHERE isdirty AND relfilenode = pg_relation_filenode('$name')
			AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())");
}

# Of each buffer with a page of this relation
sub usage_counts
{
	my ($name) = @_;

	return sql("SELECT relforknumber, relblocknumber, usagecount FROM pg_buffercache
		WHERE relfilenode = pg_relation_filenode('$name') AND relforknumber = 0 ORDER BY 1, 2");
}

# --- what is dirty is flushed ----------------------------------------------------------------------------------------

{
	sql(q{CREATE TABLE t (id int, word text) WITH (fillfactor = 10);
		INSERT INTO t SELECT i, 'old' FROM generate_series(1, 4000) i});
	my $blocks = sql(q{SELECT pg_relation_size('t') / 8192});
	ok(wait_for_tier1(), 'tier-1 checkpoints are made');
	settle($node);
	quieten();

	my $checkpoints = sql('SELECT checkpoints_timed + checkpoints_req FROM pg_stat_bgwriter');
	my $wal = sql('SELECT pg_current_wal_insert_lsn()');
	my $position = log_position($node);
	sql(q{UPDATE t SET word = 'new'});
	ok(wait_for('no buffer is dirty', 20, sub { dirty_buffers('t') == 0 }), 'dirty buffers become clean');
	ok(wait_for_tier1(), 'and the tier-1 checkpoint is complete');
	cmp_ok(dirty_pages_of($node, 'postgres', 't'), '>', $blocks * 0.9, '... their pages are dirty in remote memory');
	is(sql('SELECT checkpoints_timed + checkpoints_req FROM pg_stat_bgwriter'),
		$checkpoints, '... and there was no checkpoint');
	my $flushed = 0;
	$flushed += $_->[1] foreach tier1_checkpoints($position);
	cmp_ok($flushed, '>=', $blocks, "... $flushed pages were flushed");
	my $l1 = (tier1_checkpoints($position))[-1][0];
	is(sql("SELECT pg_wal_lsn_diff('$l1', '$wal') > 0"), 't', 'L1 is behind the changes');
	is(sql(q{SELECT count(*) FROM t WHERE word = 'new'}), 4000, 'the rows are there');
}

# --- nothing becomes hotter by it ------------------------------------------------------------------------------------

{
	# one row in a page: pages that are used seldom
	sql(q{CREATE TABLE cool (id int, word text, pad text);
		ALTER TABLE cool ALTER pad SET STORAGE plain;
		INSERT INTO cool SELECT i, 'old', repeat('x', 5000) FROM generate_series(1, 200) i});
	ok(wait_for('no buffer is dirty', 20, sub { dirty_buffers('cool') == 0 }), 'another table is clean');

	set_option('legobase.tier1_interval', '0');
	is_idle('interval 0: no tier-1 checkpoint');
	sql(q{UPDATE cool SET word = 'new' WHERE id % 2 = 0});
	cmp_ok(dirty_buffers('cool'), '>', 100, 'buffers stay dirty');
	my $before = usage_counts('cool');
	like($before, qr/\|[1-4]$/m, '... not all of them as hot as can be');
	set_option('legobase.tier1_interval', "${interval_ms}ms");
	ok(wait_for('no buffer is dirty', 20, sub { dirty_buffers('cool') == 0 }), 'switched on again by a reload');
	ok(wait_for_tier1(), '... complete');
	is(usage_counts('cool'), $before, 'no usage count has changed');
}

# --- idle, and under load --------------------------------------------------------------------------------------------

{
	wait_for_tier1();
	wait_for_tier1();
	my $position = log_position($node);
	ok(wait_for_tier1(), 'tier-1 checkpoints are made in an idle server');
	my $flushed = 0;
	$flushed += $_->[1] foreach tier1_checkpoints($position);
	cmp_ok($flushed, '<', 50, "... with little to flush ($flushed pages)");
	my @lsns = map { $_->[0] } tier1_checkpoints($position);
	is(sql("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$lsns[-1]') < 1024 * 1024"), 't', '... close behind the WAL');

	my $workload = LegoBase::Workload->new($node, rows => 1000);
	$position = log_position($node);
	my $run = $workload->start(clients => 4, seconds => 4);
	ok(LegoBase::Workload::finish($run), 'a workload');
	my @made = tier1_checkpoints($position);
	cmp_ok(scalar @made, '>', 4, 'tier-1 checkpoints are made under load: ' . @made);
	my $ordered = 1;
	foreach my $i (1 .. $#made)
	{
		$ordered &&= sql("SELECT '$made[$i][0]'::pg_lsn >= '$made[$i - 1][0]'::pg_lsn") eq 't';
	}
	ok($ordered, '... L1 never goes back');
	cmp_ok($made[-1][0] eq $made[0][0] ? 0 : 1, '>', 0, '... and goes on');
}

# --- where nothing is written back -----------------------------------------------------------------------------------

{
	set_option('legobase.write_mode', 'writethrough');
	is_idle('write-through: no tier-1 checkpoint');
	sql(q{UPDATE t SET word = 'through' WHERE id < 200});
	cmp_ok(dirty_buffers('t'), '>', 0, '... buffers stay dirty');
	set_option('legobase.write_mode', 'auto');
	ok(wait_for('no buffer is dirty', 20, sub { dirty_buffers('t') == 0 }), 'written back again');
}

# --- faults ----------------------------------------------------------------------------------------------------------

sub tier1_process
{
	return wait_for('the tier-1 checkpointer runs', 20,
		sub { server_process($node, 'legobase tier-1 checkpointer') });
}

# The end of it alone is no harm: another is started, which goes on.
{
	my $pid = tier1_process();
	my $ready = count_log_lines($node, qr/database system is ready to accept/);

	kill 'TERM', $pid;
	ok(wait_for('another tier-1 checkpointer runs', 20, sub {
		my $other = server_process($node, 'legobase tier-1 checkpointer');
		return $other && $other != $pid;
	}), 'a tier-1 checkpointer that was ended is started again');
	ok(wait_for_tier1(), '... and goes on');
	is(count_log_lines($node, qr/database system is ready to accept/), $ready, '... without a restart of the server');
}

SKIP:
{
	skip 'no fault points in this build', 14 unless $fault_points;

	# An error once a second at most
	set_fault_points($node, 'tier1.flush=fail', tier1_process());
	my $position = log_position($node);
	sql(q{UPDATE t SET word = 'fail' WHERE id < 200});
	ok(wait_for('two errors', 20, sub { count_log_lines($node, qr/fault point "tier1.flush"/, $position) >= 2 }),
		'a flush that fails is tried again');
	sql('SELECT pg_sleep(2)');
	cmp_ok(count_log_lines($node, qr/fault point "tier1.flush"/, $position), '<', 10, '... but not all the time');
	is(scalar tier1_checkpoints($position), 0, '... L1 stays meanwhile');
	set_fault_points($node, '', tier1_process());
	ok(wait_for('no buffer is dirty', 20, sub { dirty_buffers('t') == 0 }), '... and then succeeds');
	is(sql('SELECT count(*) FROM pg_buffercache WHERE pinning_backends > 0'), 0, 'no pin is left over');

	# Killed, at each point
	foreach my $point (qw(tier1.flush tier1.acknowledged tier1.told))
	{
		my $ready = count_log_lines($node, qr/database system is ready to accept/);

		set_fault_points($node, "$point=kill", tier1_process());
		# of two statements, the second may meet the crash
		$node->psql('postgres', q{UPDATE t SET word = 'killed' WHERE id < 300});
		ok(wait_for('the server has restarted itself', 60, sub {
			return count_log_lines($node, qr/database system is ready to accept/) > $ready;
		}), "killed at $point: the server restarts itself");
		$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "''");
		$node->reload;
		wait_for('the point is disarmed', 60, sub {
			return ($node->psql('postgres', 'SHOW legobase.fault_points', on_error_stop => 0))[1] eq '';
		});
		wait_for_nodes($node);
		ok(wait_for_tier1(), '... and tier-1 checkpoints are made');
		is(sql('SELECT count(*) FROM t'), 4000, '... nothing is lost');
	}
}

# --- a node that does not answer -------------------------------------------------------------------------------------

# Whoever changes a page must not wait because the tier-1 checkpointer has it locked, and waits itself for the node that has the older version.
# How many updates of one row, in shared_buffers, are made while the node is suspect?
sub updates_while_suspect
{
	my ($frozen, $session, $memory) = @_;
	my $count;

	kill 'STOP', $memory->pid;
	# should the updates wait for it: at the latest then, before it counts as lost
	my $limit = in_background(sub { select(undef, undef, undef, 10); kill 'CONT', $memory->pid; return 1; });
	my $reader = in_background(sub { $frozen->safe_psql('postgres', q{SELECT pg_prewarm('far', 'read')}); return 1; });
	my $suspect = wait_for('the node is suspect', 4, sub {
		return $session->query_safe('SELECT state FROM legobase_nodes') eq 'suspect';
	});
	$count = $session->query_safe('CALL update_hot(1.5); SELECT n FROM updates');
	my $waits = $session->query_safe('SELECT state FROM legobase_nodes');
	kill 'CONT', $memory->pid;
	kill 'KILL', $limit;
	finish_background($limit);
	ok($suspect && $waits eq 'suspect', "the node is suspect from begin to end, with $count updates");
	is(finish_background($reader), 0, '... and answers then');
	return $count;
}

{
	my $memory = LegoBase::Memnode->new(memory => '128MB');
	my $frozen = legobase_cluster(
		'frozen',
		nodes => [$memory],
		write_mode => 'writeback',
		conf => "legobase.tier1_interval = 0\nlegobase.node_timeout = 6s\nshared_buffers = 16MB\nbgwriter_lru_maxpages = 0\n"
		  . "max_wal_size = 4GB\nsynchronous_commit = off");
	$frozen->safe_psql(
		'postgres', q{
		CREATE EXTENSION pg_prewarm;
		CREATE TABLE far AS SELECT repeat('f', 1000) FROM generate_series(1, 400);
		CREATE TABLE hot AS SELECT 1 AS n;
		CREATE TABLE updates AS SELECT 0 AS n;
		CREATE PROCEDURE update_hot(seconds float) LANGUAGE plpgsql AS $$
		DECLARE
			until timestamptz := clock_timestamp() + seconds * interval '1 s';
			made int := 0;
		BEGIN
			WHILE clock_timestamp() < until LOOP
				UPDATE hot SET n = n + 1;
				COMMIT;
				made := made + 1;
			END LOOP;
			UPDATE updates SET n = made;
		END $$;
	});
	$frozen->safe_psql('postgres', q{CHECKPOINT; SELECT pg_prewarm('far', 'read')});
	ok(wait_for('pages to read are remote', 20, sub { remote_pages($frozen, 'postgres', 'far') > 10 }), 'there are remote pages');
	my $session = $frozen->background_psql('postgres');
	$session->query_safe($_) foreach 'CALL update_hot(0.1); SELECT n FROM updates', 'SELECT state FROM legobase_nodes';
	$session->query_safe('UPDATE hot SET n = n + 1; CHECKPOINT');
	my $without = updates_while_suspect($frozen, $session, $memory);

	$frozen->adjust_conf('postgresql.conf', 'legobase.tier1_interval', "'50ms'");
	$frozen->reload;
	$session->query_safe('UPDATE hot SET n = n + 1');
	ok(wait_for('the row is dirty in remote memory', 20, sub { dirty_pages_of($frozen, 'postgres', 'hot') > 0 }),
		'with tier-1 checkpoints');
	my $with = updates_while_suspect($frozen, $session, $memory);
	cmp_ok($with, '>', $without / 4, 'updates go on while the node does not answer');
	my $wal = $frozen->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	ok(wait_for('L1 goes on', 30, sub {
		return $frozen->safe_psql('postgres', "SELECT lsn >= '$wal' FROM legobase_checkpoints WHERE tier = 1") eq 't';
	}), '... and tier-1 checkpoints afterwards');
	is(count_log_lines($frozen, qr/is lost|PANIC/), 0, '... nothing was lost');
	$session->quit;
	$frozen->stop;
}

$node->stop;
ok(-s $node->data_dir . '/pgsql_tmp_legobase/pgsql_tmp_local_pool', 'the list of local pages is written at the end');

done_testing();
