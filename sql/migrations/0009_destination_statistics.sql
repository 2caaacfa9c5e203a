-- Statistics of destinations: what the replicas have sent, minute by minute, for the dashboard.

CREATE TABLE webhookd.destination_statistics (
    at          timestamptz NOT NULL,
    destination text        NOT NULL,
    measure     text        NOT NULL,
    counts      bigint[]    NOT NULL,
    PRIMARY KEY (at, destination, measure)
);
COMMENT ON TABLE webhookd.destination_statistics IS 'The counts of all replicas for each destination, by minutes, for two hours.';
COMMENT ON COLUMN webhookd.destination_statistics.at IS 'The beginning of the minute.';
COMMENT ON COLUMN webhookd.destination_statistics.counts IS
    'One number. For a latency: one number for each bucket of the histogram.';
