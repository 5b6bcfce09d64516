# The crash matrix of write-back: processes of a server and memory nodes are killed at each fault point and at random
# moments, alone and together, under clients that note each acknowledged commit.
#
# A round starts the clients, kills, waits until the server is back and writes back again, and looks: every acknowledged
# commit is there, all sums are right, amcheck finds nothing in tables and indexes. After some rounds, and at the end, the
# same data directory is recovered by a server without the extension, after another crash, and pg_amcheck looks at
# everything.
#
# A fault point is armed in one process only: postgresql.conf says it, and only this process is told to read it. Where more
# than that process is to be killed at that very moment, it stops itself there first.
#
# RecoveryMatrix.pm has the plan for recovery, made of the same rounds.

package LegoBase::CrashMatrix;

use strict;
use warnings;

use Exporter 'import';
use LegoBase;
use LegoBase::Acknowledged;
use LegoBase::PlainRedo;
use LegoBase::Rdma;
use LegoBase::Restart;
use LegoBase::Workload;
use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(run_crash_matrix run_crash_matrix_rdma);
our @EXPORT_OK = qw(
  sample_of set_up matrix run_plan count_kill reached some_times
  round process_dies all_die random_death
  kill_server kill_memnode start_memnodes await_children start_server come_back wait_until_in_use rearm
  points_of_recovery
);

use constant LEAST_KILLS => 100;
use constant ROUNDS_IN_A_GROUP => 25;

my %title_of = (
	'backend' => 'local',
	'checkpointer' => 'checkpointer',
	'background writer' => 'background writer',
	'buffer agent' => 'buffer agent',
	'tier-1 checkpointer' => 'tier-1 checkpointer');

# Who is killed at a point: the first pattern that matches.
my @who = (
	[ qr/^agent\./, 'buffer agent' ],
	[ qr/^checkpoint\./, 'checkpointer' ],
	[ qr/^writeback\./, 'backend', 'checkpointer', 'background writer' ],
	[ qr/^/, 'backend' ]);

# What t/018 is about, and its plan: attaching to what a former life has left, redo, tier 1, warm-up
my $of_recovery =
  qr/^(agent\.(reload|control)|checkpoint\.told|memnode\.(reload|control)|(gate|reload|redo|tier1|warmup)\.)/;

# What an agent comes to only when it takes over from another one, or attaches
my $at_attaching = qr/^(agent|memnode)\.(resume|storage|rdma\.(join|accept))/;

# What happens once in the life of a server, in the postmaster
my $only_at_start = qr/^(smgr_table\.|fence\.locked)/;

# What happens once a page, and not once a checkpoint or less: let some go by
my $often = qr/^(writeback|push|read|write|memnode\.(received|(rdma\.)?pull(ed)?|published|acknowledge|read))\b/;

my ($node, $workload, $clients, @memnodes);
my (%kills, %at_point, $rounds, $rounds_with_dirty_pages, $failed);

# Every so many rounds, what was recovered is compared with a plain redo of a copy; 0: never. Copied when the server is next killed as a
# whole.
my ($compare_every, $compare_due, $copy) = (0, 0, undef);
my $compared = 0;

# How long somebody may take to come to a point, in seconds
my $patience = 10;

# legobase.tier1_interval, if it is known, in milliseconds. Who is to come to a point of tier 1 must not have to wait for rounds that are far apart, and
# may find nothing to flush: for that time it is shorter.
my ($tier1_ms, $hurried) = (0, 0);

# --- the server ------------------------------------------------------------------------------------------------------

