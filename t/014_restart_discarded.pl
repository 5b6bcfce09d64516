# What memory nodes have of a server's former life is not used when it may not be what the data directory needs: somebody else
# has changed the files, the data directory is another one, a node was not told, or is not there. The rows are right each time.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use File::Path qw(remove_tree);
use LegoBase;
use LegoBase::Restart;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my (@memnodes, $node, $link);

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

sub settings_are
{
	my (%settings) = @_;

	$node->adjust_conf('postgresql.conf', $_, "'$settings{$_}'") foreach keys %settings;
	return;
}

# Two memory nodes that see the data directory by a link, which a test can take away.
sub set_up
{
	my $folder = PostgreSQL::Test::Utils::tempdir_short();

	@memnodes = map { LegoBase::Memnode->new(transport => 'shm', start => 0) } (1, 2);
	$node = legobase_cluster(
		'discarded',
		nodes => \@memnodes,
		write_mode => 'writeback',
		start => 0,
		conf => "legobase.node_timeout = 1s\nlegobase.tier1_interval = 200ms\nlegobase.debug_compare = on\n"
		  . "wal_level = replica\nmax_wal_senders = 10\nlegobase.take_over = off");
	$link = "$folder/data";
	symlink($node->data_dir, $link) or die "symlink: $!";
	foreach my $memnode (@memnodes)
	{
		$memnode->{storage} = [$link];
		$memnode->start;
	}
	$node->start;
	sql('CREATE EXTENSION legobase');
	wait_for_nodes($node);
	make_words($node);
	return;
}

# All of the table in remote memory, old; and then this word, dirty there.
sub prepare
{
	my ($word) = @_;

	make_remote($node);
	change_words($node, $word);
	wait_until_remote($node);
	return;
}

sub start
{
	$node->start;
	wait_for_nodes($node);
	return;
}

# --- another server without the extension ran in between ---------------------------------------------------------------

sub stock_in_between
{
	foreach my $first ('fast', 'immediate')
	{
		foreach my $then ('fast', 'immediate')
		{
			my $what = "stopped ($first), a server without the extension, stopped ($then)";
			my $word = "stock after $first, $then";

			prepare("before $word");
			$node->stop($first);
			start_stock($node);
			is(words($node), "before $word|4000", "$what: it has the rows");
			sql("UPDATE t SET word = '$word'");
			$node->stop($then);
			start_legobase($node);
			if ($first eq 'fast' && $then eq 'immediate')
			{
				# No checkpoint in between: redo begins where the pages are. They may be without the hint bits that the files have got.
				is(words($node), "$word|4000", "$what: rows");
				amcheck_clean($node, $what);
			}
			else
			{
				nothing_kept($node, $what);
				words_are_right($node, $word, $what);
			}
		}
	}
	return;
}

# --- the data directory is not what it was -----------------------------------------------------------------------------

sub checksums_switched
{
	foreach my $how ('--enable', '--disable')
	{
		my $what = "pg_checksums $how";

		prepare("pg_checksums $how");
		$node->stop;
		command_ok([ 'pg_checksums', $how, '-N', '-D', $node->data_dir ], $what);
		start();
		nothing_kept($node, $what);
		words_are_right($node, "pg_checksums $how", $what);
		is(sql(q{SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database}), 0, "$what: no wrong checksum");
	}
	return;
}

# As a backup that is restored has it: redo begins where the backup began, and not where pg_control says.
sub backup_label
{
	my $what = 'backup_label';
	my $backup;

	prepare('before the backup');
	$node->backup('labelled', backup_options => [ '-X', 'fetch', '--checkpoint', 'fast' ]);
	$backup = $node->backup_dir . '/labelled';
	change_words($node, 'after the backup');
	wait_until_remote($node);
	kill_server_of($node);
	# the folder of the instance stays, so that the nodes recognise it
	rename($node->data_dir . '/pgsql_tmp_legobase', "$backup/pgsql_tmp_legobase") or die "rename: $!";
	remove_tree($node->data_dir);
	PostgreSQL::Test::Utils::system_or_bail('cp', '-a', $backup, $node->data_dir);
	chmod 0700, $node->data_dir;
	start();
	nothing_kept($node, $what);
	words_are_right($node, 'before the backup', $what);
	return;
}

# A copy of the data directory comes back. Its redo point may be the one that the nodes' record names: nothing but what was
# written since tells the two apart.
sub older_copy
{
	my $data = $node->data_dir;
	my $copy = "$data.copy";

	foreach my $case (
		[ 'clean copy, a checkpoint since', 'fast', sub { settle($node) } ],
		[ 'clean copy, no checkpoint since', 'fast', sub { 1 } ],
		[ 'copy after a crash, no checkpoint since', 'immediate', sub { 1 } ])
	{
		my ($what, $stop, $since) = @{$case};

		prepare("in the $what");
		$node->stop($stop);
		PostgreSQL::Test::Utils::system_or_bail('cp', '-a', $data, $copy);
		start();
		change_words($node, 'gone');
		$since->();
		sql(q{INSERT INTO t SELECT i, 'gone' FROM generate_series(5001, 6000) i});
		fill_buffers($node);
		wait_until_remote($node);
		kill_server_of($node);
		remove_tree($data);
		rename($copy, $data) or die "rename: $!";
		start();
		nothing_kept($node, $what);
		words_are_right($node, "in the $what", $what);
		amcheck_clean($node, $what);
	}
	return;
}

