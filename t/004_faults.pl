# Faults of memory nodes and of the network between (FAULTS.md), under a running workload. In write-through: no query fails, no
# row is wrong, the server is at no time slower for longer than a second than it is without remote memory, and the node is used
# again when it is back. In write-back the node has what nobody else has: the server restarts itself, and nothing is lost.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use File::Copy;
use IO::Socket::INET;
use LegoBase;
use LegoBase::Acknowledged;
use LegoBase::Proxy;
use LegoBase::Workload;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $bin = 0.2;				# seconds; resolution of the throughput
my $slack = 2 * $bin;		# how exact the length of a dip can be known

# The embedded memory node of a server that was stopped ends after a minute: looked at again at the end.
my $unused = legobase_cluster('unused');
my $unused_pid = embedded_node_pid($unused);
$unused->stop;

my $memnode = LegoBase::Memnode->new(transport => 'tcp');
my $proxy = LegoBase::Proxy->new($memnode->port);
my $node = legobase_cluster('faults', nodes => [$proxy], conf => 'max_wal_size = 4GB');
my $workload = LegoBase::Workload->new($node);

make_filler($node);

my $clients = LegoBase::Acknowledged->new($node, $workload, ddl => 0);
my $writing_back = $write_mode eq 'writeback';

# Short transactions, so that a rate can be measured in fractions of a second
my %short = (transfer => 2, row => 8);

# --- the measure: no remote memory ------------------------------------------------------------------------------------

sub measure_without_remote_memory
{
	$node->safe_psql('postgres', 'ALTER SYSTEM SET legobase.remote_pool_size = 0');
	$node->reload;
	wait_for_pool($node, 'the pool is disabled', 20, sub { $_[0] == 0 });
	my $run = $workload->start(clients => 4, seconds => 4, scripts => \%short, log => 1);
	ok(LegoBase::Workload::finish($run), 'the workload without remote memory');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET legobase.remote_pool_size');
	$node->reload;
	wait_for_pool($node, 'the pool is enabled', 20, sub { $_[0] > 0 });
	return LegoBase::Workload::median_rate(LegoBase::Workload::rates($run, $bin));
}

# Also in write-back: all that is dirty is written first.
my $without = measure_without_remote_memory();
note("transactions a second without remote memory: $without");
cmp_ok($without, '>', 100, 'throughput without remote memory');

sub wait_until_used
{
	my $hits = summary($node)->{remote_hits};

	return wait_for('the node is used', 10, sub { summary($node)->{remote_hits} > $hits + 100 });
}

# Run the workload; meanwhile cause a fault, hold it for a while, end it, and see the node used again.
# Named parameters: begin, end (code); lasts (seconds); stays_up: the fault is no reason to give the node up.
sub survive
{
	my ($what, %fault) = @_;
	my $before = summary($node);
	my $run = $workload->start(clients => 4, seconds => $fault{lasts} + 3, scripts => \%short, log => 1);

	ok($fault{stays_up} || wait_until_used(), "$what: the node is used before");
	my $from = time;
	$fault{begin}->();
	ok(wait_for("$what: node given up", 10, sub { up_nodes($node) == 0 }), "$what: the node is treated as lost")
	  unless $fault{stays_up};
	# the fault goes on, with the workload running, for as long as the test says
	sleep($from + $fault{lasts} - time) if $from + $fault{lasts} > time;
	my $to = time;
	$fault{end}->();
	ok(wait_for_nodes($node, 20), "$what: the node is back by itself");
	ok(wait_until_used(), "$what: ... and used");
	ok(LegoBase::Workload::finish($run), "$what: no query failed, no sum was wrong");

	my @rates = LegoBase::Workload::rates($run, $bin);
	die 'the throughput was not measured' if @rates < $fault{lasts} / $bin;
	my $dip = LegoBase::Workload::longest_below(\@rates, $from, $to, $without * 0.4, $bin);
	note('rates: ', join ' ', map { sprintf '%.1f:%d', $_->[0] - $from, $_->[1] } @rates);
	cmp_ok($dip, '<=', 1 + $slack, "$what: slower than without remote memory for at most a second")
	  unless $writing_back;
	$workload->check($what);
	is(summary($node)->{checksum_failures}, $before->{checksum_failures}, "$what: no page was damaged");
	return;
}

