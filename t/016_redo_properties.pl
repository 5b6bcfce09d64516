# Redo that skips what remote memory has already comes to the same database as redo that skips nothing.
#
# A generator makes up mixes of everything that writes WAL around tier-1 positions: tables and indexes of all kinds that come,
# go, and are rewritten; vacuum with truncation; prepared transactions, multixacts, savepoints, sequences, unlogged tables, toast;
# checkpoints at any moment. In the middle of it the whole server is killed. A stock server recovers a copy of the data
# directory; the server recovers the original, in turns skipping, and comparing with remote memory. Both must
# have the same then.
#
# LEGOBASE_SEED makes the same mixes again (not the same moments). LEGOBASE_LONG=1: more rounds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use LegoBase;
use LegoBase::Recovery;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $rounds = $ENV{LEGOBASE_LONG} ? 60 : 8;
my $clients = 4;
my $statements = 600;	# of a client in a round, at most
my $tables = 5;	# w0 ...
my $unlogged = 3;	# x0 ...

my $seed = $ENV{LEGOBASE_SEED} // int(time) ^ $$;
srand $seed;
note("LEGOBASE_SEED=$seed makes the same mixes again");

# --- the generator ---------------------------------------------------------------------------------------------------

# One of a list of [weight, value]
sub pick
{
	my (@choices) = @_;
	my $total = 0;

	$total += $_->[0] foreach @choices;
	my $at = rand $total;
	foreach my $choice (@choices)
	{
		$at -= $choice->[0];
		return $choice->[1] if $at < 0;
	}
	return $choices[-1][1];
}

sub one_of { return $_[ int rand @_ ]; }
sub between { return $_[0] + int rand($_[1] - $_[0] + 1); }

sub a_table { return 'w' . int rand $tables; }
sub any_table { return rand() < 0.12 ? 'x' . int rand $unlogged : a_table(); }

# Each column has an index of another kind, so that queries can be sent through each of them.
my %index_on = (
	id => sub { 'btree (id)' },
	k => sub { 'hash (k)' },
	n => sub { 'brin (n) WITH (pages_per_range = 2)' },
	g => sub { 'gist (g)' },
	s => sub { 'spgist (s)' },
	tags => sub { 'gin (tags) WITH (fastupdate = ' . one_of('on', 'off') . ')' });
my @columns = sort keys %index_on;

sub create_index
{
	my ($table, $column, $how) = @_;

	return sprintf "CREATE INDEX %s IF NOT EXISTS ${table}_$column ON $table USING %s;\n", $how // '', $index_on{$column}->();
}

sub create_table
{
	my ($table, $kind) = @_;

	return "CREATE $kind TABLE IF NOT EXISTS $table (id int, k int, n int, g point, s point, tags int[], word text, note int DEFAULT 0)"
	  . ' WITH (fillfactor = ' . one_of(20, 50, 90) . ")"
	  . (rand() < 0.2 ? ' TABLESPACE other' : '') . ";\n"
	  . "ALTER TABLE $table ALTER word SET STORAGE EXTERNAL;\n"
	  . join('', map { create_index($table, $_) } grep { rand() < 0.8 } @columns);
}

sub word
{
	my $long = rand() < 0.1;

	return 'repeat(md5(i::text), ' . ($long ? between(70, 200) : between(0, 4)) . ')';
}

sub insert
{
	my ($table) = @_;
	my $first = between(0, 800);

	return "INSERT INTO $table (id, k, n, g, s, tags, word) SELECT "
	  . 'i, i % 13, i, point(i % 97, i % 89), point(i % 83, i % 101), ARRAY[i % 7, i % 11], ' . word()
	  . " FROM generate_series($first, $first + " . between(0, 150) . ") i;\n";
}

