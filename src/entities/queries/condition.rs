//! A filter as a condition of SQL, which comes to the same as its evaluation, in all three values.

use dzvin_protocols::entities::{Check, Comparison, Decimal, Filter, Operand, Operands, SortAs};
use sqlx::{Postgres, QueryBuilder};

const OR: &str = " OR ";

/// Appends the condition. `row` is the alias of a row with `fields`, declared path -> its scalar as text; only constants of
/// this code are ever given for it.
pub fn push_condition(to: &mut QueryBuilder<Postgres>, row: &'static str, filter: &Filter) {
    match filter {
        Filter::All => {
            to.push("true");
        }
        Filter::And(parts) => joined(to, row, " AND ", parts),
        Filter::Or(parts) => joined(to, row, OR, parts),
        Filter::Not(part) => {
            to.push("NOT (");
            push_condition(to, row, part);
            to.push(")");
        }
        Filter::Test { field, check } => Test { row, field }.push(to, check),
    }
}

fn joined(to: &mut QueryBuilder<Postgres>, row: &'static str, word: &'static str, parts: &[Filter]) {
    if parts.is_empty() {
        // Of none all hold, and not one does.
        to.push(if word == OR { "false" } else { "true" });
    }
    for (n, part) in parts.iter().enumerate() {
        to.push(if n > 0 { word } else { "" }).push("(");
        push_condition(to, row, part);
        to.push(")");
    }
}

struct Test<'a> {
    row: &'static str,
    field: &'a str,
}

impl Test<'_> {
    fn push(&self, to: &mut QueryBuilder<Postgres>, check: &Check) {
        match check {
            Check::Null(missing) => {
                self.text(to).push(if *missing { " IS NULL" } else { " IS NOT NULL" });
            }
            Check::Compare(how, operand) => self.compare(to, *how, operand),
            Check::In(operands) => self.one_of(to, operands),
            Check::NotIn(operands) => {
                to.push("NOT (");
                self.one_of(to, operands);
                to.push(")");
            }
            Check::Prefix(prefix) => {
                to.push("starts_with(");
                self.text(to).push(", ").push_bind(prefix.clone()).push(")");
            }
        }
    }

    /// The field's text, or null.
    fn text<'q>(&self, to: &'q mut QueryBuilder<Postgres>) -> &'q mut QueryBuilder<Postgres> {
        to.push("(").push(self.row).push(".fields ->> ").push_bind(self.field.to_owned()).push("::text)")
    }

    fn read<'q>(&self, to: &'q mut QueryBuilder<Postgres>, with: &'static str) -> &'q mut QueryBuilder<Postgres> {
        to.push(with).push("(");
        self.text(to).push(")")
    }

    fn compare(&self, to: &mut QueryBuilder<Postgres>, how: Comparison, operand: &Operand) {
        match operand {
            Operand::Text(text) => {
                // By bytes, whatever the database's own order is.
                self.text(to).push(" COLLATE \"C\"").push(how.sql()).push_bind(text.clone()).push("::text")
            }
            Operand::Number(number) => {
                self.read(to, "filter_number").push(how.sql()).push_bind(number.to_string()).push("::text::numeric")
            }
            Operand::Time(_, moment) => {
                self.read(to, "filter_time").push(how.sql()).push_bind(moment.to_string()).push("::text::numeric")
            }
            Operand::Bool(flag) => {
                to.push("CASE ");
                self.text(to).push(" WHEN 'true' THEN true WHEN 'false' THEN false END");
                to.push(how.sql()).push_bind(*flag)
            }
        };
    }

    fn one_of(&self, to: &mut QueryBuilder<Postgres>, operands: &Operands) {
        let numbers = |all: &mut dyn Iterator<Item = &Decimal>| all.map(Decimal::to_string).collect::<Vec<_>>();
        match operands {
            Operands::Text(texts) => {
                self.text(to).push(" COLLATE \"C\" = ANY (").push_bind(texts.clone()).push("::text[])");
            }
            Operands::Number(all) => {
                let all = numbers(&mut all.iter());
                self.read(to, "filter_number").push(" = ANY (").push_bind(all).push("::text[]::numeric[])");
            }
            Operands::Time(all) => {
                let all = numbers(&mut all.iter().map(|(_, moment)| moment));
                self.read(to, "filter_time").push(" = ANY (").push_bind(all).push("::text[]::numeric[])");
            }
        }
    }
}

/// Appends, each behind an `AND`, what the filter demands of one field in any case and the field's own index finds: comparisons with
/// what the index reads it as.
pub(in crate::entities) fn push_ranges(
    to: &mut QueryBuilder<Postgres>,
    row: &'static str,
    filter: &Filter,
    field: &str,
    sort: SortAs,
) {
    match filter {
        Filter::And(parts) => parts.iter().for_each(|part| push_ranges(to, row, part, field, sort)),
        Filter::Test { field: of, check: check @ Check::Compare(how, operand) } if of == field => {
            let read_so = match operand {
                Operand::Number(_) => sort == SortAs::Number,
                Operand::Time(..) => sort == SortAs::Time,
                // A text's index is in the order of the alphabet, a filter's is that of bytes.
                Operand::Text(_) | Operand::Bool(_) => false,
            };
            if read_so && *how != Comparison::Ne {
                to.push(" AND ");
                Test { row, field }.push(to, check);
            }
        }
        _ => {}
    }
}

/// What the index of declared fields finds, where the filter names it outright: objects of which a row's fields must hold
/// one.
pub(in crate::entities) fn anchors(filter: &Filter) -> Option<Vec<String>> {
    /// Of more the index would be asked so often that reading along is as good.
    const MAX_ANCHORS: usize = 16;
    let (field, texts) = filter.anchor().filter(|(_, texts)| texts.len() <= MAX_ANCHORS)?;
    let object = |text: &String| serde_json::json!({ field: text }).to_string();
    Some(texts.iter().map(object).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_filter_becomes_text_of_sql() {
        let hostile = r#"{"a'); DROP TABLE x; --":{"prefix":"p'"},"or":[{"b\"":"v'"},{"c":{"nin":["w'"]}},{"d":70707},{"e":true}]}"#;
        let mut to = QueryBuilder::new("");
        push_condition(&mut to, "w", &Filter::parse(hostile).expect("a filter"));
        let sql = to.sql();
        let sql = sql.as_str();
        assert_eq!(sql.matches('\'').count(), 4, "those of true and false: {sql}");
        assert!(!sql.contains("DROP") && !sql.contains("70707") && sql.contains("$9"), "{sql}");
    }

    #[test]
    fn the_index_is_asked_for_few_texts_only() {
        let anchors = |text: &str| anchors(&Filter::parse(text).expect(text));
        assert_eq!(anchors(r#"{"a":["x","y\""],"b":1}"#), Some(vec![r#"{"a":"x"}"#.into(), r#"{"a":"y\""}"#.into()]));
        let many: Vec<String> = (0..17).map(|n| n.to_string()).collect();
        assert_eq!(anchors(&serde_json::json!({ "a": many }).to_string()), None);
        assert_eq!(anchors("{}"), None);
    }
}
