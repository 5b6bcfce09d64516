# A workload that can tell if it was lied to: transfers between the rows of four tables keep the sum of each group of
# rows, and queries beside them fail when a sum is wrong.

package LegoBase::Workload;

use strict;
use warnings;

use Carp;
use IPC::Run;
use LegoBase;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant TABLES => 4;
use constant GROUPS => 50;
use constant BALANCE => 1000;

# --- set-up ----------------------------------------------------------------------------------------------------------

# Make the tables: with 5000 rows each (parameter rows), together about ten times the size of local memory.
sub new
{
	my ($class, $node, %params) = @_;
	my $self = bless {
		node => $node,
		rows => $params{rows} // 5000,
		folder => PostgreSQL::Test::Utils::tempdir_short()
	}, $class;
	my ($rows, $groups, $balance, $last) = ($self->{rows}, GROUPS, BALANCE, TABLES - 1);

	foreach my $i (0 .. $last)
	{
		$node->safe_psql(
			'postgres', qq{
			CREATE TABLE account_$i (id int PRIMARY KEY, grp int, balance int, pad text) WITH (fillfactor = 70);
			INSERT INTO account_$i SELECT i, i % $groups, $balance, repeat('x', 300) FROM generate_series(0, $rows - 1) i;
			CREATE INDEX account_${i}_grp ON account_$i (grp);
		});
	}
	$node->safe_psql('postgres',
		'CREATE VIEW account AS ' . join(' UNION ALL ', map { "SELECT * FROM account_$_" } (0 .. $last)));
	$node->safe_psql('postgres', 'CREATE TABLE transfers (id bigserial); ANALYZE');
	$self->write_scripts;
	return $self;
}

sub write_scripts
{
	my ($self) = @_;
	my $rows = $self->{rows};
	my $last_group = GROUPS - 1;
	my $last_in_group = $rows / GROUPS - 1;
	my $last_table = TABLES - 1;
	my $groups = GROUPS;
	my $group_sum = TABLES * BALANCE * $rows / GROUPS;
	my $sum = TABLES * BALANCE * $rows;
	my %scripts = (
		# tables in one order in all transactions: no deadlocks
		transfer => qq{
\\set t1 random(0, $last_table - 1)
\\set t2 random(:t1 + 1, $last_table)
\\set g random(0, $last_group)
\\set a :g + $groups * random(0, $last_in_group)
\\set b :g + $groups * random(0, $last_in_group)
\\set n random(-10, 10)
BEGIN;
UPDATE account_:t1 SET balance = balance - :n WHERE id = :a;
UPDATE account_:t2 SET balance = balance + :n WHERE id = :b;
COMMIT;
},
		group => qq{
\\set g random(0, $last_group)
SELECT 1 / (sum(balance) = $group_sum)::int FROM account WHERE grp = :g;
},
		bitmap => qq{
\\set g random(0, $last_group)
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT 1 / (sum(balance) = $group_sum)::int FROM account WHERE grp = :g;
RESET ALL;
},
		total => qq{
SET enable_indexscan = off;
SET enable_bitmapscan = off;
SELECT 1 / (sum(balance) = $sum AND count(*) = ${\(TABLES * $rows)})::int FROM account;
RESET ALL;
},
		row => qq{
\\set t random(0, $last_table)
\\set a random(0, ${\($rows - 1)})
SELECT 1 / (count(*) = 1)::int FROM account_:t WHERE id = :a AND grp = :a % $groups AND pad = repeat('x', 300);
});

	foreach my $name (keys %scripts)
	{
		PostgreSQL::Test::Utils::append_to_file("$self->{folder}/$name.sql", $scripts{$name});
	}
	return;
}

# --- running ---------------------------------------------------------------------------------------------------------

