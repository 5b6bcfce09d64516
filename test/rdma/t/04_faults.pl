# What can go wrong with queue pairs, devices, links and limits: no query fails, the reason is shown, RDMA is used again by itself, and
# nothing is left behind.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../../../t/lib";

use LegoBase;
use LegoBase::Acknowledged;
use LegoBase::Rdma;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

need_rdma_device();

my $pages = 300;
my $unused = device_objects();
my $memnode = LegoBase::Memnode->new(transport => 'rdma');
my $node = legobase_cluster(
	'faults',
	nodes => [$memnode],
	write_mode => 'writeback',
	conf => "legobase.node_timeout = 40s\nlegobase.tier1_interval = 0\nmax_wal_size = 4GB");
my $workload = LegoBase::Workload->new($node, rows => 500);
my $scan = 'SELECT count(*), sum(id) FROM t';
my $right = "$pages|" . $pages * ($pages + 1) / 2;

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

make_filler($node);
sql(qq{
	CREATE TABLE t (id int, pad text) WITH (fillfactor = 10);
	INSERT INTO t SELECT i, repeat('x', 700) FROM generate_series(1, $pages) i;
	VACUUM (FREEZE) t});

# First without dirty pages, so that a lost node is no reason to restart.
sub set_write_mode
{
	my ($setting, $mode) = @_;

	sql("ALTER SYSTEM SET legobase.write_mode = $setting");
	$node->reload;
	expect_write_mode($node, $mode);
	wait_for_nodes($node);
	settle($node);
	return;
}

# As make_remote(), for this table alone. A scan of it leaves few of its pages in shared_buffers.
sub make_table_remote
{
	sql(qq{
		DO \$\$ BEGIN
			FOR start IN 0 .. $pages - 1 BY 32 LOOP
				PERFORM pg_prewarm('t', 'read', 'main', start, least(start + 31, $pages - 1));
				PERFORM legobase_drain();
			END LOOP;
		END \$\$});
	return;
}

# After a loss it may take a moment until all slabs are registered.
sub reads_over_rdma
{
	my ($what) = @_;

	wait_for('slabs are registered', 10,
		sub { my $figures = $memnode->figures; $figures->{registered_pages} >= $figures->{granted_pages} });
	make_table_remote();
	my $work = work_since($node);
	is(sql($scan), $right, "$what: rows are right");
	$work = work_since($node, $work);
	cmp_ok($work->{work_requests}, '>', $pages / 2, "$what: pages are read over RDMA");
	is($work->{tcp_fallbacks}, 0, "$what: ... by everybody");
	return;
}

# The objects that the server and its memory nodes have on the device, when nobody but the agent is connected.
sub objects_at_rest
{
	my $objects = {};

	wait_for('only the agent is connected', 10, sub { $memnode->figures->{rdma_connections} == 1 });
	wait_for(
		'as many queue pairs as two ends of a connection',
		10,
		sub {
			$objects = device_objects();
			$objects->{qp} == $unused->{qp} + 2;
		});
	return $objects;
}

set_write_mode('writethrough', 'writethrough');
reads_over_rdma('before');
my $at_rest = objects_at_rest();
note(join ', ', map { "$_ $at_rest->{$_}" } sort keys %{$at_rest});

# --- losses ----------------------------------------------------------------------------------------------------------

sub set_timeout
{
	my ($timeout) = @_;

	sql("ALTER SYSTEM SET legobase.node_timeout = '$timeout'");
	$node->reload;
	return;
}

