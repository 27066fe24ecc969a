//! The filter of a subscription by the tags of publications: comparisons joined by `and`, `or`, `not`.

use std::cmp::Ordering;

use serde::Deserialize;

use super::json::or_default;

/// Deepest nesting of a filter.
pub const MAX_FILTER_DEPTH: usize = 8;
/// Most nodes of a filter, with the values of its sets: each is looked at for every publication and subscriber.
pub const MAX_FILTER_NODES: usize = 128;

/// A node as clients write it.
#[derive(Clone, PartialEq, Eq, Deserialize, prost::Message)]
#[serde(default)]
pub struct FilterNode {
    /// `and`, `or`, `not` of `nodes`; empty for a comparison.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub op: String,
    /// The tag that is compared.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    /// How: `eq`, `neq`, `in`, `nin`, `ex`, `nex`, `sw`, `ew`, `ct`, `lt`, `lte`, `gt`, `gte`.
    #[prost(string, tag = "3")]
    #[serde(deserialize_with = "or_default")]
    pub cmp: String,
    /// With what.
    #[prost(string, tag = "4")]
    #[serde(deserialize_with = "or_default")]
    pub val: String,
    /// With which, for `in` and `nin`.
    #[prost(string, repeated, tag = "5")]
    #[serde(deserialize_with = "or_default")]
    pub vals: Vec<String>,
    /// What is joined.
    #[prost(message, repeated, tag = "6")]
    #[serde(deserialize_with = "or_default")]
    pub nodes: Vec<FilterNode>,
}

/// Why a filter is refused (error 107).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Above [`MAX_FILTER_DEPTH`] or [`MAX_FILTER_NODES`].
    #[error("a filter has at most {MAX_FILTER_DEPTH} levels and {MAX_FILTER_NODES} nodes")]
    TooLarge,
    /// No such `op` or `cmp`.
    #[error("a filter with an unknown operation")]
    Unknown,
    /// An operation without what it needs, or with what it does not take.
    #[error("a filter whose operation has not its operands")]
    Operands,
}

/// A filter that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagFilter(Node);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Compare { key: Box<str>, with: With },
}

/// A comparison with the value of a tag. A tag that is absent equals nothing and is in no set.
#[derive(Debug, Clone, PartialEq, Eq)]
enum With {
    Equal(Box<str>, bool),
    OneOf(Box<[String]>, bool),
    Exists(bool),
    Starts(Box<str>),
    Ends(Box<str>),
    Contains(Box<str>),
    /// Number against number, exactly; what is none never matches.
    Number(Box<str>, Ordering, bool),
}

impl TagFilter {
    /// Checks and compiles what a client sent.
    ///
    /// # Errors
    /// [`FilterError`], the first that is found.
    pub fn new(node: FilterNode) -> Result<Self, FilterError> {
        let mut left = MAX_FILTER_NODES;
        compile(node, MAX_FILTER_DEPTH, &mut left).map(Self)
    }

    /// Whether a publication with these tags passes; `tag` gives a tag's value by its name.
    pub fn matches<'t>(&self, tag: impl Fn(&str) -> Option<&'t str>) -> bool {
        self.0.matches(&tag)
    }
}

fn compile(node: FilterNode, depth: usize, left: &mut usize) -> Result<Node, FilterError> {
    let weight = 1 + node.vals.len();
    if depth == 0 || *left < weight || *left - weight < node.nodes.len() {
        return Err(FilterError::TooLarge);
    }
    *left -= weight;
    let joins = !node.op.is_empty();
    let mut nodes = node.nodes.into_iter().map(|inner| compile(inner, depth - 1, left));
    match node.op.as_str() {
        "and" | "or" if nodes.len() == 0 => Err(FilterError::Operands),
        "not" if nodes.len() != 1 => Err(FilterError::Operands),
        "and" => Ok(Node::All(nodes.collect::<Result<_, _>>()?)),
        "or" => Ok(Node::Any(nodes.collect::<Result<_, _>>()?)),
        "not" => nodes.next().ok_or(FilterError::Operands)?.map(|inner| Node::Not(inner.into())),
        _ if joins => Err(FilterError::Unknown),
        _ => {
            let with = comparison(&node.cmp, node.val, node.vals)?;
            if node.key.is_empty() && !matches!(with, With::Exists(_)) {
                return Err(FilterError::Operands);
            }
            Ok(Node::Compare { key: node.key.into(), with })
        }
    }
}

