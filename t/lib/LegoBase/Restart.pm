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

our @EXPORT = qw(
  recovery reads_by_tier wait_for_warm_list wait_until_remote kill_server_of crash_and_start launch answers
  another_server start_elsewhere another_host lock_file
  make_words words change_words words_are_right kept nothing_kept
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

# All that was changed up to now is in remote memory, and the nodes know it.
sub wait_until_remote
{
	my ($node) = @_;
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');

	return wait_for("tier 1 at $lsn", 20,
		sub { $node->safe_psql('postgres', "SELECT lsn >= '$lsn' FROM legobase_checkpoints WHERE tier = 1") eq 't' });
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

	return system('pg_isready', '-q', '-t', 10, '-h', $node->host, '-p', $node->port, '-d', 'postgres') == 0;
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

	PostgreSQL::Test::Utils::system_log(@{ $server->{other_host} // [] }, 'pg_ctl', '-w', '-t', 120, '-D', $server->data_dir, '-l',
		$server->logfile, '-o', $options, 'start') == 0
	  or return 0;
	$server->_update_pid(1);
	return 1;
}

sub lock_file
{
	my ($node) = @_;
	my $file = $node->data_dir . '/postmaster.pid';

	return -e $file ? PostgreSQL::Test::Utils::slurp_file($file) : '';
}

# From now on this is a server on another host than the one that has the data directory now. A server finds another one, for the same data
# directory on the same host, by its lock file, which an operator removes, and by its System V shared memory. There is nothing of that on
# another host: the server gets a namespace of its own where the system allows that. Elsewhere the segment is taken out of its
# way; who has it goes on using it.
sub another_host
{
	my ($server) = @_;
	my @namespace = ('unshare', '--user', '--map-current-user', '--ipc');
	my $line = (split /\n/, lock_file($server))[6] // '';
	my ($id) = $line =~ /^\s*\d+\s+(\d+)/ or croak 'no shared memory';

	unlink $server->data_dir . '/postmaster.pid' or croak "postmaster.pid: $!";
	if (system("@namespace true >/dev/null 2>&1") == 0)
	{
		$server->{other_host} = \@namespace;
	}
	else
	{
		shmctl($id, IPC_RMID, 0) or croak "shmctl: $!";
	}
	return;
}

# --- a table that says what it is ----------------------------------------------------------------------------------------

# 4000 rows on more pages than are local; with an index.
sub make_words
{
	my ($node) = @_;

	make_filler($node);
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE t (id int PRIMARY KEY, word text) WITH (fillfactor = 30);
		INSERT INTO t SELECT i, 'first' FROM generate_series(1, 4000) i;
		VACUUM (FREEZE, ANALYZE) t});
	return;
}

sub words
{
	my ($node) = @_;

	return $node->safe_psql('postgres', 'SELECT word, count(*) FROM t GROUP BY word ORDER BY word');
}

# All rows say this, in pages that leave local memory; since the last checkpoint, unless one happens.
sub change_words
{
	my ($node, $word) = @_;

	$node->safe_psql('postgres', "UPDATE t SET word = '$word'");
	fill_buffers($node);
	return;
}

# As tests: each row says this word, by table and by index, as it is read after the restart, and from remote memory; all pages are what the files
# have; nobody found a damaged page, or a remote copy that differs from its file.
sub words_are_right
{
	my ($node, $word, $what) = @_;
	my $s;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(words($node), "$word|4000", "$what: rows");
	is( $node->safe_psql('postgres', "SET enable_seqscan = off; SELECT count(*) FROM t WHERE id > 0 AND word = '$word'"),
		4000, "$what: rows by index");
	is(differing_blocks($node, 'postgres'), '', "$what: all pages read as they are in the files");
	is(words($node), "$word|4000", "$what: rows, read from remote memory");
	$s = summary($node);
	is("$s->{checksum_failures} $s->{compare_mismatches}", '0 0', "$what: no damaged page, none that differs from its file");
	return;
}

# As tests: what became of the pages at this start
sub kept
{
	my ($node, $nodes, $what) = @_;
	my $r = recovery($node);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($r->{pool_state}, 'open', "$what: the pool is open");
	is($r->{nodes_kept}, $nodes, "$what: the pages of $nodes nodes were kept") or diag(JSON::PP::encode_json($r));
	cmp_ok($r->{pages_kept}, '>', 100, "$what: $r->{pages_kept} pages of $r->{pages_listed} were kept") if $nodes > 0;
	return $r;
}

sub nothing_kept
{
	my ($node, $what) = @_;
	my $r = recovery($node);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($r->{pool_state}, 'open', "$what: the pool is open");
	is($r->{pages_kept}, 0, "$what: no page was kept") or diag(JSON::PP::encode_json($r));
	return $r;
}

require JSON::PP;

1;
