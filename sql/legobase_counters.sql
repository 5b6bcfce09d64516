-- Counters are exact: what legobase counts as reads is what PostgreSQL counts as blocks read. Nothing else may read
-- meanwhile, so autovacuum is off.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS legobase;
RESET client_min_messages;
ALTER SYSTEM SET autovacuum = off;
SELECT pg_reload_conf();

-- Wait for the memory node, and for autovacuum to end
DO $$
BEGIN
    FOR i IN 1..1000 LOOP
        PERFORM FROM legobase_summary
          WHERE nodes_up = nodes_total AND pool_pages > 0
            AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type ~ '^autovacuum');
        EXIT WHEN FOUND;
        PERFORM pg_sleep(0.01);
        PERFORM pg_stat_clear_snapshot();
    END LOOP;
END
$$;

-- A table so large that scans go through a ring of a few buffers. Rewriting it leaves nothing of it in shared_buffers, and
-- nothing that a scan would have to write.
SET max_parallel_workers_per_gather = 0;
SET synchronize_seqscans = off;
CREATE TABLE legobase_large WITH (autovacuum_enabled = off) AS
  SELECT i AS a, repeat('x', 900) AS b FROM generate_series(1, 48000) i;
CREATE INDEX legobase_large_a ON legobase_large (a);
VACUUM (FULL, FREEZE, ANALYZE) legobase_large;
CHECKPOINT;

-- Run a query. Returns what PostgreSQL says it read, and what legobase counted meanwhile.
CREATE FUNCTION count_reads(query text, OUT blocks bigint, OUT remote bigint, OUT storage bigint)
LANGUAGE plpgsql AS
$$
DECLARE
    plan json;
BEGIN
    PERFORM legobase_drain();
    PERFORM legobase_reset_stats();
    EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || query INTO plan;
    blocks := (plan->0->'Plan'->>'Shared Read Blocks')::bigint + (plan->0->'Planning'->>'Shared Read Blocks')::bigint;
    SELECT remote_hits + comm_buffer_hits, storage_reads FROM legobase_summary INTO remote, storage;
END
$$;

-- The first time much comes from storage, and is pushed. Pushes may be dropped, so it can take some scans until all is remote.
SELECT blocks > 3000 AS many, remote + storage = blocks AS exact
  FROM count_reads('SELECT sum(a) FROM legobase_large');
SELECT blocks > 3000 AS many, remote + storage = blocks AS exact
  FROM count_reads('SELECT sum(a) FROM legobase_large');
DO $$
BEGIN
    FOR i IN 1..300 LOOP
        EXIT WHEN (SELECT storage FROM count_reads('SELECT sum(a) FROM legobase_large')) = 0;
    END LOOP;
END
$$;
SELECT blocks > 3000 AS many, remote = blocks AS all_remote, storage
  FROM count_reads('SELECT sum(a) FROM legobase_large');

-- The same figures everywhere
SELECT hit_ratio, remote_hits > 3000 AS many FROM legobase_summary;
SELECT sum(i.reads) = max(s.remote_hits + s.comm_buffer_hits + s.storage_reads) AS tiers,
       sum(i.reads) FILTER (WHERE i.tier = 'remote') = max(s.remote_hits) AS remote,
       sum(i.read_time) > 0 AS time_passes
  FROM legobase_stat_io i, legobase_summary s;
SELECT i.tier FROM legobase_stat_io i
 WHERE i.reads <> (SELECT coalesce(sum(l.count), 0) FROM legobase_latency l WHERE l.tier = i.tier);
SELECT sum(l.count) > 0 AS some, sum(l.count) <= max(s.remote_hits) AS not_more, bool_and(l.transport = n.transport) AS transport
  FROM legobase_latency l JOIN legobase_nodes n USING (node_id), legobase_summary s WHERE l.tier = 'node';
SELECT count(*) FROM legobase_latency WHERE (tier = 'node') = (node_id IS NULL) OR (node_id IS NULL) <> (transport IS NULL);
SELECT sum(n.reads) = max(s.remote_hits) AS reads, bool_and(n.read_p50_us > 0 AND n.read_p50_us <= n.read_p99_us) AS percentiles
  FROM legobase_nodes n, legobase_summary s;

-- With the comparison to the file: the same, and no difference
SET legobase.debug_compare = on;
SELECT blocks > 3000 AS many, remote = blocks AS all_remote, storage
  FROM count_reads('SELECT sum(a) FROM legobase_large');
RESET legobase.debug_compare;
SELECT compare_mismatches, checksum_failures FROM legobase_summary;

-- Each block of the table is remote at most once; evicted, all of them are gone, and the next scan reads the file.
SELECT count(*) AS pages, count(DISTINCT (relforknumber, relblocknumber)) = count(*) AS each_once,
       bool_and(state = 'remote' AND pins = 0) AS at_rest
  FROM legobase_pages
 WHERE reltablespace = 1663 AND relfilenode = pg_relation_filenode('legobase_large')
   AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) \gset
SELECT :'each_once' AS each_once, :'at_rest' AS at_rest, :pages >= 3000 AS many;
SELECT legobase_evict('legobase_large') = :pages AS all_of_them;
SELECT legobase_evict('legobase_large') AS nothing_left;
SELECT blocks > 3000 AS many, remote, storage = blocks AS all_from_storage
  FROM count_reads('SELECT sum(a) FROM legobase_large');

-- Everything that was queued has been published. (The agent counts a moment later than it publishes.)
DO $$
BEGIN
    PERFORM legobase_drain();
    FOR i IN 1..1000 LOOP
        PERFORM FROM legobase_stat_io c, legobase_stat_io r
          WHERE c.tier = 'comm_buffer' AND r.tier = 'remote' AND c.writes = r.writes;
        EXIT WHEN FOUND;
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
SELECT c.writes > 0 AS some, c.writes = r.writes AS all_published, n.pushes = s.pushed_pages AS by_node, s.pushed_pages = r.writes AS same
  FROM legobase_stat_io c, legobase_stat_io r, legobase_summary s, (SELECT sum(pushes) AS pushes FROM legobase_nodes) n
 WHERE c.tier = 'comm_buffer' AND r.tier = 'remote';

-- Other ways to read, each of another part of the table: these leave what they read in shared_buffers.
SET enable_seqscan = off;
SET enable_indexscan = off;
SET effective_io_concurrency = 10;
SELECT blocks > 1000 AS many, remote + storage = blocks AS exact
  FROM count_reads('SELECT sum(length(b)) FROM legobase_large WHERE a % 10 = 3 AND a < 20000');
RESET enable_indexscan;
SET enable_bitmapscan = off;
SELECT blocks > 1000 AS many, remote + storage = blocks AS exact
  FROM count_reads('SELECT sum(length(b.b)) FROM generate_series(20000, 48000, 7) i JOIN legobase_large b ON b.a = i');
RESET enable_bitmapscan;
RESET enable_seqscan;

-- Writes: the file, and the copy.
SELECT legobase_reset_stats();
UPDATE legobase_large SET a = a WHERE a < 100;
CHECKPOINT;
SELECT legobase_drain();
SELECT tier, writes > 0 AS written, write_time > 0 AS time_passes FROM legobase_stat_io;

-- What is dropped is gone from remote memory too.
SELECT pg_relation_filenode('legobase_large') AS filenode \gset
DROP TABLE legobase_large;
SELECT count(*) FROM legobase_pages WHERE relfilenode = :filenode;
DROP FUNCTION count_reads;
ALTER SYSTEM RESET autovacuum;
SELECT pg_reload_conf();
