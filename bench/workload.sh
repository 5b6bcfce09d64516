# shellcheck shell=bash
#
# pgbench workloads on one data directory under different configurations of memory: shared by bench/local_memory and
# scripts/quickstart. Source bench/lib.sh first.
#
# The caller sets these (sizes in MB), loads the data once, and then, for each configuration in turn, starts it, warms
# it, measures it and stops it. Every configuration works on the same files.
#
#   wl_dir             the data directory
#   wl_scale           pgbench's scale
#   wl_clients         connections
#   wl_warm_seconds    length of the warm-up run of each workload, before each measurement
#   wl_seconds         length of a measurement
#   wl_all_local       shared_buffers of the configuration all-local
#   wl_shared_buffers  shared_buffers of the others
#   wl_limit           memory limit of their server; 0: none
#   wl_pool            remote pool
#   wl_cgroup          how the names of the cgroups begin
#   wl_checkpoint_timeout  (1h: none within a measurement)
#   wl_preload         a library that every configuration loads (none)
#   wl_node_options    more options for the memory node (none)
#   wl_samples         file that a line is added to for each measurement: round, workload, configuration, tps, P50, P99

# shellcheck disable=SC2154 # set by the caller, as said above

wl_checkpoint_timeout=1h
wl_preload=
wl_node_options=()
wl_node_pids=()
wl_node_cgroup=
wl_server_cgroup=

# The size of pgbench's tables and indexes: 14.98 MB for each unit of scale.
wl_data_size()
{
	echo $((wl_scale * 15 + 20))
}

wl_common_settings()
{
	# Unless the caller wants checkpoints: no checkpoint and no autovacuum in the middle of some measurement and not of
	# another; the shutdown between two configurations writes everything. WAL is synced at commit, as in production.
	cat <<-SETTINGS
		max_connections = $((wl_clients + 20))
		max_wal_size = 16GB
		min_wal_size = 1GB
		checkpoint_timeout = $wl_checkpoint_timeout
		autovacuum = off
	SETTINGS
}

# Load the data, by a stock server without limits.
wl_load()
{
	local lb_connect

	lb_cluster_init "$wl_dir"
	{
		wl_common_settings
		printf 'fsync = off\nshared_buffers = 512MB\nmaintenance_work_mem = 512MB\nwal_level = minimal\nmax_wal_senders = 0\n'
	} | lb_cluster_settings "$wl_dir"
	lb_cluster_start "$wl_dir"
	lb_cluster_connect "$wl_dir"
	lb_psql "$wl_dir" postgres "CREATE DATABASE bench"
	lb_as_server pgbench -q -i -s "$wl_scale" "${lb_connect[@]}" bench >"$lb_work/load.log" 2>&1 || {
		cat "$lb_work/load.log" >&2
		lb_die "pgbench could not load its data"
	}
	lb_psql "$wl_dir" bench "CREATE EXTENSION pg_prewarm"
	lb_cluster_stop "$wl_dir"
	sync
}

# A memory node for the configuration, outside of the server's cgroup; a cgroup of its own, without a limit, counts what
# the pool takes.
wl_start_node()
{
	local config=$1 uri

	case $config in
		shm) uri=shm://$lb_work/memnode.sock ;;
		tcp) uri=tcp://127.0.0.1:0 ;;
	esac
	if [ "$wl_limit" -gt 0 ] && [ -z "$wl_node_cgroup" ]; then
		lb_cgroup_create "$wl_cgroup-node" 0
		wl_node_cgroup=$lb_cgroup
	fi
	lb_node_start "memnode-$config" "$wl_node_cgroup" "$uri" "$wl_pool" "${wl_node_options[@]}"
	wl_node_pids+=("$lb_node_pid")
	{
		echo "shared_preload_libraries = 'legobase${wl_preload:+, $wl_preload}'"
		echo "legobase.memory_nodes = '$lb_node_uri'"
		echo "legobase.max_remote_pool_size = ${wl_pool}MB"
	} >"$lb_work/legobase.conf"
}

