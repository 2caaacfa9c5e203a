-- name: storage_state()
-- Returns what the gauges of storage show: the kind of each value, the name of its table, and the value. The sizes (bytes) come from the
-- files, and no row is read. `default` is the size of the rows outside every partition. The lag (seconds) is NaN if the role may not see
-- it: pg_stat_replication shows the details only to members of pg_read_all_stats. The number of standbys is visible to every role.
SELECT 'table' AS kind, t.name, pg_total_relation_size(format('webhookd.%I', t.name)::regclass)::float8 AS value
FROM unnest(ARRAY['ledger', 'work', 'quarantine']) AS t (name)
UNION ALL
SELECT 'table', parent, sum(pg_total_relation_size(child::regclass))::float8 FROM webhookd.partitions GROUP BY parent
UNION ALL
SELECT 'default', t.name, pg_relation_size(format('webhookd.%I', t.name || '_default')::regclass)::float8
FROM unnest(ARRAY['bodies', 'audit']) AS t (name)
UNION ALL
SELECT 'database', '', pg_database_size(current_database())::float8
UNION ALL
SELECT 'standbys', '', count(*)::float8 FROM pg_stat_replication
UNION ALL
SELECT 'lag', '', CASE WHEN count(*) = count(state) THEN coalesce(max(extract(epoch FROM replay_lag)), 0)::float8 ELSE 'NaN' END
FROM pg_stat_replication;
