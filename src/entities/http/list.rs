//! `GET /api/v1/entities/{kind}`: what is asked of a list, and a page of it. Whole lists as a download are in `export`.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    http::HeaderMap,
    response::Response,
};
use dzvin_protocols::{
    channels::Position,
    entities::{Filter, MAX_SOUGHT, Order, Projection, Words},
    platform::Kind,
};
use serde::Serialize;

use super::{
    DEFAULT_LIMIT, Pairs, Served, bad,
    expand::Expansion,
    export::{Export, Format},
    json, limit, readable, unknown_kind, write_item,
};
use crate::{
    entities::{
        Entities, EntityRow, Filters, ListPage, Listing, MAX_EXPANDED, Search, Trash,
        cursor::{Cursor, Cursors},
        lens::Lens,
        query::INLINE,
    },
    identity::{Caller, Token},
    platform::http::Problem,
};

#[derive(Serialize)]
struct Foot {
    next: Option<String>,
    position: Position,
    channel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<i64>,
}

pub(super) async fn list(
    State(Served { entities, room, exports, .. }): State<Served>,
    Path(kind): Path<String>,
    Query(pairs): Pairs,
    caller: Caller,
    token: Token,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let kind = readable(&caller, &kind)?;
    let lens = Lens::of(&caller, &entities, &kind);
    let mut asked = ListQuery::parse(&entities, &kind, pairs, &lens, Format::accepted(&headers))?;
    let expand =
        asked.expand.take().map(|names| Expansion::parse(&entities, &kind, &names, &lens, &caller)).transpose()?;
    let lens = lens.asking(asked.fields.take());
    if let Some(format) = asked.format {
        let user = Arc::clone(&caller.user);
        return Export { entities, kind, lens, asked, format, token, user }.start(&exports, room).await;
    }
    // What it may come to; what it has come to is held from then on.
    let others = if expand.is_some() { MAX_EXPANDED } else { 0 };
    let room = room.take((usize::from(asked.limit) + others) * INLINE as usize).await?;
    let page = asked.page(&entities, &kind, &lens).await?;
    // Over pages the first one's position counts: what changed since is told to whoever attaches there.
    let position = asked.cursor.map_or_else(|| lens.position(page.position), |cursor| cursor.position);
    let cursor = page.next.map(|place| Cursor { place, position: position.clone() });
    let next = cursor.and_then(|cursor| entities.cursors().write(&kind, &asked.order, &cursor));

    let mut out = b"{\"items\":[".to_vec();
    for (n, row) in page.rows.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write_item(&mut out, &kind, row, &lens);
    }
    out.extend_from_slice(b"],");
    if let Some(expand) = expand {
        out.extend_from_slice(b"\"expanded\":");
        out.extend(expand.of(&entities, &caller, &lens, &page.rows).await?);
        out.push(b',');
    }
    let foot = Foot { next, position, channel: kind.stream().to_string(), total: page.total };
    out.extend_from_slice(serde_json::to_vec(&foot).unwrap_or_default().get(1..).unwrap_or_default());
    Ok(json(room.lend(out)))
}

/// What is asked of a list.
pub(super) struct ListQuery {
    filters: Filters,
    filter: Option<Filter>,
    trash: Trash,
    pub(super) order: Order,
    pub(super) cursor: Option<Cursor>,
    limit: u16,
    total: bool,
    /// Which fields of the documents.
    fields: Option<Projection>,
    /// The same, as they were named.
    pub(super) named: Option<Vec<String>>,
    format: Option<Format>,
    /// Which references are followed.
    expand: Option<String>,
    search: Option<Search>,
}

impl ListQuery {
    /// `accepted`: the format where no parameter names one.
    fn parse(
        entities: &Entities,
        kind: &Kind,
        pairs: Vec<(String, String)>,
        lens: &Lens,
        accepted: Option<Format>,
    ) -> Result<Self, Problem> {
        let mut asked = Self {
            filters: Filters::new(),
            filter: None,
            trash: Trash::default(),
            order: Order::NEWEST,
            cursor: None,
            limit: DEFAULT_LIMIT,
            total: false,
            fields: None,
            named: None,
            format: accepted,
            expand: None,
            search: None,
        };
        let (mut cursor, mut sort) = (None, None);
        for (name, value) in pairs {
            match name.as_str() {
                "limit" => asked.limit = limit(&value)?,
                "cursor" => cursor = Some(value),
                "total" => asked.total = value.parse().map_err(|_| bad("total", &value))?,
                "filter" => asked.filter = Some(filter(entities, kind, &value, lens)?),
                "sort" => sort = Some(value),
                "trash" => asked.trash = trash(&value)?,
                "fields" => {
                    asked.fields = Some(Projection::parse(&value).ok_or_else(|| bad("fields", &value))?);
                    asked.named = Some(value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect());
                }
                "q" => asked.search = Some(search(entities, kind, &value, lens)?),
                "expand" => asked.expand = Some(value),
                "format" => asked.format = Format::parse(&value)?,
                _ => asked.equal(entities, kind, name, value, lens)?,
            }
        }
        if let Some(sort) = sort {
            asked.order = order(entities, kind, &sort, lens)?;
        } else if asked.format.is_some() {
            asked.order = Order::BY_ID;
        }
        let read = |text: String| read_cursor(entities.cursors(), kind, &asked.order, &text);
        asked.cursor = cursor.map(read).transpose()?;
        Ok(asked)
    }

