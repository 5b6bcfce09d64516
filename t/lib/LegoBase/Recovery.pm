# What recovery makes of a data directory, beside what a server without the extension makes of a copy of it.
#
# A test kills a server, takes a copy of its data directory, lets a stock server recover the copy, and the server itself recover the
# original: both must have the same database then.

package LegoBase::Recovery;

use strict;
use warnings;

use Exporter 'import';
use File::Path qw(rmtree);
use IPC::Run;
use LegoBase;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(kill_whole_server begin_start copy_for_stock drop_copy recovery_figures install_checks finish_prepared
  same_database);

# --- killing, copying, starting --------------------------------------------------------------------------------------

# SIGKILL to all processes of the server.
sub kill_whole_server
{
	my ($node) = @_;
	my @processes = processes_of($node);

	$node->kill9;
	kill 'KILL', @processes;
	return wait_until_gone($node);
}

# Start the server and don't wait for anything but its pid, to kill it again on its way.
sub begin_start
{
	my ($node) = @_;
	my $file = $node->data_dir . '/postmaster.pid';

	PostgreSQL::Test::Utils::system_or_bail('pg_ctl', '-W', '-D', $node->data_dir, '-l', $node->logfile, 'start');
	wait_for('there is a postmaster', 10, sub { -s $file && slurp_file($file) =~ /^\d+\n/ }) or return 0;
	$node->_update_pid(1);
	return 1;
}

# A stock server on a copy of the data directory of a server that was killed. Memory nodes go on to write to the files:
# they stand still meanwhile.
sub copy_for_stock
{
	my ($node, $name, @memnodes) = @_;
	my $copy = PostgreSQL::Test::Cluster->new($name);

	$_->freeze foreach @memnodes;
	foreach my $memnode (@memnodes)
	{
		wait_for('the memory node stands still', 10, sub { $memnode->stopped });
	}
	PostgreSQL::Test::Utils::system_or_bail('cp', '-a', $node->data_dir, $copy->data_dir);
	$_->thaw foreach @memnodes;
	rmtree($copy->data_dir . '/pgsql_tmp_legobase');
	unlink $copy->data_dir . '/postmaster.pid';
	$copy->append_conf(
		'postgresql.conf',
		join "\n",
		'port = ' . $copy->port,
		q{unix_socket_directories = '} . $copy->host . q{'},
		q{shared_preload_libraries = ''},
		'fsync = off', '');
	return $copy;
}

sub drop_copy
{
	my ($copy) = @_;

	$copy->stop('immediate');
	rmtree($copy->data_dir);
	return;
}

# legobase_recovery as a hash
sub recovery_figures
{
	my ($node) = @_;

	return LegoBase::rows_of($node, 'legobase_recovery')->[0];
}

# --- comparing -------------------------------------------------------------------------------------------------------

# Functions that look at tables with the columns of 016_redo_properties.pl, each of which has an index of another kind:
# scan_differences() has what index scans find otherwise than sequential scans.
sub install_checks
{
	my ($node) = @_;

	$node->safe_psql(
		'postgres', q{
		CREATE EXTENSION amcheck;
		CREATE EXTENSION pg_visibility;
		CREATE FUNCTION found_by(relation regclass, condition text, wanted text, sequential bool) RETURNS text
		LANGUAGE plpgsql AS $$
		DECLARE
			found text;
		BEGIN
			PERFORM set_config('enable_seqscan', CASE WHEN sequential THEN 'on' ELSE 'off' END, true),
				set_config(method, CASE WHEN sequential THEN 'off' ELSE 'on' END, true)
			FROM unnest(ARRAY['enable_indexscan', 'enable_indexonlyscan', 'enable_bitmapscan']) method;
			EXECUTE format('SELECT %s FROM %s WHERE %s', wanted, relation, condition) INTO found;
			RETURN found;
		END $$;
		CREATE FUNCTION scan_differences() RETURNS SETOF text LANGUAGE plpgsql AS $$
		DECLARE
			rel regclass;
			cond text;
			wish text;
		BEGIN
			FOR rel IN SELECT c.oid FROM pg_class c WHERE relkind = 'r' AND relname ~ '^[wx][0-9]$' ORDER BY relname
			LOOP
				FOREACH cond IN ARRAY ARRAY['id >= 0', 'id BETWEEN 100 AND 300', 'n BETWEEN 50 AND 400', 'n >= 0',
					'g <@ box ''((0,0),(40,40))''', 's <@ box ''((10,10),(60,60))''', 'tags @> ARRAY[3]', 'tags && ARRAY[1, 5]']
					|| (SELECT array_agg('k = ' || i) FROM generate_series(0, 12) i)
				LOOP
					FOREACH wish IN ARRAY ARRAY['count(*)', 'md5(string_agg(ctid::text, '','' ORDER BY ctid))']
					LOOP
						IF found_by(rel, cond, wish, true) IS DISTINCT FROM found_by(rel, cond, wish, false) THEN
							RETURN NEXT format('%s WHERE %s: %s is %s, by an index %s', rel, cond, wish,
								found_by(rel, cond, wish, true), found_by(rel, cond, wish, false));
						END IF;
					END LOOP;
				END LOOP;
			END LOOP;
		END $$;
		CREATE FUNCTION map_differences() RETURNS SETOF text LANGUAGE sql AS $$
			SELECT format('%s %s: not all-visible', c.oid::regclass, t_ctid)
			FROM pg_class c, pg_check_visible(c.oid) t_ctid WHERE relkind IN ('r', 't', 'm') AND relpersistence <> 't'
			UNION ALL
			SELECT format('%s %s: not all-frozen', c.oid::regclass, t_ctid)
			FROM pg_class c, pg_check_frozen(c.oid) t_ctid WHERE relkind IN ('r', 't', 'm') AND relpersistence <> 't'
		$$;
	});
	return;
}

