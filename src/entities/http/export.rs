//! Whole lists as a download, NDJSON or CSV, in constant memory: page after page is read when the client has taken the one before.
//!
//! Invariants: each page is a snapshot of its own, for one over the whole download would keep the database from clearing up; by
//! default the list stands by id, where nothing moves, so whatever is there from beginning to end is in it exactly once. Documents
//! are whole, however large; one that changes between the reading of its page and its own is told as it is then. What ends early
//! breaks the connection: a client that sees the end of the body has everything. The caller's right is looked at again before
//! whatever is read.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use dzvin_protocols::{
    entities::Fields,
    platform::{EntityId, Kind, time::rfc3339_millis},
};
use futures_util::stream;
use tokio::time::Instant;

use super::{find, list::ListQuery, write_item};
use crate::{
    entities::{Entities, EntityRow, cursor::Cursor, lens::Lens},
    identity::Token,
    platform::http::{AnswerRoom, DZVIN_POSITION, Problem},
};

/// Downloads of a node at once, one for each user: each keeps a connection of the readers busy, and a page in memory.
const MAX_EXPORTS: usize = 4;
/// Rows that are read at a time: at most 6.4 MB of documents that stand in lists.
const PAGE: u16 = 200;
/// Longest download: whoever takes a few bytes now and then must not keep the place for good.
const LONGEST: Duration = Duration::from_secs(3600);
/// A piece of the answer is sent when it is so large.
const PIECE: usize = 64 * 1024;

/// Who is downloading. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Exports(Arc<Mutex<HashSet<Arc<str>>>>);

/// A place for a download, given back however it ends.
struct Place {
    of: Exports,
    user: Arc<str>,
}

impl Exports {
    /// # Errors
    /// 503 `too_many_exports`.
    fn place(&self, user: &Arc<str>) -> Result<Place, Problem> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= MAX_EXPORTS || !users.insert(Arc::clone(user)) {
            let detail = format!("a user has one download of a list at a time, and a node {MAX_EXPORTS} of all users");
            return Err(Problem::unavailable("too_many_exports", detail));
        }
        Ok(Place { of: self.clone(), user: Arc::clone(user) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.user);
    }
}

/// How a download is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A line of JSON for each entity, as in a list.
    Ndjson,
    /// RFC 4180, for programs.
    Csv,
    /// For the spreadsheet of an office: it opens UTF-8 by the mark at the beginning, splits at semicolons where numbers have commas, and
    /// runs no text as a formula.
    CsvExcel,
}

impl Format {
    /// # Errors
    /// 400 for a word that is none; `None` is a page of JSON.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, Problem> {
        match text {
            "json" => Ok(None),
            "ndjson" => Ok(Some(Self::Ndjson)),
            "csv" => Ok(Some(Self::Csv)),
            "csv-excel" => Ok(Some(Self::CsvExcel)),
            _ => Err(Problem::bad_request("bad_parameter", "format is json, ndjson, csv or csv-excel")),
        }
    }

    /// What `Accept` names first, where that is one of these.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let first = headers.get(header::ACCEPT)?.to_str().ok()?.split([',', ';']).next()?.trim();
        match first {
            "application/x-ndjson" => Some(Self::Ndjson),
            "text/csv" => Some(Self::Csv),
            _ => None,
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv | Self::CsvExcel => "text/csv; charset=utf-8; header=present",
        }
    }

    const fn extension(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv | Self::CsvExcel => "csv",
        }
    }
}

/// A download as it is asked for.
pub(super) struct Export {
    pub(super) entities: Entities,
    pub(super) kind: Kind,
    pub(super) lens: Lens,
    pub(super) asked: ListQuery,
    pub(super) format: Format,
    pub(super) token: Token,
    pub(super) user: Arc<str>,
}

/// A download under way.
struct Running {
    export: Export,
    room: AnswerRoom,
    columns: Vec<String>,
    /// What is read and not written yet.
    rows: VecDeque<EntityRow>,
    last: bool,
    out: Vec<u8>,
    until: Instant,
    _place: Place,
}

