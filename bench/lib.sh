# shellcheck shell=bash
#
# Shell shared by the checks, the benchmarks and the quick start: who runs what, scratch clusters, memory nodes, and
# the cgroups that limit a server's memory.
#
# Use: `set -euo pipefail`, source this file, call lb_begin once. It makes the scratch folder $lb_work, and undoes at
# exit everything that was started through this file: servers, memory nodes, cgroups, the scratch folder. A script that
# calls lb_keep before it ends leaves all of it running (scripts/quickstart does).
#
# PostgreSQL refuses to run as root. As root, everything that starts or talks to a server runs as $lb_user, an
# unprivileged user (LEGOBASE_USER, default postgres); as another user, as that user, with sudo for the little that
# needs root. Sizes are in MB throughout. Nothing here listens beyond loopback.

lb_user=${LEGOBASE_USER:-postgres}
lb_work=
lb_clusters=()
lb_nodes=()
lb_cgroups=()

# A fixed environment: a user's settings must not change a result.
unset "${!PG@}" "${!LC_@}" LANGUAGE PERL5LIB PROVE_OPTS MAKEFLAGS CFLAGS CPPFLAGS LDFLAGS
export LC_ALL=C.UTF-8 LANG=C.UTF-8 TZ=UTC

lb_say()
{
	printf '%s\n' "$*" >&2
}

lb_die()
{
	lb_say "${0##*/}: $*"
	exit 1
}

# --- who runs what ---------------------------------------------------------------------------------------------------

# Run a command as root. exec, so that a pid taken by the caller is the command's.
lb_as_root()
{
	if [ "$EUID" -eq 0 ]; then
		"$@"
	else
		sudo -- "$@"
	fi
}

# Run a command as the user that servers run as, in a folder and with a home that this user can read.
lb_as_server()
{
	if [ "$EUID" -eq 0 ]; then
		(
			cd "${lb_work:-/}" || exit
			exec setpriv --reuid="$lb_user" --regid="$(id -g "$lb_user")" --init-groups \
				env HOME="${lb_work:-/}" USER="$lb_user" LOGNAME="$lb_user" "$@"
		)
	else
		(
			cd "${lb_work:-/}" || exit
			exec "$@"
		)
	fi
}

