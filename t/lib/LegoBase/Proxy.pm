# A TCP proxy between a server and a memory node that does to the network what a test asks for.
#
#	pass            forward (at the start)
#	refuse          close all connections, close new ones at once
#	stall           keep connections, forward nothing, in either direction; new ones connect to nothing
#	stall_to_node   forward only what comes from the node
#	stall_to_server forward only what comes from the server
#	delay MS        forward everything that much later
#
# It is a child process with one event loop; commands go through a pair of sockets and are answered when they are in force.

package LegoBase::Proxy;

use strict;
use warnings;

use overload '""' => sub { $_[0]->uri }, fallback => 1;

use Carp;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(AF_UNIX SOCK_STREAM PF_UNSPEC IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(time);

my %running;

use constant CHUNK => 262144;
use constant QUEUE_LIMIT => 4 * CHUNK;

# node_port: where to forward to, on 127.0.0.1
sub new
{
	my ($class, $node_port) = @_;
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		LocalPort => 0,
		Listen => 128,
		Proto => 'tcp') or croak "listen: $@";

	socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or croak "socketpair: $!";
	my $pid = fork // croak "fork: $!";
	if ($pid == 0)
	{
		close $ours;
		$SIG{PIPE} = 'IGNORE';
		eval { serve($listener, $theirs, $node_port) };
		print STDERR "proxy: $@" if $@;
		POSIX::_exit(0);
	}
	close $theirs;
	my $self = bless { pid => $pid, control => $ours, port => $listener->sockport, node_port => $node_port }, $class;
	$running{$pid} = 1;
	return $self;
}

sub port { return $_[0]->{port}; }
sub node_port { return $_[0]->{node_port}; }
sub uri { return "tcp://127.0.0.1:$_[0]->{port}"; }

# Give a command and wait until it is in force.
sub mode
{
	my ($self, $command) = @_;
	my $answer;

	syswrite($self->{control}, "$command\n");
	sysread($self->{control}, $answer, 16) or croak 'the proxy has ended';
	return;
}

END
{
	my $status = $?;
	foreach my $pid (keys %running)
	{
		kill 'KILL', $pid;
		waitpid($pid, 0);
	}
	$? = $status;
}

# --- the child -------------------------------------------------------------------------------------------------------

# Each direction of a connection is a hash: from, to (sockets), toward ('node' or 'server'), queue of [due time, bytes], size.
my ($state, %pipe_of, $read_set, $write_set);

sub serve
{
	my ($listener, $control, $node_port) = @_;

	$state = { mode => 'pass', delay => 0 };
	$read_set = IO::Select->new($listener, $control);
	$write_set = IO::Select->new;
	while (1)
	{
		my ($readable, $writable) = IO::Select->select($read_set, $write_set, undef, next_due());

		foreach my $socket (@{ $readable // [] })
		{
			if ($socket == $listener)
			{
				accept_one($listener, $node_port);
			}
			elsif ($socket == $control)
			{
				return unless obey($control);
			}
			elsif ($pipe_of{$socket})
			{
				receive($pipe_of{$socket});
			}
		}
		foreach my $key (keys %pipe_of)
		{
			# its other half may have been closed meanwhile
			forward($pipe_of{$key}) if $pipe_of{$key} && @{ $pipe_of{$key}{queue} };
		}
		adjust_interest();
	}
	return;
}

sub obey
{
	my ($control) = @_;

	sysread($control, my $line, 256) or return 0;
	foreach my $command (split /\n/, $line)
	{
		if ($command =~ /^delay (\d+)$/)
		{
			$state = { mode => 'pass', delay => $1 / 1000 };
		}
		else
		{
			$state = { mode => $command, delay => 0 };
		}
		close_all() if $state->{mode} eq 'refuse';
	}
	syswrite($control, "done\n");
	return 1;
}

sub accept_one
{
	my ($listener, $node_port) = @_;
	my $client = $listener->accept or return;
	my $node;

	return close $client if $state->{mode} eq 'refuse';
	$node = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $node_port, Proto => 'tcp');
	return close $client unless $node;
	foreach my $socket ($client, $node)
	{
		$socket->blocking(0);
		setsockopt($socket, IPPROTO_TCP, TCP_NODELAY, 1);
	}
	my $there = { from => $client, to => $node, toward => 'node', queue => [], size => 0 };
	my $back = { from => $node, to => $client, toward => 'server', queue => [], size => 0 };
	$there->{other} = $back;
	$back->{other} = $there;
	$pipe_of{$client} = $there;
	$pipe_of{$node} = $back;
	$read_set->add($client, $node);
	return;
}

sub stalled
{
	my ($pipe) = @_;

	return $state->{mode} eq 'stall' || $state->{mode} eq "stall_to_$pipe->{toward}";
}

sub receive
{
	my ($pipe) = @_;
	my $bytes;
	my $got = sysread($pipe->{from}, $bytes, CHUNK);

	return if !defined $got && ($!{EAGAIN} || $!{EINTR});
	return close_pair($pipe) unless $got;
	push @{ $pipe->{queue} }, [ time + $state->{delay}, $bytes ];
	$pipe->{size} += $got;
	return;
}

sub forward
{
	my ($pipe) = @_;

	while (!stalled($pipe) && @{ $pipe->{queue} } && $pipe->{queue}[0][0] <= time)
	{
		my $sent = syswrite($pipe->{to}, $pipe->{queue}[0][1]);

		if (!defined $sent)
		{
			return if $!{EAGAIN} || $!{EINTR};
			return close_pair($pipe);
		}
		$pipe->{size} -= $sent;
		if ($sent == length $pipe->{queue}[0][1])
		{
			shift @{ $pipe->{queue} };
		}
		else
		{
			substr($pipe->{queue}[0][1], 0, $sent, '');
			return;
		}
	}
	return;
}

sub close_pair
{
	my ($pipe) = @_;

	foreach my $socket ($pipe->{from}, $pipe->{to})
	{
		$read_set->remove($socket);
		$write_set->remove($socket);
		delete $pipe_of{$socket};
		close $socket;
	}
	delete $pipe->{other}{other};
	delete $pipe->{other};
	return;
}

sub close_all
{
	foreach my $key (keys %pipe_of)
	{
		close_pair($pipe_of{$key}) if $pipe_of{$key};
	}
	return;
}

# Until when select may wait: the earliest delayed piece.
sub next_due
{
	my $earliest;

	foreach my $pipe (values %pipe_of)
	{
		next if stalled($pipe) || !@{ $pipe->{queue} };
		my $due = $pipe->{queue}[0][0];
		next if $due <= time;
		$earliest = $due if !defined $earliest || $due < $earliest;
	}
	return unless defined $earliest;
	my $left = $earliest - time;
	return $left > 0 ? $left : 0;
}

# Read where there is room, write where something is due. A full queue stops reading: the senders feel the stall.
sub adjust_interest
{
	$write_set = IO::Select->new;
	foreach my $pipe (values %pipe_of)
	{
		if ($pipe->{size} < QUEUE_LIMIT)
		{
			$read_set->add($pipe->{from});
		}
		else
		{
			$read_set->remove($pipe->{from});
		}
		$write_set->add($pipe->{to})
		  if @{ $pipe->{queue} } && !stalled($pipe) && $pipe->{queue}[0][0] <= time;
	}
	return;
}

1;
