# What goes behind the storage manager (BEHIND_SMGR.md): tools and people that change files while no server runs, copies
# of the data directory, and servers without the extension.
#
# pg_upgrade has no test of its own: it needs two major versions, and the extension supports one. What it relies on, that
# after a clean shutdown the files alone are the database, is what most of the tests below are about.
#
# The memory node is one that outlives the server, and still has all its pages, each time.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use File::Path qw(remove_tree);
use LegoBase;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use Test::More;

my $memnode = LegoBase::Memnode->new(transport => 'shm', memory => '192MB');
my $node = legobase_cluster('offline', nodes => [$memnode]);

make_filler($node);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, word text) WITH (fillfactor = 30);
	INSERT INTO t SELECT i, 'original' FROM generate_series(1, 10000) i;
	VACUUM (FREEZE) t;
});

sub words
{
	my ($server) = @_;

	return $server->safe_psql('postgres', 'SELECT word, count(*) FROM t GROUP BY word ORDER BY word');
}

# Read everything into remote memory, then stop.
sub stop_with_remote_pages
{
	my ($mode) = @_;

	words($node);
	make_remote($node);
	cmp_ok(remote_pages($node, 'postgres', 't'), '>', 100, 'the table is in remote memory');
	$node->stop($mode);
	return;
}

