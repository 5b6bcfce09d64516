# Clients that note what was acknowledged, and the question afterwards whether all of it is there.
#
# Each is a psql that runs transfers between the tables of a LegoBase::Workload, and prints the number of a transaction
# when its commit was acknowledged. One more makes the rarer code run: files truncated, dropped and extended, checkpoints.
# They run in rounds, and end by themselves when the server disconnects them.

package LegoBase::Acknowledged;

use strict;
use warnings;

use IPC::Run;
use LegoBase;
use LegoBase::Workload;
use PostgreSQL::Test::Utils;
use Test::More;

use constant TRANSACTIONS => 4000;	# that a client has to do in a round, at most

# Parameters: clients (default 3), ddl (false: without the one that does other things)
sub new
{
	my ($class, $node, $workload, %params) = @_;
	my $self = bless {
		node => $node,
		workload => $workload,
		clients => $params{clients} // 3,
		ddl => $params{ddl} // 1,
		folder => PostgreSQL::Test::Utils::tempdir_short(),
		round => 0,
		running => [],
	}, $class;

	$node->safe_psql(
		'postgres', q{
		CREATE TABLE acknowledged (round int, client int, n int, PRIMARY KEY (round, client, n));
		CREATE UNLOGGED TABLE passing_unlogged (id int, pad text);
		CREATE DATABASE seed;
	});
	$node->safe_psql('seed', 'CREATE TABLE t AS SELECT generate_series(1, 1000) i');
	$self->write_client_script($_) foreach (1 .. $self->{clients});
	$self->write_ddl_script;
	return $self;
}

sub write_client_script
{
	my ($self, $client) = @_;
	my $text = '';

	foreach my $n (1 .. TRANSACTIONS)
	{
		my ($from, $to) = sort { $a <=> $b } (int rand LegoBase::Workload::TABLES, int rand LegoBase::Workload::TABLES);
		my @ids = sort { $a <=> $b } $self->{workload}->two_of_a_group;
		my $amount = int rand 10;

		$text .= "BEGIN;\n"
		  . "UPDATE account_$from SET balance = balance - $amount WHERE id = $ids[0];\n"
		  . "UPDATE account_$to SET balance = balance + $amount WHERE id = $ids[1];\n"
		  . "INSERT INTO acknowledged VALUES (:round, $client, $n);\n"
		  . "COMMIT;\n\\echo $n\n";
	}
	PostgreSQL::Test::Utils::append_to_file("$self->{folder}/client_$client.sql", $text);
	return;
}

# The unlogged table is made before: a crash soon after CREATE UNLOGGED TABLE was rolled back is more than PostgreSQL 15 can
# recover from, with or without the extension (the main fork's empty file is in the way when the init fork is copied).
sub write_ddl_script
{
	my ($self) = @_;

	PostgreSQL::Test::Utils::append_to_file(
		"$self->{folder}/ddl.sql", join '', map {
			qq{
DROP TABLE IF EXISTS passing_$_;
INSERT INTO passing_unlogged SELECT i, repeat('x', 500) FROM generate_series(1, 500) i;
CREATE TABLE passing_$_ (id int, pad text);
INSERT INTO passing_$_ SELECT i, repeat('x', 500) FROM generate_series(1, 2000) i;
CREATE INDEX ON passing_$_ (id);
CHECKPOINT;
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
DELETE FROM passing_unlogged;
VACUUM passing_unlogged;
SELECT legobase_evict('account_1');
SELECT count(*) FROM account;
CREATE DATABASE passing TEMPLATE seed STRATEGY file_copy;
DROP DATABASE passing;
}
		} (1 .. 50));
	return;
}

# Begin a round.
sub start
{
	my ($self) = @_;
	my $connection = $self->{node}->connstr('postgres');

	$self->{round}++;
	foreach my $script ((map { "client_$_" } (1 .. $self->{clients})), $self->{ddl} ? 'ddl' : ())
	{
		my $file = "$self->{folder}/$script";
		my @command = ('psql', '-X', '-q', '-A', '-t', '-v', "round=$self->{round}", '-d', $connection, '-f', "$file.sql");

		push @command, '-v', 'ON_ERROR_STOP=1' if $script =~ /client/;
		push @{ $self->{running} }, IPC::Run::start \@command, '<', \'', '>', "$file.out", '2>', "$file.err";
	}
	return;
}

# Wait until each client has had a commit acknowledged, or has been disconnected already, or the caller knows that it is
# in vain.
sub wait_until_busy
{
	my ($self, $in_vain) = @_;

	return wait_for(
		'transactions are acknowledged',
		10,
		sub {
			!(grep { !-s "$self->{folder}/client_$_.out" } (1 .. $self->{clients}))
			  || !$self->connected
			  || ($in_vain && $in_vain->());
		});
}

# How many of them are still connected?
sub connected
{
	my ($self) = @_;

	return scalar grep { $_->pumpable } @{ $self->{running} };
}

# End the round: the clients end by themselves (wait), or are told to.
sub wait_end
{
	my ($self) = @_;

	$_->finish foreach @{ $self->{running} };
	$self->{running} = [];
	return;
}

sub stop
{
	my ($self) = @_;

	$_->signal('TERM') foreach @{ $self->{running} };
	return $self->wait_end;
}

# The number of transactions of this round that were acknowledged to a client.
sub printed
{
	my ($self, $client) = @_;

	return scalar(() = PostgreSQL::Test::Utils::slurp_file("$self->{folder}/client_$client.out") =~ /^\d+$/mg);
}

# Is every transaction whose number was printed there? (A client's last one may be there without.) In a list: how many there
# were, and what is missing, empty if all is well.
sub missing
{
	my ($self) = @_;
	my ($total, @missing) = (0);

	foreach my $client (1 .. $self->{clients})
	{
		my $printed = $self->printed($client);
		my $there = $self->{node}->safe_psql('postgres',
			"SELECT count(*) FROM acknowledged WHERE round = $self->{round} AND client = $client AND n <= $printed");

		push @missing, "client $client: $there of $printed" if $there != $printed;
		$total += $printed;
	}
	return ($total, join(', ', @missing));
}

# The same as tests, with the sums of the workload. least: how many there must have been.
sub check
{
	my ($self, $what, $least) = @_;
	my ($total, $missing) = $self->missing;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($missing, '', "$what: all $total acknowledged transactions are there");
	cmp_ok($total, '>=', $least, "$what: there were some") if $least;
	$self->{workload}->check($what);
	return;
}

1;
