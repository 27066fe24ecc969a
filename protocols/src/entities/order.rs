//! In which order a list stands, and where in it a page ended.
//!
//! A list stands by offset, by id, or by one declared field and then by id, so that no two entities stand in the same place. Who does
//! not have the field stands behind all others, in either direction.
//!
//! Not here: SQL, and how a place is written for clients.

use std::fmt;

use serde::{Deserialize, Serialize};

/// As what a declared field is read where a list is sorted by it. What cannot be read so counts as not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SortAs {
    /// A text, in the order of the Ukrainian alphabet, capital letters as small ones.
    Text,
    /// A number, digit by digit.
    Number,
    /// A moment of RFC 3339.
    Time,
}

impl SortAs {
    /// The word in configuration and database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "number",
            Self::Time => "time",
        }
    }
}

/// By what a list is sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The kind's offset of the last change.
    Offset,
    /// The entity's id, by its bytes.
    Id,
    /// A declared field.
    Field(String, SortAs),
}

/// In which order a list stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// By what.
    pub by: By,
    /// From the greatest on.
    pub descending: bool,
}

impl Order {
    /// The names that stand for what every entity has: a declared field of such a name cannot be sorted by.
    pub const BUILT_IN: [&'static str; 2] = ["offset", "id"];

    /// The newest change first.
    pub const NEWEST: Self = Self { by: By::Offset, descending: true };

    /// By id, from the smallest on: whatever changes meanwhile, nobody's place does.
    pub const BY_ID: Self = Self { by: By::Id, descending: false };

    /// Reads `offset`, `id` or the name of a field, with `-` before it for descending. `sorts` answers as what a field can be sorted by;
    /// `None` where it cannot.
    #[must_use]
    pub fn parse(text: &str, sorts: impl Fn(&str) -> Option<SortAs>) -> Option<Self> {
        let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        let by = match name {
            "offset" => By::Offset,
            "id" => By::Id,
            field => By::Field(field.to_owned(), sorts(field)?),
        };
        Some(Self { by, descending })
    }

    /// The declared field that it needs.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match &self.by {
            By::Field(field, _) => Some(field),
            By::Offset | By::Id => None,
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.descending { "-" } else { "" })?;
        match &self.by {
            By::Offset => f.write_str("offset"),
            By::Id => f.write_str("id"),
            By::Field(field, _) => f.write_str(field),
        }
    }
}

/// Where a page ended; the next one begins behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In a list by offset.
    Offset(u64),
    /// In a list by id.
    Id(String),
    /// In a list by a field: what the entity is sorted by, as text, `None` where it does not have it; and its id.
    Field(Option<String>, String),
}

impl Place {
    /// Whether it is a place in such a list.
    #[must_use]
    pub fn is_in(&self, order: &Order) -> bool {
        matches!(
            (self, &order.by),
            (Self::Offset(_), By::Offset) | (Self::Id(_), By::Id) | (Self::Field(..), By::Field(..))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_back() {
        let sorts = |field: &str| (field == "value.amount").then_some(SortAs::Number);
        for text in ["offset", "-offset", "id", "-id", "value.amount", "-value.amount"] {
            assert_eq!(Order::parse(text, sorts).expect(text).to_string(), text);
        }
        for text in ["", "-", "--id", "status", "Id", "value.amount "] {
            assert_eq!(Order::parse(text, sorts), None, "{text}");
        }
        assert_eq!(Order::parse("-offset", sorts), Some(Order::NEWEST));
    }
}
