//! JSON text to XML, member by member as it is written.

use std::borrow::Cow;

use super::{MAX_XML_DEPTH, NAMESPACE, is_char};
use crate::entities::raw::{distinct, items, space, unquote, value_end};

/// The XML of a JSON text that has passed a parser; `None` when it has not, or is nested deeper than [`MAX_XML_DEPTH`].
#[must_use]
pub fn to_xml(json: &str) -> Option<String> {
    let mut out = String::with_capacity(json.len() * 2);
    out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let bytes = json.as_bytes();
    let start = space(bytes, 0);
    let end = value_end(bytes, start);
    if space(bytes, end) != bytes.len() {
        return None;
    }
    write(&mut out, Key::Root, json.get(start..end)?, 0)?;
    Some(out)
}

/// Under what a value stands.
#[derive(Clone, Copy)]
enum Key<'a> {
    /// Under nothing: it is the whole.
    Root,
    /// In an array.
    Item,
    /// Under a name, with its quotes.
    Name(&'a str),
}

fn write(out: &mut String, key: Key<'_>, json: &str, depth: usize) -> Option<()> {
    if depth > MAX_XML_DEPTH {
        return None;
    }
    match json.as_bytes().first()? {
        b'{' => {
            open(out, "map", key);
            let mut any = false;
            for (_, name, value) in distinct(json)? {
                between(out, &mut any);
                write(out, Key::Name(name), value, depth + 1)?;
            }
            // An object that could not be walked to its end has members that were not read.
            (any || is_empty(json)).then_some(())?;
            close(out, "map", any);
        }
        b'[' => {
            open(out, "array", key);
            let mut any = false;
            for item in items(json)? {
                between(out, &mut any);
                write(out, Key::Item, item, depth + 1)?;
            }
            close(out, "array", any);
        }
        b'"' => {
            open(out, "string", key);
            match plain(json) {
                Some(text) => {
                    out.push('>');
                    escape(out, &text);
                }
                None => {
                    out.push_str(" escaped=\"true\">");
                    escape_escaped(out, inner(json));
                }
            }
            out.push_str("</string>");
        }
        b't' | b'f' => leaf(out, "boolean", key, Some(json)),
        b'n' => leaf(out, "null", key, None),
        b'-' | b'0'..=b'9' => leaf(out, "number", key, Some(json)),
        _ => return None,
    }
    Some(())
}

/// What a string says, where XML has all its characters.
fn plain(quoted: &str) -> Option<Cow<'_, str>> {
    unquote(quoted).filter(|text| text.chars().all(is_char))
}

/// A string without its quotes.
fn inner(quoted: &str) -> &str {
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default()
}

fn is_empty(object: &str) -> bool {
    let bytes = object.as_bytes();
    bytes.get(space(bytes, 1)) == Some(&b'}')
}

/// The first child ends its parent's tag.
fn between(out: &mut String, any: &mut bool) {
    if !std::mem::replace(any, true) {
        out.push('>');
    }
}

fn close(out: &mut String, element: &str, any: bool) {
    if any {
        out.push_str("</");
        out.push_str(element);
        out.push('>');
    } else {
        out.push_str("/>");
    }
}

fn leaf(out: &mut String, element: &str, key: Key<'_>, text: Option<&str>) {
    open(out, element, key);
    if let Some(text) = text {
        out.push('>');
        escape(out, text);
    }
    close(out, element, text.is_some());
}

fn open(out: &mut String, element: &str, key: Key<'_>) {
    out.push('<');
    out.push_str(element);
    match key {
        Key::Root => {
            out.push_str(" xmlns=\"");
            out.push_str(NAMESPACE);
            out.push('"');
        }
        Key::Item => {}
        Key::Name(name) => {
            match plain(name) {
                Some(text) => {
                    out.push_str(" key=\"");
                    escape(out, &text);
                }
                None => {
                    out.push_str(" escaped-key=\"true\" key=\"");
                    escape_escaped(out, inner(name));
                }
            }
            out.push('"');
        }
    }
}

/// Text of elements and attributes alike; white space that a reader would change as references.
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\t' => out.push_str("&#x9;"),
            '\n' => out.push_str("&#xA;"),
            '\r' => out.push_str("&#xD;"),
            c => out.push(c),
        }
    }
}

/// Text that is escaped as in JSON already: what XML does not have is escaped so as well.
fn escape_escaped(out: &mut String, text: &str) {
    let mut units = [0; 2];
    for c in text.chars() {
        if is_char(c) {
            escape(out, c.encode_utf8(&mut [0; 4]));
        } else {
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}
