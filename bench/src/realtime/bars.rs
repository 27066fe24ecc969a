//! What must be shown, and whether it was.

use super::Common;
use crate::report::{rounded, say};
use serde_json::{Map, Value, json};

/// One bar: a number that may not be above another.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    name: String,
    value: Option<f64>,
    most: f64,
}

impl Bar {
    /// A bar; without a value where something it needs was not measured.
    pub(crate) fn new(name: impl Into<String>, value: Option<f64>, most: f64) -> Self {
        Self { name: name.into(), value, most }
    }

    /// `None` when it could not be judged.
    fn reached(&self) -> Option<bool> {
        self.value.map(|value| value <= self.most)
    }

    fn line(&self) -> String {
        let (name, most) = (&self.name, self.most);
        match (self.value, self.reached()) {
            (Some(value), Some(true)) => format!("{name}: {value:.2}, at most {most:.2}: reached"),
            (Some(value), _) => format!("{name}: {value:.2}, at most {most:.2}: MISSED"),
            (None, _) => format!("{name}: not judged: a part of it was not measured"),
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "value": self.value.map(|value| rounded(value, 3)),
            "most": rounded(self.most, 3),
            "reached": self.reached(),
        })
    }
}

/// Says all of it, and answers whether the scenario is content.
pub(crate) fn judge(common: &Common, scenario: &str, environment: &str, rows: Vec<Value>, bars: &[Bar]) -> bool {
    bars.iter().for_each(|bar| say(&bar.line()));
    if common.json {
        let mut all = Map::new();
        all.insert("scenario".to_owned(), scenario.into());
        all.insert("rows".to_owned(), rows.into());
        all.insert("bars".to_owned(), bars.iter().map(Bar::json).collect());
        all.insert("environment".to_owned(), environment.into());
        say(&Value::from(all).to_string());
    }
    !common.check || bars.iter().all(|bar| bar.reached() != Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_reached_missed_or_not_judged() {
        let bar = |value| Bar::new("cpu", value, 1.25);
        assert_eq!([Some(1.25), Some(1.26), None].map(|value| bar(value).reached()), [Some(true), Some(false), None]);
        assert_eq!(bar(Some(2.0)).line(), "cpu: 2.00, at most 1.25: MISSED");
    }
}
