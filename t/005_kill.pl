# Processes killed with SIGKILL at every fault point, and wherever they are, under a workload whose clients note what
# was acknowledged: nothing acknowledged is lost, nothing is wrong afterwards, also for a server without the extension.
#
# Fault points exist in builds with FAULT_POINTS=1 only. They are found by searching the sources for LB_FAULT.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $clients = 3;
my $round = 0;

my $memnode = LegoBase::Memnode->new(transport => 'tcp');
my $node = legobase_cluster('kill', nodes => [$memnode], conf => 'max_wal_size = 4GB');
my $workload = LegoBase::Workload->new($node);
my $folder = PostgreSQL::Test::Utils::tempdir_short();

make_filler($node);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE acknowledged (round int, client int, n int, PRIMARY KEY (round, client, n));
	CREATE DATABASE seed;
});
$node->safe_psql('seed', 'CREATE TABLE t AS SELECT generate_series(1, 1000) i');

sub fault_points
{
	my ($where) = @_;
	my %points;

	foreach my $file (glob "$source_tree/$where")
	{
		my $text = PostgreSQL::Test::Utils::slurp_file($file);
		$points{$1} = 1 while $text =~ /LB_FAULT\(\s*"([^"]+)"/g;
	}
	return sort keys %points;
}

# --- clients that note what was acknowledged -------------------------------------------------------------------------

# A script for psql: after each commit it prints the number of the transaction.
sub write_client_script
{
	my ($client) = @_;
	my $text = '';

	foreach my $n (1 .. 4000)
	{
		my ($from, $to) = sort { $a <=> $b } (int rand LegoBase::Workload::TABLES, int rand LegoBase::Workload::TABLES);
		my $group = int rand LegoBase::Workload::GROUPS;
		my @ids = sort { $a <=> $b }
		  map { $group + LegoBase::Workload::GROUPS * int rand 100 } (1, 2);
		my $amount = int rand 10;

		$text .= "BEGIN;\n"
		  . "UPDATE account_$from SET balance = balance - $amount WHERE id = $ids[0];\n"
		  . "UPDATE account_$to SET balance = balance + $amount WHERE id = $ids[1];\n"
		  . "INSERT INTO acknowledged VALUES (:round, $client, $n);\n"
		  . "COMMIT;\n\\echo $n\n";
	}
	PostgreSQL::Test::Utils::append_to_file("$folder/client_$client.sql", $text);
	return;
}

write_client_script($_) foreach (1 .. $clients);

# What makes the rarer code run: files truncated, dropped and extended, reads past the last page used, checkpoints.
PostgreSQL::Test::Utils::append_to_file(
	"$folder/ddl.sql", join '', map {
		qq{
CREATE TABLE passing_$_ (id int, pad text);
INSERT INTO passing_$_ SELECT i, repeat('x', 500) FROM generate_series(1, 2000) i;
CREATE INDEX ON passing_$_ (id);
DELETE FROM passing_$_ WHERE id > 100;
VACUUM passing_$_;
SELECT count(*) FROM account;
CHECKPOINT;
SELECT pg_prewarm('filler', 'buffer');
SELECT pg_prewarm('filler', 'prefetch');
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT sum(balance) FROM account WHERE grp BETWEEN 3 AND 6;
RESET ALL;
TRUNCATE passing_$_;
DROP TABLE passing_$_;
CREATE DATABASE passing TEMPLATE seed STRATEGY file_copy;
DROP DATABASE passing;
}
	} (1 .. 50));

sub start_clients
{
	my @running;

	$round++;
	foreach my $script ((map { "client_$_" } (1 .. $clients)), 'ddl')
	{
		my $connection = $node->connstr('postgres');
		my $output = "$folder/$script.out";
		my @command = ('psql', '-X', '-q', '-A', '-t', '-v', "round=$round", '-d', $connection, '-f', "$folder/$script.sql");

		push @command, '-v', 'ON_ERROR_STOP=1' if $script =~ /client/;
		push @running, IPC::Run::start \@command, '<', \'', '>', $output, '2>', "$folder/$script.err";
	}
	return @running;
}

sub stop_clients
{
	foreach my $client (@_)
	{
		$client->signal('TERM');
		$client->finish;
	}
	return;
}

# Every transaction whose number was printed is there. (A client's last one may be there without.)
sub check_acknowledged
{
	my ($what, $least) = @_;
	my $total = 0;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $client (1 .. $clients)
	{
		my $printed = () = PostgreSQL::Test::Utils::slurp_file("$folder/client_$client.out") =~ /^\d+$/mg;
		my $there = $node->safe_psql('postgres',
			"SELECT count(*) FROM acknowledged WHERE round = $round AND client = $client AND n <= $printed");

		is($there, $printed, "$what: all $printed acknowledged transactions of client $client are there");
		$total += $printed;
	}
	cmp_ok($total, '>=', $least, "$what: there were some") if $least;
	$workload->check($what);
	return;
}

sub server_deaths
{
	return count_log_lines($node, qr/was terminated by signal 9/);
}

sub ready_lines
{
	return count_log_lines($node, qr/database system is ready to accept connections/);
}

# Set what postgresql.conf says of fault points. The postmaster takes it from there, also while it restarts its children.
sub set_fault_points
{
	my ($specification) = @_;

	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "'$specification'");
	kill 'HUP', $node->{_pid};
	return;
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
	my @running = start_clients();
	my $died;

	# not at the first time: let there be something to lose
	set_fault_points("$point=kill\@5");
	$died = wait_for("a process dies at $point", 15, sub { server_deaths() > $deaths });
	set_fault_points('');
	ok($died, "$point: a process was killed there");
	stop_clients(@running) unless $died;
	$_->finish foreach ($died ? @running : ());
	ok(!$died || wait_until_recovered($ready), "$point: the server recovers");
	check_acknowledged($point);
	return;
}

