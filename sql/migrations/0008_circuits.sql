-- The circuits of destinations: a destination that fails again and again gets probes only, until it accepts one.

-- One row for each destination that has failed. A destination without a row is well. The senders of all replicas share the rows.
CREATE TABLE webhookd.circuits (
    opened_at   timestamptz,
    closed_at   timestamptz,
    probe_at    timestamptz,
    probes      integer NOT NULL DEFAULT 0,
    released    integer NOT NULL DEFAULT 0,
    destination text    PRIMARY KEY,
    last_error  text,
    failed      uuid[]  NOT NULL DEFAULT '{}'
) WITH (vacuum_truncate = off);
COMMENT ON TABLE webhookd.circuits IS 'The circuit of each destination that has failed: while the circuit is open, only probes are sent.';
COMMENT ON COLUMN webhookd.circuits.failed IS
    'The different events whose deliveries failed since the destination last gave a good answer. With five, the circuit opens.';
COMMENT ON COLUMN webhookd.circuits.opened_at IS 'The time from which the circuit is open. NULL: the circuit is closed.';
COMMENT ON COLUMN webhookd.circuits.probe_at IS
    'Open: when the next probe may begin. A sender that takes a probe moves this time ahead, as a lease, so that there is one at a time.';
COMMENT ON COLUMN webhookd.circuits.probes IS 'How many probes have failed since the circuit opened.';
COMMENT ON COLUMN webhookd.circuits.closed_at IS 'When the circuit last closed. During the minute after that, the rate grows.';
COMMENT ON COLUMN webhookd.circuits.released IS 'How many deliveries the senders have taken since the circuit last closed, counted for a minute.';
