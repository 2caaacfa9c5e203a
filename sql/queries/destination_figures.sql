-- Figures of destinations, for operators.

-- name: oldest_deliveries(names, most)
-- Returns for each destination since when its oldest deliveries wait and are retried, and when the first of its dead deliveries died. Looks
-- at up to `most` deliveries that wait and up to `most` that are retried, namely those that are due first. The oldest retry is not due
-- first, because the waits grow. So `most` must be as large as the counts of deliveries, which read as many rows.
SELECT
    n.name,
    (SELECT min(since) FROM (
        SELECT since FROM webhookd.deliveries WHERE destination = n.name AND status = 'waiting' ORDER BY due LIMIT :most
    ) AS first) AS waiting,
    (SELECT min(since) FROM (
        SELECT since FROM webhookd.deliveries WHERE destination = n.name AND status = 'retrying' ORDER BY due LIMIT :most
    ) AS first) AS retrying,
    (SELECT due FROM webhookd.deliveries WHERE destination = n.name AND status = 'dead' ORDER BY due LIMIT 1) AS dead
FROM unnest(:names::text[]) AS n (name);

-- name: add_destination_statistics(destinations, measures, counts)!
-- Adds the counts of a process to the present minute. `counts` are arrays as text.
INSERT INTO webhookd.destination_statistics AS s (at, destination, measure, counts)
SELECT webhookd.step(60, now()), destination, measure, counts::bigint[]
FROM unnest(:destinations::text[], :measures::text[], :counts::text[]) AS c (destination, measure, counts)
ORDER BY destination, measure
ON CONFLICT (at, destination, measure) DO UPDATE SET counts = webhookd.add_counts(s.counts, excluded.counts);

-- name: destination_statistics(seconds)
-- Returns the sums of the last `seconds`, bucket by bucket.
SELECT destination, measure, array_agg(count ORDER BY place) AS counts
FROM (
    SELECT destination, measure, place, sum(count)::bigint AS count
    FROM webhookd.destination_statistics CROSS JOIN LATERAL unnest(counts) WITH ORDINALITY AS c (count, place)
    WHERE at > now() - make_interval(secs => :seconds::float8)
    GROUP BY destination, measure, place
) AS sums
GROUP BY destination, measure;

-- name: remove_destination_statistics(age)!
DELETE FROM webhookd.destination_statistics WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM webhookd.destination_statistics
    WHERE at < now() - make_interval(secs => :age::float8)
    ORDER BY at, destination, measure
    FOR UPDATE SKIP LOCKED
));
