# A server that comes back finds its pages where they were: after a planned restart, the crash of a process, and of the whole server;
# with other sizes, and another way to write. Over shared memory with one node, over TCP with two.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LegoBase;
use LegoBase::Acknowledged;
use LegoBase::Restart;
use LegoBase::Workload;
use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $all_tables = 'SELECT count(*) FROM t; SELECT sum(balance) FROM account';

my ($node, $workload, $clients, @memnodes);

sub set_up
{
	my ($transport) = @_;

	@memnodes = map { LegoBase::Memnode->new(transport => $transport, memory => '96MB') } ($transport eq 'tcp' ? (1, 2) : (1));
	$node = legobase_cluster(
		"restart_$transport",
		nodes => \@memnodes,
		write_mode => 'writeback',
		conf => "legobase.node_timeout = 1s\nlegobase.debug_compare = on\nlegobase.tier1_interval = 200ms\nlegobase.redo = skip\n"
		  . "legobase.remote_pool_size = 48MB\nlegobase.write_mode = auto");
	make_words($node);
	$workload = LegoBase::Workload->new($node, rows => 1000);
	$clients = LegoBase::Acknowledged->new($node, $workload, ddl => 0);
	$node->safe_psql('postgres', 'CREATE SEQUENCE numbers; CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS i');
	return;
}

# Two tier-1 checkpoints later all that was changed before is in remote memory.
sub await_tier1
{
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');

	return wait_for('tier 1', 20,
		sub { $node->safe_psql('postgres', "SELECT count(*) FROM legobase_checkpoints WHERE tier = 1 AND lsn >= '$lsn'") });
}

sub settings_are
{
	my (%settings) = @_;

	$node->adjust_conf('postgresql.conf', $_, "'$settings{$_}'") foreach keys %settings;
	return;
}

# --- planned restarts --------------------------------------------------------------------------------------------------

sub reads_nothing_from_storage
{
	my ($what) = @_;
	my ($remote, $storage) = reads_by_tier($node, $all_tables);

	cmp_ok($remote, '>', 200, "$what: $remote blocks come from remote memory");
	cmp_ok($storage, '<', 20, "$what: (nearly) nothing from storage");
	return;
}

sub planned
{
	my ($transport) = @_;
	my $position;
	my $r;

	make_remote($node);
	wait_for_warm_list($node);
	$position = log_position($node);
	$node->restart;
	wait_for_nodes($node);
	$r = kept($node, scalar @memnodes, "$transport, planned");
	is($r->{nodes_asked}, scalar @memnodes, "$transport, planned: all nodes were asked");
	is($r->{pages_dirty}, 0, "$transport, planned: none of the pages was dirty");
	is($r->{pages_listed}, $r->{pages_kept} + $r->{pages_discarded}, "$transport, planned: each page was kept or discarded");
	is($r->{blocks_extended}, 0, "$transport, planned: no file was short");
	is($r->{redo_skipped}, 0, "$transport, planned: there was nothing to redo");
	reads_nothing_from_storage("$transport, planned");
	words_are_right($node, 'first', "$transport, planned");
	is(count_log_lines($node, qr/WARNING|PANIC/, $position), 0, "$transport, planned: no warning");

	# dirty pages are flushed by the shutdown
	change_words($node, 'changed');
	$node->restart;
	wait_for_nodes($node);
	$r = kept($node, scalar @memnodes, "$transport, changed and restarted");
	is($r->{pages_dirty}, 0, "$transport, changed and restarted: none of the pages is dirty");
	words_are_right($node, 'changed', "$transport, changed and restarted");
	return;
}

# --- crashes -----------------------------------------------------------------------------------------------------------

