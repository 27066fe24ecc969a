//! Filters on the declared fields of a kind: what a query asks for, as JSON, and whether given values meet it.
//!
//! ```json
//! {"status": "active", "value.amount": {"gte": 1000, "lt": 5000}, "or": [{"owner": null}, {"not": {"region": ["30", "32"]}}]}
//! ```
//!
//! The members of an object hold together (*and*); `{}` holds always. A field's test is a value (equal), a list (one of them),
//! `null` (not there) or an object of `eq ne lt lte gt gte in nin prefix null`. What is compared with a number is read as a
//! number, with `true` or `false` as one of them, with `{"time": "2026-11-26T10:00:00Z"}` as a moment, with a text as it is,
//! by its bytes.
//!
//! Invariants: the same filter in SQL (`entities::queries` of the hub) comes to the same, in three values: a field that is
//! not there, or cannot be read as what it is compared with, makes its test *unknown*, and so does `not` of it; an entity
//! belongs to a query only when the filter is *true*. Nothing goes through a float. A filter is bounded in every
//! direction before it is looked at twice.
//!
//! Not here: which fields are declared, and SQL.

mod decimal;
mod parse;
mod user;
mod values;

use std::collections::BTreeSet;

pub use decimal::{Decimal, MAX_EXPONENT_DIGITS};
pub use parse::{
    FilterError, MAX_FILTER_BYTES, MAX_FILTER_DEPTH, MAX_FILTER_LIST, MAX_FILTER_NUMBER, MAX_FILTER_TESTS,
};
pub use user::USER;
pub use values::{Concern, FieldChange, Undeclared, Values};

/// A filter, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Holds always.
    All,
    /// Every one of them holds.
    And(Vec<Filter>),
    /// One of them holds.
    Or(Vec<Filter>),
    /// It does not hold.
    Not(Box<Filter>),
    /// One test of one field.
    Test {
        /// The declared path.
        field: String,
        /// What is asked of its value.
        check: Check,
    },
}

/// What is asked of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Whether it is missing (`true`) or there (`false`): never unknown.
    Null(bool),
    /// How it compares.
    Compare(Comparison, Operand),
    /// One of a list.
    In(Operands),
    /// None of a list.
    NotIn(Operands),
    /// How its text begins.
    Prefix(String),
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Below.
    Lt,
    /// Not above.
    Lte,
    /// Above.
    Gt,
    /// Not below.
    Gte,
}

impl Comparison {
    const ALL: [Self; 6] = [Self::Eq, Self::Ne, Self::Lt, Self::Lte, Self::Gt, Self::Gte];

    /// The spelling in a filter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eq => "eq",
            Self::Ne => "ne",
            Self::Lt => "lt",
            Self::Lte => "lte",
            Self::Gt => "gt",
            Self::Gte => "gte",
        }
    }

    /// The operator of SQL.
    #[must_use]
    pub const fn sql(self) -> &'static str {
        match self {
            Self::Eq => " = ",
            Self::Ne => " <> ",
            Self::Lt => " < ",
            Self::Lte => " <= ",
            Self::Gt => " > ",
            Self::Gte => " >= ",
        }
    }

    fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::Ne => order.is_ne(),
            Self::Lt => order.is_lt(),
            Self::Lte => order.is_le(),
            Self::Gt => order.is_gt(),
            Self::Gte => order.is_ge(),
        }
    }
}

/// A value of a filter; its type is that of the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// A text, by its bytes.
    Text(String),
    /// A number.
    Number(Decimal),
    /// A moment: as it was given, and in seconds since 1970.
    Time(String, Decimal),
    /// True or false.
    Bool(bool),
}

/// Values of one type; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operands {
    /// Texts.
    Text(Vec<String>),
    /// Numbers.
    Number(Vec<Decimal>),
    /// Moments.
    Time(Vec<(String, Decimal)>),
}

impl Filter {
    /// The fields that it names, each once, sorted.
    #[must_use]
    pub fn fields(&self) -> BTreeSet<&str> {
        let mut all = BTreeSet::new();
        self.collect(&mut all);
        all
    }

    /// Whether all fields that it names are so.
    fn all_fields(&self, test: &impl Fn(&str) -> bool) -> bool {
        match self {
            Self::All => true,
            Self::And(parts) | Self::Or(parts) => parts.iter().all(|part| part.all_fields(test)),
            Self::Not(part) => part.all_fields(test),
            Self::Test { field, .. } => test(field),
        }
    }

    fn collect<'a>(&'a self, into: &mut BTreeSet<&'a str>) {
        match self {
            Self::All => {}
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.collect(into)),
            Self::Not(part) => part.collect(into),
            Self::Test { field, .. } => {
                into.insert(field);
            }
        }
    }

    /// What the filter comes to; `None` is unknown. `value` answers a field's text, `None` where it is not there.
    pub fn evaluate<'v>(&self, value: &impl Fn(&str) -> Option<&'v str>) -> Option<bool> {
        match self {
            Self::All => Some(true),
            Self::And(parts) => parts
                .iter()
                .try_fold(Some(true), |so_far, part| match part.evaluate(value) {
                    Some(false) => Err(()),
                    Some(true) => Ok(so_far),
                    None => Ok(None),
                })
                .unwrap_or(Some(false)),
            Self::Or(parts) => parts
                .iter()
                .try_fold(Some(false), |so_far, part| match part.evaluate(value) {
                    Some(true) => Err(()),
                    Some(false) => Ok(so_far),
                    None => Ok(None),
                })
                .unwrap_or(Some(true)),
            Self::Not(part) => part.evaluate(value).map(|holds| !holds),
            Self::Test { field, check } => check.of(value(field)),
        }
    }

    /// Texts of which a declared field must have one, where the filter says so outright: what an index finds, and what tells
    /// without evaluating that a change cannot concern it.
    #[must_use]
    pub fn anchor(&self) -> Option<(&str, &[String])> {
        match self {
            Self::And(parts) => parts.iter().filter_map(Self::anchor).min_by_key(|(_, texts)| texts.len()),
            Self::Test { field, check: Check::Compare(Comparison::Eq, Operand::Text(text)) } => {
                Some((field, std::slice::from_ref(text)))
            }
            Self::Test { field, check: Check::In(Operands::Text(texts)) } => Some((field, texts)),
            _ => None,
        }
    }
}

impl Check {
    fn of(&self, value: Option<&str>) -> Option<bool> {
        match self {
            Self::Null(missing) => Some(value.is_none() == *missing),
            Self::Compare(how, operand) => Some(how.holds(match operand {
                Operand::Text(text) => value?.as_bytes().cmp(text.as_bytes()),
                Operand::Number(number) => Decimal::parse(value?)?.cmp(number),
                Operand::Time(_, moment) => Decimal::of_time(value?)?.cmp(moment),
                Operand::Bool(flag) => truth(value?)?.cmp(flag),
            })),
            Self::In(operands) => operands.contain(value?),
            Self::NotIn(operands) => operands.contain(value?).map(|found| !found),
            Self::Prefix(prefix) => Some(value?.starts_with(prefix.as_str())),
        }
    }
}

impl Operands {
    fn contain(&self, value: &str) -> Option<bool> {
        Some(match self {
            Self::Text(texts) => texts.iter().any(|text| text == value),
            Self::Number(numbers) => {
                let value = Decimal::parse(value)?;
                numbers.contains(&value)
            }
            Self::Time(moments) => {
                let value = Decimal::of_time(value)?;
                moments.iter().any(|(_, moment)| *moment == value)
            }
        })
    }
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
