-- name: identify()^
-- Identifies the database, and lists its migrations. A promoted replica or a restored backup may lack commits that Redis already knows.
-- So each of them must count as another instance. Both run in another server process, which began at another time. A dump that was
-- restored on the same server made another table. Every role may read these values. A question about the WAL is no alternative, because
-- not every provider answers it.
-- The first eight digits are those of the installation's random id, which stays the same for life and is restored with the database. So
-- `webhookd recover` finds what Redis remembers of this installation from before a recovery.
SELECT
    (left((SELECT id FROM webhookd.instance)::text, 8) || right(md5(concat_ws(
        ' ',
        (SELECT id FROM webhookd.instance),
        extract(epoch FROM pg_postmaster_start_time()),
        (SELECT oid FROM pg_database WHERE datname = current_database()),
        'webhookd.instance'::regclass::oid
    )), 24))::uuid AS instance,
    (SELECT array_agg(id) FROM webhookd.applied_migrations) AS migrations,
    current_setting('synchronous_commit') AS synchronous_commit,
    pg_backend_pid() AS backend,
    clock_timestamp() AS now;

-- name: backend()$
SELECT pg_backend_pid();

-- name: lock_migrations()$
-- Tries to take the lock, and does not wait. A session that waits holds a snapshot, and CREATE INDEX CONCURRENTLY in another session
-- would wait for the end of that snapshot.
SELECT pg_try_advisory_lock(hashtext('webhookd.applied_migrations'));

-- name: prove_writable()!
-- Fails if the server takes no writes: a replica, or a server whose disk is full.
UPDATE webhookd.instance SET created_at = created_at;

-- name: applied_migrations()$
SELECT array_agg(id) FROM webhookd.applied_migrations;

-- name: schema_state(schema, names)^
-- Returns whether the schema exists, what the role may do there, and which of the relations `names` exist already. The statement reads
-- the catalog, because to_regclass fails for a role that may not look into the schema.
-- `former` is true if the schema public has tables of release 0.2. Only the view webhookd_partitions marks these tables.
SELECT
    n.oid IS NOT NULL AS exists,
    has_database_privilege(current_database(), 'CREATE') AS may_make_schema,
    coalesce(has_schema_privilege(n.oid, 'CREATE'), false) AS may_make_tables,
    coalesce(
        has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(
            (SELECT oid FROM pg_class WHERE relnamespace = n.oid AND relname = 'applied_migrations'), 'SELECT'
        ), false
    ) AS may_read,
    EXISTS (
        SELECT FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = n.oid AND c.relname = 'applied_migrations' AND a.attname = 'applied_at'
    ) AS migrated,
    ARRAY(SELECT relname::text FROM pg_class WHERE relnamespace = n.oid AND relname = ANY(:names::text[]) ORDER BY relname) AS taken,
    EXISTS (SELECT FROM pg_views WHERE schemaname = 'public' AND viewname = 'webhookd_partitions') AS former,
    current_user::text AS role,
    (SELECT source = 'default' FROM pg_settings WHERE name = 'search_path') AS default_path,
    :schema::text = ANY(current_schemas(false)) AS is_on_path,
    current_database()::text AS database
FROM (SELECT (SELECT oid FROM pg_namespace WHERE nspname = :schema::text) AS oid) AS n;

-- name: make_migrations_table()!
CREATE TABLE webhookd.applied_migrations (
    id         text        PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: note_migration(id)!
INSERT INTO webhookd.applied_migrations (id) VALUES (:id);

-- name: limit_session(lock, statement, local)$
-- Sets how long a statement may wait for a lock, and how long it may take, as PostgreSQL writes times. If `local` is true, the limits
-- hold in this transaction only.
SELECT set_config('lock_timeout', :lock::text, :local::boolean), set_config('statement_timeout', :statement::text, :local::boolean);

-- name: in_the_way(waiting)
-- Returns the sessions for which the session `waiting` waits. Sessions that do not wait for a lock themselves come first. The pid 0 is a
-- prepared transaction. The texts of the sessions' queries are not read, because they may hold customer data.
SELECT
    b.pid,
    coalesce(s.backend_type, '') AS kind,
    coalesce(s.application_name, '') AS application,
    coalesce(s.usename::text, '') AS role,
    coalesce(s.state, '') AS state,
    extract(epoch FROM clock_timestamp() - s.xact_start)::float8 AS seconds
FROM (SELECT DISTINCT unnest(pg_blocking_pids(:waiting::integer)) AS pid) AS b
LEFT JOIN pg_stat_activity s ON s.pid = b.pid
ORDER BY s.wait_event_type = 'Lock', s.xact_start, b.pid;

-- name: server_state()^
-- Returns what the doctor looks at first, when the schema may be missing.
SELECT
    current_setting('server_version') AS version,
    current_setting('server_version_num')::integer AS version_number,
    current_setting('synchronous_commit') AS synchronous_commit,
    pg_backend_pid() AS backend,
    extract(epoch FROM clock_timestamp())::float8 AS epoch,
    least(
        current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
        - coalesce(current_setting('reserved_connections', true)::integer, 0),  -- from PostgreSQL 16 on
        nullif(r.rolconnlimit, -1),
        nullif(d.datconnlimit, -1)
    ) AS connections
FROM pg_catalog.pg_roles AS r, pg_catalog.pg_database AS d
WHERE r.rolname = session_user AND d.datname = current_database();

-- name: take_duty(name, holder, seconds)$
-- Takes or keeps a duty for `seconds`, well under ten minutes. Returns true if this holder has the duty now. If the time of a duty ends
-- more than ten minutes from now, a clock that has been put back since set this time. Then another holder may take the duty.
INSERT INTO webhookd.duties AS d (name, holder, held_until)
VALUES (:name, :holder::uuid, now() + make_interval(secs => :seconds::float8))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
WHERE d.holder = excluded.holder OR d.held_until < now() OR d.held_until > now() + interval '10 minutes'
RETURNING true;
