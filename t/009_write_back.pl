# Write-back: dirty pages go to remote memory and not to the files, the memory node writes them, and a checkpoint means that
# the files are current. What must not be written back is not; what is removed does not come back; the mode can be changed.
#
# 011_storage_faults.pl is about storage that fails, 012_dirty_nodes.pl about memory nodes that are lost.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use LegoBase::Acknowledged;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $memnode = LegoBase::Memnode->new(transport => 'shm', memory => '128MB');
my $node = legobase_cluster(
	'writeback',
	nodes => [$memnode],
	write_mode => 'writeback',
	init => { extra => ['--data-checksums'] },
	conf => "legobase.node_timeout = 10s\nbgwriter_lru_maxpages = 0\nmax_wal_size = 4GB\nallow_in_place_tablespaces = on");
my $fault_points = has_fault_points($node);

make_filler($node);

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# Another memory node, with these arguments. Nothing is dirty, so nothing is lost.
sub restart_memnode
{
	my (@arguments) = @_;

	settle($node);
	$memnode->stop;
	$memnode->start(@arguments);
	wait_for_nodes($node);
	quieten();
	return;
}

# A table whose rows all say the same word, with few rows in a page and room for new versions of them.
sub make_table
{
	my ($name, $rows, $word) = @_;

	sql("CREATE TABLE $name (id int, word text) WITH (fillfactor = 10);
		INSERT INTO $name SELECT i, '$word' FROM generate_series(1, $rows) i");
	sql("VACUUM (FREEZE) $name");
	settle($node);
	quieten();
	return;
}

sub words
{
	my ($name) = @_;

	return sql("SELECT word, count(*) FROM $name GROUP BY word ORDER BY word");
}

sub storage_writes
{
	return sql(q{SELECT writes FROM legobase_stat_io WHERE tier = 'storage'});
}

# --- where pages go --------------------------------------------------------------------------------------------------

{
	make_table('t', 6000, 'old');
	my $blocks = sql(q{SELECT pg_relation_size('t') / 8192});
	is(files_behind($node, 'postgres', 't'), 0, 'a table is in its file');
	my $writes = storage_writes();
	sql(q{UPDATE t SET word = 'new'});
	fill_buffers($node);
	is(storage_writes(), $writes, 'dirty pages leave shared_buffers, and nothing is written to a file');
	cmp_ok(dirty_pages_of($node, 'postgres', 't'), '>', $blocks * 0.9, '... they are dirty in remote memory');
	cmp_ok(files_behind($node, 'postgres', 't'), '>', $blocks * 0.9, '... and the file has the old ones');
	my $before = summary($node);
	is(words('t'), 'new|6000', 'the new ones are read');
	fill_buffers($node);
	is(sql(q{SET legobase.kernel_cache_reads = auto; SELECT word, count(*) FROM t GROUP BY word}),
		'new|6000', '... also with the kernel cache in use');
	my $after = summary($node);
	cmp_ok($after->{remote_hits} + $after->{comm_buffer_hits} - $before->{remote_hits} - $before->{comm_buffer_hits},
		'>', 2 * $blocks, '... all of them from remote memory');
	cmp_ok($after->{storage_reads} - $before->{storage_reads}, '<', $blocks / 10, '... and not from the file');

	my $flushed = $memnode->figures->{flushed_pages};
	sql('CHECKPOINT');
	is(files_behind($node, 'postgres', 't'), 0, 'after a checkpoint the file has all of them');
	is(dirty_pages_of($node, 'postgres', 't'), 0, '... and none is dirty');
	cmp_ok($memnode->figures->{flushed_pages} - $flushed, '>=', $blocks, '... because the memory node wrote them');
	is(storage_writes(), $writes, '... and the server did not');
	cmp_ok(summary($node)->{written_back}, '>=', $blocks, 'legobase_summary counts pages that were written back');
	# In one session that has looked before: what it reads for that has no reason to become dirty again.
	my $look = q{SELECT sum(dirty_pages) FROM legobase_nodes; SELECT lag_pages, count > 0 FROM legobase_checkpoints WHERE tier = 2};
	my @seen = split /\n/, sql("$look; CHECKPOINT; $look");
	is($seen[2], '0', 'legobase_nodes has no dirty pages');
	is($seen[3], '0|t', 'legobase_checkpoints: no page is waited for, and checkpoints are counted');

	# drain does the same without a checkpoint
	quieten();
	sql(q{UPDATE t SET word = 'newer'});
	fill_buffers($node);
	cmp_ok(dirty_pages_of($node, 'postgres', 't'), '>', $blocks * 0.9, 'dirty again');
	sql('SELECT legobase_drain()');
	is(dirty_pages_of($node, 'postgres', 't'), 0, 'legobase_drain waits until none is');
	is(files_behind($node, 'postgres', 't'), 0, '... and all are in the file');

	# evict may not lose any
	sql(q{UPDATE t SET word = 'newest'});
	fill_buffers($node);
	sql(q{SELECT legobase_evict('t')});
	is(remote_pages($node, 'postgres', 't'), 0, 'legobase_evict takes dirty pages out of remote memory');
	is(words('t'), 'newest|6000', '... and into the file');
}

# --- a hot page ------------------------------------------------------------------------------------------------------

{
	make_table('hot', 50, 'cold');
	my $pushed = summary($node)->{pushed_pages};
	my $flushed = $memnode->figures->{flushed_pages};
	foreach my $i (1 .. 30)
	{
		sql("UPDATE hot SET word = 'hot $i'; SELECT pg_prewarm('filler', 'buffer') FROM generate_series(1, 3)");
	}
	settle($node);
	$pushed = summary($node)->{pushed_pages} - $pushed;
	$flushed = $memnode->figures->{flushed_pages} - $flushed;
	cmp_ok($pushed, '>', 30, "hot pages are pushed often ($pushed)");
	cmp_ok($flushed, '<', $pushed / 3, "... and written seldom ($flushed)");
	is(words('hot'), 'hot 30|50', '... in their last version');
}

# --- what is not written back ----------------------------------------------------------------------------------------

# For these the file must be current at once, whether or not there is a checkpoint.
{
	my $blocks = sub {
		my ($name) = @_;
		is(files_behind($node, 'postgres', $name), 0, "$name: what left shared_buffers is in the file");
		is(dirty_pages_of($node, 'postgres', $name), 0, "$name: ... and nothing is dirty");
	};

	sql(q{CREATE UNLOGGED TABLE unlogged (id int, word text) WITH (fillfactor = 10);
		  CREATE INDEX unlogged_id ON unlogged (id);
		  INSERT INTO unlogged SELECT i, 'first' FROM generate_series(1, 3000) i});
	settle($node);
	sql(q{UPDATE unlogged SET word = 'second'});
	fill_buffers($node);
	$blocks->('unlogged');
	$blocks->('unlogged_id');
	is(words('unlogged'), 'second|3000', 'an unlogged table');
	settle($node);
	is(sql(q{SELECT count(*) FROM legobase_pages WHERE dirty}), 0, 'nothing is dirty');

	# built without WAL for its pages before the end
	sql(q{CREATE TABLE spots AS SELECT point(i % 173, i % 191) AS spot FROM generate_series(1, 20000) i});
	settle($node);
	my $session = $node->background_psql('postgres');
	$session->query_safe('BEGIN');
	$session->query_safe('CREATE INDEX spots_spot ON spots USING gist (spot)');
	my $zero = sql(q{SELECT count(*) FROM legobase_pages WHERE dirty AND relfilenode NOT IN
		(SELECT relfilenode FROM pg_class)});
	$session->query_safe('COMMIT');
	$session->quit;
	fill_buffers($node);
	is(sql(q{SET enable_seqscan = off; SELECT count(*) FROM spots WHERE spot <@ box '(0,0),(30,30)'}),
		sql(q{SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
			SELECT count(*) FROM spots WHERE spot <@ box '(0,0),(30,30)'}),
		"an index whose pages get their LSN at the end ($zero written back before)");

	my $temporary = $node->background_psql('postgres');
	my $dirty = summary($node)->{dirty_pages};
	$temporary->query_safe(q{SET temp_buffers = '800kB'; CREATE TEMP TABLE temporary AS
		SELECT i, repeat('x', 500) pad FROM generate_series(1, 5000) i; UPDATE temporary SET i = -i});
	my $key = $temporary->query_safe(
		q{SELECT (SELECT oid FROM pg_database WHERE datname = current_database()) || ' ' || pg_relation_filenode('temporary')});
	is(pages_of($node, $key), 0, 'temporary relations never become remote');
	$temporary->quit;
	sql('DROP TABLE unlogged, spots');
}

# --- fsync -----------------------------------------------------------------------------------------------------------

{
	my $position = log_position($node);

	sql('ALTER SYSTEM SET fsync = off');
	$node->reload;
	ok(wait_for('the log says why', 10, sub { count_log_lines($node, qr/"fsync" can't be turned off/, $position) }),
		'fsync can\'t be turned off by a reload');
	is(sql('SHOW fsync'), 'on', '... and stays on');
	is(summary($node)->{write_mode}, 'writeback', '... with write-back');

	# a server that is started without it writes through, and says so
	$position = log_position($node);
	expect_write_mode($node, 'writethrough');
	$node->restart;
	wait_for_nodes($node);
	is(sql('SHOW fsync'), 'off', 'a server without fsync');
	is(summary($node)->{write_mode}, 'writethrough', '... writes through');
	is(count_log_lines($node, qr/LOG:.*writing through at memory node.*fsync/, $position), 1,
		'... which its log says once, with the reason');
	sql(q{UPDATE t SET word = 'written through'});
	fill_buffers($node);
	is(files_behind($node, 'postgres', 't'), 0, '... really');
	sql('ALTER SYSTEM RESET fsync');
	expect_write_mode($node, 'writeback');
	$node->restart;
	ok(wait_for_nodes($node), 'write-back again');
}

# --- a memory node that does not see the data directory --------------------------------------------------------------

{
	my $blind = LegoBase::Memnode->new(transport => 'tcp');
	my $server = legobase_cluster('blind', nodes => [$blind], write_mode => 'writeback', start => 0);

	expect_write_mode($server, 'writethrough');
	$blind->{storage} = [];
	$blind->stop;
	$blind->start;
	$server->start;
	$server->safe_psql('postgres', 'CREATE EXTENSION legobase');
	ok(wait_for_nodes($server), 'a memory node that does not see the data directory: write-through');
	is(count_log_lines($server, qr/LOG:.*writing through at memory node.*\Q$blind\E.*--storage/), 1,
		'... which the log says once, with the node and the reason');
	is($server->safe_psql('postgres', 'SELECT dirty_pages FROM legobase_summary'), 0, '... nothing is dirty');
	$server->stop;

	# that of another server
	my $copy = PostgreSQL::Test::Cluster->new('copy');
	PostgreSQL::Test::RecursiveCopy::copypath($server->data_dir, $copy->data_dir);
	chmod 0700, $copy->data_dir;
	$copy->append_conf('postgresql.conf', 'port = ' . $copy->port . "\nunix_socket_directories = '" . $copy->host . q{'});
	$blind->add_storage($server->data_dir);
	$copy->start;
	expect_write_mode($copy, 'writethrough');
	ok(wait_for_nodes($copy), 'a memory node that sees a data directory of which this is a copy: write-through');
	make_filler($copy);
	is($copy->safe_psql('postgres', 'SELECT dirty_pages FROM legobase_summary'), 0, '... nothing is dirty');
	$copy->stop;
	$blind->stop;
}

# --- the mode is changed under load ----------------------------------------------------------------------------------

my $workload = LegoBase::Workload->new($node, rows => 2000);

{
	my $run = $workload->start(clients => 6, seconds => 6);
	my ($changes, %seen) = (0);

	while (LegoBase::Workload::running($run))
	{
		my $mode = $changes++ % 2 ? 'auto' : 'writethrough';

		sql("ALTER SYSTEM SET legobase.write_mode = '$mode'");
		$node->reload;
		usleep(200_000);
		$seen{ summary($node)->{write_mode} } = 1;
	}
	ok(LegoBase::Workload::finish($run), "write_mode is changed $changes times under load: no query fails, no sum is wrong");
	is_deeply([ sort keys %seen ], [ 'writeback', 'writethrough' ], '... to either mode');
	sql(q{ALTER SYSTEM SET legobase.write_mode = 'writethrough'});
	$node->reload;
	wait_for('write-through', 10, sub { summary($node)->{write_mode} eq 'writethrough' });
	$workload->check('write_mode changed');
	sql(q{UPDATE t SET word = 'through'});
	fill_buffers($node);
	is(files_behind($node, 'postgres', 't'), 0, 'in write-through the file is current');
	sql('ALTER SYSTEM RESET legobase.write_mode');
	$node->reload;
	wait_for_nodes($node);
	is(differing_blocks($node, 'postgres'), '', 'all pages read as they are in the files');
	amcheck_clean($node, 'write_mode changed');
}

# --- the pool is resized while there are dirty pages -----------------------------------------------------------------

{
	foreach my $size ('16MB', '0')
	{
		quieten();
		sql(q{UPDATE t SET word = 'resized'});
		fill_buffers($node);
		cmp_ok(summary($node)->{dirty_pages}, '>', 100, "dirty pages in a pool that is set to $size");
		sql("ALTER SYSTEM SET legobase.remote_pool_size = '$size'");
		$node->reload;
		ok(wait_for_pool($node, 'the pool is smaller', 20, sub { $_[0] == ($size eq '0' ? 0 : 2048) }), '... it shrinks');
		is(words('t'), 'resized|6000', '... and nothing is lost');
		is(files_behind($node, 'postgres', 't'), 0, '... the file is current') if $size eq '0';
	}
	is(summary($node)->{dirty_pages}, 0, 'without a pool nothing is dirty');
	sql('ALTER SYSTEM RESET legobase.remote_pool_size');
	$node->reload;
	ok(wait_for_nodes($node), 'the pool is used again');
	my $run = $workload->start(clients => 6, seconds => 5);
	my $rounds = 0;
	while (LegoBase::Workload::running($run))
	{
		sql("ALTER SYSTEM SET legobase.remote_pool_size = '" . ('0', '16MB', '64MB')[ $rounds++ % 3 ] . q{'});
		$node->reload;
		usleep(400_000);
	}
	ok(LegoBase::Workload::finish($run), "resized $rounds times under load: no query fails, no sum is wrong");
	sql('ALTER SYSTEM RESET legobase.remote_pool_size');
	$node->reload;
	wait_for_nodes($node);
	$workload->check('resized');
	is(differing_blocks($node, 'postgres'), '', 'resized: all pages read as they are in the files');
}

# --- removed while the memory node is writing ------------------------------------------------------------------------

# The first write takes two seconds. What is removed meanwhile must not be in the file afterwards, in which there is
# something else by then. Parts: prepare, dirty, remove, again, check; db, for the comparison at the end.
sub held_flush
{
	my ($what, %part) = @_;

	$part{prepare}->() if $part{prepare};
	restart_memnode('--fault-points', 'memnode.flush.write=wait:2000@1');
	$part{dirty}->();
	my $flush = in_background(sub { sql('SELECT legobase_drain()'); return 1; });
	usleep(400_000);
	my $started = time;
	$part{remove}->();
	my $elapsed = time - $started;
	cmp_ok($elapsed, '>', 0.5, "$what: waits until the write under way has ended");
	$part{again}->();
	is(finish_background($flush), 0, "$what: the flush ends");
	usleep(500_000);
	$part{check}->();
	restart_memnode();
	is(differing_blocks($node, $part{db} // 'postgres'), '', "$what: all pages read as they are in the files");
	return;
}

SKIP:
{
	skip 'this build has no fault points (FAULT_POINTS=1)', 1 unless $fault_points;

	my $session;
	my $key;

	# in the transaction that made it: in place
	held_flush(
		'TRUNCATE',
		dirty => sub {
			$session = $node->background_psql('postgres');
			$session->query_safe(q{BEGIN; CREATE TABLE emptied (id int, word text);
				INSERT INTO emptied SELECT i, repeat('first', 30) FROM generate_series(1, 3000) i});
			$session->query_safe(q{SAVEPOINT s; UPDATE emptied SET word = repeat('second', 25)});
			$session->query_safe(q{SELECT pg_prewarm('filler', 'buffer') FROM generate_series(1, 5)});
			$session->query_safe('RELEASE s');
		},
		remove => sub { $session->query_safe('TRUNCATE emptied') },
		again => sub {
			$session->query_safe(q{INSERT INTO emptied SELECT i, 'third' FROM generate_series(1, 300) i; COMMIT});
			$session->quit;
		},
		check => sub {
			is(words('emptied'), 'third|300', 'TRUNCATE: only the new rows are there');
			is(sql(q{SELECT pg_relation_size('emptied')}), sql(q{SELECT 8192 * ((max(ctid)::text::point)[0]::int + 1) FROM emptied}),
				'... and the file has no more blocks');
		});

	held_flush(
		'VACUUM',
		prepare => sub { make_table('shrunk', 3000, 'first') },
		dirty => sub {
			sql(q{DELETE FROM shrunk WHERE id > 500});
			fill_buffers($node);
			cmp_ok(dirty_pages_of($node, 'postgres', 'shrunk'), '>', 50, 'a table with dirty pages at its end');
		},
		remove => sub { sql('VACUUM (TRUNCATE) shrunk') },
		again => sub { sql(q{INSERT INTO shrunk SELECT i, 'second' FROM generate_series(1, 2000) i}) },
		check => sub { is(words('shrunk'), "first|500\nsecond|2000", 'VACUUM: no row comes back') });

	held_flush(
		'DROP DATABASE',
		prepare => sub {
			sql('CREATE DATABASE one; CREATE DATABASE two');
			foreach my $db ('one', 'two')
			{
				install_functions($node, $db);
				$node->safe_psql($db, qq{CREATE TABLE t (id int, word text) WITH (fillfactor = 10);
					INSERT INTO t SELECT i, 'template $db' FROM generate_series(1, 2000) i; VACUUM (FREEZE) t});
			}
			sql('CREATE DATABASE passing OID 300000 TEMPLATE one STRATEGY file_copy');
		},
		dirty => sub {
			$node->safe_psql('passing', q{UPDATE t SET word = 'changed'});
			fill_buffers($node);
			cmp_ok(dirty_pages_of($node, 'passing', 't'), '>', 50, 'a database with dirty pages');
		},
		remove => sub { sql('DROP DATABASE passing') },
		again => sub { sql('CREATE DATABASE passing OID 300000 TEMPLATE two STRATEGY file_copy') },
		check => sub {
			is($node->safe_psql('passing', 'SELECT word, count(*) FROM t GROUP BY word'),
				'template two|2000', 'DROP DATABASE: the next one with this OID has its own rows');
		},
		db => 'passing');

	# a file number is used again: only in the mode of pg_upgrade can it be chosen
	settle($node);
	$node->stop;
	start_with_options($node, '-b');
	wait_for_nodes($node);
	my $versions = sub {
		my $values = join ',', ('0/1') x $_[0];
		return "SELECT format('SELECT binary_upgrade_set_next_attribute_versions(%L)', '{$values}')
			WHERE to_regproc('binary_upgrade_set_next_attribute_versions') IS NOT NULL \\gexec\n";
	};
	my $create = sub {
		my ($name, $oid, $word) = @_;
		sql($versions->(2) . "SELECT binary_upgrade_set_next_pg_type_oid($oid + 1),
			binary_upgrade_set_next_array_pg_type_oid($oid + 2), binary_upgrade_set_next_heap_pg_class_oid($oid),
			binary_upgrade_set_next_heap_relfilenode(70000);
			CREATE TABLE $name (id int, word char(500));
			INSERT INTO $name SELECT i, '$word' FROM generate_series(1, 2000) i");
	};
	held_flush(
		'DROP TABLE',
		prepare => sub { $create->('former', 70000, 'first') },
		dirty => sub {
			sql(q{UPDATE former SET word = 'second'});
			fill_buffers($node);
			cmp_ok(dirty_pages_of($node, 'postgres', 'former'), '>', 50, 'a table with a file number of our choice, dirty');
		},
		remove => sub { sql('DROP TABLE former') },
		again => sub {
			# the number is free when the checkpoint has removed the file
			sql('CHECKPOINT');
			$create->('latter', 70010, 'third');
		},
		check => sub {
			like(relation_key($node, 'postgres', 'latter'), qr/ 70000$/, 'DROP TABLE: another table has its file number');
			is(sql(q{SELECT trim(word), count(*) FROM latter GROUP BY 1}), 'third|2000', '... and only its own rows');
		});
	$node->stop;
	$node->start;
	wait_for_nodes($node);
}

# --- copies of databases ---------------------------------------------------------------------------------------------

{
	sql('CREATE DATABASE source');
	install_functions($node, 'source');
	$node->safe_psql('source', q{CREATE TABLE t (id int PRIMARY KEY, word text) WITH (fillfactor = 10);
		INSERT INTO t SELECT i, 'old' FROM generate_series(1, 3000) i; VACUUM (FREEZE) t});
	sql(q{CREATE TABLESPACE elsewhere LOCATION ''});
	foreach my $strategy ('file_copy', 'wal_log')
	{
		settle($node);
		quieten();
		$node->safe_psql('source', "UPDATE t SET word = '$strategy'");
		fill_buffers($node);
		cmp_ok(dirty_pages_of($node, 'source', 't'), '>', 50, "$strategy: the source has dirty pages");
		sql("CREATE DATABASE copy TEMPLATE source STRATEGY $strategy");
		is($node->safe_psql('copy', 'SELECT word, count(*) FROM t GROUP BY word'), "$strategy|3000", '... the copy has them');
		$node->safe_psql('copy', q{UPDATE t SET word = 'moved'});
		fill_buffers($node);
		sql('ALTER DATABASE copy SET TABLESPACE elsewhere');
		is($node->safe_psql('copy', 'SELECT word, count(*) FROM t GROUP BY word'), 'moved|3000', '... and so has a moved database');
		quieten();
		$node->safe_psql('copy', q{UPDATE t SET word = 'there'});
		fill_buffers($node);
		cmp_ok(dirty_pages_of($node, 'copy', 't'), '>', 50, '... which has dirty pages in another tablespace');
		is(differing_blocks($node, 'copy'), '', '... that come to their files');
		sql('DROP DATABASE copy');
	}
	sql('DROP TABLESPACE elsewhere');
}

# --- a file of more than one segment ---------------------------------------------------------------------------------

# Its first gigabyte is a hole: blocks of zeros are empty pages.
{
	make_table('large', 10, 'small');
	my $path = $node->data_dir . '/' . sql(q{SELECT pg_relation_filepath('large')});
	$node->stop;
	truncate($path, 1024 * 1024 * 1024) or die "$path: $!";
	PostgreSQL::Test::Utils::append_to_file("$path.1", '');
	truncate("$path.1", 10 * 8192) or die "$path.1: $!";
	$node->start;
	wait_for_nodes($node);
	is(sql(q{SELECT pg_relation_size('large')}), 1024 * 1024 * 1024 + 10 * 8192, 'a table of more than a gigabyte');
	quieten();
	# new pages come to the end
	sql(q{INSERT INTO large SELECT i, 'large' FROM generate_series(1, 5000) i});
	sql(q{UPDATE large SET word = 'changed' WHERE word = 'large' AND ctid > '(131072,0)'});
	fill_buffers($node);
	my $count = sql(q{SELECT count(*) FROM large WHERE ctid > '(131072,0)' AND word = 'changed'});
	cmp_ok($count, '>', 1000, 'rows in its second segment');
	cmp_ok(dirty_pages_of($node, 'postgres', 'large'), '>', 50, '... are dirty');
	sql('CHECKPOINT');
	is( sql(q{SELECT count(*) FROM generate_series(0, pg_relation_size('large') / 8192 - 131072 - 1) b
			WHERE get_raw_page('large', 131072 + b) <> pg_read_binary_file(pg_relation_filepath('large') || '.1', b * 8192, 8192)}),
		0, '... and in the file after a checkpoint');
	$node->stop('immediate');
	$node->start;
	wait_for_nodes($node);
	is(sql(q{SELECT count(*) FROM large WHERE ctid > '(131072,0)' AND word = 'changed'}), $count, '... and after a crash');
	sql('DROP TABLE large');
}

# --- shutdown --------------------------------------------------------------------------------------------------------

# The agent ends before the shutdown checkpoint: the checkpointer does its work.
foreach my $mode ('fast', 'smart', 'immediate')
{
	quieten();
	sql("UPDATE t SET word = '$mode'");
	sql('UPDATE account_0 SET balance = balance');
	fill_buffers($node);
	cmp_ok(summary($node)->{dirty_pages}, '>', 300, "many dirty pages at a shutdown, mode $mode");
	my $started = time;
	$node->stop($mode);
	cmp_ok(time - $started, '<', 20, '... which takes not long');
	command_ok([ 'pg_checksums', '--check', '-D', $node->data_dir ], "pg_checksums --check after a shutdown, mode $mode")
	  unless $mode eq 'immediate';
	start_stock($node);
	is(words('t'), "$mode|6000", "mode $mode: a server without the extension has all rows");
	$workload->check("mode $mode");
	amcheck_clean($node, "mode $mode");
	$node->stop;
	command_ok([ 'pg_checksums', '--check', '-D', $node->data_dir ], '... pg_checksums --check after that server');
	start_legobase($node);
	is(words('t'), "$mode|6000", '... and with the extension again');
}

# --- a standby -------------------------------------------------------------------------------------------------------

# Restartpoints mean the same as checkpoints.
{
	$node->backup('base');
	my $standby_memnode = LegoBase::Memnode->new(transport => 'shm');
	my $standby = PostgreSQL::Test::Cluster->new('standby');

	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->append_conf('postgresql.conf', "legobase.memory_nodes = '$standby_memnode'");
	$standby_memnode->add_storage($standby->data_dir);
	expect_write_mode($standby, 'writeback');
	$standby->start;
	ok(wait_for_nodes($standby), 'a standby writes back');
	quieten();
	sql(q{UPDATE t SET word = 'primary'});
	$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
	fill_buffers($standby);
	cmp_ok(dirty_pages_of($standby, 'postgres', 't'), '>', 100, '... has dirty pages');
	sql('CHECKPOINT');
	$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
	$standby->safe_psql('postgres', 'CHECKPOINT');
	is(files_behind($standby, 'postgres', 't'), 0, '... which a restartpoint brings to the files');

	quieten();
	sql(q{UPDATE t SET word = 'again'});
	$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
	fill_buffers($standby);
	my $position = log_position($standby);
	$standby_memnode->kill9;
	$standby_memnode->start;
	ok( wait_for('PANIC', 10, sub { count_log_lines($standby, qr/PANIC/, $position) })
		  && wait_for('restart', 20,
			sub { count_log_lines($standby, qr/ready to accept read-only connections/, $position)
				&& $standby->psql('postgres', 'SELECT 1') == 0 }),
		'a standby that loses its memory node restarts itself');
	wait_for_nodes($standby);
	$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
	is($standby->safe_psql('postgres', 'SELECT word, count(*) FROM t GROUP BY word'), 'again|6000', '... with all rows');
	sql(q{UPDATE t SET word = 'last'});
	$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
	fill_buffers($standby);
	$standby->promote;
	$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
	is($standby->safe_psql('postgres', 'SELECT word, count(*) FROM t GROUP BY word'), 'last|6000', 'promoted, with dirty pages');
	is(differing_blocks($standby, 'postgres'), '', '... all pages read as they are in the files');
	$standby->stop;
	command_ok([ 'pg_checksums', '--check', '-D', $standby->data_dir ], '... pg_checksums --check after its shutdown');
}

$node->stop;
command_ok([ 'pg_checksums', '--check', '-D', $node->data_dir ], 'pg_checksums --check at the end');
done_testing();