# Find the PostgreSQL 15 installation: LEGOBASE_PG_CONFIG, else Debian's.
lb_find_postgres()
{
	lb_pg_config=${LEGOBASE_PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
	[ -x "$lb_pg_config" ] || lb_die "$lb_pg_config not found: install postgresql-15 and postgresql-server-dev-15"
	lb_bindir=$("$lb_pg_config" --bindir)
	# shellcheck disable=SC2034 # for the scripts that source this
	lb_pgxs_top=$(cd "$(dirname "$("$lb_pg_config" --pgxs)")/../.." && pwd)
	lb_memnode=$lb_bindir/legobase-memnode
	# LEGOBASE_TOOLS: a folder of programs that come before all others (test/rdma/guest)
	export PATH="${LEGOBASE_TOOLS:+$LEGOBASE_TOOLS:}$lb_bindir:$PATH" PG_CONFIG="$lb_pg_config"
}

# lb_begin NAME [FOLDER]: the scratch folder is FOLDER, which must not exist, or a new one named after NAME.
lb_begin()
{
	local name=$1 folder=${2:-}

	if [ "$EUID" -ne 0 ]; then
		lb_user=$(id -un)
	elif ! id "$lb_user" >/dev/null 2>&1; then
		lb_die "user $lb_user does not exist: set LEGOBASE_USER to an unprivileged user"
	fi
	lb_find_postgres
	if [ -n "$folder" ]; then
		mkdir "$folder"
		lb_work=$folder
	else
		lb_work=$(mktemp -d "${LEGOBASE_TMP:-/var/tmp}/legobase-$name.XXXXXX")
	fi
	if [ "$EUID" -eq 0 ]; then
		chown "$lb_user:" "$lb_work"
	fi
	chmod 755 "$lb_work"
	trap lb_end EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
}

# Undo what was started, newest first. Runs at exit; never fails, so that the script's own status stands.
lb_end()
{
	local status=$? dir group pid

	trap - EXIT
	set +e
	for dir in "${lb_clusters[@]}"; do
		lb_cluster_stop "$dir" immediate
	done
	for pid in "${lb_nodes[@]}"; do
		lb_node_stop "$pid"
	done
	for group in "${lb_cgroups[@]}"; do
		lb_cgroup_remove "$group"
	done
	if [ -n "${lb_work:-}" ] && [ -z "${LEGOBASE_KEEP_WORK:-}" ]; then
		rm -rf "$lb_work" 2>/dev/null || lb_as_root rm -rf "$lb_work"
	fi
	exit "$status"
}

# Leave everything running and in place when the script ends.
lb_keep()
{
	trap - EXIT
}

# Copy the source tree $1 to $2, owned by the server's user: the tree may lie where that user can't look, and what is
# built by root there would be in its owner's way. Build products don't travel.
lb_copy_tree()
{
	local from=$1 to=$2

	lb_as_server mkdir -p "$to"
	tar -C "$from" -cf - --exclude=./.git --exclude=./results --exclude=./tmp_check --exclude='*.o' --exclude='*.d' \
		--exclude='*.so' --exclude='*.bc' --exclude=build --exclude=legobase-memnode . |
		lb_as_server tar -C "$to" -xf - --no-same-owner
}

# Where what was fetched from elsewhere is kept: the regression suite, a kernel.
lb_cache_folder()
{
	if [ -n "${LEGOBASE_CHECK_CACHE:-}" ]; then
		echo "$LEGOBASE_CHECK_CACHE"
	elif [ "$EUID" -eq 0 ]; then
		echo /var/cache/legobase-check
	else
		echo "${XDG_CACHE_HOME:-$HOME/.cache}/legobase-check"
	fi
}

# --- clusters --------------------------------------------------------------------------------------------------------

# A TCP port that nobody listens on now. Servers here listen on a Unix socket only, but its name has a port in it.
lb_free_port()
{
	perl -MIO::Socket::INET -e '
		my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", Proto => "tcp", Listen => 1) or die "no port: $!";
		print $s->sockport, "\n"'
}

# lb_cluster_init DIR [initdb option ...]: a new cluster that listens on a Unix socket in DIR.sock only.
lb_cluster_init()
{
	local dir=$1

	shift
	lb_as_server mkdir -p -m 700 "$dir.sock"
	lb_as_server initdb --no-sync --auth=trust --username=postgres --no-locale --encoding=UTF8 "$@" -D "$dir" \
		>"$lb_work/initdb.log" 2>&1 || {
		cat "$lb_work/initdb.log" >&2
		lb_die "initdb failed"
	}
	{
		printf "listen_addresses = ''\nunix_socket_directories = '%s'\nport = %s\n" "$dir.sock" "$(lb_free_port)"
		printf "include_if_exists 'legobase_run.conf'\n"
	} | lb_as_server tee -a "$dir/postgresql.conf" >/dev/null
}

# lb_cluster_settings DIR <settings: replaces the settings of this run, which come after those of initdb.
lb_cluster_settings()
{
	lb_as_server tee "$1/legobase_run.conf" >/dev/null
}

# lb_cluster_start DIR [CGROUP]: start, inside a cgroup if given, and wait until it accepts connections.
lb_cluster_start()
{
	local dir=$1 group=${2:-}

	lb_clusters+=("$dir")
	lb_in_cgroup "$group" pg_ctl -D "$dir" -l "$dir.log" -w -t 120 start >"$lb_work/pg_ctl.log" 2>&1 || {
		cat "$lb_work/pg_ctl.log" >&2
		tail -n 20 "$dir.log" >&2 || true
		lb_die "the server in $dir did not start"
	}
}

# lb_cluster_stop DIR [MODE]: stop if it runs.
lb_cluster_stop()
{
	local dir=$1 mode=${2:-fast}

	if lb_as_server test -f "$dir/postmaster.pid"; then
		lb_as_server pg_ctl -D "$dir" -m "$mode" -w -t 120 stop >/dev/null 2>&1
	fi
}

# The connection options of a cluster, for psql and friends: eval-free use through an array.
lb_cluster_connect()
{
	local dir=$1

	lb_connect=(-h "$dir.sock" -p "$(lb_as_server sed -n 4p "$dir/postmaster.pid")" -U postgres)
}

# lb_psql DIR DATABASE SQL: rows, unaligned, columns separated by |.
lb_psql()
{
	local dir=$1 database=$2 sql=$3 lb_connect

	lb_cluster_connect "$dir"
	lb_as_server psql -X -q -A -t -v ON_ERROR_STOP=1 "${lb_connect[@]}" -d "$database" -c "$sql"
}

# --- memory nodes ----------------------------------------------------------------------------------------------------

# lb_node_start NAME CGROUP URI MEMORY_MB [OPTION ...]: start a memory node and wait until it accepts. Sets lb_node_pid, and
# lb_node_uri with a port of 0 replaced by the real one.
lb_node_start()
{
	local name=$1 group=$2 uri=$3 memory=$4 out tries

	shift 4
	out=$lb_work/$name.out
	lb_as_server rm -f "$out" "$lb_work/$name.pid"
	# The shell that becomes the memory node leaves its pid; setsid keeps a Ctrl-C in the terminal away from it.
	# shellcheck disable=SC2016 # expanded by the inner shell
	lb_in_cgroup "$group" setsid sh -c 'echo $$ >"$1"; shift; exec "$@"' sh "$lb_work/$name.pid" \
		"$lb_memnode" --listen "$uri" --memory "${memory}MB" "$@" >"$out" 2>"$lb_work/$name.log" </dev/null &
	for ((tries = 0; tries < 300; tries++)); do
		if grep -q '^ready: ' "$out" 2>/dev/null; then
			break
		fi
		sleep 0.1
	done
	lb_node_uri=$(sed -n 's/^ready: listening on //p' "$out")
	if [ -z "$lb_node_uri" ]; then
		tail -n 20 "$lb_work/$name.log" >&2 || true
		lb_die "memory node $name did not start"
	fi
	lb_node_pid=$(cat "$lb_work/$name.pid")
	lb_nodes+=("$lb_node_pid")
}

# lb_node_stop PID: ask it to stop, wait, insist after ten seconds. Only if the pid is still a memory node's.
lb_node_stop()
{
	local pid=$1 tries

	for ((tries = 0; tries < 100; tries++)); do
		if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != legobase-memnod ]; then
			return 0
		fi
		if [ "$tries" -eq 0 ]; then
			lb_as_root kill -TERM "$pid"
		fi
		sleep 0.1
	done
	lb_as_root kill -KILL "$pid"
}

