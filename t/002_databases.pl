# What goes behind the storage manager (BEHIND_SMGR.md): operations on whole databases and tablespaces.
#
# Two databases of the same OID whose relations have the same file numbers are made by copying templates file by file.
# A page of the first that stays in remote memory would then be read as a page of the second.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = legobase_cluster('databases');
my $tablespace = PostgreSQL::Test::Utils::tempdir_short();

$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$tablespace'");
make_filler($node);

# A database with a table t whose rows all say the same word; big enough not to fit shared_buffers.
$node->safe_psql('postgres', 'CREATE DATABASE first_template');
install_functions($node, 'first_template');
$node->safe_psql(
	'first_template', q{
	CREATE TABLE t (id int PRIMARY KEY, word text) WITH (fillfactor = 20);
	INSERT INTO t SELECT i, 'first' FROM generate_series(1, 10000) i;
	VACUUM (FREEZE) t;
});
$node->safe_psql('postgres', 'CREATE DATABASE second_template TEMPLATE first_template STRATEGY file_copy');
$node->safe_psql('second_template', q{UPDATE t SET word = 'second'; VACUUM (FREEZE) t});

sub words
{
	my ($db) = @_;

	return $node->safe_psql($db, 'SELECT word, count(*) FROM t GROUP BY word ORDER BY word');
}

# Read all of a database's table into remote memory.
sub read_remote
{
	my ($db, $word) = @_;

	is(words($db), "$word|10000", "$db holds the $word rows");
	make_remote($node, $db);
	cmp_ok(remote_pages($node, $db, 't'), '>', 200, "$db has its pages in remote memory");
	return;
}

