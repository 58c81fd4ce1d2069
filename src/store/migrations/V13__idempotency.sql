-- The answers to requests that came with an Idempotency-Key: a request that is repeated with its key within 24 hours gets the
-- same answer, and is not carried out again. Written in the transaction of the request itself.
CREATE TABLE kept_answers (
    account_id text        NOT NULL,
    key        text        NOT NULL,
    -- A keyed hash of the method, the path and the body.
    request    bytea       NOT NULL,
    -- The body of the answer, with the character U+0001 in the place of the secret.
    answer     text        NOT NULL,
    webhook_id uuid        NOT NULL,
    -- The secret, in an envelope as webhooks.secret has it.
    secret     bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, key)
);

-- For what is past its 24 hours.
CREATE INDEX kept_answers_by_time ON kept_answers (created_at);
