#!/usr/bin/perl
# Everything that a user can get wrong: each has a clear message and its exit code.
use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Test::More;
use lib $FindBin::RealBin;
use MemnodeTest;

my $node = MemnodeTest::plain_node();
my $folder = tempdir('memnode_test.XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $shm = "shm://$folder/node.sock";
my @memory = ('--memory', '16MB');

# Run the program, which is to end by itself; its exit code, standard output and standard error.
sub run
{
	my @arguments = @_;
	my $pid = fork() // die;
	if ($pid == 0)
	{
		open(STDOUT, '>', "$folder/out") or die;
		open(STDERR, '>', "$folder/err") or die;
		alarm 20;
		exec $node, @arguments or die;
	}
	waitpid($pid, 0);
	my $exit = $? & 127 ? "signal " . ($? & 127) : $? >> 8;
	my @texts = map { local $/; open(my $file, '<', "$folder/$_") or die; <$file> // '' } qw(out err);
	return ($exit, @texts);
}

sub refused
{
	my ($exit_code, $message, @arguments) = @_;
	my ($exit, $out, $err) = run(@arguments);
	my $shown = join(' ', @arguments) || '(nothing)';
	is($exit, $exit_code, "exit code of: $shown");
	like($err, $message, "message of: $shown");
	is($out, '', 'nothing on standard output');
}

# The command line.
refused(2, qr/--listen is missing/);
refused(2, qr/--memory is missing/, '--listen', $shm);
refused(2, qr/--listen is missing/, @memory);
refused(2, qr/unknown option: --nonsense/, '--listen', $shm, @memory, '--nonsense');
refused(2, qr/unknown option: -x/, '-x');
refused(2, qr/option --memory needs a value/, '--listen', $shm, '--memory');
refused(2, qr/option --no-huge-pages=1 takes no value/, '--no-huge-pages=1');
refused(2, qr/unexpected argument: more/, '--listen', $shm, @memory, 'more');
refused(2, qr/unknown option: --fault-points/, '--listen', $shm, @memory, '--fault-points', 'x=kill')
  if run('--help') && (run('--help'))[1] !~ /--fault-points/;

# Numbers and sizes.
for my $size ('16', '16mb', '16 MB', 'MB', '-16MB', '1.5GB', '16MBx', '', '0x10MB')
{
	refused(2, qr/--memory: "\Q$size\E" is not a whole number with a unit/,
		'--listen', $shm, '--memory', $size);
}
refused(2, qr/too large/, '--listen', $shm, '--memory', '99999999999999TB');
refused(2, qr/is not a whole number/, '--listen', $shm, '--memory', '99999999999999999999999TB');
refused(2, qr/--memory is missing, or 0/, '--listen', $shm, '--memory', '0MB');
refused(2, qr/at least 2MB/, '--listen', $shm, '--memory', '1MB');
refused(2, qr/--tenant-quota: at least 2MB/, '--listen', $shm, @memory, '--tenant-quota', '1MB');
refused(2, qr/--tenant-quota is larger/, '--listen', $shm, @memory, '--tenant-quota', '17MB');
for my $option ('--tenant-timeout', '--exit-when-unused', '--max-sessions')
{
	refused(2, qr/$option: "ten" is not a whole number from \d+ to \d+/,
		'--listen', $shm, @memory, $option, 'ten');
	refused(2, qr/$option: "-1"/, '--listen', $shm, @memory, $option, '-1');
	refused(2, qr/$option: "99999999999"/, '--listen', $shm, @memory, $option, '99999999999');
}
refused(2, qr/--memory: 1048576 MB are more than (the machine's memory|the memory limit of cgroup \S+), which is \d+ MB/,
	'--listen', $shm, '--memory', '1TB');

# Storage and flushing.
refused(2, qr/--storage: "data" is not an absolute path/, '--listen', $shm, @memory, '--storage', 'data');
refused(2, qr/--storage: "" is not an absolute path/, '--listen', $shm, @memory, '--storage', '');
refused(2, qr/--storage: at most 64/, '--listen', $shm, @memory, map { ('--storage', "/srv/$_") } 1 .. 65);
refused(2, qr/--flush-dirty-percent: "0" is not a whole number from 1 to 100/,
	'--listen', $shm, @memory, '--flush-dirty-percent', '0');
refused(2, qr/--flush-dirty-percent: "101"/, '--listen', $shm, @memory, '--flush-dirty-percent', '101');
refused(2, qr/--flush-age: "0" is not a whole number/, '--listen', $shm, @memory, '--flush-age', '0');
refused(2, qr/--flush-io: "fast" is not auto, uring or plain/, '--listen', $shm, @memory, '--flush-io', 'fast');

# Addresses.
for my $uri ('', 'nonsense', 'http://a:1', 'tcp://', 'tcp://localhost', 'tcp://localhost:', 'tcp://localhost:99999',
	'tcp://localhost:x', 'tcp://[::1', 'shm://', 'shm://relative', 'shm:///', 'shm:///' . 'x' x 200,
	'tcp://' . 'h' x 400 . ':1')
{
	refused(2, qr/legobase-memnode: .*address/, '--listen', $uri, @memory);
}
refused(1, qr/rdma:\/\/127\.0\.0\.1:1": .*Connection refused/, '--status', 'rdma://127.0.0.1:1');
refused(2, qr/at most 8/, (map { ('--listen', "tcp://127.0.0.1:0") } 1 .. 9), @memory);
refused(2, qr/address/, '--status', 'tcp://localhost');
refused(2, qr/listening only/, '--status', 'tcp://localhost:0');

# RDMA: what there is of it depends on the build, and on the machine.
my @rdma = ('--listen', 'rdma://127.0.0.1:0');
my $without_rdma = (run(@rdma, @memory))[2] =~ /--listen rdma:\/\/127\.0\.0\.1:0: this build has no RDMA data plane/;
refused(2, qr/--max-rdma-connections: "0" is not a whole number from \d+ to \d+/,
	'--listen', $shm, @memory, '--max-rdma-connections', '0');
refused(2, qr/--rdma-device without --listen rdma:\/\//, '--listen', $shm, @memory, '--rdma-device', 'x');
if ($without_rdma)
{
	refused(2, qr/this build has no RDMA data plane: lib/, @rdma, @memory);
}
else
{
	refused(2, qr/rdma:\/\/ can be given once/, @rdma, @rdma, @memory);
	refused(1, qr/cannot start: .*RDMA/, @rdma, @memory);
	refused(1, qr/cannot start: .*RDMA/, @rdma, @memory, '--rdma-device', 'no_such_device');
	refused_with_little_locked_memory();
}

sub refused_with_little_locked_memory
{
	my ($uid, $gid) = (getpwnam('nobody'))[2, 3];

  SKIP:
	{
		skip 'only root can try with little locked memory', 2 if $> != 0 || !defined $uid;
		my $as_nobody = "setpriv --reuid $uid --regid $gid --clear-groups --inh-caps=-all --bounding-set=-all";
		my $text = `$as_nobody prlimit --memlock=1048576:1048576 $node @rdma @memory 2>&1`;
		is($? >> 8, 1, 'exit code with little locked memory');
		like($text, qr/cannot start: .*(LimitMEMLOCK.*ulimit -l|ulimit -l.*LimitMEMLOCK)/, 'message');
	}
	return;
}

# What the system refuses.
my $taken = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', ReuseAddr => 0) or die;
my $port = $taken->sockport;
refused(1, qr/tcp:\/\/127\.0\.0\.1:$port.*: Address already in use/, '--listen', "tcp://127.0.0.1:$port", @memory);
my $taken_path = "$folder/taken.sock";
my $taken_unix = IO::Socket::UNIX->new(Listen => 1, Local => $taken_path) or die;
refused(1, qr/taken\.sock.*: Address already in use/, '--listen', "shm://$taken_path", @memory);
refused(1, qr/Address already in use/, '--listen', $shm, '--listen', $shm, @memory);
ok(!-e "$folder/node.sock", 'and the socket that it had made is removed');
refused(1, qr/no\/such\/folder.*: No such file or directory/, '--listen', 'shm:///no/such/folder/s', @memory);
open(my $file, '>', "$folder/file") or die;
refused(1, qr/exists and is not a socket/, '--listen', "shm://$folder/file", @memory);
refused(1, qr/could not resolve host "no-such-host\.invalid"/, '--listen', 'tcp://no-such-host.invalid:0', @memory);
refused(1, qr/203\.0\.113\.1.*: Cannot assign requested address/, '--listen', 'tcp://203.0.113.1:0', @memory);
refused(1, qr/cannot open log file "\/no\/such\/log"/, '--listen', $shm, @memory, '--log-file', '/no/such/log');
refused(1, qr/: No such file or directory/, '--status', $shm);
refused(1, qr/: Connection refused/, '--status', 'tcp://127.0.0.1:1');

SKIP:
{
	my ($uid, $gid) = (getpwnam('nobody'))[2, 3];
	skip 'only root can try without permission', 3 if $> != 0 || !defined $uid;
	mkdir("$folder/closed", 0700) or die;
	chmod(0755, $folder);
	my $pid = fork() // die;
	if ($pid == 0)
	{
		$) = "$gid $gid";
		$( = $gid;
		$< = $> = $uid;
		open(STDERR, '>', '/dev/null');
		my $text = `$node --listen shm://$folder/closed/s --memory 16MB 2>&1`;
		exit(($? >> 8) == 1 && $text =~ /closed.*: Permission denied/ ? 0 : 1);
	}
	waitpid($pid, 0);
	is($?, 0, 'no permission for the folder of the socket');
}

# A cgroup that allows less than --memory (version 1 or 2; root only).
SKIP:
{
	my ($cgroup, $limit) = make_cgroup(32 << 20);
	skip 'no cgroup with a memory limit can be made here', 3 if !$cgroup;
	my $text = `sh -c 'echo \$\$ > $cgroup/cgroup.procs && exec $node --listen $shm --memory 64MB' 2>&1`;
	is($? >> 8, 2, 'more memory than the cgroup allows');
	like($text, qr/64 MB are more than the memory limit of cgroup \S+, which is 32 MB/, 'message');
	ok(rmdir($cgroup), 'cgroup removed');
}

sub make_cgroup
{
	my ($bytes) = @_;
	for my $place (['/sys/fs/cgroup/memory', 'memory.limit_in_bytes'], ['/sys/fs/cgroup', 'memory.max'])
	{
		my ($mount, $file) = @$place;
		my $path = "$mount/memnode_test_$$";
		next if !mkdir($path);
		if (open(my $limit, '>', "$path/$file"))
		{
			return ($path, $bytes) if print {$limit} "$bytes\n" and close($limit);
		}
		rmdir($path);
	}
	return;
}

# What is no mistake.
my ($exit, $out, $err) = run('--help');
is($exit, 0, '--help');
like($out, qr/--listen URI.*--memory SIZE.*Exit status/s, '--help says how');
($exit, $out, $err) = run('--version');
is($exit, 0, '--version');
like($out, qr/^legobase-memnode \S+ \(protocol 4, pages of 8192 bytes\)$/, '--version says which');

done_testing();
