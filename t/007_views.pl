# Views and functions while things happen: a busy server, a memory node that does not answer, single-user mode.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my @views = map { "legobase_$_" } qw(summary nodes stat_io checkpoints pages latency);
my $memnode = LegoBase::Memnode->new(memory => '64MB');
my $node = legobase_cluster('views', nodes => [$memnode], conf => 'legobase.node_timeout = 10s', write_mode => 'writethrough');

make_filler($node);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v int, pad text);
	INSERT INTO t SELECT i, i, repeat('x', 500) FROM generate_series(1, 10000) i;
});

# --- legobase_drain --------------------------------------------------------------------------------------------------

# With a memory node that is stopped, what was written stays in flight, and the wait can be cancelled.
# (A session that has looked at everything before: a read from the node would be waited for, and make it suspect.)
my $session = $node->background_psql('postgres');
my $in_flight = q{SELECT count(*) FROM legobase_pages WHERE state = 'in flight'};
$session->query_safe($in_flight);
$session->query_safe('CHECKPOINT; UPDATE t SET v = -v WHERE id <= 100');
$memnode->freeze;
$session->query_safe('CHECKPOINT');
isnt($session->query_safe($in_flight), '0', 'pages are in flight');
$session->quit;
my (undef, undef, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSET statement_timeout = '300ms'; SELECT legobase_drain()");
like($err, qr/ERROR:  57014: /, 'legobase_drain waits, and can be cancelled');
$memnode->thaw;
$node->safe_psql('postgres', 'SELECT legobase_drain()');
is($node->safe_psql('postgres', q{SELECT count(*) FROM legobase_pages WHERE state = 'in flight'}),
	'0', 'after legobase_drain nothing is in flight');

# On a server that never stops writing it ends as well, and the views can be read all the time.
my $load = in_background(
	sub {
		my $end = time + 6;
		my $i = 0;

		while (time < $end)
		{
			$node->safe_psql('postgres', join ';', map { $i++; "UPDATE t SET v = $i WHERE id % 50 = $i % 50" } 1 .. 5);
		}
		return 1;
	});
my $slowest = 0;
my $failures = 0;
my $end = time + 5;
while (time < $end)
{
	my $start = time;

	$failures++ if $node->psql('postgres', 'SELECT legobase_drain()') != 0;
	$slowest = time - $start if time - $start > $slowest;
	foreach my $view (@views)
	{
		$failures++ if $node->psql('postgres', "SELECT count(*), min(v::text) FROM $view v") != 0;
	}
	$failures++ if $node->psql('postgres', 'SELECT legobase_reset_stats()') != 0;
	$failures++ if $node->psql('postgres', q{SELECT legobase_evict('t')}) != 0;
}
is(finish_background($load), 0, 'writing goes on');
is($failures, 0, 'views and functions work beside it');
cmp_ok($slowest, '<', 5, 'legobase_drain ends on a busy server');

# --- a node that is lost ---------------------------------------------------------------------------------------------

make_remote($node);
cmp_ok(node_rows($node)->[0]{used_pages}, '>', 0, 'pages are in use on the node');
my $incarnation = node_rows($node)->[0]{incarnation};
$memnode->kill9;
ok(wait_for('the node is seen to be down', 20, sub { my $row = node_rows($node)->[0]; return $row->{state} ne 'up' && $row->{used_pages} == 0; }),
	'nothing is in use on a lost node');
my $row = node_rows($node)->[0];
like($row->{last_error}, qr/\w/, '... and the view says why');
is(summary($node)->{nodes_up}, 0, '... and the summary counts it');
is($node->psql('postgres', "SET statement_timeout = '10s'; SELECT legobase_drain()"), 0, 'nothing to wait for without nodes');
$memnode->start;
wait_for_nodes($node);
isnt(node_rows($node)->[0]{incarnation}, $incarnation, 'another incarnation');

# --- single-user mode ------------------------------------------------------------------------------------------------

$node->stop;
my ($out, $commands) = ('', join '', map { "SELECT * FROM $_;\n" } @views);
$commands .= "SELECT legobase_reset_stats();\nSELECT legobase_drain();\nSELECT legobase_evict('t');\nSELECT count(*) AS counted FROM t;\n";
ok( IPC::Run::run(
		[ 'postgres', '--single', '-D', $node->data_dir, 'postgres' ],
		'<', \$commands, '>', \$out, '2>', \$err, IPC::Run::timeout(60)),
	'single-user mode') or diag($err);
my $refused = () = $err =~ /ERROR:  legobase is not in use in single-user mode/g;
is($refused, @views + 3, '... has no figures to show');
like($out, qr/counted = "10000"/, '... and has all rows');

done_testing();
