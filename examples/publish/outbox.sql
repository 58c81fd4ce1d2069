CREATE TABLE articles (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account_id text NOT NULL, title text NOT NULL);

CREATE TABLE outbox (
    position     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           text NOT NULL UNIQUE DEFAULT 'evt_' || gen_random_uuid(), -- stays the same however often it is published
    type         text NOT NULL,
    account_id   text NOT NULL,
    occurred_at  timestamptz NOT NULL DEFAULT now(),
    data         json NOT NULL,
    published_at timestamptz,
    refused      text -- why no queue takes it: raise an alert
);
CREATE INDEX outbox_waiting ON outbox (position) WHERE published_at IS NULL AND refused IS NULL;