# A short timeout only where nothing else would tell: an eighth of it is what making a queue pair may take, on a machine that may have few
# moments of the processor of the one that it runs on.
sub survive
{
	my ($what, $begin, $end, $reason) = @_;
	my $position = log_position($node);
	my $run = $workload->start(clients => 2, seconds => 6);

	set_timeout('3s') if $what =~ /stopped/;

	$begin->();
	ok(wait_for("$what: node given up", 10, sub { up_nodes($node) == 0 }), "$what: the node is treated as lost");
	is(sql($scan), $right, "$what: rows are right meanwhile");
	ok(wait_for("$what: reason", 10, sub { (node_rows($node)->[0]{last_error} // '') =~ $reason }),
		"$what: the reason is shown") or diag(node_rows($node)->[0]{last_error});
	$end->();
	set_timeout('40s');
	ok(wait_for_nodes($node), "$what: the node is back by itself")
	  or diag(node_rows($node)->[0]{last_error}, "\n", log_since($node, $position), $memnode->output);
	ok(LegoBase::Workload::finish($run), "$what: no query failed, no sum was wrong");
	reads_over_rdma("$what, afterwards");
	is_deeply(objects_at_rest(), $at_rest, "$what: nothing is left behind");
	cmp_ok(() = log_since($node, $position) =~ /LOG:.*(lost|not answer|closed)/g, '<', 10, "$what: few lines in the log");
	return;
}

survive('killed', sub { $memnode->kill9 }, sub { $memnode->start }, qr/./);
survive('stopped', sub { $memnode->freeze }, sub { $memnode->thaw }, qr/./);

survive('device removed', sub { remove_device() }, sub { add_device($node) }, qr/./);

# When a connection request can't be sent, soft-RoCE's queue pair for such messages is in error for as long as the device exists: nobody
# connects through it any more, rping neither. And the device is made anew only when all processes have closed it, of which those that are between
# two attempts hear nothing: so both programs are started anew, too.
{
	my $what = 'link down';
	my $run = $workload->start(clients => 2, seconds => 6);

	set_timeout('3s');
	set_link('down');
	ok(wait_for("$what: node given up", 10, sub { up_nodes($node) == 0 }), "$what: the node is treated as lost");
	is(sql($scan), $right, "$what: rows are right meanwhile");
	ok(wait_for("$what: reason", 10, sub { node_rows($node)->[0]{last_error} }), "$what: the reason is shown");
	ok(LegoBase::Workload::finish($run), "$what: no query failed, no sum was wrong");
	set_timeout('40s');
	$node->stop;
	$memnode->stop;
	set_link('up');
	remove_device();
	add_device($node);
	$memnode->start;
	$node->start;
	wait_for_nodes($node);
	reads_over_rdma("$what, afterwards");
	is_deeply(objects_at_rest(), $at_rest, "$what: nothing is left behind");
}

# --- no room for more ------------------------------------------------------------------------------------------------

# Sessions that all read, one after the other
sub sessions
{
	my ($count) = @_;
	my @sessions = map { $node->background_psql('postgres') } (1 .. $count);

	is($_->query_safe($scan), $right, 'a session reads') foreach @sessions;
	return @sessions;
}

{
	my $position = log_position($node);

	$memnode->stop;
	$memnode->start('--max-rdma-connections', 2);
	wait_for_nodes($node);
	make_table_remote();
	my $work = work_since($node);
	my $hits = summary($node)->{remote_hits};
	my @sessions = sessions(4);
	$work = work_since($node, $work);
	cmp_ok($work->{tcp_fallbacks}, '>=', 2, "limit of connections: others read over tcp ($work->{tcp_fallbacks})");
	cmp_ok(summary($node)->{remote_hits} - $hits, '>', 2 * $pages, '... and do read from the node');
	is($memnode->figures->{rdma_connections}, 3, '... which has the agent and two others');
	is(() = log_since($node, $position) =~ /limit of 2 queue pairs/g, 1, '... and that is worth one line in the log');
	$_->quit foreach @sessions;
	$memnode->stop;
	$memnode->start;
	wait_for_nodes($node);
	reads_over_rdma('without that limit');
}

# --- locked memory ---------------------------------------------------------------------------------------------------

{
	my $other = LegoBase::Memnode->new(transport => 'rdma', start => 0);

	allow_locked_memory(1024 * 1024);
	$other->launch;
	ok($other->wait_end, 'a memory node that may not lock its memory ends');
	is($other->exit_status >> 8, 1, '... with exit status 1');
	like($other->output, qr/lock.*LimitMEMLOCK/s, '... and says why and what to do');

	allow_locked_memory(64 * 1024);
	$node->restart;
	ok(wait_for('an error', 10, sub { node_rows($node)->[0]{last_error} }), 'a server that may not lock its comm buffers shows an error');
	like(node_rows($node)->[0]{last_error}, qr/lock/, '... that says why');
	is(up_nodes($node), 0, '... and does not use the node');
	is(sql($scan), $right, '... but works');
	allow_locked_memory('unlimited');
	$node->restart;
	wait_for_nodes($node);
	reads_over_rdma('with the limit raised');
}

{
	my $position = log_position($node);

	# backends that are forked from now on
	allow_locked_memory(64 * 1024, $node->{_pid});
	my $work = work_since($node);
	my @sessions = sessions(2);
	$work = work_since($node, $work);
	cmp_ok($work->{tcp_fallbacks}, '>=', 2, 'backends that may not lock memory read over tcp');
	cmp_ok($work->{work_requests}, '==', 0, '... and not over RDMA');
	is(up_nodes($node), 1, '... and the node stays up');
	$_->quit foreach @sessions;
	allow_locked_memory('unlimited', $node->{_pid});
	reads_over_rdma('with their limit raised');
}

# --- keys that are not valid any more ----------------------------------------------------------------------------------

{
	my $position = log_position($node);
	my ($session) = sessions(1);

	foreach my $round (1, 2)
	{
		sql(q{ALTER SYSTEM SET legobase.remote_pool_size = 0});
		$node->reload;
		wait_for_pool($node, 'the pool is disabled', 20, sub { $_[0] == 0 });
		wait_for('its memory is returned', 20, sub { $memnode->figures->{granted_pages} == 0 });
		is($session->query_safe($scan), $right, "slabs returned, $round: rows are right");
		sql(q{ALTER SYSTEM RESET legobase.remote_pool_size});
		$node->reload;
		wait_for_nodes($node);
		make_table_remote();
		my $work = work_since($node);
		is($session->query_safe($scan), $right, "slabs made again, $round: rows are right");
		cmp_ok(work_since($node, $work)->{work_requests}, '>', $pages / 2, '... and read over RDMA with new keys');
	}
	$session->quit;
	is(() = log_since($node, $position) =~ /memory node .* lost/g, 0, 'the node was not given up for it');
	is_deeply(objects_at_rest(), $at_rest, 'and nothing is left behind');
}

# --- many connections ---------------------------------------------------------------------------------------------------

# A thousand of them are made by verbs_smoke.
{
	my $script = PostgreSQL::Test::Utils::tempdir_short() . '/read.sql';
	my $agent = server_process($node, 'buffer agent');
	my %before = (agent => descriptors_of($agent), memnode => descriptors_of($memnode->pid));
	my $work = work_since($node);
	my ($out, $err) = ('', '');

	PostgreSQL::Test::Utils::append_to_file($script, "SELECT pg_prewarm('t', 'read', 'main', 1, 1);\n");
	ok( IPC::Run::run(
			[   'pgbench', '-n', '-C', '-c', 1, '-t', 100, '-h', $node->host, '-p', $node->port,
				'-f', $script, 'postgres' ],
			'>', \$out, '2>', \$err),
		'100 sessions, one after the other') or diag($err);
	$work = work_since($node, $work);
	cmp_ok($work->{work_requests}, '>=', 100, '... read over RDMA');
	is($work->{tcp_fallbacks}, 0, '... all of them');
	is_deeply(objects_at_rest(), $at_rest, '... and leave nothing on the device');
	is(descriptors_of($agent), $before{agent}, '... nor descriptors of the agent');
	ok(wait_for('descriptors are closed', 10, sub { descriptors_of($memnode->pid) <= $before{memnode} }), '... nor of the memory node');
}

# --- with dirty pages ------------------------------------------------------------------------------------------------

set_write_mode('auto', 'writeback');
set_timeout('10s');
my $clients = LegoBase::Acknowledged->new($node, $workload, clients => 2, ddl => 0);

sub make_dirty
{
	my ($what) = @_;

	$clients->start;
	$clients->wait_until_busy;
	ok(wait_for('dirty pages', 20, sub { summary($node)->{dirty_pages} > 20 }), "$what: the node has dirty pages");
	return;
}

# The node's memory outlives its device, and the connection is resumed with what it has. A soft-RoCE device is removed only when all
# processes have closed it, so nobody may have it open who waits for the node.
{
	my $position = log_position($node);
	my $what = 'device removed for a moment, dirty pages';

	make_dirty($what);
	$clients->stop;
	remove_device();
	ok(wait_for('noticed', 10, sub { count_log_lines($node, qr/LOG:.*memory node .* broke/, $position) }), "$what: it is noticed");
	if (add_device($node))
	{
		ok(wait_for('resumed', 20, sub { count_log_lines($node, qr/LOG:.*resumed/, $position) }), "$what: the connection is resumed");
		is(() = log_since($node, $position) =~ /PANIC/g, 0, "$what: no PANIC");
	}
	ok(wait_for_nodes($node), "$what: the node is in use again");
	$clients->check($what, 1);
}

{
	my $position = log_position($node);
	my $what = 'killed, dirty pages';

	make_dirty($what);
	$memnode->kill9;
	ok(wait_for("$what: PANIC", 60, sub { count_log_lines($node, qr/PANIC:.*memory node/, $position) }), "$what: a PANIC");
	$clients->wait_end;
	$memnode->start;
	ok( wait_for(
			'restarted', 30,
			sub {
				count_log_lines($node, qr/ready to accept connections/, $position) && $node->psql('postgres', 'SELECT 1') == 0;
			}),
		"$what: the server restarts itself");
	wait_for_nodes($node);
	$clients->check($what, 1);
}

set_timeout('40s');
reads_over_rdma('at the end');
is_deeply(objects_at_rest(), $at_rest, 'nothing is left behind at the end');
is(summary($node)->{checksum_failures}, 0, 'no page was wrong');
is(differing_blocks($node, 'postgres'), '', 'all pages read as they are in the files');
amcheck_clean($node, 'at the end');
$node->stop;
is($memnode->stop, 0, 'the memory node stops cleanly');
is_deeply(device_objects(), $unused, '... and leaves nothing on the device');

done_testing();
