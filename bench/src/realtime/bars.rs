//! What must be shown, and whether it was.

use super::{Common, target::Kind};
use crate::report::{rounded, say};
use serde_json::{Map, Value, json};

/// One bar: a number that may not be above another.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    name: String,
    value: Option<f64>,
    most: f64,
    /// Whose measurements it needs.
    needs: Vec<Kind>,
}

impl Bar {
    /// A bar of the hub's; without a value where something it needs was not measured.
    pub(crate) fn new(name: impl Into<String>, value: Option<f64>, most: f64) -> Self {
        Self { name: name.into(), value, most, needs: vec![Kind::Hub] }
    }

    /// The same, which needs another beside the hub.
    pub(crate) fn beside(mut self, other: Kind) -> Self {
        self.needs.push(other);
        self
    }

    /// `None` when it could not be judged.
    fn reached(&self) -> Option<bool> {
        self.value.map(|value| value <= self.most)
    }

    /// Whether somebody who asked for the bar has to know: what could not be judged is as bad as what was missed, unless one that it
    /// needs was not to be measured.
    fn fails(&self, targets: &[Kind]) -> bool {
        match self.reached() {
            Some(reached) => !reached,
            None => self.needs.iter().all(|kind| targets.contains(kind)),
        }
    }

    fn line(&self, targets: &[Kind]) -> String {
        let (name, most) = (&self.name, self.most);
        match (self.value, self.reached()) {
            (Some(value), Some(true)) => format!("{name}: {value:.2}, at most {most:.2}: reached"),
            (Some(value), _) => format!("{name}: {value:.2}, at most {most:.2}: MISSED"),
            (None, _) if self.fails(targets) => format!("{name}: NOT JUDGED: a part of it could not be measured"),
            (None, _) => format!("{name}: not judged: a part of it was left out"),
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
    bars.iter().for_each(|bar| say(&bar.line(&common.targets)));
    if common.json {
        let mut all = Map::new();
        all.insert("scenario".to_owned(), scenario.into());
        all.insert("rows".to_owned(), rows.into());
        all.insert("bars".to_owned(), bars.iter().map(Bar::json).collect());
        all.insert("environment".to_owned(), environment.into());
        say(&Value::from(all).to_string());
    }
    !(common.check && bars.iter().any(|bar| bar.fails(&common.targets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_reached_missed_or_not_judged() {
        let bar = |value| Bar::new("cpu", value, 1.25);
        assert_eq!([Some(1.25), Some(1.26), None].map(|value| bar(value).reached()), [Some(true), Some(false), None]);
        assert_eq!(bar(Some(2.0)).line(&[]), "cpu: 2.00, at most 1.25: MISSED");
    }

    /// Who asks for a bar that needs nchan, where nchan is not installed, is not told that all is well.
    #[test]
    fn what_cannot_be_judged_fails_unless_it_was_left_out() {
        let bar = |value| Bar::new("cpu", value, 1.25).beside(Kind::Nchan);
        let all = [Kind::Hub, Kind::Floor, Kind::Nchan];
        assert!(bar(None).fails(&all));
        assert_eq!(bar(None).line(&all), "cpu: NOT JUDGED: a part of it could not be measured");
        for some in [&[Kind::Hub, Kind::Floor][..], &[Kind::Nchan]] {
            assert!(!bar(None).fails(some));
            assert_eq!(bar(None).line(some), "cpu: not judged: a part of it was left out");
            assert!(bar(Some(1.26)).fails(some) && bar(Some(f64::NAN)).fails(some) && !bar(Some(1.25)).fails(some));
        }
    }
}
