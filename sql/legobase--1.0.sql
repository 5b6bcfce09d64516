/* sql/legobase--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION legobase" to load this file. \quit

CREATE FUNCTION legobase_summary(
    OUT write_mode text,
    OUT nodes_total integer,
    OUT nodes_up integer,
    OUT pool_pages bigint,
    OUT used_pages bigint,
    OUT dirty_pages bigint,
    OUT remote_hits bigint,
    OUT comm_buffer_hits bigint,
    OUT storage_reads bigint,
    OUT hit_ratio double precision,
    OUT pushed_pages bigint,
    OUT dropped_pushes bigint,
    OUT evicted_pages bigint,
    OUT checksum_failures bigint,
    OUT compare_mismatches bigint,
    OUT stats_reset timestamp with time zone,
    OUT written_back bigint,
    OUT fences bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'legobase_summary'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 1;

CREATE FUNCTION legobase_nodes(
    OUT node_id integer,
    OUT uri text,
    OUT transport text,
    OUT state text,
    OUT incarnation text,
    OUT capacity_pages bigint,
    OUT used_pages bigint,
    OUT dirty_pages bigint,
    OUT reads bigint,
    OUT read_p50_us double precision,
    OUT read_p99_us double precision,
    OUT pushes bigint,
    OUT push_messages bigint,
    OUT work_requests bigint,
    OUT doorbells bigint,
    OUT completions bigint,
    OUT tcp_fallbacks bigint,
    OUT last_error text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'legobase_nodes'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 4;

CREATE FUNCTION legobase_stat_io(
    OUT tier text,
    OUT reads bigint,
    OUT read_time double precision,
    OUT writes bigint,
    OUT write_time double precision,
    OUT kernel_cache_reads bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'legobase_stat_io'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 3;

CREATE FUNCTION legobase_checkpoints(
    OUT tier integer,
    OUT lsn pg_lsn,
    OUT lag bigint,
    OUT count bigint,
    OUT last_time timestamp with time zone,
    OUT lag_pages bigint,
    OUT lag_bytes bigint,
    OUT pages_per_second double precision,
    OUT seconds_left double precision,
    OUT waiting boolean,
    OUT wait_time double precision,
    OUT failures bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'legobase_checkpoints'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 2;

CREATE FUNCTION legobase_recovery(
    OUT pool_state text,
    OUT nodes_asked integer,
    OUT nodes_kept integer,
    OUT pages_listed bigint,
    OUT pages_kept bigint,
    OUT pages_dirty bigint,
    OUT pages_discarded bigint,
    OUT blocks_extended bigint,
    OUT tier1_lsn pg_lsn,
    OUT reload_started timestamptz,
    OUT reload_time double precision,
    OUT redo_state text,
    OUT redo_records bigint,
    OUT redo_skipped bigint,
    OUT redo_bytes bigint,
    OUT redo_bytes_skipped bigint,
    OUT redo_compared bigint,
    OUT redo_different bigint,
    OUT redo_start_lsn pg_lsn,
    OUT redo_end_lsn pg_lsn,
    OUT redo_started timestamptz,
    OUT redo_time double precision)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'legobase_recovery'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 1;

CREATE FUNCTION legobase_warm_up(
    OUT state text,
    OUT pages_listed bigint,
    OUT pages_read bigint,
    OUT pages_present bigint,
    OUT pages_skipped bigint,
    OUT percent double precision,
    OUT started timestamptz,
    OUT finished timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'legobase_warm_up'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 1;

CREATE FUNCTION legobase_pages(
    OUT reltablespace oid,
    OUT reldatabase oid,
    OUT relfilenode oid,
    OUT relforknumber smallint,
    OUT relblocknumber bigint,
    OUT node_id integer,
    OUT slab bigint,
    OUT page bigint,
    OUT version bigint,
    OUT usage integer,
    OUT pins integer,
    OUT state text,
    OUT dirty boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'legobase_pages'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 16384;

CREATE FUNCTION legobase_latency(
    OUT tier text,
    OUT node_id integer,
    OUT transport text,
    OUT le_us double precision,
    OUT count bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'legobase_latency'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 50;

CREATE FUNCTION legobase_reset_stats()
RETURNS void
AS 'MODULE_PATHNAME', 'legobase_reset_stats'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE;

CREATE FUNCTION legobase_drain()
RETURNS void
AS 'MODULE_PATHNAME', 'legobase_drain'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE;

CREATE FUNCTION legobase_evict(relation regclass)
RETURNS bigint
AS 'MODULE_PATHNAME', 'legobase_evict'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE;

CREATE VIEW legobase_summary AS SELECT * FROM legobase_summary();
CREATE VIEW legobase_nodes AS SELECT * FROM legobase_nodes();
CREATE VIEW legobase_stat_io AS SELECT * FROM legobase_stat_io();
CREATE VIEW legobase_checkpoints AS SELECT * FROM legobase_checkpoints();
CREATE VIEW legobase_recovery AS SELECT * FROM legobase_recovery();
CREATE VIEW legobase_warm_up AS SELECT * FROM legobase_warm_up();
CREATE VIEW legobase_pages AS SELECT * FROM legobase_pages();
CREATE VIEW legobase_latency AS SELECT * FROM legobase_latency();

-- A function in a view runs with the rights of whoever reads the view: those who may read the views need both.
REVOKE ALL ON FUNCTION legobase_summary() FROM PUBLIC;
REVOKE ALL ON FUNCTION legobase_nodes() FROM PUBLIC;
REVOKE ALL ON FUNCTION legobase_stat_io() FROM PUBLIC;
REVOKE ALL ON FUNCTION legobase_checkpoints() FROM PUBLIC;
REVOKE ALL ON FUNCTION legobase_recovery() FROM PUBLIC;
REVOKE ALL ON FUNCTION legobase_warm_up() FROM PUBLIC;
REVOKE ALL ON FUNCTION legobase_pages() FROM PUBLIC;
REVOKE ALL ON FUNCTION legobase_latency() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION legobase_summary() TO pg_monitor;
GRANT EXECUTE ON FUNCTION legobase_nodes() TO pg_monitor;
GRANT EXECUTE ON FUNCTION legobase_stat_io() TO pg_monitor;
GRANT EXECUTE ON FUNCTION legobase_checkpoints() TO pg_monitor;
GRANT EXECUTE ON FUNCTION legobase_recovery() TO pg_monitor;
GRANT EXECUTE ON FUNCTION legobase_warm_up() TO pg_monitor;
GRANT EXECUTE ON FUNCTION legobase_pages() TO pg_monitor;
GRANT EXECUTE ON FUNCTION legobase_latency() TO pg_monitor;

REVOKE ALL ON legobase_summary, legobase_nodes, legobase_stat_io, legobase_checkpoints, legobase_recovery, legobase_warm_up,
    legobase_pages, legobase_latency FROM PUBLIC;
GRANT SELECT ON legobase_summary, legobase_nodes, legobase_stat_io, legobase_checkpoints, legobase_recovery, legobase_warm_up,
    legobase_pages, legobase_latency TO pg_monitor;

-- What acts on the server is for superusers, and for whoever they grant it to.
REVOKE ALL ON FUNCTION legobase_reset_stats() FROM PUBLIC;
REVOKE ALL ON FUNCTION legobase_drain() FROM PUBLIC;
REVOKE ALL ON FUNCTION legobase_evict(regclass) FROM PUBLIC;
