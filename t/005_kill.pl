# Processes killed with SIGKILL at every fault point, and wherever they are, under a workload whose clients note what
# was acknowledged: nothing acknowledged is lost, nothing is wrong afterwards, also for a server without the extension.
#
# In write-back, killing is the business of 010_crash_matrix_*.pl; what is left here are failures and delays.
#
# Fault points exist in builds with FAULT_POINTS=1 only. They are found by searching the sources for LB_FAULT.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use LegoBase::Acknowledged;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $memnode = LegoBase::Memnode->new(transport => 'tcp');
my $node = legobase_cluster('kill', nodes => [$memnode], conf => 'max_wal_size = 4GB');
my $workload = LegoBase::Workload->new($node);

make_filler($node);

my $clients = LegoBase::Acknowledged->new($node, $workload);
my $fault_points = has_fault_points($node);
my $writing_back = $write_mode eq 'writeback';

# Those that nobody comes to without dirty pages, or with fsync = off, as in the other mode; and those of coming back and of tier 1: the crash matrix of recovery has them
my $of_write_back = qr/^(writeback|fence|checkpoint|tier1)\.|^agent\.(clean|control|fence|flush|resume|storage)|^memnode\.(control|flush|fence|resume|storage)/;
my $of_recovery = qr/^(agent|memnode)\.(reload|reloaded|reconcile)\b|^(tier1|warmup|redo)\./;
my @points = grep { !/^smgr_table\./ && !/$of_recovery/ && ($writing_back || !/$of_write_back/) }
  fault_points_of('src/*.c', 'src/common/*.c');
my @memnode_points = grep { !/$of_recovery/ && ($writing_back || !/$of_write_back/) } fault_points_of('memnode/*.c');

sub server_deaths
{
	return count_log_lines($node, qr/was terminated by signal 9/);
}

sub ready_lines
{
	return count_log_lines($node, qr/database system is ready to accept connections/);
}

# Wait until the server, which restarts itself, takes connections and uses its memory node. If its startup process came to
# the fault point, too, before it was taken away, the server has given up: start it.
sub wait_until_recovered
{
	my ($ready_before) = @_;

	wait_for('the server has restarted itself', 60,
		sub { ready_lines() > $ready_before || !alive($node->{_pid}) }) or return 0;
	if (!alive($node->{_pid}))
	{
		wait_until_gone($node);
		$node->{_pid} = undef;
		$node->start;
	}
	wait_for('the server accepts connections', 20,
		sub { ($node->psql('postgres', 'SELECT 1'))[0] == 0 }) or return 0;
	return wait_for_nodes($node);
}

# --- server processes at each fault point ----------------------------------------------------------------------------

sub kill_server_at
{
	my ($point) = @_;
	my $deaths = server_deaths();
	my $ready = ready_lines();
	my $died;

	$clients->start;
	# not at the first time: let there be something to lose
	set_fault_points($node, "$point=kill\@5");
	$died = wait_for("a process dies at $point", 15, sub { server_deaths() > $deaths });
	set_fault_points($node, '');
	ok($died, "$point: a process was killed there");
	$died ? $clients->wait_end : $clients->stop;
	ok(!$died || wait_until_recovered($ready), "$point: the server recovers");
	$clients->check($point);
	return;
}

# --- memory nodes at each fault point --------------------------------------------------------------------------------

sub kill_memnode_at
{
	my ($point) = @_;

	$memnode->stop;
	# accepting is the rarest
	$memnode->start('--fault-points', $point =~ /accept/ ? "$point=kill\@3" : "$point=kill\@200");
	$clients->start;
	ok(wait_for("the memory node dies at $point", 20, sub { !$memnode->running }), "$point: the memory node was killed there");
	$memnode->start;
	ok(wait_for_nodes($node), "$point: the memory node is used again");
	is($clients->connected, 4, "$point: no client was disconnected");
	$clients->stop;
	$clients->check($point);
	return;
}

# --- failures and delays at each fault point -------------------------------------------------------------------------

# Points at which something can fail, or which a delay makes a race of: nothing is noticed but in the counters. Few at a
# time: a specification has a limit.
sub disturb
{
	my ($what, $action) = @_;

	$node->append_conf('postgresql.conf', 'legobase.debug_compare = on');
	for (my $from = 0; $from < @points; $from += 12)
	{
		my @some = grep { defined } @points[ $from .. $from + 11 ];
		my $panics = count_log_lines($node, qr/PANIC:/);

		note("$what: @some");
		set_fault_points($node, join ',', map { "$_=$action" } @some);
		my $run = $workload->start(clients => 8, seconds => 4);
		$clients->start;
		ok(LegoBase::Workload::finish($run), "$what: no query failed, no sum was wrong");
		set_fault_points($node, '');
		$clients->stop;
		is(count_log_lines($node, qr/PANIC:/), $panics, "$what: no panic");
		$clients->check($what);
		is(summary($node)->{compare_mismatches}, 0, "$what: no page differed from its file");
	}
	$node->adjust_conf('postgresql.conf', 'legobase.debug_compare', 'off');
	set_fault_points($node, '');
	return;
}

