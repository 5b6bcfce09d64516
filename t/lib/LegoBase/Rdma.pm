# RDMA devices for tests: what exists on them, and what can happen to them. Faults are for the device of test/rdma/vm, where "ip" and
# "rdma" do what they are told by anybody.

package LegoBase::Rdma;

use strict;
use warnings;

use Exporter 'import';
use LegoBase;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  need_rdma_device rdma_points_of work_since
  device_objects descriptors_of
  set_link remove_device add_device allow_locked_memory
);

use constant {
	DEVICE => 'rxe0',
	INTERFACE => 'd0',
};

# Without a device there is nothing to test. LEGOBASE_RDMA_REQUIRED: then something is wrong.
sub need_rdma_device
{
	return if glob '/sys/class/infiniband/*';
	die 'there is no RDMA device' if $ENV{LEGOBASE_RDMA_REQUIRED};
	plan skip_all => 'this machine has no RDMA device: see test/rdma/vm';
	return;
}

# Fault points that only a transport over rdma comes to
sub rdma_points_of
{
	return grep { /\.rdma\./ } LegoBase::all_fault_points_of(@_);
}

# What reading from memory nodes has cost since the figures were reset, or since $before, which is what this returned then.
sub work_since
{
	my ($node, $before) = @_;
	my %work;

	foreach my $row (@{ node_rows($node) })
	{
		$work{$_} += $row->{$_}
		  foreach qw(reads work_requests doorbells completions pushes push_messages tcp_fallbacks);
	}
	$work{$_} -= $before->{$_} // 0 foreach keys %work;
	return \%work;
}

# --- the device ------------------------------------------------------------------------------------------------------

sub run_quietly
{
	my (@command) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run(\@command, '>', \$out, '2>', \$err) or die "@command: $err";
	return $out;
}

# How many objects of each kind exist on the device: {qp => 3, ...}
sub device_objects
{
	my ($line) = grep { / \Q${\DEVICE}\E:/ } split /\n/, run_quietly('rdma', 'resource', 'show');

	return { $line =~ /\b(pd|cq|qp|cm_id|mr|ctx) (\d+)/g };
}

sub descriptors_of
{
	my ($pid) = @_;

	return scalar(() = glob "/proc/$pid/fd/*");
}

# "up" or "down"
sub set_link
{
	my ($state) = @_;

	run_quietly('ip', 'link', 'set', INTERFACE, $state);
	return;
}

# Removing a soft-RoCE device takes until all processes have closed it. One whose connection was ended by the other side, a moment before it heard
# of the removal, has it open until it ends (src/rdma/lb_rdma_device.c); drivers of cards do not wait. So this does not wait either, and
# add_device() ends the server if need be; it returns whether there was no need.
my $removal;

sub remove_device
{
	$removal = fork() // die "fork: $!";
	return if $removal;
	open(STDOUT, '>', '/dev/null');
	exec 'rdma', 'link', 'delete', DEVICE or POSIX::_exit(127);
}

sub add_device
{
	my ($node) = @_;
	my $done = sub { !defined $removal || waitpid($removal, POSIX::WNOHANG()) == $removal };
	my $let_go = wait_for('the device is closed by all', 4, $done);

	if (!$let_go)
	{
		$node->stop('immediate');
		wait_for('the device is closed by all', 20, $done) or die 'the device is not removed';
	}
	$removal = undef;
	run_quietly('rdma', 'link', 'add', DEVICE, 'type', 'rxe', 'netdev', INTERFACE);
	$node->start unless $let_go;
	return $let_go;
}

# How much memory a process may lock from now on, and the children that it makes: in bytes, or "unlimited". Without a pid: we
# ourselves, and so whatever is started by the test.
sub allow_locked_memory
{
	my ($bytes, $pid) = @_;

	run_quietly('prlimit', '--pid', $pid // $$, "--memlock=$bytes:");
	return;
}

1;
