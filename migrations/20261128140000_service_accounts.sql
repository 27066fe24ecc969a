-- Callers that are programs, and the tokens by which they are known. Of a token only its hash is stored; its id is in the token,
-- is shown, and is what revocations name.
CREATE TABLE service_accounts (
    name        text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9-]{0,40}$'),
    roles       text[] NOT NULL,
    description text NOT NULL DEFAULT '' CHECK (octet_length(description) <= 2000),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  text NOT NULL,
    -- A name is never used again: what was done under it is its own.
    disabled_at timestamptz
);

CREATE TABLE api_tokens (
    id           text COLLATE "C" PRIMARY KEY,
    account      text COLLATE "C" NOT NULL REFERENCES service_accounts (name),
    label        text NOT NULL CHECK (octet_length(label) <= 400),
    -- SHA-256 of the whole token: it has 256 bits of chance in it, so nothing slower is needed.
    digest       bytea NOT NULL,
    -- Of what the account's roles grant only this; empty: all of it.
    scopes       text[] NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    created_by   text NOT NULL,
    expires_at   timestamptz NOT NULL,
    -- To the minute or so: every use would be a write.
    last_used_at timestamptz,
    revoked_at   timestamptz
);
CREATE INDEX api_tokens_account ON api_tokens (account, created_at);
-- What has ended long ago and can go.
CREATE INDEX api_tokens_expires_at ON api_tokens (expires_at);
