# What goes behind the storage manager (BEHIND_SMGR.md): redo, standbys, promotion and pg_rewind.
#
# The standby has a memory node of its own (all are embedded ones, with files in the data directories), and reads
# each page into it before the primary changes what is behind.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = legobase_cluster(
	'primary',
	conf => "legobase.max_remote_pool_size = 32MB\nallow_in_place_tablespaces = on\nwal_keep_size = 512MB\nhot_standby_feedback = off\n"
	  . "max_standby_streaming_delay = 5s");

make_filler($primary);
$primary->safe_psql(
	'postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, word text) WITH (fillfactor = 20);
	INSERT INTO t SELECT i, 'first' FROM generate_series(1, 10000) i;
	CREATE TABLE dropped (id int PRIMARY KEY, word text) WITH (fillfactor = 20);
	INSERT INTO dropped SELECT i, 'first' FROM generate_series(1, 5000) i;
	CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, word text);
	INSERT INTO unlogged SELECT i, 'primary' FROM generate_series(1, 5000) i;
	VACUUM (FREEZE);
});
$primary->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION ''");
$primary->safe_psql('postgres', 'CREATE DATABASE first_template');
install_functions($primary, 'first_template');
$primary->safe_psql(
	'first_template', q{
	CREATE TABLE t (id int PRIMARY KEY, word text) WITH (fillfactor = 20);
	INSERT INTO t SELECT i, 'first' FROM generate_series(1, 5000) i;
	VACUUM (FREEZE) t;
});
$primary->safe_psql(
	'postgres', q{
	CREATE DATABASE second_template TEMPLATE first_template STRATEGY file_copy;
	CREATE DATABASE moved TEMPLATE first_template STRATEGY file_copy;
	CREATE DATABASE reused OID 200000 TEMPLATE first_template STRATEGY file_copy;
});
$primary->safe_psql('second_template', q{UPDATE t SET word = 'second'; VACUUM (FREEZE) t});

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
ok(wait_for_nodes($standby), 'a standby uses its own memory node');

# Not only what is flushed: the second transaction of ALTER DATABASE SET TABLESPACE, which drops what was left behind, is flushed a moment later,
# and its redo would end the sessions that the standby has in this database then.
sub catch_up
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	return;
}

# On the standby, bring all pages in use out of shared_buffers, written.
sub standby_remote
{
	my ($db) = @_;

	$primary->safe_psql('postgres', 'CHECKPOINT');
	catch_up();
	$standby->safe_psql('postgres', 'CHECKPOINT');
	make_remote($standby, $db);
	return;
}

sub words
{
	my ($server, $db, $table) = @_;

	$table //= 't';
	return $server->safe_psql($db, "SELECT word, count(*) FROM $table GROUP BY word ORDER BY word");
}

