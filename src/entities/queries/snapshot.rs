//! The rows that meet a query, in pages, each with the position of the same snapshot.

use dzvin_actors::platform::ports::{Query, StoreError};
use dzvin_protocols::{
    channels::Position,
    entities::{Filter, Place},
};

use super::StoredQueries;
use crate::entities::{EntityRow, Filters, Listing};

/// A page of a query's rows.
#[derive(Debug, Clone)]
pub struct QueryPage {
    /// Newest change first.
    pub rows: Vec<EntityRow>,
    /// The stream's position in the snapshot of this page.
    pub position: Position,
    /// The next page has offsets below this one; `None` when this was the last.
    pub below: Option<u64>,
}

impl StoredQueries {
    /// Entities below an offset that meet the query, newest first; `None` when the kind has gone. Without what is in the
    /// trash, missing or purged.
    ///
    /// # Errors
    /// The database is away.
    pub async fn page(&self, query: &Query, below: Option<u64>, limit: u16) -> Result<Option<QueryPage>, StoreError> {
        self.page_seen(query, None, below, limit).await
    }

    /// The same, of the rows that meet `rows` as well: those that the caller sees.
    ///
    /// # Errors
    /// The database is away.
    pub async fn page_seen(
        &self,
        query: &Query,
        rows: Option<&Filter>,
        below: Option<u64>,
        limit: u16,
    ) -> Result<Option<QueryPage>, StoreError> {
        let (filters, after) = (Filters::new(), below.map(Place::Offset));
        let newest = Listing::newest(&filters, limit);
        let asked = Listing { filter: Some(&query.filter), rows, after: after.as_ref(), ..newest };
        let page = self.entities.list(&query.kind, asked).await?;
        Ok(page.map(|page| {
            let below = page.next.and_then(|place| if let Place::Offset(below) = place { Some(below) } else { None });
            QueryPage { rows: page.rows, position: page.position, below }
        }))
    }
}
