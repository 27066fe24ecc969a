//! Kinds as a configuration would declare them.

use dzvin::entities::{KindSpec, Source};
use dzvin_protocols::{entities::Declaration, platform::Kind};

/// A local kind with these fields.
pub fn local(kind: &Kind, fields: &[&str]) -> KindSpec {
    let fields = fields.iter().map(|field| (*field).to_owned()).collect();
    KindSpec::new(kind.clone(), Source::Local, Declaration { fields, ..Declaration::default() }).expect("a kind")
}