# The same when the newest versions of pages are in the node, in write-back: it is given up by a PANIC, the server restarts
# itself while the fault lasts, nothing acknowledged is lost, and the node is used again when it is back.
sub recover
{
	my ($what, %fault) = @_;
	my $position = log_position($node);

	$clients->start;
	$clients->wait_until_busy;
	ok(wait_for('dirty pages', 10, sub { summary($node)->{dirty_pages} > 20 }), "$what: the node has dirty pages");
	my $from = time;
	$fault{begin}->();
	# it is tried for ten times node_timeout whether the connection can be resumed
	ok(wait_for("$what: PANIC", 20, sub { count_log_lines($node, qr/PANIC:.*memory node/, $position) }),
		"$what: the node is given up, by a PANIC");
	$clients->wait_end;
	ok(
		wait_for(
			"$what: restarted", 20,
			sub {
				count_log_lines($node, qr/ready to accept connections/, $position)
				  && $node->psql('postgres', 'SELECT 1') == 0;
			}),
		"$what: the server restarts itself without it");
	$clients->check("$what: without the node", 1);
	sleep($from + $fault{lasts} - time) if $from + $fault{lasts} > time;
	$fault{end}->();
	ok(wait_for_nodes($node), "$what: the node is back by itself");
	my $run = $workload->start(clients => 4, seconds => 2, scripts => \%short);
	ok(wait_until_used(), "$what: ... and used");
	ok(LegoBase::Workload::finish($run), "$what: no query failed, no sum was wrong afterwards");
	$clients->check($what);
	# several processes can notice at the same time
	is(() = log_since($node, $position) =~ /all server processes terminated; reinitializing/g, 1, "$what: one restart");
	return;
}

my $incarnation = node_rows($node)->[0]{incarnation};
my @losses = (
	[ 'killed, and back empty', sub { $memnode->kill9 }, sub { $memnode->start } ],
	[ 'stopped', sub { $memnode->freeze }, sub { $memnode->thaw } ],
	[ 'cut off', sub { $proxy->mode('stall') }, sub { $proxy->mode('pass') } ],
	[ 'cut off one way, to the node', sub { $proxy->mode('stall_to_node') }, sub { $proxy->mode('pass') } ],
	[ 'cut off one way, to the server', sub { $proxy->mode('stall_to_server') }, sub { $proxy->mode('pass') } ],
	[ 'connections refused', sub { $proxy->mode('refuse') }, sub { $proxy->mode('pass') } ]);

foreach my $loss (@losses)
{
	my ($what, $begin, $end) = @{$loss};
	my %fault = (lasts => 3, begin => $begin, end => $end);

	$writing_back ? recover($what, %fault) : survive($what, %fault);
	next unless $what =~ /^killed/;
	isnt(node_rows($node)->[0]{incarnation}, $incarnation, 'the node has a new incarnation');
	my $lost = count_log_lines($node, qr/(LOG|PANIC):.*(lost|not answer|closed)/);
	cmp_ok($lost, '>', 0, 'a lost node is worth a line in the log');
	cmp_ok($lost, '<', 10, '... but not many');
}

# A slow node is used as long as it is cheaper than storage, which, with all files in the kernel's cache, it is not. For dirty
# pages there is no choice.
$node->safe_psql('postgres', 'ALTER SYSTEM SET legobase.kernel_cache_reads = auto');
$node->reload;
survive(
	'slow',
	lasts => 3,
	stays_up => 1,
	begin => sub { $proxy->mode('delay 30') },
	end => sub {
		$proxy->mode('pass');
		$node->safe_psql('postgres', 'ALTER SYSTEM RESET legobase.kernel_cache_reads');
		$node->reload;
	});

