# What goes behind the storage manager (BEHIND_SMGR.md): operations on relations.
#
# Most of these end with the same question: is every page that the server reads the one in the file? A page of an earlier
# life of a block, left behind in remote memory, is found by it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = legobase_cluster('relations', conf => "allow_in_place_tablespaces = on\nmax_wal_size = 4GB");

make_filler($node);
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION ''");

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

sub no_difference
{
	my ($what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(differing_blocks($node, 'postgres'), '', "$what: all pages read as they are in the files");
	return;
}

# --- sizes -----------------------------------------------------------------------------------------------------------

sql(q{CREATE TABLE sized (id int, pad text);
	  INSERT INTO sized SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i});
is( sql(q{SELECT pg_relation_size('sized')}),
	-s $node->data_dir . '/' . sql(q{SELECT pg_relation_filepath('sized')}),
	'pg_relation_size is the size of the file');
is( sql(q{SELECT max((ctid::text::point)[0])::int + 1 FROM sized}),
	sql(q{SELECT pg_relation_size('sized') / 8192}),
	'... which holds all blocks, although nothing was checkpointed');

# --- temporary relations ---------------------------------------------------------------------------------------------

{
	my $session = $node->background_psql('postgres');

	$session->query_safe(q{SET temp_buffers = '800kB'; CREATE TEMP TABLE temporary (id int, pad text)});
	$session->query_safe(q{INSERT INTO temporary SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i});
	is($session->query_safe('SELECT count(*) FROM temporary'), 5000, 'a temporary table larger than its buffers');
	my $key = $session->query_safe(
		q{SELECT (SELECT oid FROM pg_database WHERE datname = current_database()) || ' ' ||
		  pg_relation_filenode('temporary')});
	is(pages_of($node, $key), 0, 'temporary relations never become remote');
	$session->quit;
}

# --- VACUUM truncation -----------------------------------------------------------------------------------------------

{
	sql(q{CREATE TABLE shrinking (id int, word text) WITH (fillfactor = 20);
		  INSERT INTO shrinking SELECT i, 'first' FROM generate_series(1, 20000) i});
	is(sql('SELECT count(*) FROM shrinking'), 20000, 'rows before the truncation');
	sql('VACUUM (FREEZE) shrinking');
	make_remote($node);
	my $key = relation_key($node, 'postgres', 'shrinking');
	my $blocks = sql(q{SELECT pg_relation_size('shrinking') / 8192});
	cmp_ok(pages_of($node, $key, 0), '>', $blocks * 0.9, 'a table in remote memory');
	sql('DELETE FROM shrinking WHERE id > 5000');
	sql('VACUUM (FREEZE, TRUNCATE) shrinking');
	my $left = sql(q{SELECT pg_relation_size('shrinking') / 8192});
	cmp_ok($left, '<', $blocks / 2, 'VACUUM truncates it');
	is(pages_of($node, $key, 0, $left), 0, 'no page beyond its end stays in remote memory');
	no_difference('after the truncation');
	sql(q{INSERT INTO shrinking SELECT i, 'second' FROM generate_series(1, 15000) i});
	is( sql('SELECT word, count(*) FROM shrinking GROUP BY word ORDER BY word'),
		"first|5000\nsecond|15000",
		'rows after it has grown again');
	no_difference('after growing again');
}

# --- truncation in place, and files with holes -----------------------------------------------------------------------

# In the transaction that made a table, TRUNCATE keeps its files. A hash index then grows by writing only the last of
# many blocks: the others must be holes, not what these blocks were before.
{
	my $session = $node->background_psql('postgres');

	$session->query_safe(
		'BEGIN; CREATE TABLE hashed (i int); CREATE INDEX hashed_i ON hashed USING hash (i)');
	$session->query_safe('INSERT INTO hashed SELECT generate_series(1, 100000)');
	$session->query_safe('SELECT read_all_into_remote_memory()');
	$session->query_safe(q{SELECT pg_prewarm('filler', 'buffer') FROM generate_series(1, 5)});
	my $key = $session->query_safe(
		q{SELECT (SELECT oid FROM pg_database WHERE datname = current_database()) || ' ' ||
		  pg_relation_filenode('hashed_i')});
	cmp_ok(pages_of($node, $key), '>', 200, 'a hash index in remote memory');
	$session->query_safe('TRUNCATE hashed');
	is(pages_of($node, $key, 0, 10), 0, 'TRUNCATE in place leaves nothing of it in remote memory');
	$session->query_safe('INSERT INTO hashed SELECT generate_series(1, 25000)');
	$session->query_safe('COMMIT');
	$session->quit;
	is($key, relation_key($node, 'postgres', 'hashed_i'), 'it is still the same file');
	make_remote($node);
	cmp_ok(
		sql(q{SELECT count(*) FROM generate_series(0, pg_relation_size('hashed_i') / 8192 - 1) block
			  WHERE pg_read_binary_file(pg_relation_filepath('hashed_i'), block * 8192, 8192)
				= decode(repeat('00', 8192), 'hex')}),
		'>',
		5,
		'the file has holes');
	no_difference('a hash index that has grown again');
	is(sql('SET enable_seqscan = off; SELECT count(*) FROM hashed WHERE i = 12345'), 1, 'the hash index works');
}

# --- TRUNCATE and DROP of committed tables ---------------------------------------------------------------------------

{
	sql(q{CREATE TABLE doomed (id int PRIMARY KEY, pad text);
		  INSERT INTO doomed SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i});
	make_remote($node);
	my $old = relation_key($node, 'postgres', 'doomed');
	cmp_ok(pages_of($node, $old), '>', 100, 'a table in remote memory');
	sql('TRUNCATE doomed');
	is(pages_of($node, $old), 0, 'TRUNCATE leaves nothing of it there');
	sql(q{INSERT INTO doomed SELECT i, repeat('y', 500) FROM generate_series(1, 5000) i});
	make_remote($node);
	is(sql(q{SELECT count(*) FROM doomed WHERE pad LIKE 'y%'}), 5000, 'rows after TRUNCATE');
	$old = relation_key($node, 'postgres', 'doomed');
	my $old_index = relation_key($node, 'postgres', 'doomed_pkey');
	cmp_ok(pages_of($node, $old_index), '>', 5, 'its index is in remote memory');
	sql('DROP TABLE doomed');
	is(pages_of($node, $old), 0, 'DROP TABLE leaves nothing of the table');
	is(pages_of($node, $old_index), 0, '... and nothing of its index');

	# rolled back: the new file is dropped, the old one stays
	sql(q{CREATE TABLE kept (id int, pad text);
		  INSERT INTO kept SELECT i, repeat('x', 500) FROM generate_series(1, 3000) i});
	make_remote($node);
	sql(q{BEGIN; TRUNCATE kept; INSERT INTO kept SELECT i, repeat('y', 500) FROM generate_series(1, 3000) i;
		  SELECT pg_prewarm('filler', 'buffer') FROM generate_series(1, 5); ROLLBACK});
	is(sql(q{SELECT count(*) FROM kept WHERE pad LIKE 'x%'}), 3000, 'rows after a TRUNCATE that was rolled back');
	no_difference('after TRUNCATE and DROP');
}

# --- rewrites --------------------------------------------------------------------------------------------------------

{
	my $contents = q{SELECT count(*), md5(string_agg(id || word, ',' ORDER BY id)) FROM rewritten};

	sql(q{CREATE TABLE rewritten (id int PRIMARY KEY, word text, n int);
		  CREATE INDEX rewritten_n ON rewritten (n);
		  INSERT INTO rewritten SELECT i, repeat(i::text, 50), (i * 7919) % 10000 FROM generate_series(1, 10000) i;
		  DELETE FROM rewritten WHERE id % 3 = 0});
	my $before = sql($contents);
	foreach my $statement (
		'ALTER TABLE rewritten SET TABLESPACE elsewhere',
		'ALTER INDEX rewritten_n SET TABLESPACE elsewhere',
		'CLUSTER rewritten USING rewritten_n',
		'VACUUM FULL rewritten',
		'REINDEX TABLE rewritten',
		'REINDEX TABLE CONCURRENTLY rewritten',
		'ALTER TABLE rewritten SET TABLESPACE pg_default',
		'ALTER TABLE rewritten SET UNLOGGED',
		'ALTER TABLE rewritten SET LOGGED',
		'ALTER TABLE rewritten ALTER n TYPE bigint')
	{
		my $old = relation_key($node, 'postgres', 'rewritten');

		make_remote($node);
		sql(q{UPDATE rewritten SET n = n + 1 WHERE id % 10 = 0});
		sql($statement);
		is(sql($contents), $before, "$statement: rows");
		my $new = relation_key($node, 'postgres', 'rewritten');
		is(pages_of($node, $old), 0, "$statement: nothing of the old file is in remote memory") if $new ne $old;
		is(sql('SET enable_seqscan = off; SELECT count(*) FROM rewritten WHERE n >= 0'),
			6667, "$statement: rows by index");
	}
	no_difference('rewrites');
}

# --- index builds ----------------------------------------------------------------------------------------------------

# With little memory, so that pages leave shared_buffers while the index is built, before there is any WAL for them.
{
	my %probe = (
		btree => [ 'n', 'n BETWEEN 100 AND 300' ],
		hash => [ 'n', 'n = 4242' ],
		gin => [ 'words', q{words @> ARRAY['w77']} ],
		gist => [ 'spot', q{spot <@ box '(0,0),(30,30)'} ],
		spgist => [ 'spot', q{spot <@ box '(0,0),(30,30)'} ],
		brin => [ 'id', 'id BETWEEN 1000 AND 2000' ]);

	sql(q{CREATE TABLE indexed (id int, n int, words text[], spot point);
		  INSERT INTO indexed SELECT i, (i * 7919) % 30000, ARRAY['w' || i % 500, 'w' || i % 77, 'w' || i],
			point(i % 173, i % 191) FROM generate_series(1, 30000) i});
	foreach my $method (sort keys %probe)
	{
		my ($column, $condition) = @{ $probe{$method} };
		my $expected = sql("SELECT count(*), sum(id) FROM indexed WHERE $condition");

		sql("SET maintenance_work_mem = '1MB'; CREATE INDEX indexed_$method ON indexed USING $method ($column)");
		make_remote($node);
		is( sql("SET enable_seqscan = off; SELECT count(*), sum(id) FROM indexed WHERE $condition"),
			$expected, "$method: the built index finds the same rows");
		sql(q{INSERT INTO indexed SELECT i, (i * 7919) % 30000, ARRAY['w' || i % 500], point(i % 173, i % 191)
			  FROM generate_series(30001, 33000) i});
		make_remote($node);
		$expected = sql("SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
			SELECT count(*), sum(id) FROM indexed WHERE $condition");
		is( sql("SET enable_seqscan = off; SELECT count(*), sum(id) FROM indexed WHERE $condition"),
			$expected, "$method: ... and after more rows");
		sql("DELETE FROM indexed WHERE id > 30000; VACUUM indexed; DROP INDEX indexed_$method");
	}
	sql("CREATE INDEX indexed_$_ ON indexed USING $_ ($probe{$_}[0])") foreach sort keys %probe;
	no_difference('index builds');
	amcheck_clean($node, 'index builds');
}

# --- pg_prewarm reads without locks ----------------------------------------------------------------------------------

# What it reads may be older than what is written meanwhile: it must not replace it in remote memory.
{
	my $folder = PostgreSQL::Test::Utils::tempdir_short();

	sql(q{CREATE TABLE raced (id int PRIMARY KEY, n int) WITH (fillfactor = 20);
		  INSERT INTO raced SELECT i, 0 FROM generate_series(1, 6000) i});
	PostgreSQL::Test::Utils::append_to_file("$folder/update.sql",
		"\\set i random(1, 3000)\n\\set j random(3001, 6000)\n"
		  . "BEGIN;\nUPDATE raced SET n = n - 1 WHERE id = :i;\nUPDATE raced SET n = n + 1 WHERE id = :j;\nCOMMIT;\n");
	foreach my $mode ('read', 'prefetch', 'buffer')
	{
		PostgreSQL::Test::Utils::append_to_file("$folder/$mode.sql", "SELECT pg_prewarm('raced', '$mode');\n");
	}
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run [
		'pgbench', '-n', '-h', $node->host, '-p', $node->port, '-c', 8, '-j', 2, '-T', 6,
		'-f', "$folder/update.sql\@200", '-f', "$folder/read.sql\@4", '-f', "$folder/prefetch.sql\@1",
		'-f', "$folder/buffer.sql\@1", 'postgres'
	  ],
	  '>', \$out, '2>', \$err;
	ok($ok, 'updates beside pg_prewarm') or diag($err);
	is(sql('SELECT count(*), sum(n) FROM raced'), '6000|0', 'pg_prewarm: no update is lost');
	no_difference('pg_prewarm beside updates');
}

# --- unlogged relations after a crash --------------------------------------------------------------------------------

foreach my $crash ('backend', 'server')
{
	sql(q{CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, word text, spot point);
		  CREATE INDEX ON unlogged USING gist (spot); CREATE INDEX ON unlogged USING hash (id);
		  CREATE INDEX ON unlogged USING brin (id); CREATE INDEX ON unlogged USING spgist (spot);
		  INSERT INTO unlogged SELECT i, 'first', point(i, i) FROM generate_series(1, 10000) i});
	make_remote($node);
	is(sql('SELECT count(*) FROM unlogged'), 10000, 'an unlogged table');
	no_difference('unlogged');
	make_remote($node);
	if ($crash eq 'backend')
	{
		my $session = $node->background_psql('postgres', on_error_stop => 0);
		ok(crash_by($node, $session->query('SELECT pg_backend_pid()')), 'crash of a backend');
		$session->{run}->finish;
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	wait_for_nodes($node);
	is(sql('SELECT count(*) FROM unlogged'), 0, "an unlogged table is empty after the crash of a $crash");
	is(sql(q{SET enable_seqscan = off; SELECT count(*) FROM unlogged WHERE id < 1000}), 0, '... its index too');
	sql(q{INSERT INTO unlogged SELECT i, 'second', point(i, i) FROM generate_series(1, 5000) i});
	make_remote($node);
	is(sql('SELECT word, count(*) FROM unlogged GROUP BY word'), 'second|5000', '... and takes new rows');
	is(sql(q{SET enable_seqscan = off; SELECT count(*) FROM unlogged WHERE spot <@ box '(0,0),(100,100)'}),
		100, '... which its indexes find');
	no_difference('unlogged after a crash');
	is(sql('SELECT count(*) FROM kept'), 3000, 'a logged table has its rows');
	$node->restart;
	wait_for_nodes($node);
	is(sql('SELECT word, count(*) FROM unlogged GROUP BY word'), 'second|5000', 'a clean restart keeps them');
	sql('DROP TABLE unlogged');
}

# --- file numbers used again -----------------------------------------------------------------------------------------

# Outside of pg_upgrade's mode a file number comes back only after four billion others. The second relation is a hash
# index, whose file has holes: where a page of the first relation would show.
{
	# some minor versions want to be told this as well
	my $versions = sub {
		my ($columns) = @_;
		my $values = join ',', ('0/1') x $columns;

		return "SELECT format('SELECT binary_upgrade_set_next_attribute_versions(%L)', '{$values}')
			WHERE to_regproc('binary_upgrade_set_next_attribute_versions') IS NOT NULL \\gexec\n";
	};

	$node->stop;
	start_with_options($node, '-b');
	wait_for_nodes($node);
	sql($versions->(2) . q{SELECT binary_upgrade_set_next_pg_type_oid(60001), binary_upgrade_set_next_array_pg_type_oid(60002),
			binary_upgrade_set_next_heap_pg_class_oid(60000), binary_upgrade_set_next_heap_relfilenode(60000);
		  CREATE TABLE former (id int, n int);
		  INSERT INTO former SELECT i, i FROM generate_series(1, 60000) i});
	make_remote($node);
	my $key = relation_key($node, 'postgres', 'former');
	like($key, qr/ 60000$/, 'a table with a file number of our choice');
	cmp_ok(pages_of($node, $key), '>', 200, '... in remote memory');
	sql('DROP TABLE former');
	is(pages_of($node, $key), 0, 'nothing of it is left in remote memory after DROP TABLE');
	sql($versions->(1) . q{SELECT binary_upgrade_set_next_pg_type_oid(60011), binary_upgrade_set_next_array_pg_type_oid(60012),
			binary_upgrade_set_next_heap_pg_class_oid(60010), binary_upgrade_set_next_heap_relfilenode(60010);
		  CREATE TABLE latter (id int);
		  SELECT binary_upgrade_set_next_index_pg_class_oid(60013), binary_upgrade_set_next_index_relfilenode(60000);
		  CREATE INDEX latter_id ON latter USING hash (id);
		  INSERT INTO latter SELECT generate_series(1, 25000)});
	is(relation_key($node, 'postgres', 'latter_id'), $key, 'an index with the same file number');
	no_difference('a reused file number');
	is(sql('SET enable_seqscan = off; SELECT count(*) FROM latter WHERE id = 4242'), 1, 'the index works');
	sql('DROP TABLE latter');
	$node->stop;
}

# --- wal_level = minimal ---------------------------------------------------------------------------------------------

foreach my $threshold ('0', '1GB')
{
	my $what = "wal_level = minimal, wal_skip_threshold = $threshold";
	my $minimal = legobase_cluster(
		"minimal_$threshold",
		# what it comes to by itself
		start => 0,
		conf => "wal_level = minimal\nmax_wal_senders = 0\nwal_skip_threshold = $threshold");

	expect_write_mode($minimal, 'writethrough');
	$minimal->start;
	make_filler($minimal);
	wait_for_nodes($minimal);
	$minimal->safe_psql('postgres', 'CREATE TABLE truncated (i int); INSERT INTO truncated VALUES (1); CHECKPOINT');
	$minimal->safe_psql(
		'postgres', q{
		BEGIN;
		CREATE TABLE skipped (id int, word text);
		INSERT INTO skipped SELECT i, 'word ' || i FROM generate_series(1, 20000) i;
		CREATE INDEX ON skipped (id);
		CREATE INDEX ON skipped USING hash (word);
		COMMIT;
		BEGIN;
		TRUNCATE truncated;
		INSERT INTO truncated SELECT generate_series(1, 20000);
		COMMIT;
	});
	$minimal->stop('immediate');
	$minimal->start;
	wait_for_nodes($minimal);
	is($minimal->safe_psql('postgres', 'SELECT count(*), sum(id) FROM skipped'),
		'20000|200010000', "$what: rows made without WAL are there after a crash");
	is($minimal->safe_psql('postgres', 'SELECT count(*), sum(i) FROM truncated'),
		'20000|200010000', "$what: ... also after TRUNCATE");
	is( $minimal->safe_psql(
			'postgres', q{SET enable_seqscan = off; SELECT count(*) FROM skipped WHERE id > 19000 OR word = 'word 7'}),
		1001,
		"$what: ... and their indexes");
	is(differing_blocks($minimal, 'postgres'), '', "$what: all pages read as they are in the files");
	amcheck_clean($minimal, $what);
	$minimal->stop;
}

done_testing();
