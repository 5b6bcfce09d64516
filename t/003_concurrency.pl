# Many clients, DDL beside them, and a remote pool that is resized meanwhile: no query fails, no sum is wrong, and each
# page from remote memory is compared with its file (debug_compare).
#
# LEGOBASE_LONG=1: a minute for each part instead of 20 seconds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{LEGOBASE_LONG} ? 60 : 20;
my $resize_seconds = $ENV{LEGOBASE_LONG} ? 60 : 12;

# --- DDL beside the workload -----------------------------------------------------------------------------------------

# Run statements again and again until the time is up; false, with the message in the log, when one fails.
sub repeat
{
	my ($node, $until, $statements) = @_;

	for (my $round = 0; time < $until; $round++)
	{
		foreach my $statement ($statements->($round))
		{
			my ($db, $sql) = @{$statement};
			my ($status, $out, $err) = $node->psql($db, $sql);

			if ($status != 0)
			{
				print STDERR "DDL beside the workload: $sql: $err\n";
				return 0;
			}
		}
	}
	return 1;
}

# What is raised when a condition does not hold
sub assertion
{
	my ($condition, $message) = @_;

	return "DO \$\$BEGIN IF NOT ($condition) THEN RAISE EXCEPTION '$message'; END IF; END\$\$;";
}

sub side_tables
{
	my ($round) = @_;
	my $method = ('btree', 'hash', 'gist', 'spgist', 'brin', 'gin')[ $round % 6 ];
	my $column =
		$method eq 'gin' ? 'words'
	  : $method eq 'gist' || $method eq 'spgist' ? 'spot'
	  : 'id';

	return (
		[ 'postgres', 'CREATE TABLE side (id int, spot point, words text[], pad text) WITH (fillfactor = 50)' ],
		[
			'postgres',
			q{INSERT INTO side SELECT i, point(i, i), ARRAY['w' || i], repeat('a', 100) FROM generate_series(1, 3000) i}
		],
		[ 'postgres', "CREATE INDEX side_i ON side USING $method ($column)" ],
		[ 'postgres', assertion(q{(SELECT count(*) FROM side WHERE pad LIKE 'a%') = 3000}, 'rows of side') ],
		[ 'postgres', 'TRUNCATE side' ],
		[ 'postgres', assertion('(SELECT count(*) FROM side) = 0', 'rows after TRUNCATE') ],
		[
			'postgres',
			q{INSERT INTO side SELECT i, point(i, i), ARRAY['w' || i], repeat('b', 100) FROM generate_series(1, 2000) i}
		],
		[ 'postgres', 'DELETE FROM side WHERE id > 500' ],
		[ 'postgres', 'VACUUM side' ],
		[
			'postgres',
			q{INSERT INTO side SELECT i, point(i, i), ARRAY['w' || i], repeat('c', 100) FROM generate_series(1, 1500) i}
		],
		[
			'postgres',
			assertion(
				q{(SELECT string_agg(c || n, ' ' ORDER BY c) FROM (SELECT left(pad, 1) c, count(*) n FROM side GROUP BY 1) s)
				  = 'b500 c1500'}, 'rows after VACUUM'
			)
		],
		[
			'postgres',
			q{BEGIN; TRUNCATE side; INSERT INTO side (id) SELECT generate_series(1, 3000); TRUNCATE side;
			  INSERT INTO side (id) SELECT generate_series(1, 100); COMMIT}
		],
		[ 'postgres', assertion('(SELECT sum(id) FROM side) = 5050', 'rows after two TRUNCATE') ],
		[ 'postgres', 'DROP TABLE side' ]);
}

sub maintenance
{
	my ($round) = @_;
	my $table = 'account_' . $round % LegoBase::Workload::TABLES;

	return (
		[ 'postgres', "VACUUM $table" ],
		[ 'postgres', "REINDEX TABLE $table" ],
		[ 'postgres', "VACUUM FULL $table" ],
		[ 'postgres', "ALTER TABLE $table SET TABLESPACE elsewhere" ],
		[ 'postgres', "REINDEX INDEX CONCURRENTLY ${table}_grp" ],
		[ 'postgres', "CLUSTER $table USING ${table}_grp" ],
		[ 'postgres', "ALTER TABLE $table SET TABLESPACE pg_default" ],
		[ 'postgres', 'CHECKPOINT' ]);
}

