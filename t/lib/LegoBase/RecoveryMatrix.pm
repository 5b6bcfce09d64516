# The crash matrix of recovery: processes are killed while the server attaches to what its former life has left, while it redoes and
# while it warms up, at each fault point there and at random moments, several in a row; and tier 1's beside them.
#
# Rounds, and what is looked at after each, are those of CrashMatrix.pm. In every tenth round in which the whole server is killed (in all, with
# LEGOBASE_LONG=1) the recovery is compared with a plain redo of a copy of the same data directory.

package LegoBase::RecoveryMatrix;

use strict;
use warnings;

use Exporter 'import';
use LegoBase;
use LegoBase::CrashMatrix qw(
  sample_of set_up matrix run_plan count_kill reached some_times
  round process_dies all_die random_death
  kill_server kill_memnode start_memnodes await_children start_server come_back wait_until_in_use
  points_of_recovery
);
use LegoBase::Restart;
use List::Util qw(shuffle);
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(run_recovery_matrix);

use constant LEAST_KILLS => 100;
use constant SERIES => 14;	# of kills while the server recovers

# Who comes to a point, and when: in a life of the server that has something to come back to, or as long as it runs.
my @who = (
	[ qr/^agent\.control/, 'buffer agent', 'running' ],
	[ qr/^checkpoint\./, 'checkpointer', 'running' ],
	[ qr/^tier1\./, 'tier-1 checkpointer', 'running' ],
	[ qr/^agent\./, 'buffer agent', 'starting' ],
	[ qr/^warmup\./, 'warm-up worker', 'starting' ],
	[ qr/^(gate|reload|redo)\./, 'startup process', 'starting' ]);

# By its title, for the count of kills
my @kinds = ('startup', 'buffer agent', 'tier-1 checkpointer', 'warm-up', 'checkpointer', 'background writer', 'walwriter');

my ($node, @memnodes);

# Children of the postmaster, by chance; undefined if there is none. The startup process, which is not always there, more often than others.
sub some_child
{
	my $postmaster = $node->{_pid} // 0;
	my @children = shuffle grep { $_ != $postmaster } processes_of($node);
	my ($startup) = grep { kind_of($_) eq 'startup process' } @children;

	return defined $startup && rand() < 0.6 ? $startup : $children[0];
}

sub kind_of
{
	my ($pid) = @_;

	open(my $file, '<', "/proc/$pid/cmdline") or return 'other process';
	my $title = <$file> // '';
	my ($kind) = grep { $title =~ /\b\Q$_\E\b/ } @kinds;
	return !defined $kind ? 'other process' : $kind eq 'startup' ? 'startup process' : $kind;
}

# One of them dies now.
sub kill_somebody
{
	my $chance = rand;
	my $child = some_child();

	if ($chance < 0.3)
	{
		kill_server();
		return await_children();
	}
	if ($chance < 0.4)
	{
		kill_memnode($memnodes[ rand @memnodes ]);
		start_memnodes();
		return 1;
	}
	if (defined $child)
	{
		my $kind = kind_of($child);

		count_kill($kind) if kill 'KILL', $child;
	}
	return 1;
}

# The server is started without being waited for, and somebody is killed before it is ready, or soon after: again and again.
sub killed_again_and_again
{
	my ($times) = @_;

	round(
		"$times more killed while the server recovers",
		sub {
			kill_server();
			foreach (1 .. $times)
			{
				if (!defined $node->{_pid} || !alive($node->{_pid}))
				{
					return 0 unless await_children() && launch($node);
				}
				usleep(rand 700_000);
				kill_somebody() or return 0;
			}
			return come_back();
		});
	return;
}

# The server is killed and started, and dies at the point. It goes on when it reads that the point is off. With nothing to redo
# there is room for pages that are read back.
sub arm_and_launch
{
	my ($point, $action) = @_;

	if ($point =~ /^warmup/)
	{
		matrix()->{clients}->stop;
		settle($node);
	}
	kill_server();
	await_children() or return 0;
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "'$point=$action\@1'");
	return launch($node);
}

sub disarm
{
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', q{''});
	kill 'HUP', $node->{_pid} if defined $node->{_pid};
	return;
}

sub dies_at_start
{
	my ($point, $who) = @_;

	round(
		"$who killed at $point",
		sub {
			my ($position) = @_;

			arm_and_launch($point, 'kill') or return 0;
			my $died = wait_for("a $who dies at $point", 20,
				sub { count_log_lines($node, qr/terminated by signal 9/, $position) });
			disarm();
			if ($died)
			{
				count_kill($who);
				reached($point);
			}
			return come_back() && $died;
		});
	return;
}

# It stops itself there; others die meanwhile, and it is told to end, or goes on without them.
sub stops_at_start
{
	my ($point, $who, @victims) = @_;
	my $names = join ', then ', map { /^\d/ ? 'a memory node' : $_ } @victims;

	round(
		"$who at $point: $names killed",
		sub {
			arm_and_launch($point, 'stop') or return 0;
			my @stopped;
			my $there = wait_for("a $who stops at $point", 20, sub { @stopped = stopped_processes($node) });
			disarm();
			reached($point) if $there;
			foreach my $victim (@victims)
			{
				$victim eq 'server' ? kill_server()
				  : $victim eq 'itself, politely,' ? kill('TERM', @stopped)
				  : kill_memnode($memnodes[$victim]);
			}
			start_memnodes();
			kill 'CONT', @stopped unless grep { $_ eq 'server' } @victims;
			return come_back() && $there;
		});
	return;
}

