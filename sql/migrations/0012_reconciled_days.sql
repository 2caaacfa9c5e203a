-- The outcome of the scheduled reconciliation of each settlement day.

CREATE TABLE webhookd.reconciled_days (
    account     text        NOT NULL,
    day         date        NOT NULL,
    result      text        NOT NULL,
    differences integer     NOT NULL,
    reasons     integer     NOT NULL,
    as_of       timestamptz NOT NULL,
    since       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, day)
);
COMMENT ON TABLE webhookd.reconciled_days IS 'For alerts. A report is made anew for each reader, from the books as they are then.';
COMMENT ON COLUMN webhookd.reconciled_days.day IS 'The day in the account''s own time zone, by the settlement times of its batches.';
COMMENT ON COLUMN webhookd.reconciled_days.result IS 'green, differences or not known.';
COMMENT ON COLUMN webhookd.reconciled_days.reasons IS 'The number of reasons why the day is not known.';
COMMENT ON COLUMN webhookd.reconciled_days.since IS 'Since when the result is what it is.';
