# Bad input, and surroundings that do not fit: each gives a clear message and the right exit status or SQLSTATE.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IO::Socket::INET;
use LegoBase;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $folder = PostgreSQL::Test::Utils::tempdir_short();
my $pg_config = `pg_config --includedir-server`;
chomp $pg_config;

# --- the memory node's command line ----------------------------------------------------------------------------------

# Run it; it must end by itself, with this status and a message that matches, on standard error.
sub memnode_refuses
{
	my ($what, $status, $message, @arguments) = @_;
	my ($out, $err) = ('', '');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $run = IPC::Run::start [ 'legobase-memnode', @arguments ], '<', \'', '>', \$out, '2>', \$err,
	  IPC::Run::timeout(20);
	eval { $run->finish };
	$run->kill_kill if $@;
	is($run->result(0) // -1, $status, "memory node, $what: exit status") or diag("$out$err");
	like($err, $message, "memory node, $what: message");
	is($out, '', "memory node, $what: nothing else");
	return;
}

my @good = ('--listen', "shm://$folder/good.sock", '--memory', '16MB');

memnode_refuses('no arguments', 2, qr/--listen/);
memnode_refuses('no memory', 2, qr/--memory/, '--listen', "shm://$folder/x.sock");
memnode_refuses('unknown option', 2, qr/--nonsense/, @good, '--nonsense');
memnode_refuses('stray argument', 2, qr/stray/, @good, 'stray');
foreach my $uri (
	'nonsense', 'http://localhost:80', 'tcp://', 'tcp://localhost', 'tcp://localhost:', 'tcp://localhost:99999',
	'tcp://localhost:http', 'tcp://:1', 'tcp://[::1', 'shm://', 'shm://relative', 'shm:///' . 'x' x 200,
	'rdma://localhost', '')
{
	memnode_refuses("--listen '$uri'", 2, $uri eq '' ? qr/\S/ : qr/\Q${\(substr $uri, 0, 40)}\E|too long/,
		'--listen', $uri, '--memory', '16MB');
}
foreach my $size ('16', 'MB', '-1MB', '16mb', '16 XB', '1.5GB', '0MB', '1kB', '99999999999999TB')
{
	memnode_refuses("--memory '$size'", 2, qr/--memory/, '--listen', "shm://$folder/x.sock", '--memory', $size);
}
memnode_refuses('memory larger than the machine', 2, qr/1000\s*TB|larger|more than|only/,
	'--listen', "shm://$folder/x.sock", '--memory', '1000TB');
memnode_refuses('quota larger than memory', 2, qr/--tenant-quota/, @good, '--tenant-quota', '32MB');
memnode_refuses('bad number', 2, qr/--max-sessions/, @good, '--max-sessions', 'many');
memnode_refuses('bad seconds', 2, qr/--tenant-timeout/, @good, '--tenant-timeout', '-5');
memnode_refuses('log file that cannot be written', 1, qr/nosuchfolder/, @good, '--log-file', '/nosuchfolder/log');
# RDMA depends on what was there when this was built; and then on a device, which most machines do not have.
my $has_rdma = `ldd \$(pg_config --pkglibdir)/legobase.so` =~ /librdmacm/;

memnode_refuses('rdma without a device', $has_rdma ? 1 : 2, $has_rdma ? qr/no RDMA device|locked memory/ : qr/libibverbs and librdmacm/,
	'--listen', 'rdma://127.0.0.1:0', '--memory', '16MB')
  unless $has_rdma && glob('/sys/class/infiniband/*');
memnode_refuses('--status of nobody', 1, qr/nobody\.sock/, '--status', "shm://$folder/nobody.sock");
command_like([ 'legobase-memnode', '--help' ], qr/--listen URI.*Exit status/s, 'memory node, --help');
command_like([ 'legobase-memnode', '--version' ], qr/^legobase-memnode .*\d/, 'memory node, --version');

{
	my $taken = LegoBase::Memnode->new(transport => 'tcp');
	my $port = $taken->port;

	memnode_refuses('port in use', 1, qr/\b$port\b.*in use/, '--listen', "tcp://127.0.0.1:$port", '--memory', '16MB');
	$taken->stop;
}
{
	my $taken = LegoBase::Memnode->new(transport => 'shm');

	memnode_refuses('socket in use', 1, qr/in use/, '--listen', $taken->uri, '--memory', '16MB');
	is($taken->figures->{capacity_pages}, 8192, '... whose owner is not disturbed');
	$taken->kill9;
	$taken->start;
	pass('a socket left behind by a killed memory node is replaced');
	is($taken->stop, 0, 'SIGTERM: exit status 0');
}
mkdir "$folder/closed" or die $!;
chmod 0000, "$folder/closed";
memnode_refuses('socket in a folder that is closed to it', 1, qr/Permission denied/,
	'--listen', "shm://$folder/closed/x.sock", '--memory', '16MB');
PostgreSQL::Test::Utils::append_to_file("$folder/precious", "data\n");
memnode_refuses('socket where a file is', 1, qr/precious/, '--listen', "shm://$folder/precious", '--memory', '16MB');
is(PostgreSQL::Test::Utils::slurp_file("$folder/precious"), "data\n", '... which is left alone');

# Without huge pages in the machine the node uses ordinary ones.
{
	my $ordinary = LegoBase::Memnode->new(transport => 'shm');
	is($ordinary->figures->{huge_pages}, 0, 'a memory node without huge pages works');
	$ordinary->stop;
}

# --- the greeting ----------------------------------------------------------------------------------------------------

my $peer = "$folder/peer";
command_ok(
	[
		'cc', '-std=gnu11', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror', "-I$source_tree/src/common", '-o', $peer,
		"$FindBin::RealBin/lib/peer.c",
		(map { "$source_tree/src/common/lb_$_.c" } ('status', 'page', 'uri', 'net', 'wire', 'wire_flush', 'stream')), '-lxxhash'
	],
	'the peer compiles');

sub greeting
{
	my ($memnode, $expected, @settings) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	command_like([ $peer, 'hello', $memnode->uri, @settings ], $expected, "greeting @settings");
	return;
}

{
	my $memnode = LegoBase::Memnode->new(transport => 'tcp');

	greeting($memnode, qr/^WELCOME version=4$/m);
	greeting($memnode, qr/^ERROR version: /, 'version=1');
	greeting($memnode, qr/^ERROR version: /, 'version=5');
	greeting($memnode, qr/^ERROR version: /, 'version=0');
	greeting($memnode, qr/^ERROR page.size: .*4096/, 'page_size=4096', 'epoch=5');
	greeting($memnode, qr/^ERROR (role|malformed)|^closed/, 'role=99');
	greeting($memnode, qr/^ERROR system.id/, 'system=2', 'epoch=5');
	greeting($memnode, qr/^ERROR epoch: /, 'epoch=1');
	greeting($memnode, qr/^WELCOME/, 'epoch=2');
	greeting($memnode, qr/^ERROR token: /, 'role=2', 'epoch=2', 'token=12345');
	greeting($memnode, qr/^ERROR token: /, 'role=2', 'uuid=77');
	cmp_ok($memnode->figures->{refused_sessions}, '>=', 6, 'refused sessions are counted');
	$memnode->stop;
}

# --- a server with nodes that do not fit -----------------------------------------------------------------------------

my $server = legobase_cluster('server', conf => 'legobase.node_timeout = 500ms');

# Start it with these memory nodes; it must work without, and say why once.
sub works_without
{
	my ($what, $message, %settings) = @_;
	my $conf = $server->data_dir . '/postgresql.conf';
	my $before = PostgreSQL::Test::Utils::slurp_file($conf);
	my $seen;

	$server->stop;
	my $from = -s $server->logfile;
	$server->append_conf('postgresql.conf', "$_ = '$settings{$_}'") foreach sort keys %settings;
	$server->start;
	is($server->safe_psql('postgres', 'SELECT count(*) > 0 FROM pg_class'), 't', "$what: the server works");
	ok( wait_for(
			'the log says why', 20,
			sub { $seen = substr(PostgreSQL::Test::Utils::slurp_file($server->logfile), $from); $seen =~ $message }),
		"$what: the log says why") or diag($seen);
	is($server->safe_psql('postgres', 'SELECT pool_pages FROM legobase_summary'), 0, "$what: no remote memory");
	my $lines = () = $seen =~ /$message/g;
	cmp_ok($lines, '<=', 2, "$what: not more often than needed");
	open(my $file, '>', $conf) or die "$conf: $!";
	print $file $before;
	close $file;
	return;
}

{
	my $nobody = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1, Proto => 'tcp');
	my $silent_port = $nobody->sockport;

	works_without('a peer that says nothing', qr/"tcp:\S+".*(no answer|not answer)/,
		'legobase.memory_nodes' => "tcp://127.0.0.1:$silent_port");
	close $nobody;
	works_without('nobody there', qr/"tcp:\S+".*refused/,
		'legobase.memory_nodes' => "tcp://127.0.0.1:$silent_port");
}
works_without('a host that does not exist', qr/"tcp:\S+".*nosuchhost/,
	'legobase.memory_nodes' => 'tcp://nosuchhost.invalid:9876');
