-- What users see: views, functions, who may use them.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS legobase;
RESET client_min_messages;

-- Columns
\d legobase_summary
\d legobase_nodes
\d legobase_stat_io
\d legobase_checkpoints
\d legobase_recovery
\d legobase_warm_up
\d legobase_pages
\d legobase_latency
\df legobase_reset_stats
\df legobase_drain
\df legobase_evict

-- Rows that do not depend on what the server did
SELECT write_mode IN ('writethrough', 'writeback') AS write_mode, nodes_total, dirty_pages >= 0 AS dirty_pages, checksum_failures, compare_mismatches,
       stats_reset BETWEEN pg_postmaster_start_time() - interval '1 minute' AND now() AS stats_reset_makes_sense
  FROM legobase_summary;
SELECT tier, kernel_cache_reads FROM legobase_stat_io;
SELECT node_id, uri ~ '^(shm|tcp)://' AS uri, transport = split_part(uri, ':', 1) AS transport
  FROM legobase_nodes ORDER BY node_id LIMIT 1;

-- Tier 2 is PostgreSQL's own checkpoint
CHECKPOINT;
SELECT tier, lsn = redo_lsn AS lsn, lag BETWEEN 0 AND 1000000 AS lag, count > 0 AS count,
       last_time = checkpoint_time AS last_time, lag_bytes = lag_pages * 8192 AS lag_bytes,
       waiting, wait_time >= 0 AS wait_time, failures
  FROM legobase_checkpoints, pg_control_checkpoint() WHERE tier = 2;

-- Tier 1 is behind what has been written by as much as the lag says
SELECT tier, (lsn IS NULL) = (lag IS NULL) AS lsn_and_lag, (lsn IS NULL) = (count = 0) AS lsn_and_count,
       (last_time IS NULL) = (count = 0) AS last_time, lag >= 0 IS NOT FALSE AS lag,
       lag_bytes = lag_pages * 8192 AS lag_bytes, waiting IS NOT NULL AS waiting, wait_time >= 0 AS wait_time, failures >= 0 AS failures
  FROM legobase_checkpoints WHERE tier = 1;
SELECT tier FROM legobase_checkpoints;

-- How this life of the server began
SELECT pool_state, nodes_asked >= nodes_kept AS nodes, pages_listed >= pages_kept AS listed, pages_kept >= pages_dirty AS kept,
       pages_listed >= pages_discarded AS discarded, blocks_extended >= 0 AS extended, reload_time >= 0 AS reload_time,
       redo_records >= redo_skipped AS records, redo_bytes >= redo_bytes_skipped AS bytes, redo_compared >= redo_different AS compared,
       (redo_end_lsn >= redo_start_lsn) IS NOT FALSE AS redo, redo_time >= 0 AS redo_time
  FROM legobase_recovery;
SELECT state IN ('none', 'running', 'done') AS state, pages_listed >= pages_read + pages_present + pages_skipped AS pages,
       percent BETWEEN 0 AND 100 IS NOT FALSE AS percent, finished < started IS NOT TRUE AS times
  FROM legobase_warm_up;

-- How long it will take is known if nothing is dirty, or once something was written.
SELECT count(*) FROM legobase_checkpoints WHERE tier = 2 AND lag_pages = 0 AND seconds_left <> 0;
SELECT count(*) FROM legobase_checkpoints WHERE tier = 2 AND pages_per_second IS NULL AND lag_pages > 0 AND seconds_left IS NOT NULL;

-- Who may do what: pg_monitor reads, nobody acts
SELECT p.proname, has_function_privilege('public', p.oid, 'EXECUTE') AS public,
       has_function_privilege('pg_monitor', p.oid, 'EXECUTE') AS pg_monitor
  FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e'
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'legobase'
 WHERE d.classid = 'pg_proc'::regclass ORDER BY 1;
SELECT c.relname, has_table_privilege('public', c.oid, 'SELECT') AS public,
       has_table_privilege('pg_monitor', c.oid, 'SELECT') AS pg_monitor,
       has_table_privilege('pg_monitor', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') AS more
  FROM pg_class c WHERE c.relname ~ '^legobase_' AND c.relkind = 'v' ORDER BY 1;

CREATE ROLE regress_legobase_user;
CREATE ROLE regress_legobase_monitor IN ROLE pg_monitor;
\set VERBOSITY sqlstate
SET ROLE regress_legobase_user;
SELECT * FROM legobase_summary;
SELECT * FROM legobase_pages();
SELECT legobase_reset_stats();
SET ROLE regress_legobase_monitor;
SELECT count(*) FROM legobase_summary;
SELECT count(*) >= 1 AS nodes FROM legobase_nodes;
SELECT count(*) FROM legobase_stat_io;
SELECT count(*) FROM legobase_checkpoints;
SELECT count(*) FROM legobase_recovery;
SELECT count(*) FROM legobase_warm_up;
SELECT count(*) >= 0 AS pages FROM legobase_pages;
SELECT count(*) >= 0 AS latency FROM legobase_latency;
SELECT legobase_reset_stats();
SELECT legobase_drain();
SELECT legobase_evict('pg_class');
RESET ROLE;

-- What can be evicted
CREATE TABLE legobase_parts (a int) PARTITION BY RANGE (a);
CREATE VIEW legobase_a_view AS SELECT 1 AS a;
CREATE TEMP TABLE legobase_temp AS SELECT 1 AS a;
SELECT legobase_evict('legobase_parts');
SELECT legobase_evict('legobase_a_view');
SELECT legobase_evict('no_such_table');
SELECT legobase_evict(4294967295);
SELECT legobase_evict('legobase_temp');
SELECT legobase_evict(NULL) IS NULL AS is_null;
\set VERBOSITY default
SELECT legobase_evict('legobase_parts');
DROP TABLE legobase_parts;
DROP VIEW legobase_a_view;

-- Resetting moves the time forward
SELECT stats_reset AS before FROM legobase_summary \gset
SELECT legobase_reset_stats();
SELECT stats_reset > :'before' AS later FROM legobase_summary;
SELECT legobase_drain();

-- In a schema of its own, and gone without a trace
CREATE SCHEMA legobase_elsewhere;
ALTER EXTENSION legobase SET SCHEMA legobase_elsewhere;
SELECT count(*) FROM legobase_elsewhere.legobase_summary;
DROP EXTENSION legobase;
DROP SCHEMA legobase_elsewhere;
CREATE EXTENSION legobase;

DROP ROLE regress_legobase_user;
DROP ROLE regress_legobase_monitor;