# Comes and goes: each time it is used before it goes again.
sub come_and_go
{
	my $run = $workload->start(clients => 4, seconds => 8, scripts => \%short);
	my $times = 0;

	while (LegoBase::Workload::running($run))
	{
		my $hits = summary($node)->{remote_hits};

		wait_for('used', 10,
			sub { summary($node)->{remote_hits} > $hits + 100 || !LegoBase::Workload::running($run) });
		$memnode->kill9;
		$memnode->start;
		wait_for_nodes($node) or last;
		$times++;
	}
	ok(LegoBase::Workload::finish($run), "coming and going: no query failed, no sum was wrong");
	cmp_ok($times, '>', 0, "coming and going: $times times");
	$workload->check('coming and going');
	return;
}

come_and_go() unless $writing_back;

# --- connections that mean nothing ------------------------------------------------------------------------------------

{
	my $run = $workload->start(clients => 4, seconds => 6, scripts => \%short);
	my ($opened, $closed) = (0, 0);
	my @half_open;

	wait_until_used();
	foreach my $i (1 .. 500)
	{
		my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $memnode->port, Proto => 'tcp')
		  or last;
		$opened++;
		if ($i % 2)
		{
			# random bytes: closed, or answered with an error and closed
			syswrite($socket, join '', map { chr int rand 256 } 1 .. 200);
			$closed++ if defined sysread($socket, my $answer, 4096);
		}
		elsif (@half_open < 200)
		{
			push @half_open, $socket;
		}
	}
	is($opened, 500, 'connections from nowhere');
	cmp_ok($closed, '>=', 250, '... those that talk nonsense are closed');
	ok(wait_until_used(), '... while the server uses the node');
	ok(LegoBase::Workload::finish($run), '... and no query fails');
	is(up_nodes($node), 1, '... nor is the node lost');
	close $_ foreach @half_open;
}

# --- a flipped bit ---------------------------------------------------------------------------------------------------

# Change a bit of each page in the memory node's memory that has the marker. Returns how many.
sub flip_bits
{
	my ($pid, $marker) = @_;
	my $flipped = 0;

	open(my $maps, '<', "/proc/$pid/maps") or die "maps: $!";
	open(my $memory, '+<:raw', "/proc/$pid/mem") or die "mem: $!";
	while (my $line = <$maps>)
	{
		my ($from, $to, $flags) = $line =~ /^([0-9a-f]+)-([0-9a-f]+) (\S+)/ or next;
		next unless $line =~ /memfd:/ && $flags =~ /^rw/;
		my $start = hex $from;
		my $length = hex($to) - $start;
		sysseek($memory, $start, 0);
		sysread($memory, my $bytes, $length) or next;
		while ($bytes =~ /\Q$marker\E/g)
		{
			sysseek($memory, $start + $-[0], 0);
			syswrite($memory, chr(ord(substr $marker, 0, 1) ^ 1)) or die "write: $!";
			$flipped++;
		}
	}
	return $flipped;
}

# With no page in a file that could be read instead.
sub damage_dirty_pages
{
	my ($server, $damaged, $transport) = @_;
	my $position = log_position($server);
	my $query = q{SELECT count(*) FROM marked WHERE word = 'DamageThese' || 'RowsToo' || id};

	quieten();
	$server->safe_psql('postgres', q{UPDATE marked SET word = 'DamageThese' || 'RowsToo' || id});
	fill_buffers($server);
	cmp_ok(dirty_pages_of($server, 'postgres', 'marked'), '>', 30, "$transport: dirty pages in remote memory");
	cmp_ok(flip_bits($damaged->pid, 'DamageTheseRowsToo'), '>', 100, "$transport: ... are damaged");
	isnt($server->psql('postgres', $query), 0, "$transport: they are not read");
	ok(wait_for('PANIC', 10, sub { count_log_lines($server, qr/PANIC:/, $position) }), "$transport: there is a PANIC");
	ok(
		wait_for(
			'restarted', 20,
			sub {
				count_log_lines($server, qr/ready to accept connections/, $position)
				  && $server->psql('postgres', 'SELECT 1') == 0;
			}),
		"$transport: the server restarts itself");
	is($server->safe_psql('postgres', $query), 3000, "$transport: all rows are there");
	wait_for_nodes($server);
	return;
}

