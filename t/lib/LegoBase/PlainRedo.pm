# The judge of a recovery: a server without the extension redoes a copy of the same data directory. Afterwards both must have the
# same rows in the same order, and pg_amcheck must find nothing in either.

package LegoBase::PlainRedo;

use strict;
use warnings;

use File::Path qw(remove_tree);
use IPC::Run;
use LegoBase;
use LegoBase::Restart;
use PostgreSQL::Test::Utils;
use Test::More;

my $copies = 0;

# Copy the data directory of a server that was killed, before it is started again. Memory nodes write nothing meanwhile, because
# nobody is connected.
sub new
{
	my ($class, $node) = @_;
	my $copy = another_server('plain_' . ++$copies . '_' . $node->name);
	my $self = bless { node => $node, copy => $copy }, $class;

	remove_tree($copy->data_dir);
	PostgreSQL::Test::Utils::system_or_bail('cp', '-a', $node->data_dir, $copy->data_dir);
	remove_tree($copy->data_dir . '/pgsql_tmp_legobase');
	unlink $copy->data_dir . '/postmaster.pid';
	return $self;
}

sub dump_of
{
	my ($self, $server, $name) = @_;
	my $file = $self->{copy}->basedir . "/$name.sql";

	PostgreSQL::Test::Utils::system_or_bail('pg_dumpall', '--no-sync', '-h', $server->host, '-p', $server->port, '-f', $file);
	return $file;
}

# As tests; afterwards the copy is gone. True if all is well.
sub compare
{
	my ($self, $what) = @_;
	my ($node, $copy) = ($self->{node}, $self->{copy});
	my ($difference, $equal) = ('', 0);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	if (ok(start_elsewhere($copy, 'shared_preload_libraries=', 'fsync=off', 'shared_buffers=64MB'),
			"$what: a server without the extension recovers the copy"))
	{
		my @dumps = ($self->dump_of($copy, 'plain'), $self->dump_of($node, 'with'));

		# the words by which psql recognises what belongs to a dump are new each time
		$equal = IPC::Run::run [ 'diff', '-I', '^\\\\\(un\)\?restrict ', @dumps ], '>', \$difference;
		ok($equal, "$what: a plain redo gives the same rows") or diag(substr $difference, 0, 4000);
		amcheck_clean($copy, "$what, redone plainly");
		amcheck_clean($node, $what);
		$copy->stop('immediate');
	}
	else
	{
		diag(log_tail($copy, 0));
	}
	remove_tree($copy->basedir);
	return $equal;
}

1;
