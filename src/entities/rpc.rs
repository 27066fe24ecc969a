//! What clients may call (`rpc`) on their connection instead of over REST: one entity, and the kinds that there are.
//!
//! The same rights, masks and row filters as over REST, by the same code: what is not seen there is not there here. Nothing large
//! is answered: above the size of a publication's document a reference stands in its place.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use dzvin_actors::{
    channels::{Answered, Handler},
    platform::ports::{Identity, StoreError},
};
use dzvin_protocols::{
    channels::centrifuge::{ErrorCode, ReplyError},
    platform::{EntityId, Kind},
};
use futures_util::future::BoxFuture;
use serde::Deserialize;

use super::{
    Entities,
    http::{kind_items, write_item},
    lens::Lens,
    query::INLINE,
};

/// An entity that there is not, or that is not seen. The number is the methods' own, of those that the protocol leaves free.
const UNKNOWN_ENTITY: ReplyError<'static> = ReplyError { code: 404, message: "unknown entity", temporary: false };

/// What is asked of `entities.get`.
#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// The methods of entities.
#[must_use]
pub fn handlers(entities: &Entities) -> Vec<(&'static str, Handler)> {
    let (of_one, of_all) = (entities.clone(), entities.clone());
    let get: Handler = Arc::new(move |user: &Identity, data: Bytes| -> BoxFuture<'_, Answered> {
        Box::pin(one(of_one.clone(), user.clone(), data))
    });
    let kinds: Handler = Arc::new(move |user: &Identity, _: Bytes| -> BoxFuture<'_, Answered> {
        Box::pin(all_kinds(of_all.clone(), user.clone()))
    });
    vec![("entities.get", get), ("entities.kinds", kinds)]
}

/// `{"kind", "id"}`: the item as `GET /api/v1/entities/{kind}/{id}` has it, with `"ref": true` for a large document.
async fn one(entities: Entities, user: Identity, data: Bytes) -> Answered {
    let asked: Asked<'_> = serde_json::from_slice(&data).map_err(|_| ErrorCode::BadRequest)?;
    let kind = Kind::new(&asked.kind).map_err(|_| ErrorCode::BadRequest)?;
    if !user.permissions.may_read(&kind) {
        return Err(ErrorCode::PermissionDenied.into());
    }
    let id = EntityId::new(&asked.id).map_err(|_| UNKNOWN_ENTITY)?;
    let lens = Lens::seen_by(&user.permissions, &user.user, &entities, &kind);
    let row = match lens.rows() {
        None => entities.one(&kind, &id, &[], INLINE).await,
        Some(rows) => entities.one_seen(&kind, rows, &id, &[], INLINE).await,
    };
    let (row, _) = row.map_err(|error| away(&error))?.ok_or(UNKNOWN_ENTITY)?;
    let mut out = Vec::new();
    write_item(&mut out, &kind, &row, &lens);
    Ok(out.into())
}

/// The kinds that the user may read, as `GET /api/v1/kinds` has them.
async fn all_kinds(entities: Entities, user: Identity) -> Answered {
    let items = kind_items(&entities, &user.permissions, &user.user).await.map_err(|error| away(&error))?;
    let text = serde_json::to_vec(&serde_json::json!({ "items": items }));
    text.map(Bytes::from).map_err(|_| ErrorCode::Internal.into())
}

fn away(error: &StoreError) -> ReplyError<'static> {
    tracing::warn!(error = error as &dyn std::error::Error, "a method could not read what it was asked for");
    ErrorCode::Internal.into()
}