    fn equal(&mut self, on: &Entities, kind: &Kind, name: String, value: String, lens: &Lens) -> Result<(), Problem> {
        may_ask(on, kind, &name, lens)?;
        // What the database refuses in text matches nothing that it holds.
        if value.contains('\0') {
            return Err(bad("filter", &name));
        }
        if self.filters.contains_key(&name) {
            return Err(Problem::bad_request("repeated_field", format!("{name} is given twice")));
        }
        self.filters.insert(name, value.into());
        Ok(())
    }

    /// The same for one who takes all of it, page by page.
    pub(super) fn by_pages_of(&mut self, limit: u16) {
        // Nobody is told how many there are.
        (self.limit, self.total) = (limit, false);
    }

    /// Whether an entity belongs to it as far as its trash goes.
    pub(super) fn shows(&self, row: &EntityRow) -> bool {
        match self.trash {
            Trash::Include => true,
            Trash::Only => row.trashed_at.is_some() && !row.purged,
            Trash::Exclude => row.trashed_at.is_none() && row.missing_since.is_none() && !row.purged,
        }
    }

    /// The page that is asked for.
    ///
    /// # Errors
    /// 404 `unknown_kind`, 409 `field_pending`.
    pub(super) async fn page(&self, entities: &Entities, kind: &Kind, lens: &Lens) -> Result<ListPage, Problem> {
        let listing = Listing {
            filters: &self.filters,
            filter: self.filter.as_ref(),
            rows: lens.rows(),
            search: self.search.as_ref(),
            trash: self.trash,
            order: &self.order,
            after: self.cursor.as_ref().map(|cursor| &cursor.place),
            limit: self.limit,
            total: self.total,
        };
        let page = entities.list(kind, listing).await?.ok_or_else(|| unknown_kind(kind))?;
        if let Some(field) = page.pending.first() {
            // A field of the row filter may be hidden itself.
            let plain = lens.shows(field) && !field.contains(char::is_control);
            let field = if plain { field.as_str() } else { "a field" };
            let detail = format!("{field} was declared lately and is being derived from the documents; try again");
            return Err(Problem::conflict("field_pending", detail));
        }
        Ok(page)
    }
}

fn read_cursor(cursors: &Cursors, kind: &Kind, order: &Order, text: &str) -> Result<Cursor, Problem> {
    cursors.read(kind, order, text).ok_or_else(|| {
        Problem::bad_request(
            "bad_parameter",
            "cursor: it is none of this list; it goes with the kind and the sort it came from",
        )
    })
}

fn trash(value: &str) -> Result<Trash, Problem> {
    match value {
        "exclude" => Ok(Trash::Exclude),
        "include" => Ok(Trash::Include),
        "only" => Ok(Trash::Only),
        _ => Err(Problem::bad_request("bad_parameter", "trash is exclude, include or only")),
    }
}

fn filter(entities: &Entities, kind: &Kind, text: &str, lens: &Lens) -> Result<Filter, Problem> {
    let filter = Filter::parse(text).map_err(|error| Problem::bad_request("bad_filter", error.to_string()))?;
    filter.fields().into_iter().try_for_each(|field| may_ask(entities, kind, field, lens))?;
    Ok(filter)
}

/// # Errors
/// 400 `unknown_search` where nothing is searched, 403 `hidden_field` where something hidden would be.
fn search(entities: &Entities, kind: &Kind, text: &str, lens: &Lens) -> Result<Search, Problem> {
    let unknown = |detail: String| Problem::bad_request("unknown_search", detail);
    let spec = entities.spec(kind);
    let texts = spec.as_ref().map(|spec| spec.declaration.text.as_slice()).unwrap_or_default();
    texts.iter().try_for_each(|field| lens.may_search(field))?;
    let words = Words::parse(text).ok_or_else(|| unknown(format!("q has 1 to {MAX_SOUGHT} words")))?;
    let search = spec.and_then(|spec| Search::of(&spec, &words));
    search.ok_or_else(|| unknown(format!("no texts of {kind} are declared, so nothing is searched by words")))
}

/// # Errors
/// 400 `unknown_field` for what is not declared, 403 `hidden_field` for what is hidden.
fn may_ask(entities: &Entities, kind: &Kind, field: &str, lens: &Lens) -> Result<(), Problem> {
    let spec = entities.spec(kind);
    let declared = spec.as_ref().map(|spec| spec.fields()).unwrap_or_default();
    if declared.iter().any(|it| it == field) {
        return lens.may_filter(field);
    }
    let shown: Vec<&str> = declared.iter().map(String::as_str).filter(|field| lens.shows(field)).collect();
    let detail = format!("{field:.80} is not a declared field of {kind}; those are: {}", shown.join(", "));
    Err(Problem::bad_request("unknown_field", detail))
}

fn order(entities: &Entities, kind: &Kind, text: &str, lens: &Lens) -> Result<Order, Problem> {
    let spec = entities.spec(kind);
    let sorts = spec.as_ref().map(|spec| &spec.declaration.sorts);
    let Some(order) = Order::parse(text, |field| sorts.and_then(|sorts| sorts.get(field)).copied()) else {
        let fields = sorts.into_iter().flat_map(|sorts| sorts.keys()).map(String::as_str);
        let all: Vec<&str> = Order::BUILT_IN.into_iter().chain(fields.filter(|field| lens.shows(field))).collect();
        let detail =
            format!("{kind} is not sorted by {text:.80}, but by: {}; with - before it descending", all.join(", "));
        return Err(Problem::bad_request("unknown_sort", detail));
    };
    order.field().map_or(Ok(()), |field| lens.may_filter(field))?;
    Ok(order)
}
