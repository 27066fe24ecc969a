//! Accounts and their tokens in the database.

use std::{future::Future, sync::Arc, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::identity::Permissions;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::{ApiToken, MAX_ACCOUNTS, MAX_TOKENS, known::Known, token, user_of};
use crate::{
    identity::{
        audit::{self, Deed, Who},
        revocations::RevocationStore,
    },
    platform::{
        db::{Database, store_error},
        http::chain,
    },
};

/// When tokens were used is written so often.
const USED: Duration = Duration::from_secs(30);
/// Tokens that ended so long ago are forgotten: until then whoever wonders finds them.
const FORGOTTEN: Duration = Duration::from_secs(90 * 24 * 3600);
/// Looks at the database at a time: whoever tries tokens must not take the connections of others.
const LOOKS: usize = 4;
const LOOKING: &str = "reading an API token";

/// An account.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) roles: Vec<String>,
    pub(super) description: String,
    pub(super) created_at: OffsetDateTime,
    pub(super) created_by: String,
    pub(super) disabled_at: Option<OffsetDateTime>,
}

/// A token as it is told.
#[derive(Debug, Clone)]
pub(super) struct TokenRow {
    pub(super) id: String,
    pub(super) label: String,
    pub(super) scopes: Vec<String>,
    pub(super) created_at: OffsetDateTime,
    pub(super) created_by: String,
    pub(super) expires_at: OffsetDateTime,
    pub(super) last_used_at: Option<OffsetDateTime>,
    pub(super) revoked_at: Option<OffsetDateTime>,
}

/// A token that somebody asks for.
pub(super) struct Wanted<'a> {
    pub(super) account: &'a str,
    pub(super) label: &'a str,
    pub(super) scopes: &'a [String],
    pub(super) expires_at: OffsetDateTime,
    pub(super) who: &'a Who,
}

/// Accounts and tokens of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Accounts {
    database: Database,
    revocations: RevocationStore,
    known: Known,
    looks: Arc<Semaphore>,
}

impl Accounts {
    /// Those of this database; what is taken back goes to the revocations.
    #[must_use]
    pub fn new(database: Database, revocations: RevocationStore) -> Self {
        Self { database, revocations, known: Known::default(), looks: Arc::new(Semaphore::new(LOOKS)) }
    }

    /// The token that this is, if it is one and its account is not disabled. Whether it has ended, or was revoked, the caller judges.
    pub(in crate::identity) async fn find(&self, token: &str) -> Result<Option<Arc<ApiToken>>, StoreError> {
        let Some(id) = token::id_of(token) else { return Ok(None) };
        let found = match self.known.fresh(id) {
            Some(known) => Some(known),
            None => self.look(id).await?,
        };
        Ok(found.filter(|it| token::is(token, &it.digest)))
    }

    async fn look(&self, id: &str) -> Result<Option<Arc<ApiToken>>, StoreError> {
        // Where the last look failed a moment ago, those who are known do not wait for the next one to fail.
        if let Some(known) = self.known.stale(id).filter(|_| self.known.failing()) {
            return Ok(Some(known));
        }
        let turn = self.looks.acquire().await;
        let _turn = turn.map_err(|closed| StoreError::Refused { doing: LOOKING, source: Box::new(closed) })?;
        match self.read(id).await {
            Ok(found) => {
                let found = found.map(Arc::new);
                self.known.put(id, found.as_ref());
                Ok(found)
            }
            Err(error) => {
                self.known.failed();
                self.known.stale(id).map(Some).ok_or(error)
            }
        }
    }

    /// Notes that a token was used.
    pub(in crate::identity) fn used(&self, token: &ApiToken) {
        self.known.use_at(&token.id, OffsetDateTime::now_utc());
    }

