# Write-back over RDMA: changed pages go to the node, which writes them; a checkpoint means that the files are current; what is removed does
# not come back; and after a crash the server goes on with what the node has. In short: t/009_write_back.pl and t/014_restart.pl have it in full.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../../../t/lib";

use LegoBase;
use LegoBase::Acknowledged;
use LegoBase::Rdma;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

need_rdma_device();

my $memnode = LegoBase::Memnode->new(transport => 'rdma');
my $node = legobase_cluster(
	'writeback',
	nodes => [$memnode],
	write_mode => 'writeback',
	init => { extra => ['--data-checksums'] },
	conf => "legobase.node_timeout = 20s\nlegobase.tier1_interval = 0\nbgwriter_lru_maxpages = 0\nmax_wal_size = 4GB");

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

sub words
{
	my ($name) = @_;

	return sql("SELECT word, count(*) FROM $name GROUP BY word ORDER BY word");
}

sub make_table
{
	my ($name, $word) = @_;

	sql("CREATE TABLE $name (id int, word text) WITH (fillfactor = 10);
		INSERT INTO $name SELECT i, '$word' FROM generate_series(1, 4000) i");
	sql("VACUUM (FREEZE) $name");
	settle($node);
	quieten();
	return;
}

make_filler($node);

# --- where pages go --------------------------------------------------------------------------------------------------

make_table('t', 'old');
my $blocks = sql(q{SELECT pg_relation_size('t') / 8192});
my $writes = sql(q{SELECT writes FROM legobase_stat_io WHERE tier = 'storage'});

sql(q{UPDATE t SET word = 'new'});
fill_buffers($node);
cmp_ok(dirty_pages_of($node, 'postgres', 't'), '>', $blocks * 0.9, 'changed pages are dirty in remote memory');
cmp_ok(files_behind($node, 'postgres', 't'), '>', $blocks * 0.9, '... and the file has the old ones');
is(words('t'), 'new|4000', 'the new ones are read');

my $flushed = $memnode->figures->{flushed_pages};
sql('CHECKPOINT');
is(files_behind($node, 'postgres', 't'), 0, 'after a checkpoint the file has all of them');
is(dirty_pages_of($node, 'postgres', 't'), 0, '... and none is dirty');
cmp_ok($memnode->figures->{flushed_pages} - $flushed, '>=', $blocks, '... because the memory node wrote them');
is(sql(q{SELECT writes FROM legobase_stat_io WHERE tier = 'storage'}), $writes, '... and the server did not');

# --- what is removed -------------------------------------------------------------------------------------------------

sql(q{UPDATE t SET word = 'newer'});
fill_buffers($node);
my $key = relation_key($node, 'postgres', 't');
sql('TRUNCATE t');
settle($node);
is(pages_of($node, $key), 0, 'TRUNCATE: no page of the old file is left in remote memory');
is(words('t'), '', '... and none is read');

make_table('u', 'old');
sql(q{UPDATE u SET word = 'new'; DELETE FROM u WHERE id > 500});
fill_buffers($node);
sql('VACUUM u');
settle($node);
is(words('u'), 'new|500', 'VACUUM cuts a file with dirty pages');
sql(q{INSERT INTO u SELECT i, 'again' FROM generate_series(501, 2000) i});
fill_buffers($node);
is(words('u'), 'again|1500
new|500', '... which grows again, and the old pages do not come back');

$key = relation_key($node, 'postgres', 'u');
sql(q{UPDATE u SET word = 'last'});
fill_buffers($node);
sql('DROP TABLE u');
settle($node);
is(pages_of($node, $key), 0, 'DROP TABLE: none of its pages is left');

# --- a crash of the server, with dirty pages in the node ---------------------------------------------------------------

my $workload = LegoBase::Workload->new($node, rows => 500);
my $clients = LegoBase::Acknowledged->new($node, $workload, clients => 2, ddl => 0);

foreach my $round (1, 2)
{
	$clients->start;
	$clients->wait_until_busy;
	ok(wait_for('dirty pages', 20, sub { summary($node)->{dirty_pages} > 20 }), "crash $round: the node has dirty pages");
	$node->kill9;
	$clients->wait_end;
	ok(wait_until_gone($node), "crash $round: the server is gone");
	$node->start;
	ok(wait_for_nodes($node), "crash $round: the node is used again");
	my ($recovery) = $node->safe_psql('postgres', 'SELECT nodes_kept, pages_kept > 0, pages_discarded FROM legobase_recovery');
	like($recovery, qr/^1\|t\|/, "crash $round: recovery goes on with the node's pages ($recovery)");
	is(node_rows($node)->[0]{transport}, 'rdma', "crash $round: over RDMA");
	$clients->check("crash $round", 1);
}

# --- the node restarts itself, planned, with nothing dirty --------------------------------------------------------------

settle($node);
is(differing_blocks($node, 'postgres'), '', 'all pages read as they are in the files');
amcheck_clean($node, 'at the end');
is(summary($node)->{checksum_failures}, 0, 'no page was wrong');
is(work_since($node)->{tcp_fallbacks}, 0, 'all of it over RDMA');
$node->stop;
is($memnode->stop, 0, 'the memory node stops cleanly');
PostgreSQL::Test::Utils::command_ok([ 'pg_checksums', '--check', '-D', $node->data_dir ], 'pg_checksums --check after the shutdown');

done_testing();