# The same with a snapshot of a running server: same life, same epoch, same redo point. What the nodes have was written after
# the end of the WAL that the snapshot has.
sub snapshot_of_a_running_server
{
	my $what = 'snapshot of the running server';
	my $data = $node->data_dir;
	my $copy = "$data.copy";

	settle($node);
	prepare('in the snapshot');
	# nothing is written meanwhile but by memory nodes, which are stopped for so long
	$_->freeze foreach @memnodes;
	PostgreSQL::Test::Utils::system_or_bail('cp', '-a', $data, $copy);
	$_->thaw foreach @memnodes;
	unlink "$copy/postmaster.pid";
	wait_for_nodes($node);
	change_words($node, 'gone');
	sql(q{INSERT INTO t SELECT i, 'gone' FROM generate_series(5001, 6000) i});
	fill_buffers($node);
	wait_until_remote($node);
	kill_server_of($node);
	remove_tree($data);
	rename($copy, $data) or die "rename: $!";
	# it may have to be started twice, when it finds out at the end of redo
	ok($node->start(fail_ok => 1) || $node->start(fail_ok => 1), "$what: it starts");
	wait_for_nodes($node);
	words_are_right($node, 'in the snapshot', $what);
	amcheck_clean($node, $what);
	return;
}

# --- memory nodes ------------------------------------------------------------------------------------------------------

sub memnodes_empty
{
	prepare('empty');
	kill_server_of($node);
	foreach my $memnode (@memnodes)
	{
		$memnode->kill9;
		$memnode->start;
	}
	start();
	nothing_kept($node, 'both nodes restarted');
	words_are_right($node, 'empty', 'both nodes restarted');
	return;
}

sub one_missing
{
	my $what = 'one of two nodes is missing';
	my $r;

	prepare('missing');
	kill_server_of($node);
	$memnodes[1]->kill9;
	$node->start;
	ok(wait_for('the other one', 20, sub { up_nodes($node) == 1 }), "$what: the other one serves");
	$r = kept($node, 1, $what);
	is(words($node), 'missing|4000', "$what: rows");
	$memnodes[1]->start;
	wait_for_nodes($node);
	words_are_right($node, 'missing', $what);
	return;
}

# It hangs while the server comes back, and goes on afterwards: what it has is not asked for any more.
sub one_hangs
{
	my $what = 'one of two nodes hangs';

	prepare('hangs');
	kill_server_of($node);
	$memnodes[1]->freeze;
	$node->start;
	is(words($node), 'hangs|4000', "$what: rows");
	kept($node, 1, $what);
	$memnodes[1]->thaw;
	wait_for_nodes($node);
	words_are_right($node, 'hangs', $what);
	return;
}

# A node with clean copies hangs; the server goes on without it, and changes pages of which it has an older version.
sub not_told
{
	foreach my $case ([ 'a checkpoint it was not told of', 1 ], [ 'no checkpoint', 0 ])
	{
		my ($what, $checkpoint) = @{$case};
		my $word = "not told, $what";

		make_remote($node);
		settle($node);
		quieten();
		$_->freeze foreach @memnodes;
		wait_for('both are given up', 20, sub { up_nodes($node) == 0 });
		sql("UPDATE t SET word = '$word'");
		settle($node) if $checkpoint;
		$node->stop('immediate');
		$_->thaw foreach @memnodes;
		start();
		nothing_kept($node, $what) if $checkpoint;
		words_are_right($node, $word, $what);
	}
	return;
}

# The nodes don't see the data directory any more: dirty pages could not be flushed.
sub storage_hidden
{
	my $what = 'storage is hidden';
	my $r;

	prepare('hidden');
	kill_server_of($node);
	unlink $link or die "$link: $!";
	expect_write_mode($node, 'writethrough');
	start();
	$r = recovery($node);
	is($r->{pages_dirty}, 0, "$what: no dirty page was kept");
	cmp_ok($r->{pages_discarded}, '>', 50, "$what: $r->{pages_discarded} pages were discarded");
	words_are_right($node, 'hidden', $what);
	symlink($node->data_dir, $link) or die "symlink: $!";
	expect_write_mode($node, 'writeback');
	$node->restart;
	ok(wait_for_nodes($node), "$what: seen again, it writes back");
	words_are_right($node, 'hidden', "$what, and seen again");
	return;
}

# --- runs in which the pool is not kept --------------------------------------------------------------------------------

sub without_record
{
	foreach my $case (
		[ 'fsync = off', { fsync => 'off' }, { fsync => 'on' } ],
		[ 'wal_level = minimal', { wal_level => 'minimal', max_wal_senders => 0 }, { wal_level => 'replica', max_wal_senders => 10 } ])
	{
		my ($name, $there, $back) = @{$case};

		foreach my $stop ('fast', 'immediate')
		{
			my $what = "$name, stopped ($stop)";

			prepare("before $what");
			$node->stop;
			settings_are(%{$there});
			expect_write_mode($node, 'writethrough');
			start();
			nothing_kept($node, $what);
			is(words($node), "before $what|4000", "$what: rows");
			# not logged with wal_level = minimal: the table gets a new file, which is synced at commit
			sql("BEGIN; CREATE TABLE new (LIKE t INCLUDING ALL) WITH (fillfactor = 30); INSERT INTO new SELECT id, '$what' FROM t;
				DROP TABLE t; ALTER TABLE new RENAME TO t; COMMIT");
			make_remote($node);
			$node->stop($stop);
			settings_are(%{$back});
			expect_write_mode($node, 'writeback');
			start();
			nothing_kept($node, "after $what");
			words_are_right($node, $what, "after $what");
		}
	}
	return;
}

set_up();
stock_in_between();
checksums_switched();
memnodes_empty();
one_missing();
one_hangs();
not_told();
storage_hidden();
without_record();
older_copy();
backup_label();
snapshot_of_a_running_server();
$node->stop;

done_testing();
