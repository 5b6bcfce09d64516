#!/usr/bin/perl
# Start, readiness, status, stop: what service managers and the extension rely on.
use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use IO::Socket::UNIX;
use POSIX qw(WNOHANG);
use Socket;
use Test::More;
use Time::HiRes qw(sleep time);
use lib $FindBin::RealBin;
use MemnodeTest;

my $node = MemnodeTest::sanitized_node();
my $folder = tempdir('memnode_test.XXXXXX', TMPDIR => 1, CLEANUP => 1);
chdir($folder) or die;

# Start it with these arguments; its process, and the line it printed.
sub start
{
	my @arguments = @_;
	pipe(my $reader, my $writer) or die;
	my $pid = fork() // die;
	if ($pid == 0)
	{
		open(STDOUT, '>&', $writer) or die;
		open(STDERR, '>>', "$folder/stderr") or die;
		exec $node, @arguments or die;
	}
	close($writer);
	local $SIG{ALRM} = sub { BAIL_OUT('the memory node is not ready') };
	alarm 20;
	my $line = <$reader> // '';
	alarm 0;
	return ($pid, $line);
}

# Wait for the end; the exit code, "signal N", or "runs on".
sub wait_for
{
	my ($pid, $seconds) = @_;
	my $end = time + $seconds;
	while (time < $end)
	{
		return $? & 127 ? 'signal ' . ($? & 127) : $? >> 8 if waitpid($pid, WNOHANG) == $pid;
		sleep 0.02;
	}
	return 'runs on';
}

sub stop
{
	my ($pid, $signal) = @_;
	kill($signal, $pid);
	return wait_for($pid, 10);
}

sub slurp
{
	my ($path) = @_;
	open(my $file, '<', $path) or return '';
	local $/;
	return <$file> // '';
}

# Ready line, relative path, status, clean stop.
my ($pid, $line) = start('--listen', 'shm://./node.sock', '--listen', 'tcp://127.0.0.1:0', '--memory', '16MB');
like($line, qr{^ready: listening on shm://\./node\.sock, tcp://127\.0\.0\.1:(\d+)$}, 'ready line');
my ($tcp) = $line =~ m{(tcp://\S+)};
ok(-S "$folder/node.sock", 'socket');
is((stat("$folder/node.sock"))[2] & 0777, 0600, '... for its owner only');
for my $uri ('shm://./node.sock', "shm://$folder/node.sock", $tcp)
{
	my $status = `$node --status $uri`;
	is($?, 0, "--status $uri");
	is(join(' ', map { /^([a-z_]+): / ? $1 : '?' } split(/\n/, $status)),
		'incarnation uptime_s capacity_pages granted_pages used_pages huge_pages tenants sessions pushes reads '
		  . 'rejected_pushes refused_sessions malformed_frames dirty_pages flushed_pages flush_failures '
		  . 'registered_pages rdma_connections', 'one figure a line');
	like($status, qr/^capacity_pages: 2048$/m, 'capacity');
}
kill('HUP', $pid);
is(wait_for($pid, 0.3), 'runs on', 'SIGHUP does nothing');
is(stop($pid, 'TERM'), 0, 'SIGTERM: exit code 0');
ok(!-e "$folder/node.sock", 'the socket is removed');
like(slurp("$folder/stderr"), qr/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+ \[$pid\] LOG:  stopping \(Terminated\)$/m,
	'the log says why');

# The socket of a node that was killed is replaced; that of one that lives is not.
($pid, $line) = start('--listen', 'shm://./node.sock', '--memory', '16MB');
kill('KILL', $pid);
is(wait_for($pid, 10), 'signal 9', 'killed');
ok(-S "$folder/node.sock", 'its socket is left behind');
($pid, $line) = start('--listen', 'shm://./node.sock', '--memory', '16MB', '--log-file', "$folder/log");
like($line, qr/^ready/, 'the next one replaces it');
my $text = `$node --listen shm://./node.sock --memory 16MB 2>&1`;
is($? >> 8, 1, 'a second one on the same socket is refused');
like($text, qr/Address already in use/, '... and says why');
like(`$node --status shm://./node.sock`, qr/^sessions: 1$/m, 'the first goes on');

# Someone else's socket at the same place is not removed at the end.
rename("$folder/node.sock", "$folder/moved.sock") or die;
my $other = IO::Socket::UNIX->new(Listen => 1, Local => "$folder/node.sock") or die;
is(stop($pid, 'INT'), 0, 'SIGINT: exit code 0');
ok(-S "$folder/node.sock", 'a socket that is not its own stays');
unlink("$folder/node.sock", "$folder/moved.sock");
like(slurp("$folder/log"), qr/ready: listening.*stopped/s, '--log-file');
is((stat("$folder/log"))[2] & 0777, 0600, '... for its owner only');

# Readiness for systemd.
my $notify_path = "$folder/notify";
socket(my $notify, PF_UNIX, SOCK_DGRAM, 0) or die;
bind($notify, pack_sockaddr_un($notify_path)) or die;
{
	local $ENV{NOTIFY_SOCKET} = $notify_path;
	($pid, $line) = start('--listen', 'tcp://[::1]:0', '--memory', '16MB');
}
like($line, qr{^ready: listening on tcp://\[::1\]:\d+$}, 'ready line, IPv6');
recv($notify, my $message, 1000, 0);
is($message, 'READY=1', 'READY=1');
is(stop($pid, 'TERM'), 0, 'stopped');
recv($notify, $message, 1000, 0);
is($message, 'STOPPING=1', 'STOPPING=1');

# It ends itself when unused; a connection is use.
($pid, $line) = start('--listen', 'shm://./node.sock', '--memory', '16MB', '--exit-when-unused', '1');
my $client = IO::Socket::UNIX->new(Peer => "$folder/node.sock") or die;
is(wait_for($pid, 2.5), 'runs on', '--exit-when-unused: not while somebody is connected');
close($client);
my $closed = time;
is(wait_for($pid, 4), 0, '... then it ends');
ok(time - $closed > 0.4 && time - $closed < 2.2, '... after that time');
ok(!-e "$folder/node.sock", '... and removes its socket');

# Nobody reads its standard output.
{
	local $SIG{PIPE} = 'DEFAULT';
	pipe(my $reader, my $writer) or die;
	close($reader);
	$pid = fork() // die;
	if ($pid == 0)
	{
		open(STDOUT, '>&', $writer) or die;
		open(STDERR, '>>', "$folder/stderr") or die;
		exec $node, '--listen', 'shm://./node.sock', '--memory', '16MB' or die;
	}
	my $limit = time + 10;
	sleep 0.1 while !-S "$folder/node.sock" && time < $limit;
	is(wait_for($pid, 0.5), 'runs on', 'a closed standard output does no harm');
	is(stop($pid, 'TERM'), 0, 'stopped');
}
unlike(slurp("$folder/stderr"), qr/Sanitizer|runtime error/, 'sanitizers found nothing');

done_testing();