# Parameters: conf (more settings), compare_every (see above), patience, tier1_ms, node_timeout
sub set_up
{
	my ($transport, %params) = @_;

	$compare_every = $params{compare_every} // 0;
	$patience = $params{patience} // $patience;
	$tier1_ms = $params{tier1_ms} // 0;
	my $node_timeout = $params{node_timeout} // '300ms';
	@memnodes = map { LegoBase::Memnode->new(transport => $transport) } ($transport eq 'tcp' ? (1, 2) : (1));
	$node = legobase_cluster(
		"matrix_$transport",
		nodes => \@memnodes,
		write_mode => 'writeback',
		conf => "legobase.node_timeout = $node_timeout\nlegobase.fault_points = ''\nmax_wal_size = 4GB\n" . ($params{conf} // ''));
	$workload = LegoBase::Workload->new($node, rows => 1000);
	make_filler($node);
	$clients = LegoBase::Acknowledged->new($node, $workload, clients => 2);
	$node->safe_psql(
		'postgres', q{
		CREATE EXTENSION amcheck;
		CREATE FUNCTION damage() RETURNS SETOF text LANGUAGE plpgsql AS $$
		DECLARE
			rel record;
		BEGIN
			FOR rel IN SELECT oid, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace
				AND relpersistence = 'p' AND (relname LIKE 'account\_%' OR relname LIKE 'acknowledged%')
			LOOP
				IF rel.relkind = 'r' THEN
					RETURN QUERY SELECT format('%s: %s', rel.oid::regclass, to_json(v)) FROM verify_heapam(rel.oid) v LIMIT 3;
				ELSIF rel.relkind = 'i' THEN
					BEGIN
						PERFORM bt_index_check(rel.oid, true);
					EXCEPTION WHEN OTHERS THEN
						RETURN NEXT format('%s: %s', rel.oid::regclass, SQLERRM);
					END;
				END IF;
			END LOOP;
		END $$;
	});
	return;
}

# For plans made elsewhere
sub matrix
{
	return { node => $node, clients => $clients, memnodes => \@memnodes };
}

sub count_kill
{
	my ($who) = @_;

	$kills{$who}++;
	return;
}

sub reached
{
	my ($point) = @_;

	$at_point{$point}++;
	return;
}

# The server is up, and writes back to all memory nodes.
sub wait_until_in_use
{
	return wait_for(
		'the server is back, with its memory nodes',
		30,
		sub {
			usleep(30_000);
			my $s = eval { summary($node) } or return 0;
			return $s->{nodes_up} == @memnodes && $s->{pool_pages} > 0 && $s->{write_mode} eq 'writeback';
		});
}

# The server has noticed a death, and restarted itself.
sub wait_for_restart
{
	my ($position) = @_;

	return wait_for('the server has restarted itself', 30,
		sub { count_log_lines($node, qr/ready to accept connections/, $position) });
}

sub start_memnodes
{
	foreach my $memnode (@memnodes)
	{
		$memnode->start unless $memnode->running;
	}
	return;
}

sub kill_server
{
	$node->kill9;
	$kills{postmaster}++;
	return;
}

sub kill_memnode
{
	my ($memnode) = @_;

	$memnode->kill9;
	$kills{'memory node'}++;
	return;
}

# The children of a postmaster that was killed see that it is gone, but for those that have stopped themselves, or still do. These may
# hold LWLocks, which are waited for without a look at the postmaster, in any server: when one of them is killed, all are.
# (See wait_until_gone() for how long that may take.)
sub await_children
{
	my $any_stopped;
	my $ended = wait_for(
		'the children have ended',
		75,
		sub {
			$any_stopped = 1 if stopped_processes($node);
			kill 'KILL', processes_of($node) if $any_stopped;
			!processes_of($node);
		});

	if (!$ended)
	{
		diag(describe_processes(processes_of($node)));
		return 0;
	}
	wait_until_gone($node);
	$node->{_pid} = undef;
	if ($compare_due)
	{
		$copy = LegoBase::PlainRedo->new($node);
		$compare_due = 0;
	}
	return 1;
}

sub start_server
{
	my $position = log_position($node);

	return 0 unless await_children();
	return 1 if $node->start(fail_ok => 1);
	diag("the server does not start:\n" . log_tail($node, $position));
	diag(describe_processes(processes_of($node)));
	return 0;
}

# The server was started, and may have lost processes or memory nodes since: it restarts itself, or ends, as it does when the startup
# process is lost, and is started again.
sub come_back
{
	foreach my $try (1 .. 3)
	{
		if (defined $node->{_pid} && alive($node->{_pid}))
		{
			wait_for('the server answers, or ends', 60, sub { !alive($node->{_pid}) || answers($node) });
			return 1 if alive($node->{_pid}) && answers($node);
		}
		return 0 unless await_children();
		launch($node) or return 0;
	}
	return alive($node->{_pid}) && wait_for('the server answers', 60, sub { answers($node) });
}

# --- rounds ----------------------------------------------------------------------------------------------------------

# What is wrong, one thing a line. Dies when the server does not answer.
sub problems
{
	my ($total, $missing) = $clients->missing;
	my $sums = $workload->wrong_sums;
	my $damage = $node->safe_psql('postgres', 'SELECT * FROM damage()');

	return join "\n", grep { $_ ne '' } ($missing, $sums, $damage);
}

# Run the clients; let $kill kill, which gets the position of the log before; look whether all is well afterwards. $kill
# returns false if it could not.
sub round
{
	my ($what, $kill) = @_;
	my $position = log_position($node);
	my $started = time;
	my $problems;

	$rounds++;
	$compare_due = 1 if $compare_every && $rounds % $compare_every == 0;
	$clients->start;
	$clients->wait_until_busy(sub { grep { !$_->running || $_->stopped } @memnodes });
	usleep(rand 300_000);
	$rounds_with_dirty_pages++ if (eval { summary($node)->{dirty_pages} } // 0) > 0;
	my $done = $kill->($position);
	$clients->stop;
	set_tier1_interval($tier1_ms) if $hurried;
	if (!$done)
	{
		$problems = 'it was not killed, or does not come back';
		set_fault_points($node, '') if defined $node->{_pid};
	}
	elsif (!wait_until_in_use())
	{
		$problems = 'the server is not back';
	}
	else
	{
		$problems = eval { problems() } // "the server failed again: $@";
	}
	is($problems, '', sprintf('%d: %s: nothing is lost', $rounds, $what))
	  or diag(log_tail($node, $position));
	$failed++ if $problems ne '';
	compare_with_plain_redo($what) if $copy;
	note(sprintf '%.1f s', time - $started);
	return;
}

sub compare_with_plain_redo
{
	my ($what) = @_;

	if (answers($node))
	{
		$copy->compare("$rounds: $what") or $failed++;
		$compared++;
	}
	$copy = undef;
	return;
}

# How often a point is to be passed before something happens there
sub some_times
{
	my ($point) = @_;

	# not when the server attaches
	return 12 if $point =~ /accept/;
	# a round of tier 1 may be ten seconds apart from the next, and have one page to flush
	return 1 if $point =~ $at_attaching || $point =~ /^tier1\./;
	return 1 + int rand($point =~ $often ? 20 : 3);
}

sub set_tier1_interval
{
	my ($ms) = @_;

	$node->adjust_conf('postgresql.conf', 'legobase.tier1_interval', "'${ms}ms'");
	kill 'HUP', $node->{_pid} if defined $node->{_pid};
	$hurried = $ms != $tier1_ms;
	return;
}

# Arm a point in a process; what is done when somebody comes there is the caller's.
sub arm
{
	my ($point, $action, $who) = @_;
	my $specification = "$point=$action\@" . some_times($point);

	set_tier1_interval(100) if $point =~ /^tier1\./ && $tier1_ms > 100;
	if ($point =~ $at_attaching)
	{
		# the next agent has what the postmaster has
		set_fault_points($node, $specification);
		usleep(50_000);
		kill 'TERM', server_process($node, $title_of{'buffer agent'});
	}
	else
	{
		set_fault_points($node, $specification, server_processes($node, $title_of{$who}));
	}
	return;
}

sub process_dies
{
	my ($point, $who) = @_;

	round(
		"$who killed at $point",
		sub {
			my ($position) = @_;

			arm($point, 'kill', $who);
			my $died = wait_for("a $who dies at $point", $patience,
				sub { count_log_lines($node, qr/was terminated by signal 9/, $position) });
			set_fault_points($node, '');
			return 0 unless $died;
			$kills{$who}++;
			$at_point{$point}++;
			return wait_for_restart($position);
		});
	return;
}

# Somebody stops at the point; then everything that is listed is killed: 'server', or a number, a memory node's.
sub all_die
{
	my ($point, $who, @victims) = @_;
	my $names = join ', then ', map { /server/ ? 'the server' : 'a memory node' } @victims;

	round(
		"$who at $point: $names killed",
		sub {
			arm($point, 'stop', $who);
			my $there = wait_for("a $who stops at $point", $patience, sub { stopped_processes($node) });
			set_fault_points($node, '') if $there;
			kill_victims(@victims);
			$at_point{$point}++ if $there;
			return start_server() && $there;
		});
	return;
}

sub kill_victims
{
	foreach my $victim (@_)
	{
		$victim eq 'server' ? kill_server() : kill_memnode($memnodes[$victim]);
	}
	start_memnodes();
	return;
}

sub memnode_dies
{
	my ($point) = @_;
	my $memnode = $memnodes[ rand @memnodes ];
	# it may die before the round begins: pages are pushed as soon as it is in use
	my $position = rearm($memnode, "$point=kill@" . some_times($point));

	round(
		"memory node killed at $point",
		sub {
			kill 'TERM', server_process($node, $title_of{'buffer agent'}) if $point =~ $at_attaching;
			my $died = wait_for(
				"a memory node dies at $point",
				10,
				sub {
					# each new process has a connection of its own
					$node->psql('postgres', 'SELECT count(*) FROM account') if $point =~ /accept/;
					!$memnode->running;
				});
			return 0 unless $died;
			$kills{'memory node'}++;
			$at_point{$point}++;
			$memnode->start;
			return loss_is_noticed($position);
		});
	return;
}

# A memory node that is in the middle of something, such as writing, is stopped there. The server dies; it is started
# again while the node hangs, which is killed a while later, or before.
sub memnode_hangs
{
	my ($point, $when) = @_;
	my $memnode = $memnodes[ rand @memnodes ];

	rearm($memnode, "$point=stop@" . some_times($point));
	round(
		"memory node stopped at $point, the server killed, the node $when",
		sub {
			my $there = wait_for("a memory node stops at $point", 10, sub { $memnode->stopped });

			kill_server();
			if ($when eq 'before it is started')
			{
				kill_memnode($memnode);
				start_memnodes();
				return start_server() && $there;
			}
			my $killer = in_background(sub { usleep(700_000); kill 'KILL', $memnode->pid; return 1; });
			my $started = start_server();
			finish_background($killer);
			$memnode->wait_end;
			$kills{'memory node'}++;
			$at_point{$point}++ if $there;
			start_memnodes();
			return $started && $there;
		});
	return;
}

# With other fault points. Nothing is dirty now, so the server only loses copies. Returns where the log is when it has noticed that.
sub rearm
{
	my ($memnode, $specification) = @_;
	my $position;

	settle($node);
	$position = log_position($node);
	$memnode->stop;
	loss_is_noticed($position);
	$position = log_position($node);
	$memnode->start('--fault-points', $specification);
	wait_until_in_use();
	return $position;
}

sub loss_is_noticed
{
	my ($position) = @_;

	return wait_for('the loss is noticed', 10, sub { count_log_lines($node, qr/PANIC|memory node .* lost/, $position) });
}

sub random_death
{
	my ($who) = @_;

	round(
		"$who killed",
		sub {
			my ($position) = @_;

			usleep(rand 500_000);
			if ($who eq 'postmaster')
			{
				kill_server();
				return start_server();
			}
			if ($who eq 'memory node')
			{
				kill_memnode($memnodes[ rand @memnodes ]);
				start_memnodes();
				return loss_is_noticed($position);
			}
			my $pid = (shuffle server_processes($node, $title_of{$who}))[0] or return 0;
			kill 'KILL', $pid;
			$kills{$who}++;
			return wait_for_restart($position);
		});
	return;
}

# Redo, in the middle, or the postmaster, before: the server is started without being waited for, and dies.
sub startup_dies
{
	my ($point) = @_;
	my $who = $point =~ $only_at_start ? 'postmaster' : 'startup process';

	round(
		"$who killed at $point",
		sub {
			$node->stop('immediate');
			# with what the nodes have kept redo would not read from storage
			if ($point eq 'read.storage')
			{
				kill_memnode($_) foreach @memnodes;
				start_memnodes();
			}
			my $position = log_position($node);
			my $times = $point =~ $only_at_start ? 1 : 1 + int rand 5;
			$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "'$point=kill\@$times'");
			launch($node) or $who eq 'postmaster' or return 0;
			# The background writer is there in redo as well, and may come to the point first.
			my $died = wait_for(
				"the $who dies at $point",
				15,
				sub {
					my ($pid) = eval { PostgreSQL::Test::Utils::slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/ };
					return count_log_lines($node, qr/was terminated by signal 9/, $position)
					  || ($who eq 'postmaster' && defined $pid && !alive($pid));
				});
			$node->adjust_conf('postgresql.conf', 'legobase.fault_points', q{''});
			kill 'HUP', $node->{_pid} if $who ne 'postmaster';
			if ($died)
			{
				$kills{ count_log_lines($node, qr/background writer process .* signal 9/, $position) ? 'background writer' : $who }++;
				$at_point{$point}++;
			}
			return come_back() && $died;
		});
	return;
}

# --- between the rounds ----------------------------------------------------------------------------------------------

# A crash under load, after which a server without the extension recovers.
sub stock_recovers
{
	$clients->start;
	$clients->wait_until_busy;
	usleep(300_000);
	$node->stop('immediate');
	$clients->stop;
	start_stock($node);
	is(eval { problems() } // $@, '', 'recovered by a server without the extension: nothing is lost');
	amcheck_clean($node, 'recovered by a server without the extension');
	$node->stop;
	$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'legobase'");
	$node->start;
	ok(wait_until_in_use(), '... and the server with the extension goes on');
	is(eval { problems() } // $@, '', '... with all rows');
	return;
}

# --- the plan --------------------------------------------------------------------------------------------------------

sub points_of_recovery
{
	return grep { /$of_recovery/ } fault_points_of('src/*.c', 'src/common/*.c', 'memnode/*.c');
}

# With shared memory no reads come to the node.
sub memnode_points
{
	return grep { @memnodes > 1 || $_ ne 'memnode.read' } fault_points_of('memnode/*.c');
}

sub plan_of_kills
{
	my @all = grep { !/$of_recovery/ } fault_points_of('src/*.c', 'src/common/*.c');
	my @points = grep { !/$only_at_start/ } @all;
	my @memnode_points = grep { !/$of_recovery/ } memnode_points();
	my @at_startup = grep { /^(fence\.locked|read\.storage|writeback\.linked)$/ } @all;
	my @plan;

	note("points of the server: @all");
	note("points of the memory node: @memnode_points");
	foreach my $point (@points)
	{
		my ($match) = grep { $point =~ $_->[0] } @who;
		my (undef, @processes) = @{$match};

		push @plan, map { my $who = $_; sub { process_dies($point, $who) } } @processes;
		push @plan, sub { all_die($point, $processes[0], 'server') } if rand() < 0.3;
		next if rand() < 0.4;
		my $victim = int rand @memnodes;
		push @plan, sub { all_die($point, $processes[0], 'server', $victim) };
		push @plan, sub { all_die($point, $processes[0], $victim, 'server') };
	}
	foreach my $point (@memnode_points)
	{
		push @plan, sub { memnode_dies($point) };
		next unless $point =~ /^memnode\.(flush|fence)/;
		push @plan, sub { memnode_hangs($point, 'before it is started') };
		push @plan, sub { memnode_hangs($point, 'after it was started') };
	}
	push @plan, map { my $point = $_; sub { startup_dies($point) } } @at_startup;
	foreach my $who (sort(grep { !/tier-1/ } keys %title_of), 'postmaster', 'memory node')
	{
		push @plan, (sub { random_death($who) }) x 3;
	}
	return shuffle @plan;
}

# Run plans, each of which is a list of rounds that $make_plan makes, and look at the totals. Parameters: repetitions, points (that are
# to be reached), who (is to be killed), least (kills), dirty (least part of the rounds that begin with dirty pages)
sub run_plan
{
	my ($make_plan, %params) = @_;

	foreach my $repetition (1 .. $params{repetitions})
	{
		my @plan = $make_plan->();

		for my $i (0 .. $#plan)
		{
			stock_recovers() if $i > 0 && $i % ROUNDS_IN_A_GROUP == 0;
			$plan[$i]->();
			# what the others would make of a server that does not come back says nothing
			die 'the server does not come back' if $failed && !wait_until_in_use();
		}
		stock_recovers();
	}

	my $total = 0;
	$total += $_ foreach values %kills;
	note("$kills{$_} kills of: $_") foreach sort keys %kills;
	note("$at_point{$_} at $_") foreach sort keys %at_point;
	cmp_ok($total, '>=', $params{least}, "$total kills in $rounds rounds");
	is_deeply([ grep { !$at_point{$_} } @{ $params{points} } ], [], 'somebody was killed at each point');
	is_deeply([ grep { !$kills{$_} } @{ $params{who} } ], [], 'and each kind of process was killed');
	# not in all: the server may have been killed already, or a checkpoint have just ended
	cmp_ok($rounds_with_dirty_pages, '>', $rounds * $params{dirty}, "dirty pages were there in $rounds_with_dirty_pages rounds");
	cmp_ok($compared, '>', 0, "$compared recoveries were compared with a plain redo") if $compare_every;
	is(differing_blocks($node, 'postgres'), '', 'all pages read as they are in the files');
	$node->stop;
	done_testing();
	return;
}

# Some rounds of a plan, by chance
sub sample_of
{
	my ($rounds, @plan) = @_;

	return (shuffle @plan)[ 0 .. ($rounds < @plan ? $rounds : @plan) - 1 ];
}

# The memory node's points that only rdma has, but for that of registering: who dies there dies whenever the server attaches, with nothing to lose.
sub memnode_points_of_rdma
{
	return grep { !/\.register$/ } rdma_points_of('memnode/*.c');
}

# The points that only rdma has
sub plan_of_rdma
{
	my @plan;

	push @plan, map { my $point = $_; sub { process_dies($point, 'buffer agent') } } rdma_points_of('src/*.c');
	push @plan, map { my $point = $_; sub { memnode_dies($point) } } memnode_points_of_rdma();
	push @plan, map { my $when = $_; sub { memnode_hangs('memnode.rdma.pull', $when) } }
	  ('before it is started', 'after it was started');
	return @plan;
}

# In short, over RDMA: its own points, and some rounds of the plan by chance. Parameters: rounds, and those of set_up()
sub run_crash_matrix_rdma
{
	my (%params) = @_;
	my @points = (rdma_points_of('src/*.c'), memnode_points_of_rdma());
	my @own = plan_of_rdma();

	set_seed();
	set_up('rdma', %params);
	plan skip_all => 'this build has no fault points (FAULT_POINTS=1)' unless has_fault_points($node);
	note("points of rdma: @points");
	run_plan(
		sub { return shuffle(@own, sample_of($params{rounds}, plan_of_kills())) },
		repetitions => $ENV{LEGOBASE_LONG} ? 6 : 1,
		points => \@points,
		who => [ 'buffer agent', 'memory node' ],
		least => @own + $params{rounds} / 2,
		# half of its own rounds begin with a memory node that was started anew, to which nothing dirty has gone yet
		dirty => 0.3);
	return;
}

sub set_seed
{
	my $seed = $ENV{LEGOBASE_SEED} // int(time) ^ $$;

	srand $seed;
	note("LEGOBASE_SEED=$seed makes the same plan again");
	return;
}

sub run_crash_matrix
{
	my ($transport) = @_;

	set_seed();
	set_up($transport);
	plan skip_all => 'this build has no fault points (FAULT_POINTS=1)' unless has_fault_points($node);
	run_plan(
		\&plan_of_kills,
		repetitions => $ENV{LEGOBASE_LONG} ? 6 : 1,
		points => [ grep { !/^smgr_table|$of_recovery/ } (fault_points_of('src/*.c', 'src/common/*.c'), memnode_points()) ],
		who => [ 'backend', 'checkpointer', 'background writer', 'buffer agent', 'postmaster', 'startup process', 'memory node' ],
		least => LEAST_KILLS,
		dirty => 0.7);
	return;
}

1;