foreach my $transport ('tcp', 'shm')
{
	my $damaged = LegoBase::Memnode->new(transport => $transport);
	my $server = legobase_cluster("damaged_$transport", nodes => [$damaged]);

	make_filler($server);
	$server->safe_psql(
		'postgres', q{
		CREATE TABLE marked (id int, word text) WITH (fillfactor = 20);
		INSERT INTO marked SELECT i, 'PleaseDamage' || 'ThisRow' || i FROM generate_series(1, 3000) i;
	});
	my $query = q{SELECT count(*) FROM marked WHERE word = 'PleaseDamage' || 'ThisRow' || id};
	is($server->safe_psql('postgres', $query), 3000, "$transport: rows");
	make_remote($server);
	cmp_ok(flip_bits($damaged->pid, 'PleaseDamageThisRow'), '>', 100, "$transport: bits are flipped in remote memory");
	is($server->safe_psql('postgres', $query), 3000, "$transport: the rows are right");
	cmp_ok(summary($server)->{checksum_failures}, '>', 10, "$transport: the damage is counted");
	make_remote($server);
	my $failures = summary($server)->{checksum_failures};
	is($server->safe_psql('postgres', $query), 3000, "$transport: the rows are right again");
	is(summary($server)->{checksum_failures}, $failures, "$transport: ... and undamaged");
	damage_dirty_pages($server, $damaged, $transport) if $writing_back;
	$server->stop;
	$damaged->stop;
}

# --- a full pool -----------------------------------------------------------------------------------------------------

{
	my $small = LegoBase::Memnode->new(transport => 'tcp', memory => '8MB');
	my $server = legobase_cluster('full', nodes => [$small], conf => 'legobase.debug_compare = on');
	my $load = LegoBase::Workload->new($server);
	my $run = $load->start(clients => 8, seconds => 5);

	ok(LegoBase::Workload::finish($run), 'a pool smaller than the data: no query failed, no sum was wrong');
	my $summary = summary($server);
	is($summary->{pool_pages}, 1024, '... the pool has what the node has');
	cmp_ok($summary->{evicted_pages}, '>', 1000, '... pages are evicted');
	cmp_ok($summary->{remote_hits}, '>', 1000, '... and found');
	is($summary->{compare_mismatches}, 0, '... right');
	$load->check('a full pool');
	$server->stop;

	# a second server on the same node, which has no memory left for it
	my $greedy = legobase_cluster('greedy', nodes => [$small], start => 0);
	$server->start;
	wait_for_nodes($server);
	$greedy->start;
	$greedy->safe_psql('postgres', 'CREATE EXTENSION legobase');
	ok(wait_for('attached', 10, sub { up_nodes($greedy) == 1 }), 'a second server on a node without free memory');
	is(summary($greedy)->{pool_pages}, 0, '... gets none');
	is($greedy->safe_psql('postgres', 'SELECT sum(i) FROM generate_series(1, 10) i'), 55, '... and works');
	$server->safe_psql('postgres', 'ALTER SYSTEM SET legobase.remote_pool_size = 0');
	$server->reload;
	ok(wait_for_nodes($greedy, 30), '... until the first one gives memory back');
	$_->stop foreach ($server, $greedy);
	$small->stop;
}

# --- two servers, one instance ---------------------------------------------------------------------------------------

