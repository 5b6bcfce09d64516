# One-sidedness: a memory node whose process is stopped is read all the same, by those that are connected to it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../../../t/lib";

use LegoBase;
use LegoBase::Rdma;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

need_rdma_device();

my $pages = 400;
my $memnode = LegoBase::Memnode->new(transport => 'rdma');

# for so long the agent does not mind that its pings are not answered
my $node = legobase_cluster('one_sided', nodes => [$memnode], conf => 'legobase.node_timeout = 60s');

make_filler($node);
$node->safe_psql(
	'postgres', qq{
	CREATE TABLE t (id int, pad text) WITH (fillfactor = 10);
	INSERT INTO t SELECT i, repeat('x', 700) FROM generate_series(1, $pages) i;
	VACUUM (FREEZE) t});
make_remote($node);
cmp_ok(remote_pages($node, 'postgres', 't'), '>=', $pages, 'a table is in remote memory');

# Two sessions read, by a scan (with read-ahead) and page by page; one looks at the figures. All of them are connected to the node and
# have the catalogs that they need in their own memory.
my ($scanning, $hopping, $watching) = map { $node->background_psql('postgres') } (1 .. 3);
my $scan = q{SELECT count(*), sum(id) FROM t};
my $hop = qq{SELECT sum(pg_prewarm('t', 'read', 'main', i, i)) FROM (SELECT (i * 37) % $pages FROM generate_series(1, $pages) i) p(i)};
my $figures = q{SELECT remote_hits, storage_reads, checksum_failures FROM legobase_summary};
my $works = q{SELECT work_requests FROM legobase_nodes};

$hopping->query_safe('SET legobase.read_ahead_pages = 0');
foreach (1, 2)
{
	is($scanning->query_safe($scan), "$pages|" . $pages * ($pages + 1) / 2, 'a scan while the node runs');
	is($hopping->query_safe($hop), $pages, 'hopping while the node runs');
	$watching->query_safe($_) foreach $figures, $works;
	settle($node);
}

$memnode->freeze;
ok(wait_for('the node is stopped', 10, sub { $memnode->stopped }), 'the node is stopped');
my ($remote, $storage) = split /\|/, $watching->query_safe($figures);
my $work = $watching->query_safe($works);

foreach (1, 2)
{
	is($scanning->query_safe($scan), "$pages|" . $pages * ($pages + 1) / 2, 'a scan while the node is stopped');
	is($hopping->query_safe($hop), $pages, 'hopping while the node is stopped');
}
my ($remote_after, $storage_after, $wrong) = split /\|/, $watching->query_safe($figures);
my $work_after = $watching->query_safe($works);

cmp_ok($remote_after - $remote, '>=', 3 * $pages, 'pages came from the stopped node: ' . ($remote_after - $remote));
cmp_ok($work_after - $work, '>=', 3 * $pages, '... with RDMA reads');
is($storage_after, $storage, '... and none from storage');
is($wrong, 0, '... all of them right');
ok($memnode->stopped, 'the node is still stopped');

$memnode->thaw;
$_->quit foreach $scanning, $hopping, $watching;
ok(wait_for('the node answers', 10, sub { eval { $memnode->figures->{sessions} } }), 'the node goes on');
is(up_nodes($node), 1, '... and was not given up');
is(differing_blocks($node, 'postgres'), '', 'all pages read as they are in the files');
$node->stop;
is($memnode->stop, 0, 'the memory node stops cleanly');

done_testing();