impl Export {
    /// The answer, with its first page read: what is wrong with the request is told as such.
    ///
    /// # Errors
    /// As of a list, and 503 `too_many_exports`.
    pub(super) async fn start(mut self, exports: &Exports, room: AnswerRoom) -> Result<Response, Problem> {
        let place = exports.place(&self.user)?;
        self.asked.by_pages_of(PAGE);
        let (format, name) = (self.format, format!("{}.{}", self.kind, self.format.extension()));
        let columns = self.columns();
        let mut running = Running {
            export: self,
            room,
            columns,
            rows: VecDeque::new(),
            last: false,
            out: Vec::new(),
            until: Instant::now() + LONGEST,
            _place: place,
        };
        let position = running.read().await?;
        running.begin()?;
        let pieces = stream::try_unfold(running, |mut running| async move {
            let piece = running.piece().await.map_err(Problem::break_off)?;
            Ok::<_, std::io::Error>(piece.map(|piece| (piece, running)))
        });
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(format.media_type())),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (header::CONTENT_DISPOSITION, value(&format!("attachment; filename=\"{name}\""))?),
            (DZVIN_POSITION, value(&position)?),
        ];
        Ok((headers, Body::from_stream(pieces)).into_response())
    }

    /// The fields that are columns: those that were asked for, else those that the kind declares.
    fn columns(&self) -> Vec<String> {
        if let Some(named) = &self.asked.named {
            return named.clone();
        }
        let declared = self.entities.spec(&self.kind).map(|spec| spec.fields().to_vec()).unwrap_or_default();
        declared.into_iter().filter(|field| self.lens.shows(field)).collect()
    }
}

fn value(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text).map_err(Problem::internal)
}

impl Running {
    /// Reads the next page; answers the position of its snapshot.
    async fn read(&mut self) -> Result<String, Problem> {
        self.still_may().await?;
        let Export { entities, kind, lens, asked, .. } = &mut self.export;
        let page = asked.page(entities, kind, lens).await?;
        let position = lens.position(page.position);
        self.last = page.next.is_none();
        asked.cursor = page.next.map(|place| Cursor { place, position: position.clone() });
        self.rows = page.rows.into();
        Ok(format!("{}.{}", position.epoch, position.offset))
    }

    /// What stands before the first row.
    fn begin(&mut self) -> Result<(), Problem> {
        if self.export.format == Format::Ndjson {
            return Ok(());
        }
        if self.export.format == Format::CsvExcel {
            self.out.extend_from_slice("\u{feff}".as_bytes());
        }
        let names = FIXED.into_iter().map(str::to_owned).chain(self.columns.clone()).collect();
        self.record(names)
    }

    /// The next piece of the answer; `None`: that was all.
    async fn piece(&mut self) -> Result<Option<Bytes>, Problem> {
        while self.out.len() < PIECE {
            match self.rows.pop_front() {
                Some(row) if row.doc.is_some() || row.purged => self.write(&row)?,
                // A large document is a piece of its own, which holds the room that it takes.
                Some(row) if !self.out.is_empty() => {
                    self.rows.push_front(row);
                    break;
                }
                Some(row) => {
                    if let Some(piece) = self.large(row).await? {
                        return Ok(Some(piece));
                    }
                }
                None if self.last => break,
                None => drop(self.read().await?),
            }
        }
        Ok((!self.out.is_empty()).then(|| std::mem::take(&mut self.out).into()))
    }

    /// The row with its document, written; `None` when it has left the list meanwhile.
    async fn large(&mut self, row: EntityRow) -> Result<Option<Bytes>, Problem> {
        self.still_may().await?;
        let Export { entities, kind, lens, asked, .. } = &self.export;
        let Ok(id) = EntityId::new(&row.id) else { return Ok(None) };
        let mut size = row.size;
        let (row, room) = loop {
            // As it comes from the database, as text, while something is taken out, and in the answer.
            let room = self.room.take(4 * usize::try_from(size).unwrap_or_default()).await?;
            let Some((row, _)) = find(entities, lens, kind, &id, &[], size).await? else { return Ok(None) };
            if row.doc.is_some() || row.purged {
                break (row, room);
            }
            // It has grown.
            size = row.size;
        };
        if !asked.shows(&row) {
            return Ok(None);
        }
        self.write(&row)?;
        Ok(Some(room.lend(std::mem::take(&mut self.out))))
    }

