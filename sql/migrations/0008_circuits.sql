-- The circuits of destinations: a destination that fails again and again gets probes only, until it accepts one.

-- One row for each destination that has failed. A destination without a row is well. The senders of all replicas share the rows.
CREATE TABLE webhookd.circuits (
    opened_at     timestamptz,
    closed_at     timestamptz,
    failing_since timestamptz,
    probe_at      timestamptz,
    probes        integer NOT NULL DEFAULT 0,
    released      integer NOT NULL DEFAULT 0,
    probing       boolean NOT NULL DEFAULT false,
    destination   text    PRIMARY KEY,
    failed        uuid[]  NOT NULL DEFAULT '{}'
) WITH (vacuum_truncate = off);
COMMENT ON TABLE webhookd.circuits IS 'The circuit of each destination that has failed: while the circuit is open, only probes are sent.';
COMMENT ON COLUMN webhookd.circuits.failed IS
    'The different events whose deliveries failed since the destination last gave a good answer. With five, the circuit opens. While it is '
    'open, up to 50: probes are other events, if there are any.';
COMMENT ON COLUMN webhookd.circuits.opened_at IS 'The time from which the circuit is open. NULL: the circuit is closed.';
COMMENT ON COLUMN webhookd.circuits.probe_at IS
    'Open: when the next probe may begin. A sender that takes a probe moves this time ahead, as a lease, so that there is one at a time. '
    'Closed: the time until which the last failed answers asked to wait.';
COMMENT ON COLUMN webhookd.circuits.probes IS 
    'How many probes have failed since the circuit opened. The count goes on if the circuit opens again within a minute.';
COMMENT ON COLUMN webhookd.circuits.closed_at IS 'When the circuit last closed. During the minute after that, the rate grows.';
COMMENT ON COLUMN webhookd.circuits.released IS 'How many deliveries the senders have taken since the circuit last closed, counted for a minute.';
COMMENT ON COLUMN webhookd.circuits.probing IS 'A probe is under way, and its result is not recorded.';
COMMENT ON COLUMN webhookd.circuits.failing_since IS 'Closed: when the circuit last opened, in case it opens again within a minute.';
