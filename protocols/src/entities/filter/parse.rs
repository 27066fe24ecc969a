//! Filters as JSON: reading what comes from outside, and the one spelling that is stored and hashed.

use std::{borrow::Cow, collections::HashSet, fmt};

use serde_json::value::RawValue;

use super::{Check, Comparison, Decimal, Filter, Operand, Operands};
use crate::entities::{
    MAX_FIELD_VALUE, check,
    raw::{items, members, unquote},
};

/// Longest filter: what a person or a page composes has a few hundred bytes.
pub const MAX_FILTER_BYTES: usize = 16 * 1024;
/// Deepest nesting of `and`, `or` and `not`: evaluation recurses, and nobody reads more.
pub const MAX_FILTER_DEPTH: usize = 8;
/// Most tests and connectives: each is evaluated for every change of the kind.
pub const MAX_FILTER_TESTS: usize = 64;
/// Most values of one list.
pub const MAX_FILTER_LIST: usize = 100;
/// Longest number of a filter: 38 digits are the largest that databases usually count with.
pub const MAX_FILTER_NUMBER: usize = 64;
/// What such a number may be in its one spelling: its exponent is written out, and zeros where that has no room.
const SPELLED_NUMBER: usize = 4 * MAX_FILTER_NUMBER;

/// What is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Above [`MAX_FILTER_BYTES`].
    #[error("a filter has at most {MAX_FILTER_BYTES} bytes")]
    Long,
    /// Deeper than [`MAX_FILTER_DEPTH`].
    #[error("and, or and not are nested at most {MAX_FILTER_DEPTH} deep")]
    Deep,
    /// More than [`MAX_FILTER_TESTS`].
    #[error("a filter has at most {MAX_FILTER_TESTS} tests and connectives")]
    Large,
    /// An empty list, or one above [`MAX_FILTER_LIST`].
    #[error("{0:.80}: a list has 1 to {MAX_FILTER_LIST} values of one type: texts, numbers or times")]
    List(String),
    /// A name that stands twice in one object.
    #[error("{0:.80} is given twice")]
    Repeated(String),
    /// A value that nothing can be compared with.
    #[error(
        "{0:.80}: a value is a text of at most {MAX_FIELD_VALUE} bytes, a number of at most {MAX_FILTER_NUMBER} characters, true, false or {{\"time\": RFC 3339}}"
    )]
    Value(String),
    /// No operator of that name, or one that the value does not go with.
    #[error(
        "{0:.80}: the operators are eq, ne (any value), lt, lte, gt, gte (no true or false), in, nin (a list), prefix (a text), null (true or false)"
    )]
    Operator(String),
    /// Something else than an object, or than a list of filters.
    #[error("{0:.80}: a filter is an object; and, or take a list of filters, not takes one")]
    Form(String),
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`FilterError`] says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > MAX_FILTER_BYTES {
            return Err(FilterError::Long);
        }
        let form = || FilterError::Form("the filter".to_owned());
        let raw: &RawValue = serde_json::from_str(text).map_err(|_| form())?;
        // Deep nesting and what no database takes end here, before anything recurses.
        check(raw).map_err(|_| form())?;
        Reader { left: MAX_FILTER_TESTS }.object(raw.get(), 0)
    }
}

struct Reader {
    left: usize,
}

impl Reader {
    fn count(&mut self) -> Result<(), FilterError> {
        self.left = self.left.checked_sub(1).ok_or(FilterError::Large)?;
        Ok(())
    }

    fn object(&mut self, text: &str, depth: usize) -> Result<Filter, FilterError> {
        if depth > MAX_FILTER_DEPTH {
            return Err(FilterError::Deep);
        }
        let mut parts = Vec::new();
        for (name, value) in named(text)? {
            match &*name {
                "and" => parts.push(Filter::And(self.list(&name, value, depth)?)),
                "or" => parts.push(Filter::Or(self.list(&name, value, depth)?)),
                "not" => {
                    self.count()?;
                    parts.push(Filter::Not(Box::new(self.object(value, depth + 1)?)));
                }
                _ => self.field(&name, value, &mut parts)?,
            }
        }
        Ok(match parts.len() {
            0 => Filter::All,
            1 => parts.remove(0),
            _ => Filter::And(parts),
        })
    }

    fn list(&mut self, name: &str, value: &str, depth: usize) -> Result<Vec<Filter>, FilterError> {
        self.count()?;
        let form = || FilterError::Form(name.to_owned());
        let parts =
            items(value).ok_or_else(form)?.map(|part| self.object(part, depth + 1)).collect::<Result<Vec<_>, _>>()?;
        if parts.is_empty() { Err(form()) } else { Ok(parts) }
    }

    fn field(&mut self, field: &str, value: &str, parts: &mut Vec<Filter>) -> Result<(), FilterError> {
        let mut test = |check| {
            self.count()?;
            parts.push(Filter::Test { field: field.to_owned(), check });
            Ok(())
        };
        if value == "null" {
            return test(Check::Null(true));
        }
        if items(value).is_some() {
            return test(Check::In(operands(field, value)?));
        }
        if members(value).is_none() || is_time(value) {
            return test(Check::Compare(Comparison::Eq, operand(field, value)?));
        }
        let operators = named(value)?;
        if operators.is_empty() {
            return Err(FilterError::Operator(field.to_owned()));
        }
        operators.into_iter().try_for_each(|(name, value)| test(one(field, &name, value)?))
    }
}

/// The members of an object by their names, none twice.
fn named(text: &str) -> Result<Vec<(Cow<'_, str>, &str)>, FilterError> {
    let form = || FilterError::Form(text.to_owned());
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for (name, value) in members(text).ok_or_else(form)? {
        let name = unquote(name).ok_or_else(form)?;
        if !seen.insert(name.clone()) {
            return Err(FilterError::Repeated(name.into_owned()));
        }
        all.push((name, value));
    }
    Ok(all)
}