fn comparison(cmp: &str, val: String, vals: Vec<String>) -> Result<With, FilterError> {
    let (one, many) = (!val.is_empty(), !vals.is_empty());
    let val = val.into_boxed_str();
    let (with, takes) = match cmp {
        "eq" => (With::Equal(val, true), (true, false)),
        "neq" => (With::Equal(val, false), (true, false)),
        "in" => (With::OneOf(vals.into(), true), (false, true)),
        "nin" => (With::OneOf(vals.into(), false), (false, true)),
        "ex" => (With::Exists(true), (false, false)),
        "nex" => (With::Exists(false), (false, false)),
        "sw" => (With::Starts(val), (true, false)),
        "ew" => (With::Ends(val), (true, false)),
        "ct" => (With::Contains(val), (true, false)),
        "lt" => (With::Number(val, Ordering::Less, false), (true, false)),
        "lte" => (With::Number(val, Ordering::Less, true), (true, false)),
        "gt" => (With::Number(val, Ordering::Greater, false), (true, false)),
        "gte" => (With::Number(val, Ordering::Greater, true), (true, false)),
        _ => return Err(FilterError::Unknown),
    };
    if takes == (one, many) { Ok(with) } else { Err(FilterError::Operands) }
}

impl Node {
    fn matches<'t>(&self, tag: &impl Fn(&str) -> Option<&'t str>) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.matches(tag)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(tag)),
            Self::Not(node) => !node.matches(tag),
            Self::Compare { key, with } => with.holds(tag(key)),
        }
    }
}

impl With {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Equal(with, equal) => (value == Some(with)) == *equal,
            Self::OneOf(all, inside) => value.is_some_and(|value| all.iter().any(|one| one == value)) == *inside,
            Self::Exists(exists) => value.is_some() == *exists,
            Self::Starts(with) => value.is_some_and(|value| value.starts_with(&**with)),
            Self::Ends(with) => value.is_some_and(|value| value.ends_with(&**with)),
            Self::Contains(with) => value.is_some_and(|value| value.contains(&**with)),
            Self::Number(with, order, or_equal) => value
                .and_then(|value| compare(value, with))
                .is_some_and(|found| found == *order || (*or_equal && found == Ordering::Equal)),
        }
    }
}

/// Compares two decimal numbers by their digits: sums of money do not go through `f64`.
fn compare(a: &str, b: &str) -> Option<Ordering> {
    let ((a_negative, a), (b_negative, b)) = (decimal(a)?, decimal(b)?);
    let magnitude = || a.0.len().cmp(&b.0.len()).then_with(|| a.cmp(&b));
    Some(match (a_negative, b_negative) {
        (false, false) => magnitude(),
        (true, true) => magnitude().reverse(),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    })
}

/// A sign, and the digits before and after the point without useless zeros.
type Decimal<'a> = (bool, (&'a str, &'a str));

