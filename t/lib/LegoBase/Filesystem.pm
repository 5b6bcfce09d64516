# A small file system of the test's own, which can be filled up and made read-only: a tmpfs in a mount namespace that an
# ordinary user can have for himself where the system allows it. Use of this module begins the test again in such a namespace.

package LegoBase::Filesystem;

use strict;
use warnings;

use Carp;
use POSIX ();

use constant { MS_RDONLY => 1, MS_REMOUNT => 32 };

my @namespace = ('unshare', '--user', '--map-current-user', '--keep-caps', '--mount');
my %mount_call = (x86_64 => 165, aarch64 => 40);
my $machine = (POSIX::uname())[4];

sub import
{
	return if $ENV{LEGOBASE_NAMESPACE} || !$mount_call{$machine};
	system("@namespace true >/dev/null 2>&1") == 0 or return;
	$ENV{LEGOBASE_NAMESPACE} = 1;
	exec(@namespace, $^X, (map { "-I$_" } grep { !ref } @INC), $0, @ARGV) or croak "unshare: $!";
}

sub available { return $ENV{LEGOBASE_NAMESPACE}; }

sub mount_tmpfs
{
	my ($folder, $flags, $options) = @_;
	my $type = 'tmpfs';

	return syscall($mount_call{$machine}, $type, $folder, $type, $flags, $options) == 0;
}

# In this folder, with a size such as '16m'
sub new
{
	my ($class, $folder, $size) = @_;
	my $options = "size=$size,mode=0700";

	mount_tmpfs($folder, 0, $options) or croak "mount: $!";
	return bless { folder => $folder }, $class;
}

# Leave no room.
sub fill
{
	my ($self) = @_;

	open(my $file, '>', "$self->{folder}/filler") or croak "filler: $!";
	1 while syswrite($file, "\0" x 4096);
	croak "filler: $!" unless $!{ENOSPC};
	return;
}

sub make_room
{
	my ($self) = @_;

	unlink "$self->{folder}/filler" or croak "filler: $!";
	return;
}

# False, with $! set, if somebody has a file open for writing.
sub set_read_only
{
	my ($self, $read_only) = @_;
	my $options = '';

	return mount_tmpfs($self->{folder}, MS_REMOUNT | ($read_only ? MS_RDONLY : 0), $options);
}

1;