    async fn read(&self, id: &str) -> Result<Option<ApiToken>, StoreError> {
        let row = sqlx::query!(
            "SELECT t.digest, t.scopes, t.created_at, t.expires_at, a.name, a.roles
             FROM api_tokens t JOIN service_accounts a ON a.name = t.account
             WHERE t.id = $1 AND t.revoked_at IS NULL AND a.disabled_at IS NULL",
            id
        )
        .fetch_optional(self.database.pool())
        .await
        .map_err(store_error(LOOKING))?;
        let Some(row) = row else { return Ok(None) };
        let scopes = (!row.scopes.is_empty()).then(|| Permissions::parse(row.scopes.iter().map(String::as_str)));
        let scopes =
            scopes.transpose().map_err(|error| StoreError::Refused { doing: LOOKING, source: Box::new(error) })?;
        Ok(Some(ApiToken {
            id: id.into(),
            user: user_of(&row.name),
            roles: row.roles,
            scopes,
            digest: row.digest,
            created_at: row.created_at,
            expires_at: row.expires_at,
        }))
    }

    /// Writes down when tokens were used, until `stop` is done.
    pub async fn keep_used(self, stop: impl Future<Output = ()>) {
        let work = async {
            loop {
                tokio::time::sleep(USED).await;
                if let Err(error) = self.forget_ended().await {
                    tracing::warn!(error = chain(&error), "API tokens that ended long ago are not forgotten");
                }
                if let Err(error) = self.note_used().await {
                    tracing::warn!(error = chain(&error), "when API tokens were used is not written");
                }
            }
        };
        tokio::select! {
            () = stop => {}
            () = work => {}
        }
        // Those of the last half minute; what cannot be written any more is not worth waiting for.
        let _ = self.note_used().await;
    }

    async fn forget_ended(&self) -> Result<(), StoreError> {
        let ended = sqlx::query!(
            "DELETE FROM api_tokens WHERE expires_at < now() - make_interval(secs => $1)",
            FORGOTTEN.as_secs_f64()
        );
        ended.execute(self.database.pool()).await.map_err(store_error("forgetting API tokens")).map(drop)
    }

    async fn note_used(&self) -> Result<(), StoreError> {
        let mut used = self.known.take_used();
        if used.is_empty() {
            return Ok(());
        }
        // Locked in one order by every node.
        used.sort_unstable();
        let (ids, at): (Vec<String>, Vec<OffsetDateTime>) = used.iter().map(|(id, at)| (id.to_string(), *at)).unzip();
        let noted = sqlx::query!(
            "UPDATE api_tokens t SET last_used_at = GREATEST(t.last_used_at, u.at)
             FROM UNNEST($1::text[], $2::timestamptz[]) AS u (id, at) WHERE t.id = u.id",
            &ids,
            &at
        )
        .execute(self.database.pool())
        .await;
        if noted.is_err() {
            used.iter().for_each(|(id, at)| self.known.use_at(id, *at));
        }
        noted.map_err(store_error("noting the use of API tokens")).map(drop)
    }

