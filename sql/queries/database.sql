-- name: identify()^
-- Which database this is, and which migrations it has. Its timeline (the first eight digits of a WAL file's name) is part of
-- what it is: a promoted replica or a restored backup may lack commits that Redis was told of before.
SELECT
    md5((SELECT id::text FROM instance) || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::uuid AS instance,
    (SELECT array_agg(migration_id::text) FROM public._pogo_migration) AS migrations,
    current_setting('synchronous_commit') AS synchronous_commit,
    clock_timestamp() AS now;

-- name: lock_migrations()$
-- Tries, and does not wait: to wait is to hold a snapshot, for whose end the making of an index CONCURRENTLY would wait.
SELECT pg_try_advisory_lock(hashtext('webhookd migrations'));

-- name: unlock_migrations()$
SELECT pg_advisory_unlock(hashtext('webhookd migrations'));

-- name: prove_writable()!
-- Fails where the server takes no writes: a replica, a full disk.
UPDATE instance SET created_at = created_at;

-- name: applied_migrations()$
SELECT array_agg(migration_id::text) FROM public._pogo_migration;

-- name: server_state()^
-- What the doctor looks at first, while the schema may be missing.
SELECT
    current_setting('server_version') AS version,
    current_setting('server_version_num')::integer AS version_number,
    current_setting('synchronous_commit') AS synchronous_commit,
    extract(epoch FROM clock_timestamp())::float8 AS epoch;

-- name: take_duty(name, holder, seconds)$
-- Takes or keeps a duty for `seconds`, well under ten minutes; true where it is this holder's now. One that is held for longer
-- was taken by a clock that has been put back since.
INSERT INTO duties AS d (name, holder, held_until)
VALUES (:name, :holder::uuid, now() + make_interval(secs => :seconds::float8))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
WHERE d.holder = excluded.holder OR d.held_until < now() OR d.held_until > now() + interval '10 minutes'
RETURNING true;
