# Rule R10 where the lock file can't help, because the other server is on another host: a server that finds that somebody
# else has raised the fence of its data directory stops. And what a reload may not do to processes without shared memory.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $memnode = LegoBase::Memnode->new(transport => 'tcp');
my $node = legobase_cluster(
	'takeover',
	nodes => [$memnode],
	write_mode => 'writeback',
	conf => "legobase.node_timeout = 500ms\nlogging_collector = on");
my $fence = $node->data_dir . '/pgsql_tmp_legobase/pgsql_tmp_fence';

# With logging_collector the server's messages are there.
sub collected
{
	return join '', map { PostgreSQL::Test::Utils::slurp_file($_) } glob($node->data_dir . '/log/*.log');
}

sub number_in_fence
{
	my ($number) = PostgreSQL::Test::Utils::slurp_file($fence) =~ /^legobase fence ([0-9a-f]{16})$/m;
	return hex $number;
}

# As the other server does it: in place.
sub raise_fence
{
	open(my $file, '+<', $fence) or die "$fence: $!";
	printf $file "legobase fence %016x\n", number_in_fence() + 1000;
	close $file;
	return;
}

# --- the logging collector runs the hooks of settings at a reload, and has no shared memory ------------------------------

is($node->safe_psql('postgres', 'SHOW fsync'), 'on', 'fsync is on');
$node->append_conf('postgresql.conf', "fsync = off\nlegobase.write_mode = writethrough");
$node->reload;
ok( wait_for('the reload was refused in part', 10, sub { collected() =~ /fsync.*can't be turned off|invalid value for parameter "fsync"/ }),
	'the reload reports fsync = off as invalid');
ok(wait_for('write-through', 10, sub { summary($node)->{write_mode} eq 'writethrough' }), 'write_mode has changed');
is($node->safe_psql('postgres', 'SHOW fsync'), 'on', 'fsync is still on');
unlike(collected(), qr/system logger process .* was terminated/, 'the logging collector is alive');
$node->append_conf('postgresql.conf', "fsync = on\nlegobase.write_mode = writeback\nlogging_collector = off");
$node->restart;
wait_for_nodes($node);

# --- the agent -------------------------------------------------------------------------------------------------------

my $before = number_in_fence();
my $position = log_position($node);
$node->restart;
wait_for_nodes($node);
cmp_ok(number_in_fence(), '>', $before, 'a server that starts raises the fence');
is(count_log_lines($node, qr/another server has taken over/, $position), 0, '... and finds nothing wrong');

$position = log_position($node);
raise_fence();
$memnode->kill9;
$memnode->start;
ok( wait_for('PANIC', 20, sub { count_log_lines($node, qr/PANIC:.*another server has taken over this data directory/, $position) }),
	'before it attaches anew the agent finds that another server has raised the fence');

# --- the postmaster --------------------------------------------------------------------------------------------------

ok( wait_for('FATAL', 20, sub { count_log_lines($node, qr/FATAL:.*another server has taken over this data directory/, $position) }),
	'the postmaster does not start over, and says why');
ok(wait_until_gone($node), 'the server has ended');
$node->{_pid} = undef;
is(count_log_lines($node, qr/redo starts|ready to accept connections/, $position), 0, '... before it changed anything');

# Whoever starts it again wants that.
$node->start;
ok(wait_for_nodes($node), 'it can be started by hand');
is($node->safe_psql('postgres', 'SELECT 1'), '1', '... and works');
$node->stop;

done_testing();
