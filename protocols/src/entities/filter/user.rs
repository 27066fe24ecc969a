//! Filters that speak of whoever asks: the text `$user` stands for the caller's id.

use std::borrow::Cow;

use super::{Check, Filter, Operand, Operands};

/// What stands for the caller's id in the filter of a view.
pub const USER: &str = "$user";

impl Filter {
    /// Whether it speaks of the caller.
    #[must_use]
    pub fn names_user(&self) -> bool {
        match self {
            Self::All => false,
            Self::And(parts) | Self::Or(parts) => parts.iter().any(Self::names_user),
            Self::Not(part) => part.names_user(),
            Self::Test { check, .. } => match check {
                Check::Compare(_, Operand::Text(text)) => text == USER,
                Check::In(Operands::Text(texts)) | Check::NotIn(Operands::Text(texts)) => {
                    texts.iter().any(|text| text == USER)
                }
                _ => false,
            },
        }
    }

    /// The same of this caller. Of nobody a filter that speaks of the caller holds never, whatever it says of them.
    #[must_use]
    pub fn of_user(&self, user: &str) -> Cow<'_, Self> {
        if !self.names_user() {
            return Cow::Borrowed(self);
        }
        Cow::Owned(if user.is_empty() { Self::never() } else { self.put(user) })
    }

    /// The filter that holds for nothing.
    #[must_use]
    pub const fn never() -> Self {
        Self::Or(Vec::new())
    }

    fn put(&self, user: &str) -> Self {
        let text = |text: &String| if text == USER { user.to_owned() } else { text.clone() };
        let texts = |all: &[String]| Operands::Text(all.iter().map(text).collect());
        let parts = |all: &[Self]| all.iter().map(|part| part.put(user)).collect();
        match self {
            Self::All => Self::All,
            Self::And(all) => Self::And(parts(all)),
            Self::Or(all) => Self::Or(parts(all)),
            Self::Not(part) => Self::Not(Box::new(part.put(user))),
            Self::Test { field, check } => {
                let check = match check {
                    Check::Compare(how, Operand::Text(it)) => Check::Compare(*how, Operand::Text(text(it))),
                    Check::In(Operands::Text(all)) => Check::In(texts(all)),
                    Check::NotIn(Operands::Text(all)) => Check::NotIn(texts(all)),
                    other => other.clone(),
                };
                Self::Test { field: field.clone(), check }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::parse(text).expect(text)
    }

    #[test]
    fn the_caller_is_put_where_the_filter_speaks_of_them() {
        for (text, expected) in [
            (r#"{"owner":"$user"}"#, r#"{"owner":"olha"}"#),
            (
                r#"{"or":[{"owner":["$user","x"]},{"not":{"by":{"ne":"$user"}}}]}"#,
                r#"{"or":[{"owner":["olha","x"]},{"not":{"by":{"ne":"olha"}}}]}"#,
            ),
            (r#"{"owner":{"nin":["$user"]},"n":1}"#, r#"{"owner":{"nin":["olha"]},"n":1}"#),
            // The whole text, and nothing that only begins so.
            (r#"{"owner":"$users"}"#, r#"{"owner":"$users"}"#),
            (r#"{"owner":{"prefix":"$user"}}"#, r#"{"owner":{"prefix":"$user"}}"#),
        ] {
            assert_eq!(filter(text).of_user("olha").into_owned(), filter(expected), "{text}");
        }
        // A user's id is a value and never a filter.
        let hostile = filter(r#"{"owner":"$user"}"#).of_user(r#""},"x":{"y"#).to_string();
        assert_eq!(Filter::parse(&hostile).expect("a filter").fields().len(), 1);
    }

    #[test]
    fn of_nobody_nothing_holds() {
        let value = |_: &str| Some("");
        for text in [r#"{"owner":"$user"}"#, r#"{"owner":{"ne":"$user"}}"#, r#"{"not":{"owner":"$user"}}"#] {
            assert_eq!(filter(text).of_user("").evaluate(&value), Some(false), "{text}");
        }
        assert_eq!(filter(r#"{"owner":""}"#).of_user("").evaluate(&value), Some(true));
    }
}