# --- memory limits ---------------------------------------------------------------------------------------------------

# The folder of the memory controller's root, version 1 or 2; fails where cgroups can't limit memory.
lb_cgroup_root()
{
	if [ -f /sys/fs/cgroup/memory/memory.usage_in_bytes ]; then
		echo /sys/fs/cgroup/memory
	elif grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
		echo /sys/fs/cgroup
	else
		return 1
	fi
}

# lb_cgroup_create NAME LIMIT_MB (0: no limit, the group only counts): sets lb_cgroup to its folder. The limit covers
# all that is charged: private and shared memory, and the page cache of what its processes read first. Swap does not
# count as more memory.
lb_cgroup_create()
{
	local name=$1 limit=$2 root

	root=$(lb_cgroup_root) || lb_die "this system has no memory controller for cgroups: limits can't be set"
	lb_cgroup=$root/$name
	if [ "$root" = /sys/fs/cgroup ] && ! grep -qw memory "$root/cgroup.subtree_control"; then
		echo +memory | lb_as_root tee "$root/cgroup.subtree_control" >/dev/null ||
			lb_die "cgroups in $root can't limit memory (in a container, it must be allowed to make cgroups)"
	fi
	[ ! -d "$lb_cgroup" ] || lb_as_root rmdir "$lb_cgroup" || lb_die "$lb_cgroup is in use"
	lb_as_root mkdir "$lb_cgroup" || lb_die "could not make $lb_cgroup: root must be able to make cgroups"
	lb_cgroups+=("$lb_cgroup")
	[ "$limit" -gt 0 ] || return 0
	if [ -f "$lb_cgroup/memory.max" ]; then
		echo $((limit * 1024 * 1024)) | lb_as_root tee "$lb_cgroup/memory.max" >/dev/null
		echo 0 | lb_as_root tee "$lb_cgroup/memory.swap.max" >/dev/null 2>&1 || true
	else
		echo $((limit * 1024 * 1024)) | lb_as_root tee "$lb_cgroup/memory.limit_in_bytes" >/dev/null
		echo 0 | lb_as_root tee "$lb_cgroup/memory.swappiness" >/dev/null
	fi
}

# MB charged to a group now.
lb_cgroup_usage()
{
	local file=$1/memory.current

	[ -f "$file" ] || file=$1/memory.usage_in_bytes
	echo $(($(cat "$file") / 1024 / 1024))
}

lb_cgroup_remove()
{
	local tries

	for ((tries = 0; tries < 50; tries++)); do
		if [ ! -d "$1" ] || lb_as_root rmdir "$1" 2>/dev/null; then
			return 0
		fi
		sleep 0.1
	done
	lb_say "could not remove $1: a process is still in it"
}

# lb_in_cgroup GROUP COMMAND ...: run a command of the server's user inside a group ('' means no group). Only root may
# move a process, so a root shell moves itself and then gives up its rights.
lb_in_cgroup()
{
	local group=$1

	shift
	if [ -z "$group" ]; then
		lb_as_server "$@"
		return
	fi
	# shellcheck disable=SC2016 # expanded by the inner shell
	lb_as_root sh -c '
		echo $$ >"$1/cgroup.procs" || exit 1
		cd "$2" || exit 1
		user=$3
		shift 3
		exec setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups \
			env HOME="$PWD" USER="$user" LOGNAME="$user" "$@"' \
		sh "$group" "$lb_work" "$lb_user" env PATH="$PATH" LC_ALL="$LC_ALL" TZ="$TZ" "$@"
}

# Empty the page cache. A file that another group's process read first stays charged to that group for as long as it
# is cached, so a limited server could use it for nothing: do this before each start that is to be measured.
lb_drop_caches()
{
	sync
	echo 3 | lb_as_root tee /proc/sys/vm/drop_caches >/dev/null
}
