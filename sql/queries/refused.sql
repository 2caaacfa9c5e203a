-- name: add_refused(ids, ages, accounts, outcomes, statuses, paths, peers, forwarded, shapes, content_types, lengths, first_bytes, findings, likely)!
-- Stores samples of refused webhooks. Each webhook was refused `ages` seconds ago.
INSERT INTO webhookd.refused_webhooks (
    id, refused_at, account, outcome, status, path, peer, forwarded_for, header_shape, content_type, body_length, first_bytes, finding,
    likely
)
SELECT id, clock_timestamp() - make_interval(secs => age), account, outcome, status, path, peer, forwarded, shape, content_type, length,
    first, finding, likely
FROM unnest(
    :ids::uuid[], :ages::float8[], :accounts::text[], :outcomes::text[], :statuses::integer[], :paths::text[], :peers::text[],
    :forwarded::text[], :shapes::text[], :content_types::text[], :lengths::bigint[], :first_bytes::text[], :findings::text[],
    :likely::text[]
) AS s (id, age, account, outcome, status, path, peer, forwarded, shape, content_type, length, first, finding, likely);

-- name: trim_refused(accounts, outcomes, keep)!
-- Keeps `keep` samples for each account and outcome. Findings take turns, and within a finding the peers take turns. So a flood of one
-- finding or from one address removes its own samples first.
WITH by_peer AS (
    SELECT id, account, outcome, finding, refused_at,
        row_number() OVER (PARTITION BY account, outcome, finding, peer ORDER BY refused_at DESC, id) AS turn
    FROM webhookd.refused_webhooks
    WHERE account = ANY(:accounts::text[]) AND outcome = ANY(:outcomes::text[])
), by_finding AS (
    SELECT id, account, outcome, refused_at,
        row_number() OVER (PARTITION BY account, outcome, finding ORDER BY turn, refused_at DESC, id) AS turn
    FROM by_peer
), ranked AS (
    SELECT id, row_number() OVER (PARTITION BY account, outcome ORDER BY turn, refused_at DESC, id) AS place FROM by_finding
)
DELETE FROM webhookd.refused_webhooks
WHERE id IN (
    SELECT id FROM webhookd.refused_webhooks
    WHERE id = ANY(ARRAY(SELECT id FROM ranked WHERE place > :keep::integer))
    FOR UPDATE SKIP LOCKED
);

-- name: expire_refused(age)!
-- Removes the samples that are older than `age` seconds.
DELETE FROM webhookd.refused_webhooks
WHERE id IN (
    SELECT id FROM webhookd.refused_webhooks
    WHERE refused_at <= clock_timestamp() - make_interval(secs => :age::float8)
    FOR UPDATE SKIP LOCKED
);

-- name: list_refused(at, below, account, outcome, finding, limit)
-- Returns samples before a cursor, the newest first.
SELECT * FROM webhookd.refused_webhooks
WHERE (refused_at, id) < (:at::timestamptz, :below::uuid)
    AND (:account::text IS NULL OR account = :account)
    AND (:outcome::text IS NULL OR outcome = :outcome)
    AND (:finding::text IS NULL OR finding = :finding)
ORDER BY refused_at DESC, id DESC
LIMIT :limit;

-- name: refused_sample(id)^
-- Returns one sample.
SELECT * FROM webhookd.refused_webhooks WHERE id = :id::uuid;
