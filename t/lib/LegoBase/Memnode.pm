# A memory node of one's own: start it on a private address, wait until it accepts, stop, kill or freeze it.

package LegoBase::Memnode;

use strict;
use warnings;

use overload '""' => sub { $_[0]->uri }, fallback => 1;

use Carp;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time usleep);

my %running;
my $count = 0;

# Parameters:
#	transport   'tcp' (a free port on 127.0.0.1), 'shm' (a socket in a private folder) or 'rdma' (a free port on the device's address)
#	listen      instead of transport: the URI
#	memory      default 64MB
#	storage     data directories that it sees, in an array; add_storage() adds one
#	args        more arguments
#	start       false: don't start
sub new
{
	my ($class, %params) = @_;
	my $transport = $params{transport} // 'tcp';
	my $self = bless {
		memory => $params{memory} // '64MB',
		args => $params{args} // [],
		storage => [ @{ $params{storage} // [] } ],
		more => [],
		pid => undef,
		number => ++$count,
	}, $class;

	$self->{folder} = PostgreSQL::Test::Utils::tempdir_short();
	$self->{listen} = $params{listen} // default_address($transport, $self->{folder});
	$self->{uri} = $self->{listen};
	$self->start unless exists $params{start} && !$params{start};
	return $self;
}

# An RDMA device has an address other than loopback's: by default that of test/rdma/vm.
sub default_address
{
	my ($transport, $folder) = @_;

	return 'tcp://127.0.0.1:0' if $transport eq 'tcp';
	return 'rdma://' . ($ENV{LEGOBASE_RDMA_ADDRESS} // '10.99.0.1') . ':0' if $transport eq 'rdma';
	return "shm://$folder/memnode.sock";
}

# Who serves this address: the node itself, the one behind a proxy; nothing for a mere URI.
sub behind
{
	my ($target) = @_;

	return $target if ref $target && $target->isa(__PACKAGE__);
	return unless ref $target;
	return grep { ($_->port // 0) == $target->node_port } values %running;
}

# From now on it sees this data directory as well: started again, with the arguments it had, if it runs.
sub add_storage
{
	my ($self, $folder) = @_;

	return if grep { $_ eq $folder } @{ $self->{storage} };
	push @{ $self->{storage} }, $folder;
	if ($self->running)
	{
		$self->stop;
		$self->start(@{ $self->{more} });
	}
	return;
}

sub uri { return $_[0]->{uri}; }
sub pid { return $_[0]->{pid}; }
sub output { return PostgreSQL::Test::Utils::slurp_file("$_[0]->{folder}/output"); }

sub port
{
	my ($self) = @_;

	return $self->{uri} =~ /:(\d+)$/ ? $1 : undef;
}

# Run it without waiting; arguments are added to the usual ones.
sub launch
{
	my ($self, @more) = @_;
	my $output = "$self->{folder}/output";
	my $pid;

	$self->{more} = \@more;
	open(my $out, '>', $output) or croak "$output: $!";
	$pid = fork // croak "fork: $!";
	if ($pid == 0)
	{
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>&', $out);
		open(STDERR, '>&', $out);
		exec('legobase-memnode', '--listen', $self->{listen}, '--memory', $self->{memory}, '--no-huge-pages',
			(map { ('--storage', $_) } @{ $self->{storage} }), @{ $self->{args} }, @more)
		  or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	$running{$pid} = $self;
	return;
}

# Start and wait for the line that says it is ready. The same address again when it was started before; the arguments
# are added for this time.
sub start
{
	my ($self, @more) = @_;
	my $deadline = time + 20;
	my $uri;

	$self->launch(@more);
	until (($uri) = $self->output =~ /^ready: listening on (\S+)$/m)
	{
		croak 'the memory node ended: ' . $self->output if !$self->running;
		croak 'the memory node is not ready: ' . $self->output if time > $deadline;
		usleep(10_000);
	}
	$self->{uri} = $self->{listen} = $uri;
	return $self;
}

# Still there? Reaps it if it has ended; then exit_status() says how.
sub running
{
	my ($self) = @_;

	return 0 unless defined $self->{pid};
	return 1 if waitpid($self->{pid}, POSIX::WNOHANG()) == 0;
	$self->{status} = $?;
	delete $running{ $self->{pid} };
	$self->{pid} = undef;
	return 0;
}

sub wait_end
{
	my ($self, $limit) = @_;
	my $deadline = time + ($limit // 20);

	while ($self->running)
	{
		return 0 if time > $deadline;
		usleep(10_000);
	}
	return 1;
}

# As waitpid gives it
sub exit_status { return $_[0]->{status}; }

sub signal
{
	my ($self, $signal) = @_;

	kill $signal, $self->{pid} if defined $self->{pid};
	return;
}

# Has a signal stopped it?
sub stopped
{
	my ($self) = @_;

	open(my $stat, '<', "/proc/$self->{pid}/stat") or return 0;
	return <$stat> =~ /\) T /;
}

sub freeze { $_[0]->signal('STOP'); return; }
sub thaw { $_[0]->signal('CONT'); return; }

# Clean stop; returns the exit status.
sub stop
{
	my ($self) = @_;

	$self->signal('TERM');
	$self->wait_end or croak 'the memory node does not end';
	return $self->{status};
}

sub kill9
{
	my ($self) = @_;

	$self->signal('KILL');
	$self->wait_end or croak 'the memory node does not end';
	return;
}

# The figures that "legobase-memnode --status" prints, as a hash.
sub figures
{
	my ($self) = @_;
	my ($out, $err) = ('', '');
	my %figures;

	IPC::Run::run([ 'legobase-memnode', '--status', $self->{uri} ], '>', \$out, '2>', \$err)
	  or croak "legobase-memnode --status $self->{uri}: $err";
	foreach my $line (split /\n/, $out)
	{
		$figures{$1} = $2 if $line =~ /^\s*([\w ]+?)\s*[:=]\s*(\S+)/;
	}
	return \%figures;
}

# Called at the end of the test, for those still running.
sub end_all
{
	foreach my $pid (keys %running)
	{
		kill 'KILL', $pid;
		waitpid($pid, 0);
	}
	%running = ();
	return;
}

require POSIX;

1;