    /// # Errors
    /// Those of a request whose right has ended, or shows something else by now; and 503 when it takes too long.
    async fn still_may(&self) -> Result<(), Problem> {
        let Export { entities, kind, lens, token, .. } = &self.export;
        if Instant::now() >= self.until {
            return Err(Problem::unavailable("request_timeout", format!("a download has {LONGEST:?} at most")));
        }
        let identity = token.identity().await?;
        let now = Lens::seen_by(&identity.permissions, &identity.user, entities, kind);
        if !identity.permissions.may_read(kind) || now.mark() != lens.mark() {
            return Err(Problem::forbidden(format_args!("entities:read:{kind}")));
        }
        Ok(())
    }

    fn write(&mut self, row: &EntityRow) -> Result<(), Problem> {
        let Export { kind, lens, format, .. } = &self.export;
        if *format == Format::Ndjson {
            write_item(&mut self.out, kind, row, lens);
            self.out.push(b'\n');
            return Ok(());
        }
        let doc = row.doc.as_deref().map(|doc| lens.seen(doc)).unwrap_or_default();
        let fields = Fields::of(&doc);
        let cell = |name: &String| {
            let scalar = fields.scalar_at(name).map(std::borrow::Cow::into_owned);
            // An object or a list is its JSON.
            scalar
                .or_else(|| fields.value_at(name).filter(|json| *json != "null").map(str::to_owned))
                .unwrap_or_default()
        };
        let fixed = [row.id.clone(), row.revision.to_string(), rfc3339_millis(row.at), row.by.clone()];
        let cells = fixed.into_iter().chain(self.columns.iter().map(cell)).collect();
        self.record(cells)
    }

    fn record(&mut self, mut cells: Vec<String>) -> Result<(), Problem> {
        let excel = self.export.format == Format::CsvExcel;
        if excel {
            cells.iter_mut().filter(|cell| is_formula(cell)).for_each(|cell| cell.insert(0, '\''));
        }
        let mut writer = csv::WriterBuilder::new()
            .delimiter(if excel { b';' } else { b',' })
            .terminator(csv::Terminator::CRLF)
            .from_writer(&mut self.out);
        writer.write_record(&cells).and_then(|()| writer.flush().map_err(Into::into)).map_err(Problem::internal)
    }
}

/// The columns that every kind has.
const FIXED: [&str; 4] = ["id", "revision", "at", "by"];

/// Whether a spreadsheet would calculate instead of showing (OWASP, "CSV Injection"). A number is one.
fn is_formula(cell: &str) -> bool {
    cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spreadsheet_calculates_nothing() {
        for (cell, formula) in [
            ("=1+1", true),
            ("-2+3", true),
            ("@SUM(1)", true),
            ("\t=1", true),
            ("-904.24", false),
            ("+380", false),
            ("текст", false),
            ("", false),
        ] {
            assert_eq!(is_formula(cell), formula, "{cell}");
        }
    }

    #[test]
    fn the_format_is_named_or_accepted() {
        assert_eq!(Format::parse("csv").expect("a format"), Some(Format::Csv));
        assert_eq!(Format::parse("json").expect("a format"), None);
        assert_eq!(Format::parse("xlsx").expect_err("none").code(), "bad_parameter");
        let accepted = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(text))]);
            Format::accepted(&headers)
        };
        assert_eq!(accepted("text/csv, */*;q=0.1"), Some(Format::Csv));
        assert_eq!(accepted("application/x-ndjson"), Some(Format::Ndjson));
        assert_eq!(accepted("application/json, text/csv"), None);
    }
}
