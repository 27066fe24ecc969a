//! Query subscriptions: what users asked to be told of, kept in the database, with the rows that meet it now.
//!
//! Invariants: a query is bound to its kind, its filter and the users who made it; of each user there is a bounded number,
//! and what nobody uses is forgotten. A page of rows and the position beside it come from one statement (rule 4), and a
//! page looks at a bounded number of rows. Nothing of a filter becomes SQL text: fields and values are bound.
//!
//! Not here: telling changes (`topics`), and what a filter means (`dzvin_protocols::entities`).

mod condition;
mod http;
mod known;
mod snapshot;
mod store;
mod used;

pub use condition::push_condition;
pub(super) use condition::{anchors, push_ranges};
pub use http::{Listeners, MAX_QUERY_BODY, router};
pub use snapshot::QueryPage;
pub use store::{KEPT_DAYS, MAX_PER_USER, QueryRefusal, QueryRow, StoredQueries};