fn decimal(text: &str) -> Option<Decimal<'_>> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if [whole, fraction].iter().any(|part| part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    // Zero has no sign.
    Some((negative && !(whole.is_empty() && fraction.is_empty()), (whole, fraction)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(json: &str) -> Result<TagFilter, FilterError> {
        TagFilter::new(serde_json::from_str(json).expect(json))
    }

    fn tag(name: &str) -> Option<&'static str> {
        match name {
            "lot" => Some("UA-77"),
            "price" => Some("100.50"),
            "empty" => Some(""),
            _ => None,
        }
    }

    #[test]
    fn comparisons() {
        for (json, expected) in [
            (r#"{"key":"lot","cmp":"eq","val":"UA-77"}"#, true),
            (r#"{"key":"lot","cmp":"neq","val":"UA-77"}"#, false),
            (r#"{"key":"none","cmp":"eq","val":"x"}"#, false),
            (r#"{"key":"none","cmp":"neq","val":"x"}"#, true),
            (r#"{"key":"lot","cmp":"in","vals":["a","UA-77"]}"#, true),
            (r#"{"key":"none","cmp":"in","vals":[""]}"#, false),
            (r#"{"key":"none","cmp":"nin","vals":["a"]}"#, true),
            (r#"{"key":"empty","cmp":"ex"}"#, true),
            (r#"{"key":"none","cmp":"nex"}"#, true),
            (r#"{"key":"lot","cmp":"sw","val":"UA"}"#, true),
            (r#"{"key":"lot","cmp":"ew","val":"77"}"#, true),
            (r#"{"key":"lot","cmp":"ct","val":"A-"}"#, true),
            (r#"{"key":"price","cmp":"gt","val":"99.9999999999999999999"}"#, true),
            (r#"{"key":"price","cmp":"gt","val":"100.500"}"#, false),
            (r#"{"key":"price","cmp":"gte","val":"0100.5"}"#, true),
            (r#"{"key":"price","cmp":"lt","val":"-1000"}"#, false),
            (r#"{"key":"price","cmp":"lte","val":"100.51"}"#, true),
            (r#"{"key":"lot","cmp":"lt","val":"1"}"#, false),
            (r#"{"key":"price","cmp":"lt","val":"1e9"}"#, false),
            (r#"{"op":"not","nodes":[{"key":"lot","cmp":"ex"}]}"#, false),
            (r#"{"op":"and","nodes":[{"key":"lot","cmp":"ex"},{"key":"none","cmp":"ex"}]}"#, false),
            (r#"{"op":"or","nodes":[{"key":"lot","cmp":"ex"},{"key":"none","cmp":"ex"}]}"#, true),
        ] {
            assert_eq!(filter(json).expect(json).matches(tag), expected, "{json}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for (json, error) in [
            ("{}", FilterError::Unknown),
            (r#"{"op":"xor","nodes":[{"key":"a","cmp":"ex"}]}"#, FilterError::Unknown),
            (r#"{"key":"a","cmp":"like","val":"x"}"#, FilterError::Unknown),
            (r#"{"key":"a","cmp":"eq"}"#, FilterError::Operands),
            (r#"{"key":"a","cmp":"eq","val":"x","vals":["x"]}"#, FilterError::Operands),
            (r#"{"key":"a","cmp":"in","val":"x"}"#, FilterError::Operands),
            (r#"{"key":"a","cmp":"ex","val":"x"}"#, FilterError::Operands),
            (r#"{"cmp":"eq","val":"x"}"#, FilterError::Operands),
            (r#"{"op":"and"}"#, FilterError::Operands),
            (r#"{"op":"not","nodes":[{"key":"a","cmp":"ex"},{"key":"a","cmp":"ex"}]}"#, FilterError::Operands),
        ] {
            assert_eq!(filter(json), Err(error), "{json}");
        }
    }

    #[test]
    fn large_ones_are_refused() {
        let leaf = || FilterNode { key: "a".into(), cmp: "ex".into(), ..FilterNode::default() };
        let wide = |n| FilterNode { op: "or".into(), nodes: vec![leaf(); n], ..FilterNode::default() };
        assert!(TagFilter::new(wide(MAX_FILTER_NODES - 1)).is_ok());
        assert_eq!(TagFilter::new(wide(MAX_FILTER_NODES)), Err(FilterError::TooLarge));
        let set = FilterNode { cmp: "in".into(), vals: vec!["x".into(); MAX_FILTER_NODES], ..leaf() };
        assert_eq!(TagFilter::new(set), Err(FilterError::TooLarge));
        let deep = |n| {
            (1..n).fold(leaf(), |node, _| FilterNode { op: "not".into(), nodes: vec![node], ..FilterNode::default() })
        };
        assert!(TagFilter::new(deep(MAX_FILTER_DEPTH)).is_ok());
        assert_eq!(TagFilter::new(deep(MAX_FILTER_DEPTH + 1)), Err(FilterError::TooLarge));
    }

    proptest! {
        #[test]
        fn decimals_compare_as_numbers(a in -10_000i32..10_000, b in -10_000i32..10_000, zeros in 0usize..3) {
            let text = |n: i32| format!("{}{}.{:02}{}", if n < 0 { "-" } else { "" }, n.abs() / 100, n.abs() % 100, "0".repeat(zeros));
            prop_assert_eq!(compare(&text(a), &text(b)), Some(a.cmp(&b)));
        }
    }
}