fn one(field: &str, operator: &str, value: &str) -> Result<Check, FilterError> {
    let wrong = || FilterError::Operator(format!("{field}.{operator}"));
    Ok(match operator {
        "null" => Check::Null(serde_json::from_str(value).map_err(|_| wrong())?),
        "prefix" => match operand(field, value)? {
            Operand::Text(text) if !text.is_empty() => Check::Prefix(text),
            _ => return Err(wrong()),
        },
        "in" => Check::In(operands(field, value)?),
        "nin" => Check::NotIn(operands(field, value)?),
        _ => {
            let how = Comparison::ALL.into_iter().find(|how| how.as_str() == operator).ok_or_else(wrong)?;
            match (how, value) {
                (Comparison::Eq, "null") => return Ok(Check::Null(true)),
                (Comparison::Ne, "null") => return Ok(Check::Null(false)),
                _ => {}
            }
            let operand = operand(field, value)?;
            let ordered = !matches!(how, Comparison::Eq | Comparison::Ne);
            if ordered && matches!(operand, Operand::Bool(_)) {
                return Err(wrong());
            }
            Check::Compare(how, operand)
        }
    })
}

fn is_time(value: &str) -> bool {
    members(value).is_some_and(|mut all| all.next().is_some_and(|(name, _)| unquote(name).as_deref() == Some("time")))
}

fn operand(field: &str, value: &str) -> Result<Operand, FilterError> {
    let wrong = || FilterError::Value(field.to_owned());
    let text = |value| unquote(value).filter(|text| text.len() <= MAX_FIELD_VALUE).map(Cow::into_owned);
    Ok(match value.as_bytes().first() {
        Some(b'"') => Operand::Text(text(value).ok_or_else(wrong)?),
        Some(b't' | b'f') => Operand::Bool(value == "true"),
        Some(b'{') => match named(value)?.as_slice() {
            [(name, value)] if name == "time" => {
                let text = text(value).ok_or_else(wrong)?;
                let moment = Decimal::of_time(&text).ok_or_else(wrong)?;
                Operand::Time(text, moment)
            }
            _ => return Err(wrong()),
        },
        Some(b'-' | b'0'..=b'9') if value.len() <= SPELLED_NUMBER => {
            let number = Decimal::parse(value).ok_or_else(wrong)?;
            // The one spelling of what was taken may be longer, and has to be taken as well.
            let ours = || number.digits() <= MAX_FILTER_NUMBER && number.to_string() == value;
            if value.len() > MAX_FILTER_NUMBER && !ours() {
                return Err(wrong());
            }
            Operand::Number(number)
        }
        _ => return Err(wrong()),
    })
}

fn operands(field: &str, value: &str) -> Result<Operands, FilterError> {
    let wrong = || FilterError::List(field.to_owned());
    let (mut texts, mut numbers, mut moments) = (Vec::new(), Vec::new(), Vec::new());
    for (n, item) in items(value).ok_or_else(wrong)?.enumerate() {
        if n >= MAX_FILTER_LIST {
            return Err(wrong());
        }
        match operand(field, item)? {
            Operand::Text(text) => texts.push(text),
            Operand::Number(number) => numbers.push(number),
            Operand::Time(text, moment) => moments.push((text, moment)),
            Operand::Bool(_) => return Err(wrong()),
        }
    }
    match (texts.is_empty(), numbers.is_empty(), moments.is_empty()) {
        (false, true, true) => Ok(Operands::Text(texts)),
        (true, false, true) => Ok(Operands::Number(numbers)),
        (true, true, false) => Ok(Operands::Time(moments)),
        _ => Err(wrong()),
    }
}

/// The one spelling: what says the same in another order is spelled the same, and reads back to what it was.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("{}"),
            Self::And(parts) => connective(f, "and", parts),
            Self::Or(parts) => connective(f, "or", parts),
            Self::Not(part) => write!(f, "{{\"not\":{part}}}"),
            Self::Test { field, check } => write!(f, "{{{}:{{{check}}}}}", quoted(field)),
        }
    }
}

fn connective(f: &mut fmt::Formatter<'_>, name: &str, parts: &[Filter]) -> fmt::Result {
    let mut parts: Vec<String> = parts.iter().map(Filter::to_string).collect();
    parts.sort_unstable();
    parts.dedup();
    write!(f, "{{\"{name}\":[{}]}}", parts.join(","))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn moment(text: &str) -> String {
    format!("{{\"time\":{}}}", quoted(text))
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null(missing) => write!(f, "\"null\":{missing}"),
            Self::Compare(how, operand) => write!(f, "\"{}\":{operand}", how.as_str()),
            Self::In(operands) => write!(f, "\"in\":{operands}"),
            Self::NotIn(operands) => write!(f, "\"nin\":{operands}"),
            Self::Prefix(text) => write!(f, "\"prefix\":{}", quoted(text)),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Number(number) => write!(f, "{number}"),
            Self::Time(text, _) => f.write_str(&moment(text)),
            Self::Bool(flag) => write!(f, "{flag}"),
        }
    }
}

impl fmt::Display for Operands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<String> = match self {
            Self::Text(texts) => texts.iter().map(|text| quoted(text)).collect(),
            Self::Number(numbers) => numbers.iter().map(Decimal::to_string).collect(),
            Self::Time(moments) => moments.iter().map(|(text, _)| moment(text)).collect(),
        };
        all.sort_unstable();
        all.dedup();
        write!(f, "[{}]", all.join(","))
    }
}