# --- memory nodes at each fault point --------------------------------------------------------------------------------

sub kill_memnode_at
{
	my ($point) = @_;
	my @running;

	$memnode->stop;
	# accepting is the rarest
	$memnode->start('--fault-points', $point =~ /accept/ ? "$point=kill\@3" : "$point=kill\@200");
	@running = start_clients();
	ok(wait_for("the memory node dies at $point", 20, sub { !$memnode->running }), "$point: the memory node was killed there");
	$memnode->start;
	ok(wait_for_nodes($node), "$point: the memory node is used again");
	my @unfinished = grep { $_->pumpable } @running;
	is(scalar(@unfinished), scalar(@running), "$point: no client was disconnected");
	stop_clients(@running);
	check_acknowledged($point);
	return;
}

# --- failures and delays at each fault point -------------------------------------------------------------------------

# Points at which something can fail, or which a delay makes a race of: nothing is noticed but in the counters.
sub disturb
{
	my ($what, $specification, $server_only) = @_;

	set_fault_points($specification);
	my $run = $workload->start(clients => 8, seconds => 4);
	my @running = start_clients();
	ok(LegoBase::Workload::finish($run), "$what: no query failed, no sum was wrong");
	set_fault_points('');
	stop_clients(@running);
	check_acknowledged($what);
	is(summary($node)->{compare_mismatches}, 0, "$what: no page differed from its file");
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

my $fault_points = has_fault_points($node);

SKIP:
{
	skip 'this build has no fault points (FAULT_POINTS=1)', 1 unless $fault_points;

	$node->append_conf('postgresql.conf', "legobase.fault_points = ''");
	my @points = grep { !/^smgr_table\./ } (fault_points('src/*.c'), fault_points('src/common/*.c'));
	my @memnode_points = fault_points('memnode/*.c');

	cmp_ok(scalar(@points), '>', 8, 'fault points of the extension: ' . join(' ', @points));
	cmp_ok(scalar(@memnode_points), '>', 3, 'fault points of the memory node: ' . join(' ', @memnode_points));
	kill_server_at($_) foreach @points;
	kill_memnode_at($_) foreach @memnode_points;

	$node->append_conf('postgresql.conf', 'legobase.debug_compare = on');
	disturb('every point fails now and then', join ',', map { "$_=fail\@50" } @points[ 0 .. ($#points > 15 ? 15 : $#points) ]);
	# few at a time: a specification has a limit
	disturb('delays', join ',', map { "$_=wait:2" } @points[ 0 .. ($#points > 15 ? 15 : $#points) ]);
	$node->adjust_conf('postgresql.conf', 'legobase.debug_compare', 'off');
	set_fault_points('');
	late_push();
}

# --- processes killed wherever they are ------------------------------------------------------------------------------

sub kill_process
{
	my ($what, $find) = @_;
	my $ready = ready_lines();
	my @running = start_clients();

	# once it has done something
	wait_for('transactions are acknowledged', 10, sub { -s "$folder/client_1.out" });
	my $pid = $find->();
	ok($pid, "$what: found") or return stop_clients(@running);
	kill 'KILL', $pid;
	$_->finish foreach @running;
	ok(wait_until_recovered($ready), "$what killed: the server recovers");
	check_acknowledged("$what killed", 1);
	return;
}

kill_process(
	'backend',
	sub {
		$node->safe_psql('postgres',
			q{SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE '%account\_%' LIMIT 1});
	});
kill_process('checkpointer', sub { server_process($node, 'checkpointer') });
kill_process('background writer', sub { server_process($node, 'background writer') });
kill_process('buffer agent', sub { server_process($node, 'legobase') });

{
	my @running = start_clients();
	wait_for('transactions are acknowledged', 10, sub { -s "$folder/client_1.out" });
	$node->kill9;
	$_->finish foreach @running;
	wait_until_gone($node);
	$node->start;
	wait_for_nodes($node);
	check_acknowledged('postmaster killed', 1);
}

# The startup process, in the middle of redo: there is plenty to redo, and it dies before the end.
SKIP:
{
	skip 'this build has no fault points (FAULT_POINTS=1)', 1 unless $fault_points;

	my @running = start_clients();
	wait_for('some WAL', 30,
		sub { () = PostgreSQL::Test::Utils::slurp_file("$folder/client_1.out") =~ /\n/g; $node->safe_psql('postgres', q{SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), redo_lsn) > 1000000 FROM pg_control_checkpoint()}) eq 't' });
	$node->stop('immediate');
	$_->finish foreach @running;
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
	check_acknowledged('startup process killed', 1);
}

# --- at the end ------------------------------------------------------------------------------------------------------

is(differing_blocks($node, 'postgres'), '', 'all pages read as they are in the files');
amcheck_clean($node, 'at the end');
{
	my @running = start_clients();
	wait_for('transactions are acknowledged', 10, sub { -s "$folder/client_1.out" });
	$node->stop('immediate');
	$_->finish foreach @running;
	start_stock($node);
	check_acknowledged('recovered by a server without the extension', 1);
	amcheck_clean($node, 'recovered by a server without the extension');
	$node->stop;
}

done_testing();
