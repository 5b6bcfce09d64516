# Storage that is full, read-only or failing while dirty pages are to be written: they stay dirty, checkpoints fail with the
# cause, and when the cause is gone all is well by itself. Nothing is lost.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase::Filesystem;
use LegoBase;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $memnode = LegoBase::Memnode->new(transport => 'shm', memory => '128MB');
my $node = legobase_cluster(
	'storage',
	nodes => [$memnode],
	write_mode => 'writeback',
	init => { extra => ['--data-checksums'] },
	conf => "legobase.node_timeout = 10s\nbgwriter_lru_maxpages = 0\nmax_wal_size = 4GB");
my $fault_points = has_fault_points($node);

make_filler($node);

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# A checkpoint fails, its message says that this is why, and so does the log.
sub checkpoint_fails
{
	my ($what, $cause) = @_;
	my $position = log_position($node);
	my ($status, undef, $err) = $node->psql('postgres', 'CHECKPOINT');

	isnt($status, 0, "$what: a checkpoint fails");
	like($err, qr/checkpoint request failed/, "$what: ... by the answer");
	like(log_since($node, $position), qr/ERROR:.*?$cause/s, "$what: ... and the log says why");
	return;
}

# It works again without anybody's help.
sub all_is_well
{
	my ($what, $table, $words) = @_;

	ok(wait_for('a checkpoint', 30, sub { $node->psql('postgres', 'CHECKPOINT') == 0 }), "$what: afterwards a checkpoint works");
	is(files_behind($node, 'postgres', $table), 0, "$what: ... and means that the files are current");
	is(sql("SELECT word, count(*) FROM $table GROUP BY word"), $words, "$what: ... with all rows");
	is(count_log_lines($node, qr/PANIC/), 0, "$what: without a panic");
	unlike(node_rows($node)->[0]{last_error} // '', qr/could not/, "$what: and without an error at the node");
	return;
}

sub restart_memnode
{
	my (@arguments) = @_;

	settle($node);
	$memnode->stop;
	$memnode->start(@arguments);
	wait_for_nodes($node);
	return;
}

# --- a file system that is full, or read-only ------------------------------------------------------------------------

SKIP:
{
	skip 'no file system of one\'s own here', 1 unless LegoBase::Filesystem::available();

	my $folder = PostgreSQL::Test::Utils::tempdir_short();
	my $small = LegoBase::Filesystem->new($folder, '24m');

	mkdir "$folder/space" or die $!;
	sql("CREATE TABLESPACE small LOCATION '$folder/space'");

	# A hash index grows by its last block only: the blocks between are holes, for which there must be room when they are
	# written.
	sql(q{CREATE TABLE hashed (id int, word text);
		  CREATE INDEX hashed_id ON hashed USING hash (id) TABLESPACE small;
		  INSERT INTO hashed SELECT i, 'hashed' FROM generate_series(1, 20000) i});
	settle($node);
	quieten();
	sql(q{INSERT INTO hashed SELECT i, 'hashed' FROM generate_series(20001, 60000) i});
	fill_buffers($node);
	cmp_ok(dirty_pages_of($node, 'postgres', 'hashed_id'), '>', 50, 'an index with dirty pages where its file has holes');
	my $behind = files_behind($node, 'postgres', 'hashed_id');
	$small->fill;
	checkpoint_fails('full', 'No space left on device');
	checkpoint_fails('still full', 'No space left on device');
	cmp_ok(dirty_pages_of($node, 'postgres', 'hashed_id'), '>', 0, 'full: pages stay dirty');
	is(sql('SET enable_seqscan = off; SELECT count(*) FROM hashed WHERE id IN (15, 25000, 59999)'), 3, 'full: and can be read');
	like(node_rows($node)->[0]{last_error}, qr/No space left/, 'full: legobase_nodes says why');
	sql(q{UPDATE hashed SET word = 'elsewhere' WHERE id <= 1000});
	is(sql(q{SELECT count(*) FROM hashed WHERE word = 'elsewhere'}), 1000, 'full: other files can be changed');
	$small->make_room;
	all_is_well('full', 'hashed', "elsewhere|1000\nhashed|59000");
	is(files_behind($node, 'postgres', 'hashed_id'), 0, 'full: the index is in its file');
	amcheck_clean($node, 'full');

	# A shutdown checkpoint that fails is a crash.
	quieten();
	sql(q{INSERT INTO hashed SELECT i, 'hashed' FROM generate_series(60001, 100000) i});
	fill_buffers($node);
	cmp_ok(dirty_pages_of($node, 'postgres', 'hashed_id'), '>', 50, 'more of them');
	$small->fill;
	my $position = log_position($node);
	$node->stop('fast', fail_ok => 1);
	ok(wait_for('it ends', 60, sub { !-e $node->data_dir . '/postmaster.pid' }), 'full: the server ends');
	$node->{_pid} = undef;
	like(log_since($node, $position), qr/No space left/, 'full: ... and its log says why that is no clean shutdown');
	$small->make_room;
	$node->start;
	wait_for_nodes($node);
	is(sql('SELECT count(*) FROM hashed'), 100000, 'full: ... and all rows are there afterwards');
	all_is_well('full at shutdown', 'hashed', "elsewhere|1000\nhashed|99000");

	# read-only
	sql(q{CREATE TABLE protected (id int, word text) WITH (fillfactor = 10) TABLESPACE small;
		  INSERT INTO protected SELECT i, 'old' FROM generate_series(1, 3000) i});
	settle($node);
	quieten();
	sql(q{UPDATE protected SET word = 'new'});
	fill_buffers($node);
	cmp_ok(dirty_pages_of($node, 'postgres', 'protected'), '>', 50, 'a table with dirty pages');
	ok(wait_for('no file is open', 10, sub { $small->set_read_only(1) }), 'its file system becomes read-only');
	checkpoint_fails('read-only', 'Read-only file system');
	cmp_ok(dirty_pages_of($node, 'postgres', 'protected'), '>', 50, 'read-only: its pages stay dirty');
	ok($small->set_read_only(0), 'writable again');
	all_is_well('read-only', 'protected', 'new|3000');
	sql('DROP TABLE hashed, protected');
	sql('CHECKPOINT; DROP TABLESPACE small');
}

# --- failing writes and syncs ----------------------------------------------------------------------------------------

SKIP:
{
	skip 'this build has no fault points (FAULT_POINTS=1)', 1 unless $fault_points;

	sql(q{CREATE TABLE t (id int, word text) WITH (fillfactor = 10);
		  INSERT INTO t SELECT i, 'old' FROM generate_series(1, 3000) i});

	# for a while: the node tries again, and the checkpoint waits
	restart_memnode('--fault-points', join ',', map { "memnode.flush.write=fail\@$_" } (1 .. 3));
	quieten();
	sql(q{UPDATE t SET word = 'unwritten'});
	fill_buffers($node);
	cmp_ok(dirty_pages_of($node, 'postgres', 't'), '>', 50, 'a table with dirty pages');
	sql('CHECKPOINT');
	cmp_ok($memnode->figures->{flush_failures}, '>', 0, 'some writes fail');
	is(files_behind($node, 'postgres', 't'), 0, '... but when a checkpoint has ended, all is in the files');
	all_is_well('failing writes', 't', 'unwritten|3000');

	# a crash while nothing can be written
	restart_memnode('--fault-points', 'memnode.flush.write=fail');
	quieten();
	sql(q{UPDATE t SET word = 'crashed'});
	fill_buffers($node);
	checkpoint_fails('all writes fail', 'Input/output error');
	cmp_ok(dirty_pages_of($node, 'postgres', 't'), '>', 50, 'all writes fail: pages stay dirty');
	is(sql('SELECT word, count(*) FROM t GROUP BY word'), 'crashed|3000', 'all writes fail: and can be read');
	my $redo = sql('SELECT redo_lsn FROM pg_control_checkpoint()');
	$node->stop('immediate');
	$memnode->stop;
	$memnode->start;
	$node->start;
	wait_for_nodes($node);
	is(sql('SELECT word, count(*) FROM t GROUP BY word'), 'crashed|3000', 'a crash while all writes fail: nothing is lost');
	like(log_since($node, 0), qr/redo starts at/, "... redo from the last good checkpoint ($redo)");

	# A failed sync says that the kernel may have dropped what was written before, by the server as well: as in a server that
	# syncs itself, that is a PANIC, and redo writes it again.
	restart_memnode('--fault-points', 'memnode.flush.sync=fail@1');
	my $position = log_position($node);
	quieten();
	sql(q{UPDATE t SET word = 'unsynced'});
	fill_buffers($node);
	isnt($node->psql('postgres', 'CHECKPOINT'), 0, 'a failing sync: a checkpoint fails');
	like(log_since($node, $position), qr/PANIC:.*could not sync.*Input/, 'a failing sync: ... by a PANIC that says why');
	ok(wait_for('a checkpoint', 30, sub { $node->psql('postgres', 'CHECKPOINT') == 0 }),
		'a failing sync: afterwards a checkpoint works');
	is(files_behind($node, 'postgres', 't'), 0, 'a failing sync: ... the file is current');
	is(sql('SELECT word, count(*) FROM t GROUP BY word'), 'unsynced|3000', 'a failing sync: ... and nothing is lost');
}

amcheck_clean($node, 'at the end');
is(differing_blocks($node, 'postgres'), '', 'all pages read as they are in the files');
$node->stop;
command_ok([ 'pg_checksums', '--check', '-D', $node->data_dir ], 'pg_checksums --check');
done_testing();