# The memory node is started with the point armed, while clients work. It may die before the server is told to come back to it. With
# "stop" it hangs there, and dies only when the server is back.
sub memnode_dies
{
	my ($point, $action) = @_;
	my $memnode = $memnodes[ rand @memnodes ];
	my $times = 1 + int rand($point =~ /reload/ ? 1 : 4);

	round(
		"memory node at $point: $action",
		sub {
			my $there = sub { !$memnode->running || $memnode->stopped };

			kill_memnode($memnode);
			$memnode->start('--fault-points', "$point=$action\@$times");
			wait_for('the server is back', 30, sub { usleep(50_000); $there->() || answers($node) }) or return 0;
			if ($point =~ /reload/)
			{
				# something that can be listed
				wait_for('pages in this memory node', 20,
					sub { $there->() || (eval { summary($node)->{nodes_up} } // 0) == @memnodes }) or return 0;
				fill_buffers($node) unless $there->();
				kill_server();
				return 0 unless await_children() && launch($node);
			}
			my $reached = wait_for(
				"a memory node comes to $point",
				20,
				sub {
					# each checkpoint is named to it; the clients may be gone
					eval { $node->psql('postgres', 'CHECKPOINT') } if $point =~ /control/ && !$there->();
					return $there->();
				});
			if ($reached)
			{
				reached($point);
				count_kill('memory node');
			}
			my $back = $action eq 'kill' || come_back();
			$memnode->kill9 if $memnode->running;
			start_memnodes();
			return come_back() && $back && $reached;
		});
	return;
}

sub plan_of_kills
{
	my @points = points_of_recovery();
	my @plan;

	note("points of recovery: @points");
	foreach my $point (grep { !/^memnode\./ } @points)
	{
		my ($match) = grep { $point =~ $_->[0] } @who;
		my (undef, $process, $when) = @{$match};
		my $victim = int rand @memnodes;

		if ($when eq 'running')
		{
			push @plan, (sub { process_dies($point, $process) }) x 2;
			push @plan, sub { all_die($point, $process, 'server') };
			push @plan, sub { all_die($point, $process, 'server', $victim) };
			push @plan, sub { all_die($point, $process, $victim, 'server') };
		}
		else
		{
			push @plan, (sub { dies_at_start($point, $process) }) x 2;
			push @plan, sub { stops_at_start($point, $process, 'server') };
			push @plan, sub { stops_at_start($point, $process, 'server', $victim) };
			push @plan, sub { stops_at_start($point, $process, $victim) };
			push @plan, sub { stops_at_start($point, $process, 'itself, politely,') } if $process ne 'startup process';
		}
	}
	foreach my $point (grep { /^memnode\./ } @points)
	{
		push @plan, (sub { memnode_dies($point, 'kill') }) x 2, sub { memnode_dies($point, 'stop') };
	}
	foreach (1 .. SERIES)
	{
		push @plan, sub { killed_again_and_again(2 + int rand 5) };
	}
	push @plan, (sub { random_death('postmaster') }) x 3, (sub { random_death('tier-1 checkpointer') }) x 3,
	  (sub { random_death('buffer agent') }) x 2, (sub { random_death('memory node') }) x 2;
	return shuffle @plan;
}

# transport: shm (one memory node), tcp (two) or rdma (one); interval: legobase.tier1_interval, in seconds. Parameters: rounds (so many of
# the plan only, by chance), node_timeout
sub run_recovery_matrix
{
	my ($transport, $interval, %params) = @_;
	my $rounds = $params{rounds};
	my $seed = $ENV{LEGOBASE_SEED} // int(Time::HiRes::time()) ^ $$;

	srand $seed;
	note("LEGOBASE_SEED=$seed makes the same plan again");
	set_up(
		$transport,
		conf => "shared_buffers = 2MB\nlegobase.tier1_interval = " . $interval * 1000 . "ms\n",
		compare_every => $rounds ? 0 : $ENV{LEGOBASE_LONG} ? 1 : 10,
		patience => 10 + 2 * $interval,
		node_timeout => $params{node_timeout},
		tier1_ms => $interval * 1000);
	($node, @memnodes) = (matrix()->{node}, @{ matrix()->{memnodes} });
	plan skip_all => 'this build has no fault points (FAULT_POINTS=1)' unless has_fault_points($node);
	ok(wait_for_warm_list($node), 'the list of local pages is there');
	run_plan(
		sub { return $rounds ? sample_of($rounds, plan_of_kills()) : plan_of_kills() },
		repetitions => $ENV{LEGOBASE_LONG} ? 6 : 1,
		points => $rounds ? [] : [ points_of_recovery() ],
		who => $rounds ? [] : [ 'buffer agent', 'tier-1 checkpointer', 'startup process', 'warm-up worker', 'postmaster', 'memory node' ],
		least => $rounds ? $rounds / 2 : LEAST_KILLS,
		dirty => 0.6);
	return;
}

1;