sub no_difference
{
	my ($db, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	standby_remote($db);
	is($standby->safe_psql($db, 'SELECT * FROM differing_blocks() LIMIT 20'),
		'', "$what: all pages read as they are in the files");
	return;
}

# --- redo of changes -------------------------------------------------------------------------------------------------

is(words($standby, 'postgres'), 'first|10000', 'the standby reads');
standby_remote();
cmp_ok(remote_pages($standby, 'postgres', 't'), '>', 200, 'the table is in the remote memory of the standby');
my $before = summary($standby)->{remote_hits};
is(words($standby, 'postgres'), 'first|10000', 'the standby reads from remote memory');
cmp_ok(summary($standby)->{remote_hits} - $before, '>', 200, '... by its counters');

$primary->safe_psql('postgres', q{UPDATE t SET word = 'second' WHERE id % 2 = 0});
catch_up();
is(words($standby, 'postgres'), "first|5000\nsecond|5000", 'changes are seen on the standby');
no_difference('postgres', 'redo');

# --- truncation, drop, new indexes -----------------------------------------------------------------------------------

{
	my $key = relation_key($standby, 'postgres', 't');
	my $dropped = relation_key($standby, 'postgres', 'dropped');

	is(words($standby, 'postgres', 'dropped'), 'first|5000', 'a table that will be dropped');
	standby_remote();
	cmp_ok(pages_of($standby, $dropped), '>', 100, '... is in the remote memory of the standby');
	my $blocks = $standby->safe_psql('postgres', q{SELECT pg_relation_size('t') / 8192});
	$primary->safe_psql('postgres', q{DELETE FROM t WHERE id > 3000});
	$primary->safe_psql('postgres', 'VACUUM (FREEZE, TRUNCATE) t');
	$primary->safe_psql('postgres', 'DROP TABLE dropped');
	catch_up();
	my $left = $standby->safe_psql('postgres', q{SELECT pg_relation_size('t') / 8192});
	cmp_ok($left, '<', $blocks, 'a truncation is redone');
	is(pages_of($standby, $key, 0, $left), 0, '... and no page beyond the end is in remote memory');
	is(pages_of($standby, $dropped), 0, 'nothing of a table whose drop was redone is in remote memory');
	$primary->safe_psql('postgres', q{INSERT INTO t SELECT i, 'third' FROM generate_series(10001, 18000) i});
	$primary->safe_psql('postgres', 'CREATE INDEX t_hash ON t USING hash (id); CREATE INDEX t_gin ON t (word, id)');
	catch_up();
	is(words($standby, 'postgres'), "first|1500\nsecond|1500\nthird|8000", 'rows after truncation and growth');
	is($standby->safe_psql('postgres', q{SET enable_seqscan = off; SELECT count(*) FROM t WHERE id = 12345}),
		1, 'a hash index on the standby');
	no_difference('postgres', 'truncation and growth');

	$key = relation_key($standby, 'postgres', 't');
	$primary->safe_psql('postgres', 'VACUUM FULL t');
	catch_up();
	is(pages_of($standby, $key), 0, 'nothing of a rewritten table is in remote memory');
	is(words($standby, 'postgres'), "first|1500\nsecond|1500\nthird|8000", 'rows after VACUUM FULL');
	no_difference('postgres', 'VACUUM FULL');
}

# --- databases -------------------------------------------------------------------------------------------------------

{
	is(words($standby, 'reused'), 'first|5000', 'a database on the standby');
	standby_remote('reused');
	cmp_ok(remote_pages($standby, 'reused', 't'), '>', 100, '... is in its remote memory');
	$primary->safe_psql('postgres', 'DROP DATABASE reused');
	catch_up();
	is(pages_of($standby, '200000'), 0, 'nothing of it is left when its drop was redone');
	$primary->safe_psql('postgres', 'CREATE DATABASE reused OID 200000 TEMPLATE second_template STRATEGY file_copy');
	catch_up();
	is(words($standby, 'reused'), 'second|5000', 'a database with a reused OID has its own rows on the standby');
	no_difference('reused', 'reused OID');

	is(words($standby, 'moved'), 'first|5000', 'a database that will be moved');
	standby_remote('moved');
	$primary->safe_psql('postgres', 'ALTER DATABASE moved SET TABLESPACE elsewhere');
	$primary->safe_psql('moved', q{UPDATE t SET word = 'moved'; VACUUM (FREEZE) t});
	catch_up();
	is(words($standby, 'moved'), 'moved|5000', 'a moved database on the standby');
	standby_remote('moved');
	$primary->safe_psql('postgres', 'ALTER DATABASE moved SET TABLESPACE pg_default');
	catch_up();
	is(words($standby, 'moved'), 'moved|5000', 'moved back');
	no_difference('moved', 'moved database');
}

# --- restartpoints and crashes ---------------------------------------------------------------------------------------

{
	standby_remote();
	$primary->safe_psql('postgres', q{UPDATE t SET word = 'fourth' WHERE id <= 3000});
	catch_up();
	fill_buffers($standby);
	$standby->stop('immediate');
	$standby->start;
	wait_for_nodes($standby);
	catch_up();
	is(words($standby, 'postgres'), "fourth|3000\nthird|8000", 'rows after a crash of the standby');
	no_difference('postgres', 'after a crash of the standby');
	$standby->stop('immediate');
	start_stock($standby);
	catch_up();
	is(words($standby, 'postgres'), "fourth|3000\nthird|8000", 'rows under a standby without the extension');
	$primary->safe_psql('postgres', q{UPDATE t SET word = 'fifth' WHERE id <= 3000});
	catch_up();
	$standby->stop;
	start_legobase($standby);
	catch_up();
	is(words($standby, 'postgres'), "fifth|3000\nthird|8000", 'rows under the standby with the extension again');
	no_difference('postgres', 'with the extension again');
}

# --- promotion -------------------------------------------------------------------------------------------------------

{
	$primary->safe_psql('postgres', 'DROP TABLESPACE elsewhere');
	standby_remote();
	$primary->safe_psql('postgres', q{UPDATE t SET word = 'sixth' WHERE id <= 3000});
	catch_up();
	$standby->promote;
	$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
	is(words($standby, 'postgres'), "sixth|3000\nthird|8000", 'rows after promotion');
	is($standby->safe_psql('postgres', 'SELECT count(*) FROM unlogged'), 0, 'an unlogged table is empty');
	$standby->safe_psql('postgres',
		q{INSERT INTO unlogged SELECT i, 'promoted' FROM generate_series(1, 5000) i;
		  UPDATE t SET word = 'seventh' WHERE id > 3000});
	make_remote($standby);
	is(words($standby, 'postgres', 'unlogged'), 'promoted|5000', '... and takes rows');
	is(words($standby, 'postgres'), "seventh|8000\nsixth|3000", 'changes after promotion');
	is(differing_blocks($standby, 'postgres'), '', 'after promotion all pages read as they are in the files');
	amcheck_clean($standby, 'after promotion');
}

# --- pg_rewind -------------------------------------------------------------------------------------------------------

# (It does not support the tablespaces within the data directory that this test has had so far.)
#
# The old primary went on for a while. Its remote memory has the pages of both histories.
{
	$primary->safe_psql('postgres', q{UPDATE t SET word = 'lost'; INSERT INTO t SELECT i, 'lost'
		FROM generate_series(20000, 25000) i});
	is(words($primary, 'postgres'), 'lost|16001', 'the old primary has diverged');
	make_remote($primary);
	cmp_ok(remote_pages($primary, 'postgres', 't'), '>', 100, '... with its pages in remote memory');
	$primary->stop;

	# the source is live, and has newer rows in remote memory and shared_buffers than in its files
	$standby->safe_psql('postgres', q{UPDATE t SET word = 'eighth' WHERE id > 3000});
	my $conf = PostgreSQL::Test::Utils::slurp_file($primary->data_dir . '/postgresql.conf');
	command_ok(
		[
			'pg_rewind', '--source-server', $standby->connstr('postgres'),
			'--target-pgdata', $primary->data_dir, '--no-sync'
		],
		'pg_rewind');
	ok(wait_for_nodes($standby), 'its source keeps its memory node');
	open(my $file, '>', $primary->data_dir . '/postgresql.conf') or die $!;
	print $file $conf;
	close $file;
	$primary->enable_streaming($standby);
	$primary->set_standby_mode;
	$primary->start;
	$standby->wait_for_catchup($primary, 'replay', $standby->lsn('flush'));
	ok(wait_for_nodes($primary), 'the old primary uses its memory node');
	is(words($primary, 'postgres'), "eighth|8000\nsixth|3000", 'the old primary has the rows of the new one');
	$standby->safe_psql('postgres', 'CHECKPOINT');
	$standby->wait_for_catchup($primary, 'replay', $standby->lsn('flush'));
	$primary->safe_psql('postgres', 'CHECKPOINT');
	make_remote($primary);
	is(words($primary, 'postgres'), "eighth|8000\nsixth|3000", '... also from remote memory');
	is($primary->safe_psql('postgres', 'SELECT * FROM differing_blocks() LIMIT 20'),
		'', 'after pg_rewind all pages read as they are in the files');
}

$_->stop foreach ($primary, $standby);
done_testing();