# wl_start CONFIGURATION: all-local, stock (limited if wl_limit says so), shm or tcp.
wl_start()
{
	local config=$1 buffers=$wl_shared_buffers group=

	echo "shared_preload_libraries = '$wl_preload'" >"$lb_work/legobase.conf"
	case $config in
		all-local) buffers=$wl_all_local ;;
		shm | tcp) wl_start_node "$config" ;;
	esac
	if [ "$wl_limit" -gt 0 ]; then
		lb_drop_caches
	fi
	if [ "$wl_limit" -gt 0 ] && [ "$config" != all-local ]; then
		if [ -z "$wl_server_cgroup" ]; then
			lb_cgroup_create "$wl_cgroup-server" "$wl_limit"
			wl_server_cgroup=$lb_cgroup
		fi
		group=$wl_server_cgroup
	fi
	{
		wl_common_settings
		echo "shared_buffers = ${buffers}MB"
		cat "$lb_work/legobase.conf"
	} | lb_cluster_settings "$wl_dir"
	lb_cluster_start "$wl_dir" "$group"
}

wl_stop()
{
	local pid

	lb_cluster_stop "$wl_dir"
	for pid in "${wl_node_pids[@]}"; do
		lb_node_stop "$pid"
	done
	wl_node_pids=()
}

# wl_read_all MODE: read every block of the workload's tables and indexes, as pg_prewarm's MODE says.
wl_read_all()
{
	lb_psql "$wl_dir" bench "
		SELECT sum(pg_prewarm(oid, '$1')) FROM pg_class
		WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') AND pg_relation_size(oid) > 0"
}

# Bring the configuration to the state it would reach after a long run: all data read once through shared_buffers, and
# for a remote pool the data pushed to it. Pushes that find no free comm buffer are dropped, so it takes some readings.
wl_warm()
{
	local config=$1 before=0 after passes

	wl_read_all buffer >/dev/null
	case $config in
		shm | tcp)
			lb_psql "$wl_dir" bench "SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS legobase"
			for ((passes = 0; passes < 5; passes++)); do
				lb_psql "$wl_dir" bench "SELECT legobase_drain()" >/dev/null
				after=$(lb_psql "$wl_dir" bench "SELECT used_pages FROM legobase_summary")
				[ $((after - before)) -gt $((after / 200)) ] || break
				before=$after
				wl_read_all read >/dev/null
			done
			;;
	esac
}

wl_pgbench()
{
	local workload=$1 seconds=$2 lb_connect options=(-M prepared -n)

	shift 2
	[ "$workload" != select-only ] || options+=(-S)
	lb_cluster_connect "$wl_dir"
	lb_as_server pgbench "${options[@]}" -c "$wl_clients" -j 2 -T "$seconds" "${lb_connect[@]}" "$@" bench
}

# wl_measure ROUND CONFIGURATION WORKLOAD: warm-up run, measured run.
wl_measure()
{
	wl_pgbench "$3" "$wl_warm_seconds" >/dev/null
	wl_run "$@"
}

# wl_run ROUND CONFIGURATION WORKLOAD: measured run, a line in $wl_samples. Latency is taken from pgbench's transaction log,
# one transaction in ten for select-only, where writing the log itself would cost.
wl_run()
{
	local round=$1 config=$2 workload=$3 rate=1 tps

	[ "$workload" != select-only ] || rate=0.1
	lb_as_server rm -f "$lb_work"/latency.*
	wl_pgbench "$workload" "$wl_seconds" -l --log-prefix="$lb_work/latency" --sampling-rate="$rate" \
		>"$lb_work/pgbench.log"
	if grep -q 'number of failed transactions: [1-9]' "$lb_work/pgbench.log"; then
		lb_die "transactions failed: $(grep failed "$lb_work/pgbench.log")"
	fi
	tps=$(sed -n 's/^tps = \([0-9.]*\) .*/\1/p' "$lb_work/pgbench.log")
	cat "$lb_work"/latency.* | awk '{ print $3 }' | sort -n |
		awk -v head="$round $workload $config $tps" '{ v[NR] = $1 } END {
			print head, v[int((NR - 1) * 0.50) + 1] / 1000, v[int((NR - 1) * 0.99) + 1] / 1000 }' >>"$wl_samples"
	lb_say "  $(tail -n 1 "$wl_samples" | awk '{
		printf "round %s  %-12s %-14s %8.0f tps   P50 %6.3f ms   P99 %7.3f ms", $1, $2, $3, $4, $5, $6 }')"
}
