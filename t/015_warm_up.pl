# Warm local pool: what was in shared_buffers is there again after a restart, planned or not, with as many buffers, fewer or more; whatever
# became of the relations, the databases and the list meanwhile; and nobody waits for it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $memnode = LegoBase::Memnode->new(transport => 'shm', memory => '128MB');
my $node = legobase_cluster(
	'warm',
	nodes => [$memnode],
	conf => "shared_buffers = 16MB\nbgwriter_lru_maxpages = 0\nmax_wal_size = 4GB\nlegobase.node_timeout = 10s\n"
	  . "legobase.warm_workers = 2\nmax_worker_processes = 12");
my $list = $node->data_dir . '/pgsql_tmp_legobase/pgsql_tmp_local_pool';
my $mark = $node->data_dir . '/pgsql_tmp_legobase/pgsql_tmp_warming';
my $fault_points = has_fault_points($node);

if ($fault_points)
{
	$node->append_conf('postgresql.conf', "legobase.fault_points = ''");
	$node->reload;
}
$node->safe_psql('postgres', 'CREATE EXTENSION pg_buffercache; CREATE EXTENSION pg_prewarm');

my $done = qr/legobase: (\d+) of (\d+) pages were read back into shared_buffers in \S+ s \((\d+) were there, (\d+) are gone/;

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# How many pages of this relation are in shared_buffers?
sub local_pages
{
	my ($name, $condition) = @_;

	$condition //= 'true';
	return sql("SELECT count(*) FROM pg_buffercache
		WHERE relfilenode = pg_relation_filenode('$name') AND relforknumber = 0 AND $condition
			AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())");
}

sub blocks
{
	my ($name) = @_;

	return sql("SELECT pg_relation_size('$name') / 8192");
}

# Wait until the warm-up that was begun after this position of the log has ended. What it did.
sub warmed_up
{
	my ($position) = @_;
	my %figures;

	wait_for('the warm-up has ended', 60, sub { log_since($node, $position) =~ $done }) or return {};
	log_since($node, $position) =~ $done;
	@figures{qw(read listed present skipped)} = ($1, $2, $3, $4);
	return \%figures;
}

# Wait until a shutdown will write the list: it does not if that was done a moment ago.
sub wait_for_final_list
{
	return wait_for('the last list is old enough', 20, sub { time - ((stat $list)[9] // 0) > 3 });
}

# Stop and start; what the warm-up did. Code may be run in between.
sub restart
{
	my ($between) = @_;
	my $position = log_position($node);

	wait_for_final_list();
	$node->stop;
	$between->() if $between;
	$node->start;
	return warmed_up($position);
}

# A table of so many blocks, in shared_buffers as a whole.
sub make_table
{
	my ($name, $blocks) = @_;

	sql("CREATE TABLE $name (id int, pad text) WITH (autovacuum_enabled = off);
		ALTER TABLE $name ALTER pad SET STORAGE plain;
		INSERT INTO $name SELECT i, repeat('x', 7000) FROM generate_series(1, $blocks) i;
		SELECT pg_prewarm('$name')");
	is(local_pages($name), $blocks, "$name is in shared_buffers");
	return;
}

# --- planned restart, crash ------------------------------------------------------------------------------------------

make_table('hot', 200);
make_table('cold', 900);

# hot: usage counts above those of cold, which is read once
sql('SELECT count(*) FROM hot') foreach 1 .. 3;

{
	my $figures = restart();
	is(local_pages('hot'), 200, 'planned restart: all pages of a table are in shared_buffers again');
	is(local_pages('cold'), 900, '... of the other, too');
	cmp_ok($figures->{read}, '>=', 1100, "... $figures->{read} were read");
	is($figures->{read} + $figures->{present} + $figures->{skipped}, $figures->{listed}, '... the figures add up');
	is($figures->{skipped}, 0, '... none was skipped');
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'legobase warm%'}), 0,
		'no worker is left');

	is(sql('SELECT state, pages_listed, pages_read, pages_present, pages_skipped, started <= finished FROM legobase_warm_up'),
		"done|$figures->{listed}|$figures->{read}|$figures->{present}|$figures->{skipped}|t", 'legobase_warm_up');
}

# A list is written every ten seconds or so: after a crash that one counts.
sub wait_for_list
{
	my $before = (stat $list)[1] // 0;

	return wait_for('the list is written', 40, sub { ((stat $list)[1] // 0) != $before });
}

{
	make_table('later', 100);
	ok(wait_for_list(), 'the list is written while the server runs');
	my $position = log_position($node);
	ok(crash_by($node, server_process($node, 'checkpointer')), 'a crash');
	warmed_up($position);
	is(local_pages($_), blocks($_), "... $_ is in shared_buffers again") foreach qw(hot cold later);

	# the postmaster and all
	wait_for_list();
	$position = log_position($node);
	kill 'KILL', processes_of($node);
	wait_until_gone($node);
	$node->{_pid} = undef;
	$node->start;
	warmed_up($position);
	is(local_pages($_), blocks($_), "everything killed: $_ is in shared_buffers again") foreach qw(hot cold later);
}

# --- other sizes -----------------------------------------------------------------------------------------------------

{
	# hot pages have more uses than cold ones
	sql('SELECT pg_prewarm(\'hot\')') foreach 1 .. 5;
	my $figures = restart(sub { $node->adjust_conf('postgresql.conf', 'shared_buffers', '4MB') });
	is(local_pages('hot'), 200, 'fewer buffers: the hottest pages are there');
	cmp_ok(local_pages('cold'), '<', 400, '... others are not');
	cmp_ok($figures->{skipped}, '>', 500, "... $figures->{skipped} found no room");
	cmp_ok($figures->{read} + $figures->{present}, '>', 350, "... all buffers are used: $figures->{read}");

	$figures = restart(sub { $node->adjust_conf('postgresql.conf', 'shared_buffers', '32MB') });
	is(local_pages('hot'), 200, 'more buffers: what was there is there');
	is($figures->{skipped}, 0, '... all of it');
	sql("SELECT pg_prewarm('$_')") foreach qw(hot cold later);
}

# --- what is not there any more --------------------------------------------------------------------------------------

SKIP:
{
	skip 'no fault points in this build', 33 unless $fault_points;

	make_table($_, 150) foreach qw(dropped truncated rewritten kept);
	sql("CREATE DATABASE other");
	$node->safe_psql('other', q{CREATE TABLE mine AS SELECT repeat('y', 1000) FROM generate_series(1, 3000)});
	my $other = $node->safe_psql('other', q{SELECT pg_relation_size('mine') / 8192});

	# The list has a second database
	restart();
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_buffercache b JOIN pg_database d ON reldatabase = d.oid
		WHERE datname = 'other' AND relforknumber = 0}) >= $other ? 1 : 0, 1, 'pages of another database come, too');

	# Workers stop before their first batch: what is in the list goes meanwhile
	my $position = log_position($node);
	$node->stop;
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "'warmup.read=stop\@1'");
	$node->start;
	ok(wait_for('workers have stopped', 20, sub { stopped_processes($node) >= 1 }), 'workers have stopped before a batch');
	is(-s $mark, 1, 'there is a mark meanwhile');
	my $listed = (stat $list)[1];

	is(sql('SELECT state, pages_listed > 0, finished IS NULL FROM legobase_warm_up'), 'running|t|t', 'legobase_warm_up');
	sql("SET lock_timeout = '5s'; DROP TABLE dropped");
	sql("SET lock_timeout = '5s'; TRUNCATE truncated; INSERT INTO truncated VALUES (1, 'new')");
	sql("SET lock_timeout = '5s'; CREATE TABLE between (id int); VACUUM FULL rewritten");
	sql("SET lock_timeout = '5s'; DELETE FROM kept WHERE id > 20; VACUUM kept");
	pass('DDL does not wait for it');
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('BEGIN; LOCK TABLE later');
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "''");
	my @stopped = stopped_processes($node);
	kill 'HUP', $node->{_pid}, @stopped;
	kill 'CONT', @stopped;
	wait_for('no more stopped', 20, sub {
		kill 'CONT', stopped_processes($node);
		return log_since($node, $position) =~ $done;
	});
	my $figures = warmed_up($position);
	is(sql(q{SELECT count(*) FROM pg_locks WHERE NOT granted}), 0, 'it does not wait for DDL');
	$holder->quit;
	is(local_pages('later'), 0, '... but skips what is locked');
	cmp_ok($figures->{skipped}, '>', 400, "what is gone is skipped: $figures->{skipped}");
	is((stat $list)[1], $listed, 'the list is not written meanwhile');
	is(sql('SELECT pad FROM truncated'), 'new', 'the new rows of a table are there');
	is(sql('SELECT count(*) FROM kept'), 20, 'the rows that are left are there');
	is(local_pages('hot'), 200, 'what is still there has been read');

	# A database that somebody wants for himself
	$position = log_position($node);
	$node->stop;
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "'warmup.read=wait:20'");
	$node->start;
	ok(wait_for('a worker is connected to the database', 60, sub {
		return sql(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'other'}) > 0;
	}), 'a worker is connected to a database');
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "''");
	$node->reload;
	sql('DROP DATABASE other');
	pass('... which can be dropped');
	warmed_up($position);

	# A crash meanwhile: the next life reads the same list
	$position = log_position($node);
	$node->stop;
	$listed = (stat $list)[1];
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "'warmup.read=kill\@3'");
	my $ready = count_log_lines($node, qr/database system is ready to accept/);
	my $killed = qr/warm-up worker" \(PID \d+\) was terminated by signal 9/;
	my $killed_before = count_log_lines($node, $killed);
	$node->start;
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "''");
	# told before that, the worker would not be killed; and long before the next life has come so far
	wait_for('a worker is killed', 60, sub { count_log_lines($node, $killed) > $killed_before });
	ok(wait_for('the server has restarted itself', 60, sub {
		kill 'HUP', $node->{_pid};
		return count_log_lines($node, qr/database system is ready to accept/) > $ready + 1;
	}), 'a worker is killed: the server restarts itself');
	$figures = warmed_up($position);
	is((stat $list)[1], $listed, '... and reads the same list again');
	is(local_pages('hot'), 200, '... as a whole');

	# Stopped meanwhile: the list stays
	$node->stop;
	$listed = (stat $list)[1];
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "'warmup.read=wait:200'");
	$node->start;
	ok(wait_for('a worker runs', 20, sub {
		return sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'legobase warm-up worker'}) > 0;
	}), 'stopped while a worker runs');
	$node->stop;
	is((stat $list)[1], $listed, '... the list is as it was');
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "''");
	$position = log_position($node);
	$node->start;
	warmed_up($position);
	is(local_pages('hot'), 200, '... and read at the next start');
	ok(!-e $mark, 'no mark is left');

	# A list that the server crashes by, again and again
	my $skips = qr/is not read back this time, because the server crashed 2 times in a row/;
	$position = log_position($node);
	$ready = count_log_lines($node, qr/database system is ready to accept/);
	wait_for_final_list();
	$node->stop;
	$listed = (stat $list)[1];
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "'warmup.read=kill\@3'");
	$node->start(fail_ok => 1);
	ok(wait_for('a life skips it', 90, sub { count_log_lines($node, $skips, $position) == 1 }),
		'after two crashes the warm-up is skipped');
	is(count_log_lines($node, qr/database system is ready to accept/), $ready + 3, '... in the third life');
	ok(wait_for('the mark is gone', 20, sub { !-e $mark }), '... and the mark is removed');
	is(sql('SELECT state FROM legobase_warm_up'), 'none', '... nothing is read');
	$node->adjust_conf('postgresql.conf', 'legobase.fault_points', "''");
	$node->stop;
	is((stat $list)[1], $listed, '... the list is kept');
	$position = log_position($node);
	$node->start;
	warmed_up($position);
	is(local_pages('hot'), 200, '... and the next start reads it');
	ok(!-e $mark, '... and leaves no mark');
}