sub databases
{
	my ($round) = @_;
	my $seed = $round % 2 ? 'odd' : 'even';
	my $strategy = $round % 3 ? 'file_copy' : 'wal_log';
	my $check = assertion("(SELECT count(*) FROM t WHERE word = ''$seed'') = 3000" =~ s/''/'/gr, 'rows of a database');

	return (
		[ 'postgres', "CREATE DATABASE passing OID 300000 TEMPLATE $seed STRATEGY $strategy" ],
		[ 'passing', $check ],
		[ 'passing', q{CREATE TABLE more AS SELECT generate_series(1, 5000) i} ],
		[ 'postgres', 'ALTER DATABASE passing SET TABLESPACE elsewhere' ],
		[ 'passing', $check ],
		[ 'passing', assertion('(SELECT sum(i) FROM more) = 12502500', 'rows of a moved database') ],
		[ 'postgres', 'DROP DATABASE passing' ]);
}

sub prepare
{
	my ($node) = @_;
	my $tablespace = PostgreSQL::Test::Utils::tempdir_short();

	make_filler($node);
	$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$tablespace'");
	foreach my $seed ('even', 'odd')
	{
		$node->safe_psql('postgres', "CREATE DATABASE $seed");
		$node->safe_psql(
			$seed, qq{
			CREATE TABLE t (id int, word text) WITH (fillfactor = 20);
			INSERT INTO t SELECT i, '$seed' FROM generate_series(1, 3000) i;
			VACUUM (FREEZE) t;
		});
	}
	return;
}

# --- the parts -------------------------------------------------------------------------------------------------------

sub with_ddl
{
	my ($what, $node, $workload) = @_;
	my $before = summary($node);
	my $run = $workload->start(clients => 16, seconds => $seconds);
	my $until = time + $seconds;
	my %ddl = (
		'tables made and dropped' => \&side_tables,
		'tables rewritten' => \&maintenance,
		'databases made, moved and dropped' => \&databases);
	my %children;

	foreach my $name (sort keys %ddl)
	{
		$children{$name} = in_background(sub { repeat($node, $until, $ddl{$name}) });
	}
	ok(LegoBase::Workload::finish($run), "$what: no query of 16 clients failed, no sum was wrong");
	is(finish_background($children{$_}), 0, "$what: $_") foreach sort keys %children;

	my $after = summary($node);
	cmp_ok($after->{remote_hits} - $before->{remote_hits}, '>', 10000, "$what: pages came from remote memory");
	$workload->check($what);
	is($after->{compare_mismatches}, 0, "$what: none differed from its file");
	is($after->{checksum_failures}, 0, "$what: none was damaged");
	return;
}

# Set the pool's size, and wait for what follows from it.
sub resize
{
	my ($node, $size, $what, $test) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET legobase.remote_pool_size = '$size'");
	$node->reload;
	return wait_for_pool($node, $what, 30, $test);
}

sub resized
{
	my ($what, $node, $workload, @memnodes) = @_;
	my $full = summary($node)->{pool_pages};
	my $run = $workload->start(clients => 16, seconds => $resize_seconds, scripts => { transfer => 10, group => 5, total => 1 });
	my $rounds = 0;
	my %good = map { $_ => 1 } ('shrunk', 'disabled', 'returned', 'enabled', 'used');

	while (LegoBase::Workload::running($run))
	{
		$good{shrunk} &&= resize($node, '8MB', 'the pool shrinks', sub { $_[0] == 1024 });
		$good{disabled} &&= resize($node, '0', 'the pool is disabled', sub { $_[0] == 0 });
		$good{returned} &&= wait_for('the memory is returned', 20,
			sub { !grep { $_->figures->{granted_pages} > 0 } @memnodes });
		$good{enabled} &&= resize($node, '-1', 'the pool is enabled', sub { $_[0] == $full });
		my $hits = summary($node)->{remote_hits};
		$good{used} &&= wait_for('the pool is used', 20,
			sub { summary($node)->{remote_hits} > $hits + 500 || !LegoBase::Workload::running($run) });
		$rounds++;
	}
	ok(LegoBase::Workload::finish($run), "$what: no query failed, no sum was wrong while the pool was resized");
	cmp_ok($rounds, '>', 0, "$what: resized $rounds times");
	ok($good{shrunk}, "$what: the pool shrank under load");
	ok($good{disabled}, "$what: the pool could be disabled under load");
	ok($good{returned}, "$what: all its memory went back to the memory node");
	ok($good{enabled}, "$what: the pool could be enabled again under load");
	ok($good{used}, "$what: ... and was used");
	$workload->check("$what after resizing");
	is(summary($node)->{compare_mismatches}, 0, "$what: no page differed from its file");
	return;
}

foreach my $transport ('shm', 'tcp')
{
	my @memnodes = map { LegoBase::Memnode->new(transport => $transport) } ($transport eq 'tcp' ? (1, 2) : (1));
	my $node = legobase_cluster(
		"concurrency_$transport",
		nodes => \@memnodes,
		conf => "legobase.debug_compare = on\neffective_io_concurrency = 64\nmaintenance_io_concurrency = 64\n"
		  . "max_wal_size = 4GB\nmaintenance_work_mem = 1MB");
	my $workload = LegoBase::Workload->new($node);

	prepare($node);
	with_ddl($transport, $node, $workload);
	resized($transport, $node, $workload, @memnodes);
	is(differing_blocks($node, 'postgres'), '', "$transport: all pages read as they are in the files");
	amcheck_clean($node, $transport);
	$node->stop;
	$_->stop foreach @memnodes;
}

done_testing();