# A copied data directory, instance and all; as after restoring a snapshot of a disk.
{
	my $shared = LegoBase::Memnode->new(transport => 'tcp');
	my $first = legobase_cluster('first', nodes => [$shared]);

	make_filler($first);
	$first->safe_psql('postgres',
		q{CREATE TABLE t (word text) WITH (fillfactor = 20);
		  INSERT INTO t SELECT 'common' FROM generate_series(1, 3000)});
	$first->stop;
	my $second = PostgreSQL::Test::Cluster->new('second');
	PostgreSQL::Test::RecursiveCopy::copypath($first->data_dir, $second->data_dir);
	chmod 0700, $second->data_dir;
	$second->append_conf('postgresql.conf',
		'port = ' . $second->port . "\nunix_socket_directories = '" . $second->host . q{'});
	$first->start;
	wait_for_nodes($first);
	$first->safe_psql('postgres', q{UPDATE t SET word = 'first'});
	make_remote($first);

	$second->start;
	ok( wait_for('refused', 20, sub { node_rows($second)->[0]{last_error} =~ /held/ }),
		'a second server with the same instance is refused');
	my $data = $first->data_dir;
	like(node_rows($second)->[0]{last_error}, qr/\Q$data\E|process \d+|port/, '... naming the holder');
	is(up_nodes($second), 0, '... and has no remote memory');
	cmp_ok(count_log_lines($second, qr/legobase|memory node/), '<', 20, '... which its log says, but not all the time');
	$second->safe_psql('postgres', q{UPDATE t SET word = 'second'});
	is($first->safe_psql('postgres', 'SELECT DISTINCT word FROM t'), 'first', 'the first goes on');
	is(up_nodes($first), 1, '... with its memory');

	# The first is stopped, as a virtual machine may be, and does not know.
	$second->stop;
	$second->append_conf('postgresql.conf', 'legobase.take_over = on');
	my @processes = stop_processes($first);
	cmp_ok(scalar(@processes), '>', 1, 'the first is stopped');
	$second->start;
	ok(wait_for_nodes($second), 'told to take over, the second is accepted');
	make_remote($second);
	is($second->safe_psql('postgres', 'SELECT DISTINCT word FROM t'), 'second', '... and has its own rows');
	make_remote($second);
	my $hits = summary($second)->{remote_hits};
	is($second->safe_psql('postgres', 'SELECT DISTINCT word FROM t'), 'second', '... also from remote memory');
	cmp_ok(summary($second)->{remote_hits}, '>', $hits, '... by its counters');
	my $panics = count_log_lines($first, qr/PANIC:.*taken over/);
	kill 'CONT', @processes;
	ok(wait_for('fenced', 20, sub { count_log_lines($first, qr/PANIC:.*taken over/) > $panics }),
		'the first continues, and is told by a PANIC');
	ok(wait_for('refused', 30, sub { count_log_lines($first, qr/is held by another one/) > 0 }),
		'... is refused when it has restarted itself');
	is($first->safe_psql('postgres', 'SELECT DISTINCT word FROM t'), 'first', '... and has its own rows, from storage');
	$first->safe_psql('postgres', q{UPDATE t SET word = 'first again'});
	make_remote($second);
	is($second->safe_psql('postgres', 'SELECT DISTINCT word FROM t'), 'second', 'the second is not disturbed');
	$_->stop foreach ($first, $second);
	$shared->stop;
}

# --- node and server killed together ---------------------------------------------------------------------------------

# What all the tests before have written is not of interest here, and its redo takes a minute with 1 MB of local memory.
$node->safe_psql('postgres', 'CHECKPOINT');

foreach my $order ('the server, then its memory node', 'the memory node, then its server')
{
	my $run = $workload->start(clients => 4, seconds => 30, scripts => \%short);

	wait_until_used();
	if ($order =~ /^the server/)
	{
		$node->kill9;
		$memnode->kill9;
	}
	else
	{
		$memnode->kill9;
		$node->kill9;
	}
	$run->{process}->finish;
	ok(wait_until_gone($node), "killed: $order");
	$memnode->start;
	$node->start;
	wait_for_nodes($node);
	$workload->check("killed $order");
}

amcheck_clean($node, 'at the end');
$node->stop;

# --- an embedded memory node that nobody uses -------------------------------------------------------------------------

# It ends after five minutes; test/memnode/lifecycle.t has a node that ends so after some seconds.
ok(alive($unused_pid), 'an embedded memory node waits for its server to come back');
like(
	PostgreSQL::Test::Utils::slurp_file("/proc/$unused_pid/cmdline") =~ s/\0/ /gr,
	qr/ --exit-when-unused 300 /,
	'... but not for ever');
kill 'TERM', $unused_pid;
ok(wait_for('the embedded memory node ends', 20, sub { !alive($unused_pid) }), '... and ends when it is told to');
ok(!glob($unused->data_dir . '/pgsql_tmp_legobase/*.sock'), '... and leaves no socket');

done_testing();
