# Helpers for whole-system tests: clusters with legobase, the remote pool's figures, and waiting for what shall happen.
#
# A test makes clusters with legobase_cluster() and memory nodes with LegoBase::Memnode. Whatever was started through
# these is ended when the test ends.
#
# LEGOBASE_WRITE_MODE, "writeback" (the default) or "writethrough", is the mode of clusters for which a test does not ask
# for one of its own: the same tests are run in both.

package LegoBase;

use strict;
use warnings;

use Carp;
use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use LegoBase::Memnode;

our @EXPORT = qw(
  $source_tree $write_mode
  wait_for alive
  legobase_cluster expect_write_mode start_with_options start_stock start_legobase crash_by
  summary node_rows up_nodes wait_for_nodes wait_for_pool
  install_functions make_filler fill_buffers settle quieten make_remote pages_of relation_key remote_pages
  dirty_pages_of files_behind differing_blocks
  embedded_node_pid server_process server_processes processes_of stopped_processes stop_processes wait_until_gone describe_processes
  amcheck_clean in_background finish_background
  log_position log_since log_tail count_log_lines has_fault_points fault_points_of set_fault_points
);

our $source_tree = abs_path(dirname(__FILE__) . '/../..');
our $write_mode = $ENV{LEGOBASE_WRITE_MODE} // 'writeback';

croak "LEGOBASE_WRITE_MODE is $write_mode" unless $write_mode =~ /^write(back|through)$/;

my @clusters;
my @children;
my %mode_of;	# the write mode that a cluster is to come to, by its name

# --- events ----------------------------------------------------------------------------------------------------------

# Ask until the answer is true, at most $limit seconds. Returns the answer; false, with a diagnostic, at the limit. LEGOBASE_PATIENCE:
# how many times slower this machine is than others.
sub wait_for
{
	my ($what, $limit, $ask) = @_;
	my $deadline = time + ($limit *= $ENV{LEGOBASE_PATIENCE} // 1);

	while (1)
	{
		my $answer = $ask->();
		return $answer if $answer;
		if (time > $deadline)
		{
			diag("waited $limit s in vain: $what");
			return 0;
		}
		usleep(20_000);
	}
}

# Does the process exist, other than as a zombie?
sub alive
{
	my ($pid) = @_;

	open(my $stat, '<', "/proc/$pid/stat") or return 0;
	my $line = <$stat>;
	return defined $line && $line !~ /\) Z /;
}

# --- clusters --------------------------------------------------------------------------------------------------------

