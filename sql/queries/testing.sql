-- Statements of users' tests of their handlers, in a transaction that is rolled back.

-- name: lock_trials()$
-- Holds for the transaction. Trials insert the same kinds of events, and none commits: side by side, they could deadlock.
SELECT pg_advisory_xact_lock(hashtext('webhookd.trials'));

-- name: wait_for_people()!
-- For this transaction, lets the session stay idle: a debugger may hold a handler for longer than the daemon allows.
SET LOCAL idle_in_transaction_session_timeout = 0;

-- name: limits()^
SELECT current_setting('lock_timeout') AS lock, current_setting('statement_timeout') AS statement;

-- name: lock_timeout()$
-- Returns the present lock timeout. A fold sets a short one for the rest of its transaction.
SELECT current_setting('lock_timeout');

-- name: restore_lock_timeout(value)$
SELECT set_config('lock_timeout', :value, true);

-- name: check_constraints()!
-- Checks the deferred constraints now, as a commit does.
SET CONSTRAINTS ALL IMMEDIATE;

-- name: users_tables(schema, own)
-- Returns the tables that are not webhookd's, and that the role may read: each name as it must stand in a statement.
-- own: the names of webhookd's tables in the schema; their partitions are webhookd's, too. The schema can hold tables of a shop.
SELECT format('%I.%I', n.nspname, c.relname) AS name
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_t%'
    AND NOT (n.nspname = :schema AND (c.relname = ANY(:own::text[]) OR EXISTS (
        SELECT FROM pg_inherits i
        JOIN pg_class parent ON parent.oid = i.inhparent
        WHERE i.inhrelid = c.oid AND parent.relnamespace = c.relnamespace AND parent.relname = ANY(:own::text[])
    )))
    AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
ORDER BY name;
