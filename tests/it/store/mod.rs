//! The store on a real PostgreSQL.

mod apply;
mod derive;
mod leases;
mod log;
mod partitions;
mod plans;
mod queries;
mod rest;
mod review;

use std::{sync::Arc, time::Duration};

use dzvin::{
    entities::{Entities, KindSpec, Source},
    mirror::Mirrors,
    platform::{db::Database, lease::PgLeases},
};
use dzvin_actors::platform::ports::{Applied, ChangeLog, Lease, Leases, LogSlice, MirrorStore, ReadLimit, StoreError};
use dzvin_protocols::{
    mirror::{MirrorBatch, MirrorOp, VersionedDoc},
    platform::{EntityId, Kind},
};
use serde_json::value::RawValue;

use crate::support::{kinds, postgres::TestDb};

pub const ALL: ReadLimit = ReadLimit { count: 100_000, bytes: usize::MAX };

pub fn kind() -> Kind {
    Kind::new("procedure").expect("kind")
}

pub fn id(text: &str) -> EntityId {
    EntityId::new(text).expect("id")
}

pub fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("json")
}

#[expect(clippy::needless_pass_by_value, reason = "it is made for it everywhere")]
pub fn spec(kind: Kind) -> KindSpec {
    let spec = kinds::local(&kind, &["status", "value.amount"]);
    KindSpec { source: Source::Mirrored, mirror: Some("m".into()), version_paths: vec!["dateModified".into()], ..spec }
}

/// A document of the kind: status, amount, version.
pub fn upsert(id_: &str, version: &str, status: &str) -> MirrorOp {
    let doc =
        format!(r#"{{"_id":"{id_}","status":"{status}","value":{{"amount":904.240}},"dateModified":"{version}"}}"#);
    upsert_raw(id_, version, &doc)
}

pub fn upsert_raw(id_: &str, version: &str, doc: &str) -> MirrorOp {
    MirrorOp::Upsert(VersionedDoc::new(id(id_), version.to_owned(), raw(doc)))
}

pub fn batch(ops: Vec<MirrorOp>) -> MirrorBatch {
    MirrorBatch { ops, by: "mirror:m".into(), ..MirrorBatch::default() }
}

/// A store with one Mirror, opened under a lease.
pub struct Store {
    pub db: TestDb,
    pub database: Database,
    pub entities: Entities,
    pub mirrors: Mirrors,
    pub leases: PgLeases,
    pub lease: Lease,
}

impl Store {
    pub async fn new() -> Self {
        let db = TestDb::new().await;
        let database = db.database();
        let other = Kind::new("registry-object").expect("kind");
        let entities = Entities::open(database.clone(), vec![spec(kind()), spec(other)]).await.expect("kinds");
        let leases = PgLeases::new(database.clone(), Arc::from("node-a"));
        let lease = leases.acquire("mirror.m", Duration::from_secs(60)).await.expect("leases").expect("free");
        let mirrors = Mirrors::new(entities.clone());
        mirrors.open("m", &kind(), &lease).await.expect("open");
        Self { db, database, entities, mirrors, leases, lease }
    }

    pub async fn try_apply(&self, ops: Vec<MirrorOp>) -> Result<Applied, StoreError> {
        self.mirrors.apply("m", &kind(), &self.lease, batch(ops)).await
    }

    pub async fn apply(&self, ops: Vec<MirrorOp>) -> Applied {
        self.try_apply(ops).await.expect("applied")
    }

    pub async fn log(&self, after: u64) -> LogSlice {
        self.entities.read(&kind(), after, ALL).await.expect("read").expect("known kind")
    }

    /// `id revision op` of every change, in offset order; offsets are checked to be without gaps.
    pub async fn story(&self) -> Vec<String> {
        let slice = self.log(0).await;
        assert!(slice.complete && slice.position.offset == slice.changes.len() as u64, "{:?}", slice.position);
        for (n, change) in slice.changes.iter().enumerate() {
            assert_eq!(change.offset, n as u64 + 1);
        }
        slice.changes.iter().map(|c| format!("{} {} {}", c.id, c.revision, c.op.as_str())).collect()
    }

    pub async fn scalar<T>(&self, sql: &'static str) -> T
    where
        T: Send + Unpin + sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
    {
        sqlx::query_scalar(sql).fetch_one(self.database.pool()).await.expect(sql)
    }
}
