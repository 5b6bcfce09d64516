# Building and finding what the tests of the memory node need.
package MemnodeTest;

use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;

my $root = abs_path("$FindBin::RealBin/../..");

sub build
{
	my @command = @_;
	my $output = `@command 2>&1`;
	return if $? == 0;
	print "Bail out!  cannot build: @command\n";
	print STDERR $output;
	exit 1;
}

# The program as users have it; made only if it isn't there, so that one with other flags is not replaced.
sub plain_node
{
	my $path = "$root/memnode/legobase-memnode";
	build("make -s -C $root -f memnode/Makefile.inc memnode/legobase-memnode") if !-x $path;
	return $path;
}

# The program with sanitizers and fault points.
sub sanitized_node
{
	my $path = 'build/memnode-asan/legobase-memnode';
	build("make -s -C $root -f memnode/Makefile.inc $path");
	return "$root/$path";
}

# End, with all tests skipped, if this machine has no RDMA device, unless LEGOBASE_RDMA_REQUIRED says that it has. Else RDMA_ADDRESS is the
# address of one: by default that of the machine of test/rdma.
sub need_rdma_device
{
	if (!glob('/sys/class/infiniband/*'))
	{
		die 'there is no RDMA device' if $ENV{LEGOBASE_RDMA_REQUIRED};
		print "1..0 # SKIP no RDMA device\n";
		exit 0;
	}
	$ENV{RDMA_ADDRESS} //= '10.99.0.1';
	return;
}

# Become the test program of this name, against this memory node.
sub run_program
{
	my ($name, $node) = @_;
	my $path = "$root/build/memnode-test/$name";
	build("make -s -C $root/test/memnode ../../build/memnode-test/$name");
	$ENV{MEMNODE} = $node;
	$ENV{ASAN_OPTIONS} = 'detect_leaks=1:abort_on_error=0';
	$ENV{UBSAN_OPTIONS} = 'print_stacktrace=1';
	exec $path or die "cannot run $path: $!";
}

1;
