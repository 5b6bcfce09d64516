# Memory nodes with dirty pages whose connection breaks, or that are lost; the agent that ends. What can be resumed is; what
# can't is fenced and redone; and a node that comes back late changes nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use LegoBase::Acknowledged;
use LegoBase::Proxy;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $memnode = LegoBase::Memnode->new(transport => 'tcp');
my $proxy = LegoBase::Proxy->new($memnode->port);
my $node = legobase_cluster(
	'dirty',
	nodes => [$proxy],
	write_mode => 'writeback',
	conf => "legobase.node_timeout = 500ms\nbgwriter_lru_maxpages = 0\nmax_wal_size = 4GB");
my $workload = LegoBase::Workload->new($node, rows => 2000);
my $folder = PostgreSQL::Test::Utils::tempdir_short();
my $fault_points = has_fault_points($node);

make_filler($node);
my $clients = LegoBase::Acknowledged->new($node, $workload, ddl => 0);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (id int, word text) WITH (fillfactor = 10);
	INSERT INTO t SELECT i, 'first' FROM generate_series(1, 4000) i;
	VACUUM (FREEZE) t});

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

sub words
{
	return sql('SELECT word, count(*) FROM t GROUP BY word ORDER BY word');
}

# All rows say this, and their pages are dirty in remote memory.
sub make_dirty
{
	my ($word) = @_;

	quieten();
	sql("UPDATE t SET word = '$word'");
	fill_buffers($node);
	cmp_ok(dirty_pages_of($node, 'postgres', 't'), '>', 100, "dirty pages that say $word");
	return;
}

sub restarted
{
	my ($position) = @_;

	return wait_for(
		'the server has restarted itself',
		30,
		sub {
			count_log_lines($node, qr/ready to accept connections/, $position)
			  && $node->psql('postgres', 'SELECT 1') == 0;
		});
}

sub panics
{
	my ($position) = @_;

	return wait_for('PANIC', 20, sub { count_log_lines($node, qr/PANIC:/, $position) });
}

sub set_fence_command
{
	my ($command) = @_;

	$node->adjust_conf('postgresql.conf', 'legobase.fence_command', "'$command'");
	$node->reload;
	return;
}

sub restart_memnode
{
	my (@arguments) = @_;

	settle($node);
	$memnode->stop;
	$memnode->start(@arguments);
	wait_for_nodes($node);
	return;
}

$node->append_conf('postgresql.conf', "legobase.fence_command = ''");

# --- connections that break for a while ------------------------------------------------------------------------------

{
	my $position = log_position($node);
	my $run = $workload->start(clients => 4, seconds => 10);
	my $cuts = 0;

	while (LegoBase::Workload::running($run))
	{
		wait_for('dirty pages', 5, sub { summary($node)->{dirty_pages} > 20 || !LegoBase::Workload::running($run) });
		foreach my $cut ('refuse', 'stall', 'stall_to_node', 'stall_to_server')
		{
			$proxy->mode($cut);
			usleep(300_000);
			# what was stalled is lost: another connection
			$proxy->mode('refuse');
			$proxy->mode('pass');
			usleep(500_000);
			$cuts++;
		}
	}
	ok(LegoBase::Workload::finish($run), "the connection breaks $cuts times under load: no query fails, no sum is wrong");
	is(count_log_lines($node, qr/PANIC/, $position), 0, '... there is no panic');
	cmp_ok(count_log_lines($node, qr/LOG:.*resume/, $position), '>=', $cuts / 2, '... connections are resumed, says the log');
	wait_for_nodes($node);
	$workload->check('connections broken');
	is(differing_blocks($node, 'postgres'), '', '... all pages read as they are in the files');
}

# --- the agent ends --------------------------------------------------------------------------------------------------

{
	my $position = log_position($node);
	my $run = $workload->start(clients => 4, seconds => 8);
	my $ends = 0;

	while (LegoBase::Workload::running($run))
	{
		wait_for('dirty pages', 5, sub { summary($node)->{dirty_pages} > 20 || !LegoBase::Workload::running($run) });
		my $agent = server_process($node, 'buffer agent');
		kill 'TERM', $agent;
		wait_for('another agent', 20,
			sub { my $pid = server_process($node, 'buffer agent'); defined $pid && $pid != $agent }) or last;
		wait_for_nodes($node) or last;
		$ends++;
		usleep(300_000);
	}
	ok(LegoBase::Workload::finish($run), "the agent is terminated $ends times under load: no query fails, no sum is wrong");
	cmp_ok($ends, '>', 1, '... more than once');
	is(count_log_lines($node, qr/PANIC/, $position), 0, '... without a panic');
	$workload->check('agent terminated');

	# nothing runs, and all that is dirty is still there
	make_dirty('kept');
	my $agent = server_process($node, 'buffer agent');
	kill 'TERM', $agent;
	wait_for('another agent', 20,
		sub { my $pid = server_process($node, 'buffer agent'); defined $pid && $pid != $agent });
	wait_for_nodes($node);
	cmp_ok(dirty_pages_of($node, 'postgres', 't'), '>', 100, 'the next agent goes on with the dirty pages');
	is(words(), 'kept|4000', '... which can be read');
	sql('CHECKPOINT');
	is(files_behind($node, 'postgres', 't'), 0, '... and written');
	is(count_log_lines($node, qr/PANIC/, $position), 0, '... without a panic');
}