works_without('a socket in a closed folder', qr/"shm:\S+".*Permission denied/,
	'legobase.memory_nodes' => "shm://$folder/closed/x.sock");
works_without('no such socket', qr/"shm:\S+".*No such file/, 'legobase.memory_nodes' => "shm://$folder/nobody.sock");

foreach my $refusal ([ 1, 'protocol version 1 is not supported here' ], [ 2, 'page size 8192 is not 16384' ])
{
	my ($error, $message) = @{$refusal};
	my $out = '';
	my $process = IPC::Run::start [ $peer, 'refuse', "shm://$folder/refuse.sock", $error, $message ], '>', \$out;

	$process->pump until $out =~ /ready/;
	works_without("refused: $message", qr/"shm:\S+".*\Q$message\E/,
		'legobase.memory_nodes' => "shm://$folder/refuse.sock");
	$process->kill_kill;
}
{
	my $out = '';
	my $process = IPC::Run::start [
		'perl', '-MIO::Socket::INET', '-e',
		q{$l = IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 5) or die; $| = 1; print $l->sockport, "\n";
		  while ($c = $l->accept) { print $c "HTTP/1.1 400 Bad Request\r\n\r\n" . "x" x 100; close $c }}
	  ],
	  '>', \$out;

	$process->pump until $out =~ /(\d+)\n/;
	works_without('a peer of another kind', qr/"tcp:\S+" is not available: /,
		'legobase.memory_nodes' => "tcp://127.0.0.1:$1");
	$process->kill_kill;
}
works_without('more embedded memory than the machine has', qr/not available/,
	'legobase.embedded_memory' => '8TB', 'legobase.max_remote_pool_size' => '64MB');