# Start pgbench. Parameters: clients, seconds, scripts (name => weight), log (true: note each transaction's end).
# Returns a handle for finish().
sub start
{
	my ($self, %params) = @_;
	my $node = $self->{node};
	my %scripts = %{ $params{scripts} // { transfer => 20, group => 4, bitmap => 4, total => 1 } };
	my @command = (
		'pgbench', '-n', '-h', $node->host, '-p', $node->port, '-c', $params{clients} // 8, '-j', 2,
		'-T', $params{seconds});
	my $run = { out => '', err => '', prefix => "$self->{folder}/log" . $self->{runs}++ };

	push @command, '-f', "$self->{folder}/$_.sql\@$scripts{$_}" foreach sort keys %scripts;
	push @command, '-l', "--log-prefix=$run->{prefix}" if $params{log};
	push @command, 'postgres';
	$run->{started} = time;
	$run->{process} = IPC::Run::start \@command, '<', \'', '>', \$run->{out}, '2>', \$run->{err};
	return $run;
}

# Still running? Also takes what pgbench has printed.
sub running
{
	my ($run) = @_;

	# pump_nb dies when the process has just ended
	return eval { $run->{process}->pump_nb; 1 } && $run->{process}->pumpable;
}

# Wait for its end; true if no query failed and no sum was wrong.
sub finish
{
	my ($run) = @_;
	my $ok = $run->{process}->finish;

	$run->{ended} = time;
	diag($run->{err}) unless $ok;
	$ok = 0 if $run->{out} =~ /^number of failed transactions: [1-9]/m;
	return $ok;
}

# --- afterwards ------------------------------------------------------------------------------------------------------

# Two rows between which amounts can be moved, by their numbers.
sub two_of_a_group
{
	my ($self) = @_;
	my $group = int rand GROUPS;

	return map { $group + GROUPS * int rand($self->{rows} / GROUPS) } (1, 2);
}

# Which of all sums, by table scan and by index, are wrong, as text; empty if none is.
sub wrong_sums
{
	my ($self) = @_;
	my $all = TABLES * $self->{rows} . '|' . TABLES * BALANCE * $self->{rows};
	my $of_group = TABLES * BALANCE * $self->{rows} / GROUPS;
	my @got = split /\n/, $self->{node}->safe_psql(
		'postgres', qq{
		SELECT count(*), sum(balance) FROM account;
		SELECT count(*) FROM (SELECT grp FROM account GROUP BY grp HAVING sum(balance) <> $of_group) wrong;
		SET enable_seqscan = off;
		SELECT count(*), sum(balance) FROM account WHERE grp >= 0});
	my @right = ($all, 0, $all);
	my @names = ('the sum', 'groups with a wrong sum', 'the sum by index');

	return join ', ', map { $got[$_] eq $right[$_] ? () : "$names[$_]: $got[$_]" } (0 .. $#right);
}

# All sums, by table scan and by index, as tests.
sub check
{
	my ($self, $what, $server) = @_;
	my $node = $server // $self->{node};
	my $sum = TABLES * BALANCE * $self->{rows};
	my $rows = TABLES * $self->{rows};

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', 'SELECT count(*), sum(balance) FROM account'), "$rows|$sum", "$what: the sum");
	is( $node->safe_psql('postgres',
			'SET enable_seqscan = off; SELECT count(*), sum(balance) FROM account WHERE grp >= 0'),
		"$rows|$sum",
		"$what: the sum by index");
	is( $node->safe_psql('postgres',
			'SELECT count(*) FROM (SELECT grp FROM account GROUP BY grp HAVING sum(balance) <> '
			  . TABLES * BALANCE * $self->{rows} / GROUPS
			  . ') wrong'),
		0,
		"$what: the sum of each group");
	return;
}

# Transactions a second in bins of $width seconds, from the log of a run: [start of the bin, rate], without the first and
# the last bin.
sub rates
{
	my ($run, $width) = @_;
	my %bins;
	my @rates;

	foreach my $file (glob "$run->{prefix}.*")
	{
		open(my $log, '<', $file) or croak "$file: $!";
		while (<$log>)
		{
			my @fields = split ' ';
			$bins{ int(($fields[4] + $fields[5] / 1e6) / $width) }++;
		}
	}
	my @numbers = sort { $a <=> $b } keys %bins;
	foreach my $bin ($numbers[0] + 1 .. $numbers[-1] - 1)
	{
		push @rates, [ $bin * $width, ($bins{$bin} // 0) / $width ];
	}
	return @rates;
}

# The middle one of the rates of a run
sub median_rate
{
	my @sorted = sort { $a <=> $b } map { $_->[1] } @_;

	return $sorted[ @sorted / 2 ];
}

# For how many seconds at most, between two times, was the rate without a break below a limit?
sub longest_below
{
	my ($rates, $from, $to, $limit, $width) = @_;
	my ($longest, $current) = (0, 0);

	foreach my $bin (@{$rates})
	{
		next if $bin->[0] + $width <= $from || $bin->[0] >= $to;
		$current = $bin->[1] < $limit ? $current + $width : 0;
		$longest = $current if $current > $longest;
	}
	return $longest;
}

1;