# --- a node that comes back empty ------------------------------------------------------------------------------------

{
	my $position = log_position($node);

	make_dirty('redone');
	$memnode->kill9;
	$memnode->start;
	ok(panics($position), 'a memory node that comes back empty: PANIC');
	my $uri = quotemeta $proxy->uri;
	like(log_since($node, $position), qr/PANIC:.*$uri/, '... which names the node');
	like(log_since($node, $position), qr/(DETAIL|HINT):/, '... and says what will happen');
	ok(restarted($position), '... the server restarts itself');
	is(words(), 'redone|4000', '... and nothing is lost');
	wait_for_nodes($node);
}

# --- a node that is stopped for too long -----------------------------------------------------------------------------

{
	my $position = log_position($node);
	my $calls = "$folder/calls";

	set_fence_command("echo %u %h %p 100%% >> $calls");
	make_dirty('fenced');
	$memnode->freeze;
	ok(panics($position), 'a memory node that is stopped for too long: PANIC');
	like(PostgreSQL::Test::Utils::slurp_file($calls), qr/^${\quotemeta $proxy->uri} 127\.0\.0\.1 \d+ 100%$/m,
		'... after legobase.fence_command was run');
	ok(restarted($position), '... the server restarts itself');
	is(words(), 'fenced|4000', '... and nothing is lost');
	sql(q{UPDATE t SET word = 'after'});
	sql('CHECKPOINT');
	is(files_behind($node, 'postgres', 't'), 0, '... new rows are in the file');
	$memnode->thaw;
	ok(wait_for_nodes($node), '... the node is used again when it continues');
	usleep(1_500_000);
	is(files_behind($node, 'postgres', 't'), 0, '... and wrote nothing old');
	is(words(), 'after|4000', '... as the rows say');
}

# A command that fails is run again until it succeeds: until then nobody may declare the node lost.
{
	my $position = log_position($node);
	my $tries = "$folder/tries";

	set_fence_command("echo try >> $tries; test -e $folder/now");
	make_dirty('patient');
	$memnode->freeze;
	ok(wait_for('several tries', 20, sub { -e $tries && (() = PostgreSQL::Test::Utils::slurp_file($tries) =~ /try/g) >= 2 }),
		'legobase.fence_command that fails is tried again');
	is(count_log_lines($node, qr/PANIC/, $position), 0, '... before the node is given up');
	PostgreSQL::Test::Utils::append_to_file("$folder/now", '');
	ok(panics($position), '... which is when it succeeds');
	ok(restarted($position), '... the server restarts itself');
	is(words(), 'patient|4000', '... and nothing is lost');
	$memnode->thaw;
	wait_for_nodes($node);
	set_fence_command('');
}

# --- a node that is stopped in the middle of writing -----------------------------------------------------------------