sub check_words
{
	my ($expected, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(words($node), $expected, "$what: rows");
	make_remote($node);
	is(words($node), $expected, "$what: rows, read from remote memory");
	is(differing_blocks($node, 'postgres'), '', "$what: all pages read as they are in the files");
	return;
}

# --- a file is edited ------------------------------------------------------------------------------------------------

{
	my $path = $node->data_dir . '/' . $node->safe_psql('postgres', q{SELECT pg_relation_filepath('t')});

	stop_with_remote_pages('fast');
	my $contents = PostgreSQL::Test::Utils::slurp_file($path);
	my $edited = ($contents =~ s/original/modified/g);
	is($edited, 10000, 'a file is edited while the server is stopped');
	open(my $file, '>', $path) or die "$path: $!";
	binmode $file;
	print $file $contents;
	close $file;
	$node->start;
	wait_for_nodes($node);
	check_words('modified|10000', 'edited file');
}

# --- a server without the extension ----------------------------------------------------------------------------------

{
	stop_with_remote_pages('fast');
	start_stock($node);
	$node->safe_psql('postgres', q{UPDATE t SET word = 'stock' WHERE id <= 5000});
	$node->stop;
	start_legobase($node);
	check_words("modified|5000\nstock|5000", 'changed by a server without the extension');

	# after a crash of the server with the extension, in the middle of things
	$node->safe_psql('postgres', q{UPDATE t SET word = 'crashed'});
	fill_buffers($node);
	$node->safe_psql('postgres', q{UPDATE t SET word = 'last' WHERE id % 2 = 0});
	$node->stop('immediate');
	start_stock($node);
	is(words($node), "crashed|5000\nlast|5000", 'recovered by a server without the extension');
	amcheck_clean($node, 'recovered by a server without the extension');
	$node->safe_psql('postgres', q{UPDATE t SET word = 'stock'});
	$node->stop('immediate');
	start_legobase($node);
	check_words('stock|10000', 'recovered by the server with the extension');

	# a checkpoint means that the files are current
	$node->safe_psql('postgres', q{UPDATE t SET word = 'checkpointed'; CHECKPOINT});
	my $redo = $node->safe_psql('postgres', 'SELECT redo_lsn FROM pg_control_checkpoint()');
	is( $node->safe_psql(
			'postgres', q{SELECT count(*) FROM generate_series(0, pg_relation_size('t') / 8192 - 1) block
				WHERE get_raw_page('t', block) <> pg_read_binary_file(pg_relation_filepath('t'), block * 8192, 8192)}),
		0,
		"after a checkpoint ($redo) every page is in the file");
}

# --- single-user mode ------------------------------------------------------------------------------------------------

{
	my ($out, $err) = ('', '');

	stop_with_remote_pages('fast');
	ok( IPC::Run::run(
			[ 'postgres', '--single', '-D', $node->data_dir, 'postgres' ],
			'<', \"UPDATE t SET word = 'single';\nSELECT count(*) AS counted FROM t;\n",
			'>', \$out, '2>', \$err, IPC::Run::timeout(60)),
		'single-user mode') or diag($err);
	like($out, qr/counted = "10000"/, 'single-user mode reads');
	$node->start;
	wait_for_nodes($node);
	check_words('single|10000', 'changed in single-user mode');

	$node->stop;
	$memnode->kill9;
	ok( IPC::Run::run(
			[ 'postgres', '--single', '-D', $node->data_dir, 'postgres' ],
			'<', \"SELECT count(*) AS counted FROM t;\n",
			'>', \$out, '2>', \$err, IPC::Run::timeout(60)),
		'single-user mode while the memory node is down');
	like($out, qr/counted = "10000"/, '... reads');
	$memnode->start;
	$node->start;
	wait_for_nodes($node);
}

# --- pg_checksums ----------------------------------------------------------------------------------------------------

{
	stop_with_remote_pages('fast');
	command_ok([ 'pg_checksums', '--enable', '-N', '-D', $node->data_dir ], 'pg_checksums --enable');
	$node->start;
	wait_for_nodes($node);
	is($node->safe_psql('postgres', 'SHOW data_checksums'), 'on', 'checksums are on');
	check_words('single|10000', 'checksums enabled');
	$node->safe_psql('postgres', q{UPDATE t SET word = 'summed'});
	check_words('summed|10000', 'changed with checksums');
	is($node->safe_psql('postgres', q{SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database}),
		0, 'PostgreSQL finds no wrong checksum');
	stop_with_remote_pages('fast');
	command_ok([ 'pg_checksums', '--check', '-D', $node->data_dir ], 'pg_checksums --check');
	command_ok([ 'pg_checksums', '--disable', '-N', '-D', $node->data_dir ], 'pg_checksums --disable');
	$node->start;
	wait_for_nodes($node);
	check_words('summed|10000', 'checksums disabled');
}

# --- an older copy of the data directory is put back -----------------------------------------------------------------

{
	my $copy = PostgreSQL::Test::Utils::tempdir() . '/copy';
	my $data = $node->data_dir;

	stop_with_remote_pages('fast');
	PostgreSQL::Test::RecursiveCopy::copypath($data, $copy);
	$node->start;
	wait_for_nodes($node);
	$node->safe_psql('postgres', q{UPDATE t SET word = 'undone'});
	check_words('undone|10000', 'changed after the copy');
	stop_with_remote_pages('fast');
	remove_tree($data);
	PostgreSQL::Test::RecursiveCopy::copypath($copy, $data);
	chmod 0700, $data;
	$node->start;
	wait_for_nodes($node);
	check_words('summed|10000', 'an older data directory');
}

# --- pg_basebackup ---------------------------------------------------------------------------------------------------

{
	my $folder = PostgreSQL::Test::Utils::tempdir_short();

	$node->safe_psql(
		'postgres', q{
		CREATE TABLE accounts (id int PRIMARY KEY, balance int, pad text) WITH (fillfactor = 60);
		INSERT INTO accounts SELECT i, 100, repeat('x', 200) FROM generate_series(1, 20000) i;
	});
	PostgreSQL::Test::Utils::append_to_file(
		"$folder/transfer.sql", q{
\set a random(1, 10000)
\set b random(10001, 20000)
BEGIN;
UPDATE accounts SET balance = balance - 1 WHERE id = :a;
UPDATE accounts SET balance = balance + 1 WHERE id = :b;
COMMIT;
});
	my $load = IPC::Run::start [
		'pgbench', '-n', '-h', $node->host, '-p', $node->port, '-c', 4, '-T', 60,
		'-f', "$folder/transfer.sql", 'postgres'
	  ],
	  '>', \my $out, '2>', \my $err;

	$node->backup('loaded', backup_options => [ '-X', 'stream', '--checkpoint', 'fast' ]);
	$load->signal('INT');
	$load->finish;
	my $backup = $node->backup_dir . '/loaded';
	ok(!-e "$backup/pgsql_tmp_legobase", 'a backup has nothing of the instance');
	command_ok([ 'pg_verifybackup', $backup ], 'pg_verifybackup');

	foreach my $with ('', 'legobase')
	{
		my $name = $with ? 'restored with legobase' : 'restored without legobase';
		my $restored = PostgreSQL::Test::Cluster->new($with ? 'restored' : 'restored_stock');

		$restored->init_from_backup($node, 'loaded');
		$restored->append_conf('postgresql.conf', "shared_preload_libraries = '$with'");
		$restored->start;
		wait_for_nodes($restored) if $with;
		is($restored->safe_psql('postgres', 'SELECT count(*), sum(balance) FROM accounts'),
			'20000|2000000', "$name: the balance is right");
		is(words($restored), 'summed|10000', "$name: rows");
		amcheck_clean($restored, $name);
		is($restored->safe_psql('postgres', 'SELECT count(*), sum(balance) FROM accounts'),
			'20000|2000000', "$name: the balance is right, read again");
		$restored->stop;
	}
	is($node->safe_psql('postgres', 'SELECT count(*), sum(balance) FROM accounts'),
		'20000|2000000', 'the original goes on beside its copy');
	is(up_nodes($node), 1, '... with its memory node');
}

is(summary($node)->{checksum_failures}, 0, 'no checksum failure');
$node->stop;
done_testing();
