# Failover: the same data directory and the same memory nodes, another host. What docs/operations.md says an operator does is done here,
# in the same order. The other host is another server with its own port and socket that does not see the first one's shared memory.
#
# The first server is dead; or it hangs, and goes on later. (In practice its storage is fenced before, so that it can't write any
# more. Here nothing is under way in it when it hangs.)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use LegoBase::Acknowledged;
use LegoBase::Restart;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($first, $second, $workload, @memnodes);

sub set_up
{
	my ($name, $transport) = @_;

	@memnodes = map { LegoBase::Memnode->new(transport => $transport) } (1, 2);
	$first = legobase_cluster(
		"first_$name",
		nodes => \@memnodes,
		write_mode => 'writeback',
		conf => "legobase.node_timeout = 1s\nlegobase.tier1_interval = 200ms\nlegobase.debug_compare = on\nlegobase.take_over = off");
	$second = another_server("second_$name", $first->basedir);
	expect_write_mode($second, 'writeback');
	make_words($first);
	$workload = LegoBase::Workload->new($first, rows => 1000);
	make_remote($first);
	return;
}

sub end_all
{
	$second->stop;
	$_->stop foreach @memnodes;
	return;
}

# Whose lock file is it? Process, folder, time of start.
sub first_lines
{
	my ($contents) = @_;

	return join '', grep { defined } (split /^/, $contents)[ 0 .. 2 ];
}

# --- the first is dead -------------------------------------------------------------------------------------------------

foreach my $transport ('shm', 'tcp')
{
	my $what = "$transport, the first host is dead";
	my ($clients, $r);

	set_up("dead_$transport", $transport);
	$clients = LegoBase::Acknowledged->new($first, $workload, ddl => 0);
	change_words($first, 'dead');
	$clients->start;
	$clients->wait_until_busy;
	wait_until_remote($first);
	kill_server_of($first);
	$clients->stop;
	ok(start_elsewhere($second), "$what: the second starts, without taking over") or diag(log_tail($second, 0));
	wait_for_nodes($second);
	$r = kept($second, 2, $what);
	cmp_ok($r->{redo_skipped}, '>', 0, "$what: $r->{redo_skipped} of $r->{redo_records} records were skipped");
	# the clients' questions go to the server that is there
	($clients->{node}, $workload->{node}) = ($second, $second);
	$clients->check($what, 1);
	words_are_right($second, 'dead', $what);
	amcheck_clean($second, $what);
	end_all();
}

# --- the first hangs, and goes on later --------------------------------------------------------------------------------

foreach my $transport ('shm', 'tcp')
{
	my $what = "$transport, the first host hangs";
	my ($position, @processes, $lock, $r);

	set_up("hangs_$transport", $transport);
	settle($first);
	quieten();
	change_words($first, 'hangs');
	cmp_ok(dirty_pages_of($first, 'postgres', 't'), '>', 50, "$what: pages that no file has");
	$first->safe_psql('postgres', 'SELECT pg_switch_wal()');
	wait_until_remote($first);
	@processes = stop_processes($first);
	cmp_ok(scalar(@processes), '>', 1, "$what: nothing of it runs");

	another_host($second);
	ok(start_elsewhere($second, 'legobase.take_over=on'), "$what: the second takes over") or diag(log_tail($second, 0));
	wait_for_nodes($second);
	$r = kept($second, 2, $what);
	cmp_ok($r->{pages_dirty}, '>', 50, "$what: the dirty pages are there");
	is(words($second), 'hangs|4000', "$what: all rows are there");
	change_words($second, 'second');
	# what the first may still write to its last WAL segment is nothing that a recovery of the second would read
	$second->safe_psql('postgres', 'SELECT pg_switch_wal()');
	settle($second);
	change_words($second, 'on the second');

	# The agent is the first to find out: its connections are closed. Its postmaster finds the same at the fence.
	$position = log_position($first);
	$lock = lock_file($second);
	kill 'CONT', reverse @processes;
	ok( wait_for('the first ends', 40, sub { !grep { alive($_) } @processes }),
		"$what: the first ends when it goes on") or diag(describe_processes(grep { alive($_) } @processes));
	like( log_since($first, $position),
		qr/another server has taken over|lock file "postmaster.pid" contains wrong PID/,
		"$what: ... and says why");
	unlike(log_since($first, $position), qr/redo starts|ready to accept connections/, "$what: ... before it changed anything");
	$first->{_pid} = undef;
	# A server that ends removes the lock file, whosever it is; and one whose lock file is gone stops.
	# (its restart after the crash has put its own shared memory's key there, as any server does)
	is(first_lines(lock_file($second)), first_lines($lock), "$what: the lock file of the second is there");
	PostgreSQL::Test::Utils::append_to_file($second->data_dir . '/postmaster.pid', $lock) if lock_file($second) eq '';
	is(up_nodes($second), 2, "$what: the second goes on with its nodes");
	words_are_right($second, 'on the second', $what);

	# nothing is left of the take-over that would hinder an ordinary restart, and what the first had is not mixed in
	change_words($second, 'later');
	$second->kill9;
	wait_until_gone($second);
	ok(start_elsewhere($second), "$what: a crash of the second") or diag(log_tail($second, 0));
	wait_for_nodes($second);
	kept($second, 2, "$what, a crash of the second");
	words_are_right($second, 'later', "$what, a crash of the second");
	amcheck_clean($second, $what);
	end_all();
}

# --- the first hangs, and nobody says that it is to be replaced --------------------------------------------------------

{
	my $what = 'without taking over';
	my @processes;

	set_up('refused', 'tcp');
	change_words($first, 'refused');
	wait_until_remote($first);
	@processes = stop_processes($first);
	cmp_ok(scalar(@processes), '>', 1, "$what: nothing of the first runs");
	another_host($second);
	ok(start_elsewhere($second), "$what: the second recovers from files and WAL") or diag(log_tail($second, 0));
	is(up_nodes($second), 0, "$what: no node serves it");
	like(join(' ', map { $_->{last_error} // '' } @{ node_rows($second) }), qr/held by /, "$what: ... and why");
	is(words($second), 'refused|4000', "$what: rows");
	kill 'KILL', @processes;
	wait_for('the first has ended', 10, sub { !grep { alive($_) } @processes });
	$first->{_pid} = undef;
	ok(wait_for_nodes($second), "$what: the nodes serve it when the other one is gone");
	nothing_kept($second, $what);
	words_are_right($second, 'refused', $what);
	end_all();
}

done_testing();