SKIP:
{
	skip 'this build has no fault points (FAULT_POINTS=1)', 1 unless $fault_points;

	# somebody kills it
	restart_memnode('--fault-points', 'memnode.flush.written=stop@1');
	my $position = log_position($node);
	set_fence_command('kill -9 ' . $memnode->pid . '; true');
	make_dirty('half written');
	my $flush = in_background(sub { $node->psql('postgres', 'CHECKPOINT'); return 1; });
	ok(wait_for('it stops', 10, sub { $memnode->stopped }), 'a memory node is stopped in the middle of writing');
	ok(panics($position), '... PANIC');
	ok(restarted($position), '... legobase.fence_command has killed it, and the server restarts itself');
	finish_background($flush);
	$memnode->wait_end;
	is(words(), 'half written|4000', '... nothing is lost');
	$memnode->start;
	wait_for_nodes($node);
	is(differing_blocks($node, 'postgres'), '', '... all pages read as they are in the files');

	# nobody does: it may still write, so redo must not begin
	restart_memnode('--fault-points', 'memnode.flush.written=stop@1');
	set_fence_command('');
	$position = log_position($node);
	make_dirty('waited for');
	$flush = in_background(sub { $node->psql('postgres', 'CHECKPOINT'); return 1; });
	ok(wait_for('it stops', 10, sub { $memnode->stopped }), 'a memory node is stopped in the middle of writing');
	ok(panics($position), '... PANIC');
	finish_background($flush);
	my $pid = $memnode->pid;
	ok(wait_for('waiting', 20, sub { log_since($node, $position) =~ /LOG:.*waiting for a memory node.*\n.*Process $pid / }),
		'... the server waits for it, with a message that names the process');
	usleep(3_000_000);
	is(count_log_lines($node, qr/redo starts at/, $position), 0, '... without having begun redo');
	$memnode->kill9;
	ok(restarted($position), '... when the node is gone it goes on by itself');
	$memnode->start;
	is(words(), 'waited for|4000', '... and nothing is lost');
	wait_for_nodes($node);
	is(differing_blocks($node, 'postgres'), '', '... all pages read as they are in the files');

	# the same for a server that is started
	restart_memnode('--fault-points', 'memnode.flush.written=stop@1');
	make_dirty('started');
	$flush = in_background(sub { $node->psql('postgres', 'CHECKPOINT'); return 1; });
	ok(wait_for('it stops', 10, sub { $memnode->stopped }), 'a memory node is stopped in the middle of writing');
	$node->stop('immediate');
	finish_background($flush);
	$position = log_position($node);
	$pid = $memnode->pid;
	my $killer = in_background(
		sub {
			my $waits = wait_for('waiting', 20,
				sub { log_since($node, $position) =~ /LOG:.*waiting for a memory node.*\n.*Process $pid / });

			usleep(2_000_000);
			$waits &&= !count_log_lines($node, qr/redo starts at/, $position);
			kill 'KILL', $pid;
			return $waits;
		});
	$node->start;
	is(finish_background($killer), 0, '... a server that is started waits, with a message, until it is gone');
	$memnode->wait_end;
	$memnode->start;
	wait_for_nodes($node);
	is(words(), 'started|4000', '... and nothing is lost');
}

# --- one of two ------------------------------------------------------------------------------------------------------

{
	my @memnodes = map { LegoBase::Memnode->new(transport => 'tcp') } (1, 2);
	my $server = legobase_cluster('two', nodes => \@memnodes, write_mode => 'writeback', conf => 'bgwriter_lru_maxpages = 0');

	make_filler($server);
	$server->safe_psql('postgres', q{CREATE TABLE t (id int, word text) WITH (fillfactor = 10);
		INSERT INTO t SELECT i, 'first' FROM generate_series(1, 4000) i});
	settle($server);
	quieten();
	$server->safe_psql('postgres', q{UPDATE t SET word = 'second'});
	fill_buffers($server);
	my @dirty = map { $_->{dirty_pages} } @{ node_rows($server) };
	cmp_ok($dirty[$_], '>', 20, "memory node $_ of two has dirty pages") foreach (0, 1);
	my $position = log_position($server);
	$memnodes[1]->kill9;
	ok( wait_for('restarted', 30,
			sub { count_log_lines($server, qr/ready to accept connections/, $position)
				&& $server->psql('postgres', 'SELECT 1') == 0 }),
		'one of two is lost: the server restarts itself');
	is(count_log_lines($server, qr/PANIC/, $position) > 0, 1, '... after a PANIC');
	is($server->safe_psql('postgres', 'SELECT word, count(*) FROM t GROUP BY word'), 'second|4000', '... nothing is lost');
	ok(wait_for('the other one', 20, sub { my $s = summary($server); $s->{nodes_up} == 1 && $s->{write_mode} eq 'writeback' }),
		'... the other one is used');
	quieten();
	$server->safe_psql('postgres', q{UPDATE t SET word = 'third'});
	fill_buffers($server);
	cmp_ok(dirty_pages_of($server, 'postgres', 't'), '>', 50, '... for dirty pages, too');
	$memnodes[1]->start;
	ok(wait_for_nodes($server), '... and the lost one when it is back');
	is($server->safe_psql('postgres', 'SELECT word, count(*) FROM t GROUP BY word'), 'third|4000', '... with all rows');
	is(differing_blocks($server, 'postgres'), '', '... all pages read as they are in the files');
	$server->stop;
}

# --- while clients run -----------------------------------------------------------------------------------------------

foreach my $loss ('frozen', 'killed')
{
	my $position = log_position($node);

	$clients->start;
	$clients->wait_until_busy;
	wait_for('dirty pages', 10, sub { summary($node)->{dirty_pages} > 20 });
	$loss eq 'frozen' ? $memnode->freeze : $memnode->kill9;
	ok(panics($position), "a memory node is $loss under load: PANIC");
	ok(restarted($position), '... the server restarts itself');
	$clients->stop;
	$clients->check("node $loss");
	$loss eq 'frozen' ? $memnode->thaw : $memnode->start;
	ok(wait_for_nodes($node), '... and the node is used again');
	$clients->check("node $loss, and back");
}

amcheck_clean($node, 'at the end');
$node->stop;
done_testing();
