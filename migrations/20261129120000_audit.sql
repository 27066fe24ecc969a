-- Who did what, and what was refused. A deed's row is written in the transaction of the deed, so neither is there without the other.
-- Rows are only ever added, and removed by age: in small deletes along the primary key, for they are few beside the change log.
CREATE TABLE audit (
    at       timestamptz NOT NULL DEFAULT now(),
    id       bigint GENERATED ALWAYS AS IDENTITY,
    node     text NOT NULL,
    -- Of the request, as in the logs; none on a client connection.
    request  text,
    address  text COLLATE "C",
    -- Empty: nobody knows who it was.
    "user"   text COLLATE "C" NOT NULL,
    -- The id by which the token may be revoked, never the token.
    token    text COLLATE "C",
    action   text COLLATE "C" NOT NULL,
    object   text COLLATE "C" NOT NULL,
    -- `done`, or the code by which it was refused.
    outcome  text COLLATE "C" NOT NULL,
    -- Of HTTP; none on a client connection.
    status   smallint,
    revision bigint,
    -- How often, where refusals were folded.
    times    bigint NOT NULL DEFAULT 1,
    -- Under which number a node counts further ones into the row; only of what is not written with a deed.
    fold     bigint,
    PRIMARY KEY (at, id)
);
CREATE UNIQUE INDEX audit_fold ON audit (fold) WHERE fold IS NOT NULL;
-- For `GET /api/v1/audit`: each filter leads to its newest rows.
CREATE INDEX audit_user ON audit ("user", at, id);
CREATE INDEX audit_object ON audit (object, at, id);
CREATE INDEX audit_action ON audit (action, at, id);
CREATE INDEX audit_outcome ON audit (outcome, at, id);
CREATE INDEX audit_address ON audit (address, at, id) WHERE address IS NOT NULL;