# With work under way: $crash crashes and sees to it that the server comes back.
sub crash_under_load
{
	my ($what, $crash) = @_;
	my $r;

	$clients->start;
	$clients->wait_until_busy;
	await_tier1();
	usleep(rand 300_000);
	ok($crash->(), "$what: the server is back");
	$clients->stop;
	wait_for_nodes($node);
	$r = kept($node, scalar @memnodes, $what);
	cmp_ok($r->{pages_dirty}, '>', 0, "$what: of these, $r->{pages_dirty} were dirty");
	cmp_ok($r->{redo_records}, '>', 0, "$what: $r->{redo_records} records were looked at");
	cmp_ok($r->{redo_skipped}, '>', 0, "$what: $r->{redo_skipped} were skipped");
	isnt($r->{tier1_lsn}, undef, "$what: the nodes knew L1");
	$clients->check($what, 1);
	words_are_right($node, 'crash', $what);
	return;
}

sub crashes
{
	my ($transport) = @_;

	change_words($node, 'crash');
	settle($node);
	crash_under_load("$transport, a backend killed",
		sub { crash_by($node, (shuffle server_processes($node, 'local'))[0]) });
	crash_under_load("$transport, the tier-1 checkpointer killed", sub { crash_by($node, server_process($node, 'tier-1 checkpointer')) });
	crash_under_load("$transport, the postmaster killed", sub { crash_and_start($node) });
	crash_under_load("$transport, stopped immediately", sub { $node->stop('immediate'); $node->start; return 1 });
	return;
}

# A sequence changes without WAL between the records that say how far it may go: its page, with the LSN of such a record, may have an
# earlier number than the record. No number is given out twice.
sub sequences
{
	my ($transport) = @_;
	my $what = "$transport, a sequence";
	my $last;

	settle($node);
	$node->safe_psql('postgres', q{SELECT nextval('numbers') FROM generate_series(1, 3)});
	await_tier1();
	# the page has left with this number and the LSN of the record; it goes on in local memory
	$last = (split /\n/, $node->safe_psql('postgres', q{SELECT nextval('numbers') FROM generate_series(1, 10)}))[-1];
	ok(crash_and_start($node), "$what: the server is back");
	cmp_ok($node->safe_psql('postgres', q{SELECT nextval('numbers')}), '>', $last, "$what: goes on above $last");
	return;
}

sub unlogged
{
	my ($transport) = @_;
	my $what = "$transport, an unlogged table";

	$node->safe_psql('postgres', 'INSERT INTO fleeting SELECT generate_series(1, 5000)');
	fill_buffers($node);
	settle($node);
	$node->restart;
	wait_for_nodes($node);
	is($node->safe_psql('postgres', 'SELECT count(*) > 4999 FROM fleeting'), 't', "$what: is there after a planned restart");
	ok(crash_and_start($node), "$what: the server is back");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM fleeting'), 0, "$what: is empty after a crash");
	return;
}

# What was dropped or cut before the crash does not come back with the pages.
sub dropped
{
	my ($transport) = @_;
	my $what = "$transport, dropped and truncated";
	my ($dropped, $truncated);

	$node->safe_psql(
		'postgres', q{
		CREATE TABLE gone AS SELECT i, repeat('g', 500) FROM generate_series(1, 1000) i;
		CREATE TABLE cut AS SELECT i, repeat('c', 500) FROM generate_series(1, 1000) i;
		CREATE TABLE shortened AS SELECT i, repeat('s', 500) FROM generate_series(1, 1000) i});
	make_remote($node);
	$dropped = relation_key($node, 'postgres', 'gone');
	$truncated = relation_key($node, 'postgres', 'cut');
	cmp_ok(pages_of($node, $_), '>', 50, "$what: the table is in remote memory") foreach ($dropped, $truncated);
	$node->safe_psql('postgres', 'DELETE FROM shortened WHERE i > 20');
	$node->safe_psql('postgres', 'VACUUM shortened');
	$node->safe_psql('postgres', 'DROP TABLE gone');
	$node->safe_psql('postgres', 'TRUNCATE cut');
	ok(crash_and_start($node), "$what: the server is back");
	kept($node, scalar @memnodes, $what);
	is(pages_of($node, $dropped), 0, "$what: no page of the dropped table");
	is(pages_of($node, $truncated), 0, "$what: no page of the former file of the truncated one");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM cut'), 0, "$what: it is empty");
	is($node->safe_psql('postgres', q{SELECT count(*), pg_relation_size('shortened') / 8192 FROM shortened}), '20|2',
		"$what: and the shortened one is short");
	$node->safe_psql('postgres', 'DROP TABLE cut, shortened');
	words_are_right($node, 'crash', $what);
	return;
}

