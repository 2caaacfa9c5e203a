-- A secret of the installation's own, by which dead-letter copies are proven.
-- depends: 0012_sessions

-- migrate: apply

CREATE TABLE secrets (
    name  text  PRIMARY KEY,
    value bytea NOT NULL
);
COMMENT ON TABLE secrets IS 'Random secrets that every replica shares. Whoever can read them can revive dead events by a message in the queue.';

-- gen_random_uuid() draws from the operating system's source of randomness: 244 bits here.
INSERT INTO secrets (name, value)
VALUES ('dead-letter copies', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- migrate: rollback

DROP TABLE secrets;