    /// Makes an account. `None`: there is, or was, one of this name, or there are too many.
    pub(super) async fn create(
        &self,
        name: &str,
        roles: &[String],
        description: &str,
        who: &Who,
    ) -> Result<Option<Account>, StoreError> {
        let doing = "making a service account";
        let mut lent = self.database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        let made = sqlx::query_as!(
            Account,
            "INSERT INTO service_accounts (name, roles, description, created_by)
             SELECT $1, $2, $3, $4 WHERE (SELECT count(*) FROM service_accounts) < $5
             ON CONFLICT DO NOTHING RETURNING name, roles, description, created_at, created_by, disabled_at",
            name,
            roles,
            description,
            &*who.user,
            MAX_ACCOUNTS
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(store_error(doing))?;
        if made.is_some() {
            self.tell(&mut tx, who, Deed::new("accounts.create", name, 201)).await?;
            tx.commit().await.map_err(store_error(doing))?;
        }
        Ok(made)
    }

    async fn tell(&self, tx: &mut PgConnection, who: &Who, deed: Deed) -> Result<(), StoreError> {
        audit::write(tx, self.database.node(), who, &[deed]).await.map_err(store_error("telling the audit"))
    }

    /// All accounts, or that of a name.
    pub(super) async fn list(&self, name: Option<&str>) -> Result<Vec<Account>, StoreError> {
        sqlx::query_as!(
            Account,
            "SELECT name, roles, description, created_at, created_by, disabled_at FROM service_accounts
             WHERE $1::text IS NULL OR name = $1 ORDER BY name",
            name
        )
        .fetch_all(self.database.for_readers().pool())
        .await
        .map_err(store_error("listing service accounts"))
    }

    /// Disables an account for good. False: there is none.
    pub(super) async fn disable(&self, name: &str, who: &Who) -> Result<bool, StoreError> {
        let doing = "disabling a service account";
        let mut lent = self.database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        let done = sqlx::query!(
            "UPDATE service_accounts SET disabled_at = COALESCE(disabled_at, now()) WHERE name = $1",
            name
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error(doing))?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        self.tell(&mut tx, who, Deed::new("accounts.delete", name, 204)).await?;
        tx.commit().await.map_err(store_error(doing))?;
        drop(lent);
        // Should this fail, whoever asks again does both again.
        self.revocations.block(&user_of(name), "service account disabled", &who.user).await?;
        Ok(true)
    }

    /// Makes a token; answers its row and its text. `None`: there is no such account, or it has too many.
    pub(super) async fn issue(&self, wanted: Wanted<'_>) -> Result<Option<(TokenRow, String)>, StoreError> {
        let (fresh, doing) = (token::Fresh::new(), "making an API token");
        let mut lent = self.database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        let row = sqlx::query_as!(
            TokenRow,
            "INSERT INTO api_tokens (id, account, label, digest, scopes, created_by, expires_at)
             SELECT $1, a.name, $3, $4, $5, $6, $7 FROM service_accounts a
             WHERE a.name = $2 AND a.disabled_at IS NULL AND (SELECT count(*) FROM api_tokens t
                 WHERE t.account = a.name AND t.expires_at > now()) < $8
             RETURNING id, label, scopes, created_at, created_by, expires_at, last_used_at, revoked_at",
            fresh.id,
            wanted.account,
            wanted.label,
            &fresh.digest[..],
            wanted.scopes,
            &*wanted.who.user,
            wanted.expires_at,
            MAX_TOKENS
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(store_error(doing))?;
        if row.is_some() {
            let object = format!("{}/{}", wanted.account, fresh.id);
            self.tell(&mut tx, wanted.who, Deed::new("tokens.create", object, 201)).await?;
            tx.commit().await.map_err(store_error(doing))?;
        }
        Ok(row.map(|row| (row, fresh.text)))
    }

    /// An account's tokens, those that are good first, then the newest.
    pub(super) async fn tokens(&self, account: &str) -> Result<Vec<TokenRow>, StoreError> {
        sqlx::query_as!(
            TokenRow,
            "SELECT id, label, scopes, created_at, created_by, expires_at, last_used_at, revoked_at FROM api_tokens
             WHERE account = $1 ORDER BY (revoked_at IS NULL AND expires_at > now()) DESC, created_at DESC LIMIT 500",
            account
        )
        .fetch_all(self.database.for_readers().pool())
        .await
        .map_err(store_error("listing API tokens"))
    }

    /// Takes a token back. False: the account has no such token.
    pub(super) async fn take_back(&self, account: &str, id: &str, who: &Who) -> Result<bool, StoreError> {
        let doing = "taking an API token back";
        let mut lent = self.database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        let expires_at = sqlx::query_scalar!(
            "UPDATE api_tokens SET revoked_at = COALESCE(revoked_at, now()) WHERE account = $1 AND id = $2 RETURNING expires_at",
            account,
            id
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(store_error(doing))?;
        let Some(expires_at) = expires_at else { return Ok(false) };
        self.tell(&mut tx, who, Deed::new("tokens.delete", format!("{account}/{id}"), 204)).await?;
        tx.commit().await.map_err(store_error(doing))?;
        drop(lent);
        // Sessions that live on it hear of it; should this fail, whoever asks again does both again.
        self.revocations.take_back(id, expires_at, "API token taken back", &who.user).await?;
        Ok(true)
    }
}
