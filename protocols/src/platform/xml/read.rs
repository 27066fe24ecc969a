//! XML to JSON text.

use std::collections::HashSet;

use quick_xml::{
    NsReader, XmlVersion,
    events::{BytesStart, Event},
    name::{Namespace, ResolveResult},
};

use super::{MAX_XML_DEPTH, NAMESPACE, is_char};

/// Why a text is not JSON in XML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// It is no XML.
    #[error("not well-formed at byte {at}: {what}")]
    Syntax {
        /// Where.
        at: u64,
        /// What the parser says.
        what: String,
    },
    /// It has a document type, or names an entity of its own.
    #[error("a document type, and entities other than the five of XML itself, are not read")]
    Entities,
    /// It is XML of something else.
    #[error("{what} at byte {at}; expected map, array, string, number, boolean and null of {NAMESPACE}")]
    Unexpected {
        /// Where.
        at: u64,
        /// What there is.
        what: String,
    },
    /// Deeper than [`MAX_XML_DEPTH`].
    #[error("nested deeper than {MAX_XML_DEPTH}")]
    Deep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Map,
    Array,
    String { escaped: bool },
    Number,
    Boolean,
    Null,
}

/// An element that is open.
struct Open {
    element: Element,
    /// Names of a map that were there already.
    names: HashSet<String>,
    /// How many children it has had.
    children: usize,
    /// Its text so far.
    text: String,
}

struct Reading<'a> {
    reader: NsReader<&'a [u8]>,
    stack: Vec<Open>,
    out: String,
    done: bool,
}

/// The JSON of a text in XML.
///
/// # Errors
/// [`XmlError`] says what and where.
pub fn from_xml(xml: &str) -> Result<String, XmlError> {
    let mut reader = NsReader::from_str(xml);
    let config = reader.config_mut();
    config.expand_empty_elements = true;
    config.check_comments = true;
    let mut reading = Reading { reader, stack: Vec::new(), out: String::with_capacity(xml.len()), done: false };
    while reading.step()? {}
    if reading.done { Ok(reading.out) } else { Err(reading.unexpected("the end")) }
}