# Make, configure and start a cluster. Parameters:
#	nodes       undef: an embedded memory node; else the URIs, or LegoBase::Memnode or LegoBase::Proxy objects, in an array
#	write_mode  "writeback" or "writethrough"; default $write_mode
#	stock       true: without legobase
#	conf        more lines for postgresql.conf
#	init        parameters for PostgreSQL::Test::Cluster->init
#	start       false: don't start
# Local memory is tiny (128 buffers), so that nearly every page in use is in remote memory.
#
# In write-back, legobase.write_mode is left alone: that is what it is by default, once the memory node has proved that it
# sees the data directory, and the server syncs its files. Memory nodes are told where the data directory is.
sub legobase_cluster
{
	my ($name, %params) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$params{write_mode} //= $write_mode;
	$node->init(allows_streaming => 1, %{ $params{init} // {} },
		extra => [ '--no-locale', '-E', 'UTF8', @{ $params{init}{extra} // [] } ]);
	$node->append_conf('postgresql.conf', cluster_settings(%params));
	expect_write_mode($node, $params{write_mode}) unless $params{stock};
	show_data_directory($node, $params{nodes}) if $params{write_mode} eq 'writeback';
	return started($node, %params);
}

# From now on wait_for_nodes() waits for this write mode; undef: for any.
sub expect_write_mode
{
	my ($node, $mode) = @_;

	$mode_of{ $node->name } = $mode;
	return;
}

# Memory nodes are started before there is a data directory to show to them; where they listen stays the same.
sub show_data_directory
{
	my ($node, $nodes) = @_;

	foreach my $memnode (map { LegoBase::Memnode::behind($_) } @{ $nodes // [] })
	{
		$memnode->add_storage($node->data_dir);
	}
	return;
}

sub started
{
	my ($node, %params) = @_;

	push @clusters, $node;
	return $node if exists $params{start} && !$params{start};
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION legobase') unless $params{stock};
	wait_for_nodes($node) unless $params{stock};
	return $node;
}

sub cluster_settings
{
	my (%params) = @_;
	my @lines = (
		'shared_buffers = 1MB', 'max_connections = 60',
		'autovacuum = off', 'log_statement = none',
		'checkpoint_timeout = 1h', 'max_wal_size = 1GB', 'restart_after_crash = on');

	if (!$params{stock})
	{
		# PostgreSQL::Test::Cluster turns it off
		push @lines, $params{write_mode} eq 'writeback' ? 'fsync = on' : "legobase.write_mode = 'writethrough'";
		push @lines, "shared_preload_libraries = 'legobase'", 'legobase.kernel_cache_reads = off',
		  'legobase.embedded_memory = 64MB', 'legobase.max_remote_pool_size = 64MB';
	}
	push @lines, "legobase.memory_nodes = '" . join(',', map { "$_" } @{ $params{nodes} }) . "'"
	  if $params{nodes};
	push @lines, $params{conf} if defined $params{conf};
	return join("\n", @lines) . "\n";
}

# Start with more command-line options for the server, as pg_ctl -o takes them.
sub start_with_options
{
	my ($node, $options) = @_;

	PostgreSQL::Test::Utils::system_or_bail('pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, '-o',
		$options, 'start');
	$node->_update_pid(1);
	return;
}

# Start the same data directory under a server without legobase, and with it again.
sub start_stock
{
	my ($node) = @_;

	$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
	$node->start;
	return;
}

sub start_legobase
{
	my ($node) = @_;

	$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'legobase'");
	$node->start;
	wait_for_nodes($node);
	return;
}

# Kill a process of the server with SIGKILL and wait until the server has restarted itself.
sub crash_by
{
	my ($node, $pid) = @_;
	my $before = count_log_lines($node, qr/database system is ready to accept/);

	kill 'KILL', $pid;
	return wait_for('the server has restarted itself', 60,
		sub { count_log_lines($node, qr/database system is ready to accept/) > $before });
}

# --- the remote pool -------------------------------------------------------------------------------------------------

sub rows_of
{
	my ($node, $view) = @_;
	my $json = $node->safe_psql('postgres', "SELECT coalesce(json_agg(v), '[]') FROM $view v");

	return decode_json($json);
}

# legobase_summary as a hash
sub summary
{
	my ($node) = @_;

	return rows_of($node, 'legobase_summary')->[0];
}

# legobase_nodes as an array of hashes
sub node_rows
{
	my ($node) = @_;

	return [ sort { $a->{node_id} <=> $b->{node_id} } @{ rows_of($node, 'legobase_nodes') } ];
}

sub up_nodes
{
	my ($node) = @_;

	return summary($node)->{nodes_up};
}

# Wait until all nodes are up and have granted memory, and the server writes as it is to.
sub wait_for_nodes
{
	my ($node, $limit) = @_;
	my $mode = $mode_of{ $node->name };

	return wait_for(
		'all memory nodes are up',
		$limit // 20,
		sub {
			my $s = summary($node);
			return
				 $s->{nodes_total} > 0
			  && $s->{nodes_up} == $s->{nodes_total}
			  && $s->{pool_pages} > 0
			  && (!defined $mode || $s->{write_mode} eq $mode);
		});
}

# Wait until the pool has a size that satisfies the test.
sub wait_for_pool
{
	my ($node, $what, $limit, $test) = @_;

	return wait_for($what, $limit, sub { $test->(summary($node)->{pool_pages}) });
}

# A table large enough to push everything else out of shared_buffers, and the functions that the tests use.
sub make_filler
{
	my ($node) = @_;

	install_functions($node, 'postgres');
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE filler (pad text) WITH (fillfactor = 10);
		INSERT INTO filler SELECT repeat('f', 700) FROM generate_series(1, 400);
	});
	return;
}

# Push everything else out of shared_buffers: several passes, because the clock counts usage down.
sub fill_buffers
{
	my ($node) = @_;

	$node->safe_psql('postgres', "SELECT pg_prewarm('filler', 'buffer') FROM generate_series(1, 5)");
	return;
}

# Wait until all is written and all pushes have ended.
sub settle
{
	my ($node) = @_;

	$node->safe_psql('postgres',
		$node->safe_psql('postgres', 'SELECT pg_is_in_recovery()') eq 't'
		? 'SELECT legobase_drain()'
		: 'CHECKPOINT; SELECT legobase_drain()');
	return;
}

# After a checkpoint or a drain memory nodes go on for a moment to write what becomes dirty: wait until that is over, so that what
# becomes dirty stays dirty.
sub quieten
{
	usleep(1_800_000);
	return;
}

# Bring all pages of all relations of the tests in a database out of shared_buffers, into remote memory.
sub make_remote
{
	my ($node, $db) = @_;

	settle($node);
	$node->safe_psql($db // 'postgres', 'SELECT read_all_into_remote_memory()');
	fill_buffers($node);
	settle($node);
	return;
}

# What a relation's pages are known by: "database relfilenode".
sub relation_key
{
	my ($node, $db, $relation) = @_;

	return $node->safe_psql($db,
		"SELECT (SELECT oid FROM pg_database WHERE datname = current_database()) || ' ' || pg_relation_filenode('$relation')");
}

# How many pages of this key are in remote memory; with a fork and a first block, only those from there on.
sub pages_of
{
	my ($node, $key, $fork, $first) = @_;
	my ($database, $relfilenode) = split ' ', $key;
	my $where = "reldatabase = $database";

	$where .= " AND relfilenode = $relfilenode" if defined $relfilenode;
	$where .= " AND relforknumber = $fork" if defined $fork;
	$where .= " AND relblocknumber >= $first" if defined $first;
	return $node->safe_psql('postgres', "SELECT count(*) FROM legobase_pages WHERE $where");
}

sub remote_pages
{
	my ($node, $db, $relation) = @_;

	return pages_of($node, relation_key($node, $db, $relation));
}

# How many pages of a relation are in remote memory, or on their way there, in a version that its file does not have.
sub dirty_pages_of
{
	my ($node, $db, $relation) = @_;
	my ($database, $relfilenode) = split ' ', relation_key($node, $db, $relation);

	return $node->safe_psql('postgres',
		"SELECT count(*) FROM legobase_pages WHERE dirty AND reldatabase = $database AND relfilenode = $relfilenode");
}

# How many blocks of a relation the file has otherwise than the server, as things are.
sub files_behind
{
	my ($node, $db, $relation) = @_;

	return $node->safe_psql($db,
		"SELECT count(*) FROM forks_of_tests() f, generate_series(0, blocks - 1) block WHERE name = '$relation'
			AND get_raw_page(name, fork, block) <> pg_read_binary_file(path, block * 8192, 8192)");
}

# --- functions in the database ---------------------------------------------------------------------------------------

# Clean pages are pushed as far as there are comm buffers free, and not pushed otherwise. So who wants all pages in remote
# memory reads few at a time, and waits until they are there: read_all_into_remote_memory().
#
# What the server reads as a page must be what is in the file, once all is written. This is true for every page of every
# relation, whatever happened to them: differing_blocks() lists the exceptions.
sub install_functions
{
	my ($node, $db) = @_;

	$node->safe_psql(
		$db, q{
		CREATE EXTENSION IF NOT EXISTS legobase;
		CREATE EXTENSION IF NOT EXISTS pageinspect;
		CREATE EXTENSION IF NOT EXISTS pg_prewarm;
		CREATE FUNCTION forks_of_tests() RETURNS TABLE (name text, path text, fork text, blocks bigint)
		LANGUAGE sql AS $$
			SELECT c.oid::regclass::text, pg_relation_filepath(c.oid) || CASE WHEN f = 'main' THEN '' ELSE '_' || f END,
				f, pg_relation_size(c.oid, f) / 8192
			FROM pg_class c, unnest(ARRAY['main', 'fsm', 'vm', 'init']) f
			WHERE c.oid >= 16384 AND c.relkind IN ('r', 'i', 't', 'm', 'S') AND c.relpersistence <> 't'
		$$;
		CREATE FUNCTION read_all_into_remote_memory() RETURNS void LANGUAGE plpgsql AS $$
		DECLARE
			rel record;
		BEGIN
			FOR rel IN SELECT * FROM forks_of_tests() WHERE blocks > 0 AND name <> 'filler'
			LOOP
				FOR start IN 0 .. rel.blocks::int - 1 BY 16
				LOOP
					PERFORM pg_prewarm(rel.name, 'read', rel.fork, start, least(start + 15, rel.blocks - 1));
					PERFORM legobase_drain();
				END LOOP;
			END LOOP;
		END $$;
		CREATE FUNCTION differing_blocks() RETURNS SETOF text LANGUAGE sql AS $$
			SELECT format('%s %s %s', name, fork, block)
			FROM forks_of_tests(), generate_series(0, blocks - 1) block
			WHERE get_raw_page(name, fork, block) <> pg_read_binary_file(path, block * 8192, 8192)
		$$;
	});
	return;
}

# Pages that differ between what the server reads and the file, as text; empty if all is well. Reads all of them from
# remote memory where they are there.
sub differing_blocks
{
	my ($node, $db) = @_;

	make_remote($node, $db);
	return $node->safe_psql($db, 'SELECT * FROM differing_blocks() LIMIT 20');
}

sub amcheck_clean
{
	my ($node, $what, @databases) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $db (@databases ? @databases : ('postgres'))
	{
		my ($out, $err) = ('', '');
		my $ok = IPC::Run::run [
			'pg_amcheck', '--heapallindexed', '--install-missing', '-h', $node->host, '-p', $node->port, $db
		  ],
		  '>', \$out, '2>', \$err;

		ok($ok, "$what: pg_amcheck finds nothing in $db") or diag("$out\n$err");
	}
	return;
}

# --- processes -------------------------------------------------------------------------------------------------------

sub slurp_proc
{
	my ($path) = @_;

	open(my $file, '<', $path) or return '';
	local $/;
	return <$file> // '';
}

sub pids_by_name
{
	my ($pattern) = @_;
	my @pids;

	foreach my $path (glob '/proc/[0-9]*/cmdline')
	{
		my $line = slurp_proc($path) =~ tr/\0/ /r;
		push @pids, $1 if $line =~ $pattern && $path =~ m{/proc/(\d+)/};
	}
	return @pids;
}

# The embedded memory node of a cluster: by its working folder or its arguments. Undefined if there is none.
sub embedded_node_pid
{
	my ($node) = @_;
	my $data = $node->data_dir;

	foreach my $pid (pids_by_name(qr{legobase-memnode}))
	{
		my $cwd = readlink("/proc/$pid/cwd") // '';
		return $pid if $cwd eq $data || index($cwd, "$data/") == 0;
		return $pid if index(slurp_proc("/proc/$pid/cmdline"), $data) >= 0;
	}
	return;
}

# The pid of a server process by its title, such as "checkpointer" (which "tier-1 checkpointer" is not); all of them.
sub server_process
{
	my ($node, $title) = @_;

	return (server_processes($node, $title))[0];
}

sub server_processes
{
	my ($node, $title) = @_;
	my $postmaster = $node->{_pid};

	return grep { slurp_proc("/proc/$_/stat") =~ /\) \S $postmaster / } pids_by_name(qr{^postgres: .*(?<!tier-1 )\b\Q$title\E\b});
}

# Those of the server's processes that were stopped by a signal.
sub stopped_processes
{
	my ($node) = @_;

	return grep { is_stopped($_) } processes_of($node);
}

# Stop a server where it stands, as a host that hangs, and return its processes, the postmaster first; none if that takes too long. The
# postmaster is stopped before the others are listed: after that there are no new ones, and those that end meanwhile are not among them.
sub stop_processes
{
	my ($node) = @_;
	my $postmaster = $node->{_pid};
	my @children;

	kill 'STOP', $postmaster;
	wait_for('the postmaster is stopped', 10, sub { is_stopped($postmaster) }) or return;
	wait_for(
		'its children are stopped',
		10,
		sub {
			@children = children_of($postmaster);
			kill 'STOP', @children;
			!grep { !is_stopped($_) } @children;
		}) or return;
	return ($postmaster, @children);
}

sub is_stopped
{
	my ($pid) = @_;

	return slurp_proc("/proc/$pid/stat") =~ /\) T /;
}

# Those that are alive, also when they have just been forked and still have their parent's title
sub children_of
{
	my ($parent) = @_;

	return map { m{/proc/(\d+)/} ? $1 : () } grep { slurp_proc($_) =~ /\) [^ZX] $parent / } glob '/proc/[0-9]*/stat';
}

# All processes of the server, the postmaster first.
sub processes_of
{
	my ($node) = @_;
	my $data = $node->data_dir;

	return ($node->{_pid} // (),
		grep { (readlink("/proc/$_/cwd") // '') eq $data } pids_by_name(qr/^postgres:/));
}

# What processes are at, for a diagnostic: what they wait for in the kernel, and where in the program, if gdb is there.
sub describe_processes
{
	my $text = '';

	foreach my $pid (@_)
	{
		my $state = join ' ', slurp_proc("/proc/$pid/status") =~ /^(State:.*|PPid:.*|TracerPid:.*|SigBlk:.*|SigCgt:.*)$/mg;
		my $trace = '';

		# as root it could look at all processes; as the server's user at its own, where the kernel allows that
		eval { IPC::Run::run([ 'gdb', '-p', $pid, '-batch', '-nx', '-ex', 'bt 30' ], '<', \'', '>', \$trace, '2>', \my $ignored, IPC::Run::timeout(20)) }
		  if alive($pid) && grep { -x "$_/gdb" } split /:/, $ENV{PATH};
		$text .= "process $pid: " . (slurp_proc("/proc/$pid/cmdline") =~ tr/\0/ /r) . "\n";
		$text .= "  $state wchan: " . slurp_proc("/proc/$pid/wchan") . "\n";
		$text .= join '', map { "  $_\n" } grep { /^#/ } split /\n/, $trace;
	}
	return $text;
}

# After kill9(): wait until all processes of the server have ended. The postmaster's parent may be slow to notice its end;
# its pid would look like that of another server. A startup process that was just going to ask for the checkpoint at the end of recovery waits
# for a minute for a checkpointer that has ended (RequestCheckpoint), in any server.
sub wait_until_gone
{
	my ($node) = @_;

	if (!wait_for('all processes of the server have ended', 75, sub { !processes_of($node) }))
	{
		diag(describe_processes(processes_of($node)));
		return 0;
	}
	unlink $node->data_dir . '/postmaster.pid', $node->host . '/.s.PGSQL.' . $node->port . '.lock';
	return 1;
}

# Run code in a child process; finish_background() returns its exit status (0: it returned true).
sub in_background
{
	my ($code) = @_;
	my $pid = fork // croak "fork: $!";

	if ($pid == 0)
	{
		# not this process's tests, and not its clean-up
		my $ok = eval { $code->() };
		print STDERR "background: $@" if $@;
		require POSIX;
		POSIX::_exit($ok ? 0 : 1);
	}
	push @children, $pid;
	return $pid;
}

sub finish_background
{
	my ($pid) = @_;

	waitpid($pid, 0);
	my $status = $?;
	@children = grep { $_ != $pid } @children;
	return $status;
}

# Where the server's log ends now, and what was added to it since.
sub log_position
{
	my ($node) = @_;

	return -s $node->logfile // 0;
}

sub log_since
{
	my ($node, $position) = @_;

	open(my $log, '<', $node->logfile) or return '';
	seek($log, $position, 0);
	local $/;
	return <$log> // '';
}

# The last lines of that, without what a crash makes every process say.
sub log_tail
{
	my ($node, $position) = @_;
	my @lines = grep { !/terminating connection because|in a moment you should|the postmaster has commanded/i }
	  split /\n/, log_since($node, $position);

	return join "\n", map { substr $_, 0, 300 } @lines[ ($#lines > 40 ? $#lines - 40 : 0) .. $#lines ];
}

# With a position: from there on
sub count_log_lines
{
	my ($node, $pattern, $position) = @_;
	my $count = 0;

	open(my $log, '<', $node->logfile) or return 0;
	seek($log, $position // 0, 0);
	while (<$log>)
	{
		$count++ if $_ =~ $pattern;
	}
	return $count;
}

# Was the extension built with FAULT_POINTS=1?
sub has_fault_points
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_settings WHERE name = 'legobase.fault_points'") eq '1';
}

# The names of the fault points in source files, by their patterns; without those that only the rdma transport comes to, which
# LegoBase::Rdma has.
sub fault_points_of
{
	return grep { !/\brdma\./ } all_fault_points_of(@_);
}

sub all_fault_points_of
{
	my %points;

	foreach my $file (map { glob "$source_tree/$_" } @_)
	{
		my $text = PostgreSQL::Test::Utils::slurp_file($file);
		$points{$1} = 1 while $text =~ /LB_FAULT\(\s*"([^"]+)"/g;
	}
	return sort keys %points;
}

# Set what postgresql.conf says of fault points, and tell it to these processes only; by default to the postmaster, and so
# to all. It takes it from there also while it restarts its children.
sub set_fault_points
{
	my ($node, $specification, @processes) = @_;

	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "'$specification'");
	kill 'HUP', @processes ? @processes : $node->{_pid};
	return;
}

# In this order: clients, servers, their embedded memory nodes. (Memory nodes of their own end themselves.)
END
{
	my $status = $?;

	kill 'KILL', @children if @children;
	foreach my $node (@clusters)
	{
		my $pid = embedded_node_pid($node);
		$node->stop('immediate', fail_ok => 1) if defined $node->{_pid};
		$pid //= embedded_node_pid($node);
		kill 'KILL', $pid if defined $pid;
	}
	LegoBase::Memnode::end_all();
	$? = $status;
}

1;