# --- lists that are no good ------------------------------------------------------------------------------------------

{
	my $position = log_position($node);

	$node->stop;
	open(my $file, '+<', $list) or die "$list: $!";
	seek($file, 1000, 0);
	print $file 'damage';
	close($file);
	$node->start;
	ok(wait_for('the damage is found', 20,
		sub { log_since($node, $position) =~ /pgsql_tmp_local_pool" is damaged/ }), 'a damaged list is not used');
	is(local_pages('hot'), 0, '... and nothing is read');
	sql("SELECT pg_prewarm('hot')");
	is(restart()->{skipped}, 0, '... the next one is whole');
	is(local_pages('hot'), 200, '... and read');

	$node->stop;
	unlink $list;
	$node->start;
	is(local_pages('hot'), 0, 'no list: nothing is read');
	sql("SELECT pg_prewarm('hot')");

	# switched off
	$position = log_position($node);
	wait_for_final_list();
	$node->stop;
	$node->adjust_conf('postgresql.conf', 'legobase.warm_workers', '0');
	$node->start;
	is(local_pages('hot'), 0, 'no warm-up workers: nothing is read');
	$node->stop;
	$node->adjust_conf('postgresql.conf', 'legobase.warm_workers', '2');
	$node->start;
	warmed_up($position);
	is(local_pages('hot'), 200, '... and the list was kept for when there are');
}

$node->stop;
done_testing();