impl Reading<'_> {
    fn at(&self) -> u64 {
        self.reader.buffer_position()
    }

    fn unexpected(&self, what: impl Into<String>) -> XmlError {
        let what: String = what.into();
        XmlError::Unexpected { at: self.at(), what: what.chars().take(100).collect() }
    }

    fn syntax(&self, error: impl std::fmt::Display) -> XmlError {
        XmlError::Syntax { at: self.at(), what: error.to_string().chars().take(200).collect() }
    }

    /// Reads one event; whether there may be more.
    fn step(&mut self) -> Result<bool, XmlError> {
        let (resolved, event) = match self.reader.read_resolved_event() {
            Ok((resolved, event)) => (matches!(resolved, ResolveResult::Bound(Namespace(NAMESPACE))), event),
            Err(error) => return Err(self.syntax(error)),
        };
        match event {
            Event::Start(start) if resolved => self.open(&start)?,
            Event::Start(start) => return Err(self.unexpected(format!("an element {}", start.name().0))),
            Event::End(_) => self.close()?,
            Event::Text(text) => self.text(&text.xml10_content())?,
            Event::CData(text) => self.text(&text.xml10_content())?,
            Event::GeneralRef(reference) => {
                let c = match reference.resolve_char_ref().map_err(|error| self.syntax(error))? {
                    Some(c) if is_char(c) => c,
                    Some(_) => return Err(self.syntax("a character that XML does not have")),
                    None => predefined(&reference).ok_or(XmlError::Entities)?,
                };
                self.referenced(c)?;
            }
            Event::DocType(_) => return Err(XmlError::Entities),
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return Ok(false),
        }
        Ok(true)
    }

    fn open(&mut self, start: &BytesStart<'_>) -> Result<(), XmlError> {
        if self.done {
            return Err(self.unexpected("a second element"));
        }
        if self.stack.len() > MAX_XML_DEPTH {
            return Err(XmlError::Deep);
        }
        let (mut key, mut escaped, mut escaped_key) = (None, false, false);
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| self.syntax(error))?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| self.syntax(error))?;
            match attribute.key.0 {
                "key" => key = Some(value.into_owned()),
                "escaped" => escaped = flag(&value).ok_or_else(|| self.unexpected("escaped"))?,
                "escaped-key" => escaped_key = flag(&value).ok_or_else(|| self.unexpected("escaped-key"))?,
                name if name == "xmlns" || name.starts_with("xmlns:") => {}
                name => return Err(self.unexpected(format!("an attribute {name}"))),
            }
        }
        let element = match start.local_name().into_inner() {
            "map" => Element::Map,
            "array" => Element::Array,
            "string" => Element::String { escaped },
            "number" => Element::Number,
            "boolean" => Element::Boolean,
            "null" => Element::Null,
            name => return Err(self.unexpected(format!("an element {name}"))),
        };
        self.begin(key, escaped_key)?;
        match element {
            Element::Map => self.out.push('{'),
            Element::Array => self.out.push('['),
            _ => {}
        }
        self.stack.push(Open { element, names: HashSet::new(), children: 0, text: String::new() });
        Ok(())
    }

    /// What stands before a value: a comma, and in a map its name.
    fn begin(&mut self, key: Option<String>, escaped: bool) -> Result<(), XmlError> {
        let at = self.at();
        let unexpected = |what: &str| XmlError::Unexpected { at, what: what.to_owned() };
        let Some(parent) = self.stack.last_mut() else { return Ok(()) };
        if parent.children > 0 {
            self.out.push(',');
        }
        parent.children += 1;
        match parent.element {
            Element::Map => {
                let key = key.ok_or_else(|| unexpected("a member without a key"))?;
                let mut name = String::new();
                quote(&mut name, &key, escaped).ok_or_else(|| unexpected("a key that is not escaped as in JSON"))?;
                // As it reads, however it is escaped.
                let read = serde_json::from_str(&name).unwrap_or_else(|_| name.clone());
                if !parent.names.insert(read) {
                    return Err(unexpected("a key that is there already"));
                }
                self.out.push_str(&name);
                self.out.push(':');
                Ok(())
            }
            Element::Array if key.is_none() => Ok(()),
            Element::Array => Err(unexpected("a key in an array")),
            _ => Err(unexpected("an element within a value")),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), XmlError> {
        if !text.chars().all(is_char) {
            return Err(self.syntax("a character that XML does not have"));
        }
        match self.stack.last_mut() {
            Some(open) if !matches!(open.element, Element::Map | Element::Array) => open.text.push_str(text),
            _ if text.trim().is_empty() => {}
            _ => return Err(self.unexpected("text")),
        }
        Ok(())
    }

    /// A character that was named: white space that is named is meant.
    fn referenced(&mut self, c: char) -> Result<(), XmlError> {
        match self.stack.last_mut() {
            Some(open) if !matches!(open.element, Element::Map | Element::Array) => open.text.push(c),
            _ => return Err(self.unexpected("text")),
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), XmlError> {
        let Some(Open { element, text, .. }) = self.stack.pop() else { return Err(self.unexpected("an end")) };
        let told = text.trim();
        match element {
            Element::Map => self.out.push('}'),
            Element::Array => self.out.push(']'),
            Element::String { escaped } => {
                if quote(&mut self.out, &text, escaped).is_none() {
                    return Err(self.unexpected("a text that is not escaped as in JSON"));
                }
            }
            Element::Number if is_number(told) => self.out.push_str(told),
            Element::Boolean => match flag(told) {
                Some(flag) => self.out.push_str(if flag { "true" } else { "false" }),
                None => return Err(self.unexpected("a boolean that is none")),
            },
            Element::Null if told.is_empty() => self.out.push_str("null"),
            Element::Number => return Err(self.unexpected("a number that is none of JSON")),
            Element::Null => return Err(self.unexpected("text in null")),
        }
        self.done = self.stack.is_empty();
        Ok(())
    }
}

/// The five of XML itself.
fn predefined(name: &str) -> Option<char> {
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

/// A value of `xs:boolean`.
fn flag(text: &str) -> Option<bool> {
    match text.trim() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A number as JSON spells it: what it is stays text.
fn is_number(text: &str) -> bool {
    let plain = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    plain && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

/// Appends a string of JSON; `None` where it should be escaped already and is not.
fn quote(out: &mut String, text: &str, escaped: bool) -> Option<()> {
    out.push('"');
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' if escaped => {
                let kind = rest.next().filter(|c| "\"\\/bfnrtu".contains(*c))?;
                out.extend(['\\', kind]);
                for _ in 0..if kind == 'u' { 4 } else { 0 } {
                    out.push(rest.next().filter(char::is_ascii_hexdigit)?);
                }
            }
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
    Some(())
}