# pg_prewarm reads from the file without a lock on the page; before it has pushed what it read, the page is changed, and its
# new version has come to remote memory and left it again. The old one must not take its place.
sub late_push
{
	my $session;

	$node->safe_psql('postgres', q{CREATE TABLE late AS SELECT 'old' AS word; SELECT legobase_evict('late')});
	settle($node);
	$node->safe_psql('postgres', q{SELECT legobase_evict('late')});
	$session = $node->background_psql('postgres');
	$session->query_safe(q{SET application_name = late; SET legobase.fault_points = 'read.loaded=wait:2000'});
	$session->{stdin} .= "SELECT pg_prewarm('late', 'read');\n";
	$session->{run}->pump_nb;
	wait_for('it has read, and waits', 10,
		sub { $node->safe_psql('postgres', q{SELECT clock_timestamp() - query_start > '500ms' FROM pg_stat_activity
			WHERE application_name = 'late' AND state = 'active'}) eq 't' });
	$node->safe_psql('postgres', q{UPDATE late SET word = 'new'});
	settle($node);
	$node->safe_psql('postgres', q{SELECT legobase_evict('late')});
	is(remote_pages($node, 'postgres', 'late'), 0, 'late push: the page has left remote memory');
	$session->query_safe('SELECT 1');
	$session->quit;
	settle($node);
	fill_buffers($node);
	is($node->safe_psql('postgres', 'SELECT word FROM late'), 'new', 'late push: the old version of a page does not come back');
	$node->safe_psql('postgres', 'DROP TABLE late');
	return;
}

# --- all of them -----------------------------------------------------------------------------------------------------

SKIP:
{
	skip 'this build has no fault points (FAULT_POINTS=1)', 1 unless $fault_points;

	$node->append_conf('postgresql.conf', "legobase.fault_points = ''");
	cmp_ok(scalar(@points), '>', 8, "fault points of the extension: @points");
	cmp_ok(scalar(@memnode_points), '>', 3, "fault points of the memory node: @memnode_points");
	if (!$writing_back)
	{
		kill_server_at($_) foreach @points;
		kill_memnode_at($_) foreach @memnode_points;
	}
	disturb('every point fails now and then', 'fail@50');
	disturb('delays', 'wait:2');
	late_push();
}

# --- processes killed wherever they are ------------------------------------------------------------------------------

sub kill_process
{
	my ($what, $find) = @_;
	my $ready = ready_lines();

	$clients->start;
	$clients->wait_until_busy;
	my $pid = wait_for("$what is there", 10, $find);
	ok($pid, "$what: found") or return $clients->stop;
	kill 'KILL', $pid;
	$clients->wait_end;
	ok(wait_until_recovered($ready), "$what killed: the server recovers");
	$clients->check("$what killed", 1);
	return;
}

sub kill_processes
{
	kill_process(
		'backend',
		sub {
			$node->safe_psql('postgres',
				q{SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE '%account\_%' LIMIT 1});
		});
	kill_process('checkpointer', sub { server_process($node, 'checkpointer') });
	kill_process('background writer', sub { server_process($node, 'background writer') });
	kill_process('buffer agent', sub { server_process($node, 'legobase') });

	$clients->start;
	$clients->wait_until_busy;
	$node->kill9;
	$clients->wait_end;
	wait_until_gone($node);
	$node->start;
	wait_for_nodes($node);
	$clients->check('postmaster killed', 1);
	return;
}

# The startup process, in the middle of redo: there is plenty to redo, and it dies before the end.
sub kill_startup_process
{
	# Their tables are made and dropped with checkpoints in between: there would be nothing to redo.
	local $clients->{ddl} = 0;
	$node->safe_psql('postgres', 'CHECKPOINT');
	$clients->start;
	wait_for('some WAL', 30,
		sub { $node->safe_psql('postgres',
			q{SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), redo_lsn) > 1000000 FROM pg_control_checkpoint()}) eq 't' });
	$node->stop('immediate');
	$clients->wait_end;
	foreach my $point ('write.forgotten', 'write.stored')
	{
		my $deaths = count_log_lines($node, qr/startup process \(PID \d+\) was terminated by signal 9/);

		$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "'$point=kill\@10'");
		is($node->start(fail_ok => 1), 0, "startup process killed at $point");
		is(count_log_lines($node, qr/startup process \(PID \d+\) was terminated by signal 9/), $deaths + 1, '... says the log');
	}
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "''");
	$node->start;
	wait_for_nodes($node);
	$clients->check('startup process killed', 1);
	return;
}

if (!$writing_back)
{
	kill_processes();
	kill_startup_process() if $fault_points;
}

# --- at the end ------------------------------------------------------------------------------------------------------

is(differing_blocks($node, 'postgres'), '', 'all pages read as they are in the files');
amcheck_clean($node, 'at the end');
$clients->start;
$clients->wait_until_busy;
$node->stop('immediate');
$clients->wait_end;
start_stock($node);
$clients->check('recovered by a server without the extension', 1);
amcheck_clean($node, 'recovered by a server without the extension');
$node->stop;

done_testing();