# The folder of the instance can't be written to.
{
	my $instance = $server->data_dir . '/pgsql_tmp_legobase';

	$server->stop;
	my $embedded = embedded_node_pid($server);
	kill 'KILL', $embedded if $embedded;
	PostgreSQL::Test::Utils::system_or_bail('rm', '-rf', $instance);
	PostgreSQL::Test::Utils::append_to_file($instance, 'in the way');
	$server->start;
	works_without('the instance folder cannot be made', qr/could not .* "pgsql_tmp_legobase(\/pgsql_tmp_instance)?"/);
	$server->stop;
	unlink $instance;
	$server->start;
	ok(wait_for_nodes($server), 'it is used when it can');
}

# --- settings --------------------------------------------------------------------------------------------------------

# A statement fails with this SQLSTATE and a message, detail or hint that matches.
sub fails_with
{
	my ($what, $cluster, $sqlstate, $message, $sql, %params) = @_;
	my ($status, $out, $err) =
	  $cluster->psql('postgres', "\\set VERBOSITY verbose\n$sql", %params);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($err, qr/ERROR:  $sqlstate: /, "$what: SQLSTATE") or diag($sql);
	like($err, $message, "$what: message");
	return;
}

foreach my $bad (
	[ 'memory_nodes', 'tcp://localhost', qr/port.*HINT/s ],
	[ 'memory_nodes', 'foo://bar', qr/DETAIL.*HINT/s ],
	[ 'memory_nodes', '', qr/DETAIL/ ],
	[ 'memory_nodes', 'tcp://a:1,tcp://a:1', qr/twice/ ],
	[ 'memory_nodes', 'tcp://a:1,embedded', qr/DETAIL/ ],
	[ 'memory_nodes', 'shm://relative', qr/DETAIL/ ],
	[ 'memory_nodes', join(',', map { "tcp://a:$_" } (1 .. 40)), qr/at most/ ],
	[ 'embedded_memory', '1MB', qr/outside the valid range/ ],
	[ 'embedded_memory', '-1', qr/outside the valid range/ ],
	[ 'max_remote_pool_size', '100TB', qr/outside the valid range/ ],
	[ 'remote_pool_size', '-2', qr/outside the valid range/ ],
	[ 'remote_pool_size', 'lots', qr/invalid value/ ],
	[ 'node_timeout', '1ms', qr/outside the valid range/ ],
	[ 'node_timeout', '1h', qr/outside the valid range/ ],
	[ 'read_ahead_pages', '65', qr/outside the valid range/ ],
	[ 'kernel_cache_reads', 'perhaps', qr/Available values: off, auto/ ],
	[ 'debug_compare', 'perhaps', qr/requires a Boolean value/ ])
{
	my ($name, $value, $message) = @{$bad};
	fails_with("legobase.$name = '$value'", $server, '22023', $message, "ALTER SYSTEM SET legobase.$name = '$value'");
}
my $set_rdma = q{ALTER SYSTEM SET legobase.memory_nodes = 'tcp://a:1,rdma://a:2'};
if ($has_rdma)
{
	is($server->psql('postgres', $set_rdma), 0, 'rdma is accepted');
	$server->safe_psql('postgres', 'ALTER SYSTEM RESET legobase.memory_nodes');
}
else
{
	fails_with('rdma in a build without', $server, '0A000', qr{libibverbs and librdmacm.*HINT: .*"tcp://a:2"}s, $set_rdma);
}
fails_with('unknown setting', $server, '42602', qr/reserved prefix/, 'SET legobase.nonsense = 1');
fails_with("\"$_\" needs a restart", $server, '55P02', qr/without restarting/, "SET legobase.$_ = DEFAULT")
  foreach ('memory_nodes', 'embedded_memory', 'max_remote_pool_size', 'take_over');
