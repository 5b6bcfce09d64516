# Servers that come back to pages that their former life left in remote memory: what the server says of it, starting without
# waiting, and a second host.

package LegoBase::Restart;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use IPC::SysV qw(IPC_RMID);
use LegoBase;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(
  recovery reads_by_tier wait_for_warm_list kill_server_of crash_and_start launch answers
  another_server start_elsewhere forget_shared_memory
);

# legobase_recovery as a hash
sub recovery
{
	my ($node) = @_;
	my $json = $node->safe_psql('postgres', 'SELECT to_json(r) FROM legobase_recovery r');

	return JSON::PP::decode_json($json);
}

# What a query reads: (blocks from remote memory or on their way there, blocks from storage). Exact as long as nobody else reads:
# the pages that were local are read back before.
sub reads_by_tier
{
	my ($node, $query) = @_;
	my $before = summary($node);

	$node->safe_psql('postgres', $query);
	my $after = summary($node);
	return (
		$after->{remote_hits} + $after->{comm_buffer_hits} - $before->{remote_hits} - $before->{comm_buffer_hits},
		$after->{storage_reads} - $before->{storage_reads});
}

# The list of the pages in shared_buffers, which the server writes every now and then.
sub wait_for_warm_list
{
	my ($node) = @_;
	my $list = $node->data_dir . '/pgsql_tmp_legobase/pgsql_tmp_local_pool';

	return wait_for('the list of local pages', 30, sub { -s $list });
}

# Kill the postmaster and wait until its children have seen it.
sub kill_server_of
{
	my ($node) = @_;

	$node->kill9;
	return wait_until_gone($node);
}

sub crash_and_start
{
	my ($node) = @_;

	kill_server_of($node) or return 0;
	$node->start;
	return wait_for_nodes($node);
}

# Start without waiting until the server is ready. True if there is a postmaster then.
sub launch
{
	my ($node) = @_;
	my $file = $node->data_dir . '/postmaster.pid';
	my $pid;

	unlink $file;
	PostgreSQL::Test::Utils::system_log('pg_ctl', '-W', '-D', $node->data_dir, '-l', $node->logfile, '-o',
		'--cluster-name=' . $node->name, 'start');
	wait_for('a postmaster', 10, sub { -s $file && (($pid) = PostgreSQL::Test::Utils::slurp_file($file) =~ /^(\d+)\n/) });
	$node->{_pid} = $pid;
	return defined $pid;
}

sub answers
{
	my ($node) = @_;

	return $node->psql('postgres', 'SELECT 1', timeout => 10) == 0;
}

# A server for the data directory of another one, or a copy of it: a port, a socket and a log of its own.
sub another_server
{
	my ($name, $basedir) = @_;
	my $server = PostgreSQL::Test::Cluster->new($name, own_host => 1);

	$server->{_basedir} = $basedir if defined $basedir;
	return $server;
}

# The configuration file is that of the other server; options are settings, as -c takes them. False if it does not start.
sub start_elsewhere
{
	my ($server, @settings) = @_;
	my $options = join ' ', '-p', $server->port, '-k', $server->host, map { "-c $_" } @settings;

	PostgreSQL::Test::Utils::system_log('pg_ctl', '-w', '-t', 120, '-D', $server->data_dir, '-l', $server->logfile, '-o',
		$options, 'start') == 0
	  or return 0;
	$server->_update_pid(1);
	return 1;
}

# A server finds another one, for the same data directory on the same host, by its lock file and by its System V shared memory. On another
# host there is no such segment, and the lock file is what an operator removes: do both. The server that has the
# segment goes on using it.
sub forget_shared_memory
{
	my ($node) = @_;
	my $file = $node->data_dir . '/postmaster.pid';
	my $line = (split /\n/, PostgreSQL::Test::Utils::slurp_file($file))[6] // '';
	my ($id) = $line =~ /^\s*\d+\s+(\d+)/ or croak "no shared memory in $file";

	shmctl($id, IPC_RMID, 0) or croak "shmctl: $!";
	unlink $file or croak "$file: $!";
	return;
}

require JSON::PP;

1;