sub no_difference
{
	my ($db, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(differing_blocks($node, $db), '', "$what: all pages read as they are in the files");
	return;
}

# --- CREATE DATABASE -------------------------------------------------------------------------------------------------

# Pages of the template that were just changed, and left shared_buffers or not, are in the copy.
foreach my $strategy ('file_copy', 'wal_log')
{
	make_remote($node, 'first_template');
	$node->safe_psql('first_template', q{UPDATE t SET word = 'changed' WHERE id % 2 = 0});
	$node->safe_psql('postgres', "CREATE DATABASE copy TEMPLATE first_template STRATEGY $strategy");
	is(words('copy'), "changed|5000\nfirst|5000", "$strategy: the copy has the template's latest rows");
	no_difference('copy', $strategy);
	$node->safe_psql('postgres', 'DROP DATABASE copy');
	$node->safe_psql('first_template', q{UPDATE t SET word = 'first'; VACUUM (FREEZE) t});
}

# --- DROP DATABASE ---------------------------------------------------------------------------------------------------

foreach my $strategy ('file_copy', 'wal_log')
{
	$node->safe_psql('postgres', "CREATE DATABASE reused OID 200000 TEMPLATE first_template STRATEGY $strategy");
	read_remote('reused', 'first');
	$node->safe_psql('postgres', 'DROP DATABASE reused');
	is(pages_of($node, '200000'), 0, "$strategy: nothing of the dropped database is in remote memory");
	$node->safe_psql('postgres', 'CREATE DATABASE reused OID 200000 TEMPLATE second_template STRATEGY file_copy');
	is(words('reused'), 'second|10000', "$strategy: a database with a reused OID has its own rows");
	no_difference('reused', "$strategy, reused OID");
	$node->safe_psql('postgres', 'DROP DATABASE reused');
}

# --- ALTER DATABASE SET TABLESPACE -----------------------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE moved TEMPLATE first_template');
read_remote('moved', 'first');
$node->safe_psql('moved', q{UPDATE t SET word = 'unwritten'});
$node->safe_psql('postgres', 'ALTER DATABASE moved SET TABLESPACE elsewhere');
is(words('moved'), 'unwritten|10000', 'a moved database has the latest rows');
$node->safe_psql('moved', q{UPDATE t SET word = 'moved'; VACUUM (FREEZE) t});
read_remote('moved', 'moved');
$node->safe_psql('postgres', 'ALTER DATABASE moved SET TABLESPACE pg_default');
is(words('moved'), 'moved|10000', 'a database that was moved and moved back has the latest rows');
$node->safe_psql('moved', q{UPDATE t SET word = 'back'; VACUUM (FREEZE) t});
read_remote('moved', 'back');
$node->safe_psql('postgres', 'ALTER DATABASE moved SET TABLESPACE elsewhere');
is(words('moved'), 'back|10000', 'moved a third time');
no_difference('moved', 'moved database');
$node->safe_psql('postgres', 'DROP DATABASE moved');

# --- a CREATE DATABASE that fails ------------------------------------------------------------------------------------

# wal_log copies through shared buffers, so that pages of the new database are written and pushed; then it misses a
# file, and the files are removed without a DROP DATABASE. Relations are copied in the order of pg_class: the one whose file is
# taken away must come after t.
$node->safe_psql('first_template', 'CREATE TABLE z_' . $_ . ' (i int)') foreach (1 .. 40);
my $last = $node->safe_psql('first_template',
	q{SELECT relname FROM pg_class WHERE relname = 't' OR relname LIKE 'z\_%' ORDER BY ctid DESC LIMIT 1});
like($last, qr/^z_/, 'a table that is copied after t');
my $missing =
  $node->data_dir . '/' . $node->safe_psql('first_template', "SELECT pg_relation_filepath('$last')");
$node->stop;
rename $missing, "$missing.away" or die "$missing: $!";
$node->start;
wait_for_nodes($node);
my ($status, $out, $err) = $node->psql('postgres',
	'CREATE DATABASE failed OID 200001 TEMPLATE first_template STRATEGY wal_log');
isnt($status, 0, 'CREATE DATABASE fails');
like($err, qr/could not open file/, '... at a missing file');
$node->safe_psql('postgres', 'SELECT legobase_drain()');
is(pages_of($node, '200001'), 0, 'nothing of the failed database is in remote memory');
$node->safe_psql('postgres', 'CREATE DATABASE failed OID 200001 TEMPLATE second_template STRATEGY file_copy');
is(words('failed'), 'second|10000', 'a database made after the failed one has its own rows');
no_difference('failed', 'after a failed CREATE DATABASE');
$node->safe_psql('postgres', 'DROP DATABASE failed');
rename "$missing.away", $missing or die "$missing: $!";
$node->safe_psql('first_template', "DROP TABLE z_$_") foreach (1 .. 40);

# --- tablespaces -----------------------------------------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE spacious TABLESPACE elsewhere TEMPLATE first_template');
read_remote('spacious', 'first');
$node->safe_psql('postgres', 'DROP DATABASE spacious; CHECKPOINT');
is($node->psql('postgres', 'DROP TABLESPACE elsewhere'), 0, 'DROP TABLESPACE finds an empty folder');

is(summary($node)->{checksum_failures}, 0, 'no checksum failure');
$node->stop;

# --- a process that waits for a memory node --------------------------------------------------------------------------

# DROP DATABASE waits until every process has closed its files. A process that waits for a memory node must do so too.
my $memnode = LegoBase::Memnode->new(transport => 'tcp');
my $waiting = legobase_cluster(
	'waiting',
	nodes => [$memnode],
	# DROP DATABASE would fence, which a node that is stopped does not answer
	write_mode => 'writethrough',
	conf => "legobase.node_timeout = 60s\nshared_buffers = 16MB");

# A table that is written and read through a ring of a few buffers; the catalogs stay in shared_buffers.
install_functions($waiting, 'postgres');
$waiting->safe_psql('postgres', q{CREATE TABLE t AS SELECT i, repeat('x', 1000) AS pad FROM generate_series(1, 10000) i});
settle($waiting);
$waiting->safe_psql('postgres', 'SELECT read_all_into_remote_memory()');

# connected before, so that only the read waits
my $reader = $waiting->background_psql('postgres', on_error_stop => 0);
my $dropper = $waiting->background_psql('postgres');
my $reader_works = q{SELECT clock_timestamp() - query_start > '500ms' FROM pg_stat_activity
	WHERE application_name = 'reader' AND state = 'active'};
$reader->query('SET application_name = reader; SELECT count(*) FROM t WHERE i < 0');
$dropper->query('CREATE DATABASE rehearsal; DROP DATABASE rehearsal; CREATE DATABASE victim');
$dropper->query($reader_works);
$memnode->freeze;
$reader->{stdin} .= "SELECT count(*) FROM t;\n";
$reader->{run}->pump_nb;
ok( wait_for(
		'the reader waits for the memory node',
		10,
		# without the wait it would be done in a few milliseconds
		sub { $reader->{run}->pump_nb; $dropper->query($reader_works) eq 't' }),
	'a process waits for the stopped memory node');
my $started = time;
$dropper->query('DROP DATABASE victim');
my $elapsed = time - $started;
cmp_ok($elapsed, '<', 10, 'DROP DATABASE does not wait for it');
is($dropper->query(q{SELECT state FROM pg_stat_activity WHERE application_name = 'reader'}),
	'active', '... which still waits');

# and it can be cancelled
$started = time;
$dropper->query(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'reader'});
ok( wait_for(
		'cancelled',
		10,
		sub {
			$dropper->query(q{SELECT state FROM pg_stat_activity WHERE application_name = 'reader'}) ne 'active';
		}),
	'the waiting process can be cancelled');
cmp_ok(time - $started, '<', 5, '... at once');
$memnode->thaw;
wait_for_nodes($waiting, 120);
is($waiting->safe_psql('postgres', 'SELECT count(*) FROM t'), 10000, 'all rows are there afterwards');
$reader->{run}->kill_kill;
$dropper->quit;
$waiting->stop;

done_testing();