fails_with("\"$_\" needs a reload", $server, '55P02', qr/cannot be changed now/, "SET legobase.$_ = DEFAULT")
  foreach ('remote_pool_size', 'node_timeout');

# In postgresql.conf, where nobody is told but the log.
{
	my $conf = $server->data_dir . '/postgresql.conf';
	my $before = PostgreSQL::Test::Utils::slurp_file($conf);

	$server->stop;
	my $from = -s $server->logfile;
	$server->append_conf('postgresql.conf', "legobase.memory_nodes = 'tcp://localhost'");
	$server->start(fail_ok => 1);
	like(substr(PostgreSQL::Test::Utils::slurp_file($server->logfile), $from),
		qr/invalid value for parameter "legobase.memory_nodes": "tcp:\/\/localhost".*port/s,
		'a bad list of memory nodes in postgresql.conf is in the log');
	$server->stop;
	open(my $file, '>', $conf) or die "$conf: $!";
	print $file $before;
	close $file;
	$server->start;
	wait_for_nodes($server);
}

# --- rights ----------------------------------------------------------------------------------------------------------

$server->safe_psql('postgres',
	'CREATE ROLE nobody LOGIN; CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE TABLE t AS SELECT 1 AS i; CREATE VIEW v AS SELECT 1 AS i');