# Both servers have the same prepared transactions, which end the same way. $choose says for each gid which: 'COMMIT', 'ROLLBACK', or
# nothing: it stays.
sub finish_prepared
{
	my ($what, $node, $copy, $choose) = @_;
	my $query = 'SELECT gid, transaction FROM pg_prepared_xacts ORDER BY gid';
	my @gids = map { (split /\|/)[0] } split /\n/, $node->safe_psql('postgres', $query);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', $query), $copy->safe_psql('postgres', $query),
		"$what: the same prepared transactions (" . @gids . ')');
	foreach my $gid (@gids)
	{
		my $end = $choose->($gid) or next;
		$_->safe_psql('postgres', "$end PREPARED '$gid'") foreach ($node, $copy);
	}
	return;
}

# Schema and data, rows in the order in which they lie in the table. (Minor versions of late write a random key to each dump.)
sub dump_of
{
	my ($node) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'pg_dump', '-h', $node->host, '-p', $node->port, 'postgres' ], '>', \$out, '2>', \$err)
	  or return "pg_dump: $err";
	$out =~ s/^\\(un)?restrict .*\n//mg;
	return $out;
}

sub same_text
{
	my ($what, $text, $expected) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $same = ok($text eq $expected, $what);
	if (!$same)
	{
		my $folder = PostgreSQL::Test::Utils::tempdir_short();
		my $diff = '';

		PostgreSQL::Test::Utils::append_to_file("$folder/stock", $expected);
		PostgreSQL::Test::Utils::append_to_file("$folder/legobase", $text);
		IPC::Run::run([ 'diff', "$folder/stock", "$folder/legobase" ], '>', \$diff);
		diag(substr $diff, 0, 3000);
	}
	return $same;
}

# The main forks of everything. Those of other forks depend on hints.
my $sizes = q{SELECT c.oid::regclass, pg_relation_size(c.oid) FROM pg_class c
	WHERE relkind IN ('r', 'i', 't', 'S', 'm') AND relpersistence <> 't' ORDER BY c.oid};

# Both have the same database, and all is well in both.
sub same_database
{
	my ($what, $node, $copy) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	same_text("$what: same dump as the stock server's", dump_of($node), dump_of($copy));
	same_text("$what: relations of the same sizes", $node->safe_psql('postgres', $sizes),
		$copy->safe_psql('postgres', $sizes));
	foreach my $server ([ $copy, 'stock server' ], [ $node, 'server' ])
	{
		is($server->[0]->safe_psql('postgres', 'SELECT * FROM scan_differences() LIMIT 10'),
			'', "$what: the $server->[1]'s indexes find what is there");
		is($server->[0]->safe_psql('postgres', 'SELECT * FROM map_differences() LIMIT 10'),
			'', "$what: the $server->[1]'s visibility maps are right");
		amcheck_clean($server->[0], "$what, $server->[1]");
	}
	return;
}

1;
