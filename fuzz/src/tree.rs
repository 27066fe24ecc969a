//! A second reading of JSON, to compare ours with: it keeps the spelling of numbers and rewrites everything else.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Deepest that is followed; the documents that pass the fit check are no deeper.
const DEEPEST: usize = 130;

/// A value whose numbers are text.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    /// A number, `true`, `false` or `null`, as written.
    Plain(String),
    /// A string, unescaped.
    Text(String),
    /// In order.
    Array(Vec<Tree>),
    /// The last of equal names wins.
    Object(BTreeMap<String, Tree>),
}

impl Tree {
    /// Reads a value; `None` for what is not JSON, or has equal names and is asked to be `unique`.
    pub fn read(json: &str, unique: bool) -> Option<Self> {
        Self::below(serde_json::from_str(json).ok()?, unique, 0)
    }

    fn below(raw: &RawValue, unique: bool, depth: usize) -> Option<Self> {
        let json = raw.get();
        if depth > DEEPEST {
            return None;
        }
        Some(match json.as_bytes().first()? {
            b'"' => Self::Text(serde_json::from_str(json).ok()?),
            b'[' => {
                let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
                Self::Array(items.into_iter().map(|item| Self::below(item, unique, depth + 1)).collect::<Option<_>>()?)
            }
            b'{' => {
                let Pairs(pairs) = serde_json::from_str(json).ok()?;
                let count = pairs.len();
                let all: BTreeMap<_, _> = pairs
                    .into_iter()
                    .map(|(name, value)| Some((name, Self::below(value, unique, depth + 1)?)))
                    .collect::<Option<_>>()?;
                if unique && all.len() != count {
                    return None;
                }
                Self::Object(all)
            }
            _ => Self::Plain(json.to_owned()),
        })
    }

    /// Writes the value otherwise than anybody would: names backwards, white space everywhere, every character escaped.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Plain(text) => out.push_str(text),
            Self::Text(text) => escape(text, out),
            Self::Array(items) => {
                out.push_str("[\n");
                for (n, item) in items.iter().enumerate() {
                    out.push_str(if n == 0 { "" } else { "\t,\r\n " });
                    item.write(out);
                }
                out.push_str(" ]");
            }
            Self::Object(all) => {
                out.push_str("{ ");
                for (n, (name, value)) in all.iter().rev().enumerate() {
                    out.push_str(if n == 0 { "\n" } else { " , " });
                    escape(name, out);
                    out.push_str("\r:\t");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

fn escape(text: &str, out: &mut String) {
    out.push('"');
    for unit in text.encode_utf16() {
        out.push_str(&format!("\\u{unit:04X}"));
    }
    out.push('"');
}

/// An object's members in the order in which they stand, equal names included.
pub struct Pairs<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> serde::de::Visitor<'de> for Visitor<'a> {
            type Value = Pairs<'a>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Pairs<'a>, M::Error> {
                let mut all = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    all.push(pair);
                }
                Ok(Pairs(all))
            }
        }
        from.deserialize_map(Visitor(std::marker::PhantomData))
    }
}