sub copy_in
{
	my ($table, $options) = @_;
	my $text = "COPY $table (id, k, n, g, s, tags, word) FROM STDIN" . ($options // '') . ";\n";

	foreach (1 .. between(1, 120))
	{
		my $i = between(0, 900);
		$text .= join("\t", $i, $i % 13, $i, sprintf('(%d,%d)', $i % 97, $i % 89), sprintf('(%d,%d)', $i % 83, $i % 101),
			sprintf('{%d,%d}', $i % 7, $i % 11), 'copied') . "\n";
	}
	return "$text\\.\n";
}

sub some_rows { return one_of('id % ' . between(3, 40) . ' = ' . between(0, 2), 'k = ' . between(0, 12), 'id BETWEEN 100 AND ' . between(100, 300)); }

sub change
{
	my $table = any_table();

	return pick(
		[ 20, sub { insert($table) } ],
		[ 6, sub { copy_in($table) } ],
		# HOT, if there is room
		[ 20, sub { "UPDATE $table SET note = note + 1 WHERE " . some_rows() . ";\n" } ],
		[ 8, sub { "UPDATE $table SET id = id + 1, k = (k + 1) % 13, n = n + 1, g = g + point(1,0), s = s + point(0,1), tags = tags || 3"
				. ' WHERE ' . some_rows() . ";\n" } ],
		[ 3, sub { "UPDATE $table SET word = repeat(md5(note::text || id), " . between(50, 120) . ') WHERE id % 29 = ' . between(0, 5) . ";\n" } ],
		[ 12, sub { "DELETE FROM $table WHERE " . some_rows() . ";\n" } ],
		# what vacuum can truncate
		[ 6, sub { "DELETE FROM $table WHERE ctid >= '(" . between(0, 12) . ",0)';\n" } ],
		[ 10, sub { "SELECT count(*) FROM (SELECT 1 FROM $table WHERE " . some_rows() . ' LIMIT 60 FOR '
				. one_of('UPDATE', 'NO KEY UPDATE', 'SHARE', 'KEY SHARE') . ") locked;\n" } ],
		[ 8, sub { 'INSERT INTO counter SELECT i, 1 FROM generate_series(' . between(1, 200) . ', 220) i'
				. " ON CONFLICT (id) DO UPDATE SET n = counter.n + 1;\n" } ],
		[ 8, sub { q{SELECT nextval('} . one_of('plain_numbers', 'cached_numbers') . "') FROM generate_series(1, " . between(1, 50) . ");\n" } ],
		[ 1, sub { "SELECT setval('plain_numbers', " . between(1, 100_000) . ");\n" } ],
		# prunes, and marks index entries dead
		[ 6, sub { "SELECT count(*) FROM $table WHERE " . some_rows() . ";\n" } ])->();
}

my $gid = 0;

sub transaction
{
	my $text = "BEGIN;\n";

	foreach (1 .. between(1, 6))
	{
		$text .= change();
		$text .= "SAVEPOINT a;\n" . change() . pick([ 2, '' ], [ 1, "ROLLBACK TO a;\n" ], [ 1, "RELEASE a;\n" ]) if rand() < 0.25;
	}
	$gid++;
	return $text . pick(
		[ 70, "COMMIT;\n" ],
		[ 15, "ROLLBACK;\n" ],
		[ 8, "PREPARE TRANSACTION 'p$gid';\n" . change() . "COMMIT PREPARED 'p$gid';\n" ],
		[ 5, "PREPARE TRANSACTION 'p$gid';\n" . change() . "ROLLBACK PREPARED 'p$gid';\n" ],
		[ 1, "PREPARE TRANSACTION 'p$gid';\n" ]);
}

# Statements that define something, some of them in a transaction that is rolled back. (Unlogged tables are made once, and not rewritten:
# PostgreSQL 15 can't recover after a crash soon after the creation of one was rolled back.)
sub definition
{
	my $table = a_table();
	my $column = one_of(@columns);
	my $text = pick(
		[ 4, sub { "DROP TABLE IF EXISTS $table;\n" . create_table($table, '') . insert($table) } ],
		[ 4, sub { "TRUNCATE $table;\n" . insert($table) } ],
		[ 3, sub { "TRUNCATE $table;\n" . copy_in($table) } ],
		[ 6, sub { "DROP INDEX IF EXISTS ${table}_$column;\n" } ],
		[ 10, sub { create_index($table, $column) } ],
		[ 3, sub { "REINDEX TABLE $table;\n" } ],
		[ 3, sub { "REINDEX INDEX ${table}_$column;\n" } ],
		[ 3, sub { "CLUSTER $table USING ${table}_" . one_of('id', 'g') . ";\n" } ],
		[ 3, sub { "ALTER TABLE $table ALTER note TYPE " . one_of('int', 'bigint') . ";\n" } ],
		[ 2, sub { "ALTER TABLE $table SET TABLESPACE " . one_of('other', 'pg_default') . ";\n" } ],
		[ 2, sub { "ALTER INDEX ${table}_$column SET TABLESPACE " . one_of('other', 'pg_default') . ";\n" } ],
		[ 2, sub { "ALTER SEQUENCE plain_numbers RESTART;\n" } ],
		[ 1, sub { 'ALTER TABLE x' . int(rand $unlogged) . " SET LOGGED;\n" } ])->();

	return $text if rand() < 0.7;
	return "BEGIN;\n$text" . change() . pick([ 2, "COMMIT;\n" ], [ 1, "ROLLBACK;\n" ]);
}

sub upkeep
{
	my $table = any_table();

	return pick(
		[ 20, sub { "VACUUM $table;\n" } ],
		[ 6, sub { "VACUUM (FREEZE) $table;\n" } ],
		[ 4, sub { "DELETE FROM $table WHERE ctid >= '(" . between(0, 4) . ",0)';\nVACUUM $table;\n" } ],
		[ 3, sub { 'VACUUM FULL ' . a_table() . ";\n" } ],
		[ 2, sub { "BEGIN;\nTRUNCATE $table;\n" . copy_in($table, ' (FREEZE)') . "COMMIT;\n" } ],
		[ 3, sub { 'REINDEX INDEX CONCURRENTLY ' . a_table() . '_' . one_of(@columns) . ";\n" } ],
		[ 3, sub { my $t = a_table(); "DROP INDEX IF EXISTS ${t}_id;\n" . create_index($t, 'id', 'CONCURRENTLY') } ],
		[ 4, sub { "SELECT gin_clean_pending_list('" . a_table() . "_tags');\n" } ],
		[ 4, sub { "SELECT brin_summarize_new_values('" . a_table() . "_n');\n" } ],
		[ 2, sub { "SELECT brin_desummarize_range('" . a_table() . "_n', 0);\n" } ],
		[ 3, sub { "ANALYZE $table;\n" } ],
		[ 3, sub { "CHECKPOINT;\n" } ])->();
}

sub script
{
	my $text = "SET lock_timeout = '200ms';\nSET statement_timeout = '20s';\n";

	foreach (1 .. $statements)
	{
		$text .= pick([ 60, \&transaction ], [ 20, \&change ], [ 10, \&definition ], [ 14, \&upkeep ])->();
	}
	return $text;
}

# --- the server ------------------------------------------------------------------------------------------------------

my $memnode = LegoBase::Memnode->new(transport => one_of('shm', 'tcp'));
my $checksums = rand() < 0.5;
my $node = legobase_cluster(
	'properties',
	nodes => [$memnode],
	write_mode => 'writeback',
	init => { extra => $checksums ? ['--data-checksums'] : [] },
	conf => "max_prepared_transactions = 50\nmax_wal_size = 4GB\nallow_in_place_tablespaces = on\n"
	  . "legobase.redo = skip\nlegobase.tier1_interval = 100ms\nfull_page_writes = on\nlog_error_verbosity = terse");

note("memory node: $memnode; data checksums: " . ($checksums ? 'yes' : 'no'));
make_filler($node);
install_checks($node);
$node->safe_psql('postgres', q{CREATE TABLESPACE other LOCATION ''});
$node->safe_psql(
	'postgres',
	join '', q{
	CREATE SEQUENCE plain_numbers;
	CREATE SEQUENCE cached_numbers CACHE 10;
	CREATE TABLE counter (id int PRIMARY KEY, n int);
}, (map { create_table("w$_", '') . insert("w$_") } (0 .. $tables - 1)),
	(map { create_table("x$_", 'UNLOGGED') . insert("x$_") } (0 .. $unlogged - 1)), "CHECKPOINT;\n");

# --- rounds ----------------------------------------------------------------------------------------------------------

my @running;
my $folder = PostgreSQL::Test::Utils::tempdir_short();

sub start_clients
{
	my ($round) = @_;

	foreach my $client (1 .. $clients)
	{
		my $file = "$folder/script_${round}_$client.sql";

		PostgreSQL::Test::Utils::append_to_file($file, script());
		push @running, IPC::Run::start [ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-f', $file ],
		  '<', \'', '>', '/dev/null', '2>', "$folder/errors_${round}_$client";
	}
	return;
}

# They end by themselves when the server disconnects them.
sub end_clients
{
	$_->finish foreach @running;
	@running = ();
	unlink glob "$folder/*";
	return;
}

sub tier1_count
{
	return $node->safe_psql('postgres', 'SELECT count FROM legobase_checkpoints WHERE tier = 1') || 0;
}

# All clients at work, at least two tier-1 checkpoints since they began, and then any moment.
sub let_them_work
{
	my $before = tier1_count();

	ok(wait_for('tier-1 checkpoints', 30, sub { tier1_count() >= $before + 2 }), 'tier-1 checkpoints');
	usleep(rand 2_500_000);
	is(scalar(grep { $_->pumpable } @running), $clients, 'all clients are still at it');
	return;
}

sub set_for_round
{
	my (%settings) = @_;

	$node->adjust_conf('postgresql.conf', $_, $settings{$_}) foreach sort keys %settings;
	return;
}

my ($skipped, $compared, $pages_kept) = (0, 0, 0);

sub look_at_figures
{
	my ($what, $mode) = @_;
	my $figures = recovery_figures($node);

	note("$what: " . join ', ', map { "$_ " . ($figures->{$_} // 'null') } sort keys %{$figures});
	$pages_kept += $figures->{pages_kept};
	if ($mode eq 'skip')
	{
		$skipped += $figures->{skipped};
		cmp_ok($figures->{skipped}, '<=', $figures->{records}, "$what: no more records skipped than there are");
	}
	else
	{
		$compared += $figures->{compared};
		is($figures->{skipped}, 0, "$what: nothing is skipped");
		is($figures->{different}, 0, "$what: remote memory has what redo comes to");
	}
	return;
}

sub round
{
	my ($round) = @_;
	my $mode = $round % 2 ? 'skip' : 'compare';
	my $killed_again = rand() < 0.3;
	my %settings = (
		'legobase.tier1_interval' => one_of('50ms', '100ms', '500ms'),
		# without images redo does not begin a page anew; pages are not torn, because the kernel lives on
		'full_page_writes' => $mode eq 'skip' && rand() < 0.3 ? 'off' : 'on');
	my $what = "$round, $mode" . ($killed_again ? ', killed in recovery' : '');

	note(join ', ', "round $what", map { "$_ $settings{$_}" } sort keys %settings);
	set_for_round(%settings);
	$node->reload;
	start_clients($round);
	let_them_work();
	ok(kill_whole_server($node), "$what: the server is dead");
	end_clients();

	my $copy = copy_for_stock($node, "stock_$round", $memnode);
	set_for_round('legobase.redo' => $mode, 'shared_buffers' => one_of('1MB', '4MB', '32MB'));
	if ($killed_again)
	{
		begin_start($node);
		usleep(rand 800_000);
		kill_whole_server($node);
	}
	$node->start;
	ok(wait_for_nodes($node), "$what: the server is back");
	look_at_figures($what, $mode);
	$copy->start;
	finish_prepared($what, $node, $copy, sub { one_of('COMMIT', 'COMMIT', 'ROLLBACK') });
	same_database($what, $node, $copy);
	drop_copy($copy);
	return;
}

round($_) foreach (1 .. $rounds);

cmp_ok($pages_kept, '>', 0, "$pages_kept pages were kept in remote memory");
cmp_ok($skipped, '>', 0, "$skipped records were skipped");
cmp_ok($compared, '>', 0, "$compared pages were compared");
is(count_log_lines($node, qr/WARNING:.*remote copy/), 0, 'no page differed from its remote copy');

# with little local memory, so that pages are read from remote memory
set_for_round('shared_buffers' => '1MB');
$node->restart;
wait_for_nodes($node);
is(differing_blocks($node, 'postgres'), '', 'all pages read as they are in the files');
$node->stop;
done_testing();