# An extension of a file that did not become durable, as after a loss of power: WAL and remote memory have the pages. Only blocks that were not
# written since can be missing: what a node wrote and synced is durable.
sub short_files
{
	my ($transport) = @_;
	my $what = "$transport, short files";
	my ($path, $size, $first, $r);

	$node->safe_psql('postgres', q{CREATE TABLE long (i int, pad text)});
	settle($node);
	quieten();
	$node->safe_psql('postgres', q{INSERT INTO long SELECT i, repeat('l', 500) FROM generate_series(1, 2000) i});
	fill_buffers($node);
	await_tier1();
	$path = $node->data_dir . '/' . $node->safe_psql('postgres', q{SELECT pg_relation_filepath('long')});
	$first = $node->safe_psql('postgres',
		q{SELECT coalesce(max(relblocknumber) + 1, 2) FROM legobase_pages
			WHERE relfilenode = pg_relation_filenode('long') AND relforknumber = 0 AND NOT dirty});
	kill_server_of($node);
	$size = -s $path;
	cmp_ok($size / 8192 - $first, '>=', 100, "$what: blocks from $first on are dirty");
	truncate($path, $first * 8192) or die "$path: $!";
	$node->start;
	wait_for_nodes($node);
	$r = kept($node, scalar @memnodes, $what);
	cmp_ok($r->{blocks_extended}, '>=', 100, "$what: $r->{blocks_extended} blocks were added to files");
	is(-s $path, $size, "$what: it is as long as it was");
	is($node->safe_psql('postgres', q{SELECT count(*), sum(i) FROM long WHERE pad = repeat('l', 500)}), '2000|2001000', "$what: rows");
	$node->safe_psql('postgres', 'DROP TABLE long');
	words_are_right($node, 'crash', $what);
	return;
}

# --- the same with other settings --------------------------------------------------------------------------------------

sub with_settings
{
	my ($transport, $what, $crash, %settings) = @_;
	my $name = "$transport, $what" . ($crash ? ', after a crash' : '');
	my $word = ($what =~ s{\W}{}gr) . ($crash ? 'crash' : '');

	make_remote($node);
	change_words($node, $word);
	$crash ? kill_server_of($node) : $node->stop;
	settings_are(%settings);
	$node->start;
	wait_for_nodes($node);
	kept($node, scalar @memnodes, $name);
	words_are_right($node, $word, $name);
	return;
}

sub other_settings
{
	my ($transport) = @_;

	foreach my $crash (0, 1)
	{
		with_settings($transport, 'more local memory', $crash, shared_buffers => '16MB');
		with_settings($transport, 'less local memory', $crash, shared_buffers => '1MB');
		with_settings($transport, 'a smaller pool', $crash, 'legobase.remote_pool_size' => '16MB');
		with_settings($transport, 'a larger pool', $crash, 'legobase.remote_pool_size' => '60MB');
		with_settings($transport, 'everything redone', $crash, 'legobase.redo' => 'plain');
		with_settings($transport, 'everything redone and compared', $crash, 'legobase.redo' => 'compare');
		is(recovery($node)->{redo_different}, 0, "$transport: nothing differs from what is redone");
		with_settings($transport, 'records skipped', $crash, 'legobase.redo' => 'skip');
		expect_write_mode($node, 'writethrough');
		with_settings($transport, 'write-through', $crash, 'legobase.write_mode' => 'writethrough');
		expect_write_mode($node, 'writeback');
		with_settings($transport, 'write-back', $crash, 'legobase.write_mode' => 'auto');
	}
	return;
}

foreach my $transport ('shm', 'tcp')
{
	set_up($transport);
	planned($transport);
	crashes($transport);
	sequences($transport);
	unlogged($transport);
	dropped($transport);
	short_files($transport);
	other_settings($transport);
	amcheck_clean($node, $transport);
	$node->stop;
	$_->stop foreach @memnodes;
}

done_testing();
