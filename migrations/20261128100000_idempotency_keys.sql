-- Answers to changes that were asked for under an `Idempotency-Key`, written in the transaction of the change: whoever repeats
-- the request is told of it instead of changing anything twice. Ids and revisions, nothing of a document.
CREATE TABLE idempotency_keys (
    "user"      text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    -- Of the whole request: the same key with another request is a mistake.
    fingerprint bytea NOT NULL,
    -- Null only within the transaction that answers.
    answer      text,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY ("user", key)
);
CREATE INDEX idempotency_keys_at ON idempotency_keys (at);
