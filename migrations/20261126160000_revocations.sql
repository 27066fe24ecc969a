-- Tokens that are no longer good before their end: one by its id, those of a user made before a moment, all of a user.
-- Every change takes the next version while it holds the row of revocation_state until its commit, so whoever reads by
-- version misses none. What is lifted ends at once and keeps its row until every node has read it.
CREATE TABLE revocation_state (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL DEFAULT 0
);
INSERT INTO revocation_state DEFAULT VALUES;

CREATE TABLE revocations (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text COLLATE "C" NOT NULL CHECK (kind IN ('token', 'user', 'block')),
    -- The token's id, or the user.
    subject       text COLLATE "C" NOT NULL CHECK (octet_length(subject) BETWEEN 1 AND 256),
    -- Only tokens of the user made before it.
    issued_before timestamptz CHECK ((issued_before IS NOT NULL) = (kind = 'user')),
    -- NULL: never.
    expires_at    timestamptz,
    reason        text CHECK (octet_length(reason) <= 2000),
    created_at    timestamptz NOT NULL DEFAULT now(),
    created_by    text NOT NULL,
    version       bigint NOT NULL,
    UNIQUE (kind, subject)
);
-- What is new since a version.
CREATE INDEX revocations_version ON revocations (version);
-- What has ended and can go.
CREATE INDEX revocations_expires_at ON revocations (expires_at);