my @views = map { "legobase_$_" } ('summary', 'nodes', 'stat_io', 'checkpoints', 'pages', 'latency');
foreach my $view (@views)
{
	fails_with("$view for anybody", $server, '42501', qr/permission denied/, "SET ROLE nobody; SELECT * FROM $view");
	is($server->psql('postgres', "SET ROLE watcher; SELECT * FROM $view"), 0, "$view for pg_monitor");
}
my @actions = ('legobase_reset_stats()', 'legobase_drain()', q{legobase_evict('t')});
foreach my $action (@actions)
{
	fails_with("$action for pg_monitor", $server, '42501', qr/permission denied/, "SET ROLE watcher; SELECT $action");
	is($server->psql('postgres', "SELECT $action"), 0, "$action for superusers");
}
fails_with('debug_compare', $server, '42501', qr/permission denied/, 'SET ROLE nobody; SET legobase.debug_compare = on');
is($server->psql('postgres', 'SET ROLE nobody; SET legobase.read_ahead_pages = 0'), 0, 'read_ahead_pages is for users');
fails_with('legobase_evict of a view', $server, '(42809|0A000)', qr/"v"/, q{SELECT legobase_evict('v')});
fails_with('legobase_evict of nothing', $server, '(42P01|XX000)', qr/4242424/, q{SELECT legobase_evict(4242424)});

# --- not preloaded ---------------------------------------------------------------------------------------------------

{
	my $plain = PostgreSQL::Test::Cluster->new('plain');

	$plain->init;
	$plain->start;
	is($plain->psql('postgres', 'CREATE EXTENSION legobase'), 0, 'CREATE EXTENSION works without preloading');
	foreach my $call ((map { "* FROM $_" } @views), @actions[ 0, 1 ], q{legobase_evict('pg_class')})
	{
		fails_with("not preloaded: $call", $plain, '55000', qr/shared_preload_libraries/, "SELECT $call");
	}
	$plain->stop;
}

# --- servers that are not supported ----------------------------------------------------------------------------------

foreach my $version (140010, 150010, 160001)
{
	my $source = qq{#include "postgres.h"\n#undef PG_VERSION_NUM\n#define PG_VERSION_NUM $version\n#include "compat.h"\n};
	my ($out, $err) = ('', '');
	my $compiled = IPC::Run::run [
		'cc', '-fsyntax-only', "-I$source_tree/src", "-I$source_tree/src/common", "-I$pg_config", '-x', 'c', '-'
	  ],
	  '<', \$source, '>', \$out, '2>', \$err;

	ok(!$compiled, "PostgreSQL $version: it does not compile");
	like($err, qr/#error "legobase supports PostgreSQL 15/, "PostgreSQL $version: ... and says why");
}

# A server in which the storage-manager table is not the only thing that looks like it
{
	my $library = "$folder/second_smgr_table.so";

	command_ok(
		[
			'cc', '-shared', '-fPIC', '-Wall', '-Werror', "-I$source_tree/src", "-I$source_tree/src/common",
			"-I$pg_config", '-o', $library, "$FindBin::RealBin/lib/second_smgr_table.c"
		],
		'a library that makes a second storage-manager table');
	$server->stop;
	my $from = -s $server->logfile;
	$server->append_conf('postgresql.conf', "shared_preload_libraries = '$library, legobase'");
	is($server->start(fail_ok => 1), 0, 'the server does not start with two storage-manager tables');
	like(substr(PostgreSQL::Test::Utils::slurp_file($server->logfile), $from),
		qr/FATAL:.*found 2 storage-manager tables.*DETAIL:.*HINT:/s, '... and says why');
	$server->append_conf('postgresql.conf', q{shared_preload_libraries = 'legobase'});
	$server->start;
	ok(wait_for_nodes($server), 'with one it starts');
}

chmod 0700, "$folder/closed";
$server->stop;
done_testing();
