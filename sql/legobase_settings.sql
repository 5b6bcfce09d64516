-- The parameters legobase.*: defaults, limits, what is refused and how.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS legobase;
RESET client_min_messages;

-- legobase.fault_points exists in builds for tests only.
SELECT name, boot_val, unit, context, vartype, min_val, max_val, enumvals
  FROM pg_settings WHERE name LIKE 'legobase.%' AND name <> 'legobase.fault_points' ORDER BY name COLLATE "C";

-- Refused values: SQLSTATE 22023 for what has no meaning, 42602 for unknown names, 55P02 for what needs a restart
\set VERBOSITY sqlstate
SET legobase.read_ahead_pages = 65;
SET legobase.read_ahead_pages = -1;
SET legobase.kernel_cache_reads = 'sometimes';
SET legobase.debug_compare = 'perhaps';
SET legobase.no_such_setting = 1;
SET legobase.memory_nodes = 'embedded';
SET legobase.embedded_memory = '1GB';
SET legobase.max_remote_pool_size = '1GB';
SET legobase.remote_pool_size = '64MB';
SET legobase.node_timeout = '2s';
SET legobase.write_mode = 'writethrough';
SET legobase.fence_command = 'true';
ALTER SYSTEM SET legobase.write_mode = 'sometimes';
ALTER SYSTEM SET legobase.node_timeout = '5ms';
ALTER SYSTEM SET legobase.node_timeout = 'soon';
ALTER SYSTEM SET legobase.remote_pool_size = '1 bushel';
ALTER SYSTEM SET legobase.embedded_memory = '1MB';
ALTER SYSTEM SET legobase.memory_nodes = '';

-- Addresses: each message names what is wrong
\set VERBOSITY default
ALTER SYSTEM SET legobase.memory_nodes = 'localhost:9876';
ALTER SYSTEM SET legobase.memory_nodes = 'tcp://localhost';
ALTER SYSTEM SET legobase.memory_nodes = 'tcp://localhost:0';
ALTER SYSTEM SET legobase.memory_nodes = 'tcp://localhost:65536';
ALTER SYSTEM SET legobase.memory_nodes = 'tcp://*:9876';
ALTER SYSTEM SET legobase.memory_nodes = 'tcp://[::1:9876';
ALTER SYSTEM SET legobase.memory_nodes = 'shm://relative/path';
ALTER SYSTEM SET legobase.memory_nodes = 'rdma://localhost';
ALTER SYSTEM SET legobase.memory_nodes = 'tcp://a:1,tcp://a:1';
ALTER SYSTEM SET legobase.memory_nodes = 'tcp://a:1,,tcp://b:1';

-- What can't be understood in a command is found out now.
ALTER SYSTEM SET legobase.fence_command = 'fence --node %u --pid %q';
ALTER SYSTEM SET legobase.fence_command = '100%';
ALTER SYSTEM SET legobase.fence_command = 'fence %u %h %p 100%%';
ALTER SYSTEM RESET legobase.fence_command;

-- The server writes everything itself
ALTER SYSTEM SET legobase.write_mode = 'writethrough';
SELECT pg_reload_conf() \g /dev/null
DO $$
BEGIN
    FOR i IN 1..1000 LOOP
        PERFORM FROM legobase_summary WHERE dirty_pages = 0 AND write_mode = 'writethrough';
        EXIT WHEN FOUND;
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
SELECT write_mode, dirty_pages FROM legobase_summary;
ALTER SYSTEM RESET legobase.write_mode;
SELECT pg_reload_conf();

-- Accepted, but not in force before a restart
ALTER SYSTEM SET legobase.memory_nodes = 'tcp://127.0.0.1:9876, tcp://[::1]:9876, shm:///run/legobase.sock';
ALTER SYSTEM RESET legobase.memory_nodes;

-- For everybody, and for superusers only
CREATE ROLE regress_legobase_user;
SET ROLE regress_legobase_user;
SET legobase.read_ahead_pages = 0;
SHOW legobase.read_ahead_pages;
\set VERBOSITY sqlstate
SET legobase.debug_compare = on;
SET legobase.kernel_cache_reads = off;
\set VERBOSITY default
RESET legobase.read_ahead_pages;
RESET ROLE;
DROP ROLE regress_legobase_user;
SET legobase.debug_compare = on;
SET legobase.kernel_cache_reads = off;
RESET legobase.debug_compare;
RESET legobase.kernel_cache_reads;

-- The pool is resized, stopped and started again while the server runs. Sizes are those of whole slabs.
CREATE PROCEDURE wait_for_pool(pages bigint) LANGUAGE plpgsql AS
$$
BEGIN
    FOR i IN 1..1000 LOOP
        PERFORM FROM legobase_summary WHERE pool_pages = pages AND (pages > 0 OR used_pages = 0);
        EXIT WHEN FOUND;
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
CALL wait_for_pool(16384);
SELECT write_mode <> 'disabled' AS in_use, nodes_up, pool_pages FROM legobase_summary;
ALTER SYSTEM SET legobase.remote_pool_size = '64MB';
SELECT pg_reload_conf();
CALL wait_for_pool(8192);
SELECT write_mode <> 'disabled' AS in_use, pool_pages, used_pages <= pool_pages AS fits FROM legobase_summary;
ALTER SYSTEM SET legobase.remote_pool_size = 0;
SELECT pg_reload_conf();
CALL wait_for_pool(0);
SELECT write_mode, pool_pages, used_pages FROM legobase_summary;
SELECT count(*) FROM legobase_pages;
ALTER SYSTEM SET legobase.remote_pool_size = '1TB';
SELECT pg_reload_conf();
CALL wait_for_pool(16384);
SELECT write_mode <> 'disabled' AS in_use, pool_pages FROM legobase_summary;
ALTER SYSTEM RESET legobase.remote_pool_size;
SELECT pg_reload_conf();
DROP PROCEDURE wait_for_pool;
