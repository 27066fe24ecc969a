//! What a hub is told: its file of settings. A test (`settings_tests`) holds it, with the lines of every scenario, to the hub's own
//! check, for what the hub refuses would be known only when the scenario runs.

use crate::feed::COLLECTION;

/// Where a hub and its servers are, and what the scenario adds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'a> {
    /// Where clients connect.
    pub(crate) address: &'a str,
    /// Where its metrics are.
    pub(crate) internal: &'a str,
    /// Its database.
    pub(crate) database: &'a str,
    /// What its tokens are signed with.
    pub(crate) secret: &'a str,
    /// The address and the token of the Mirror that it follows, if any.
    pub(crate) mirror: Option<(&'a str, &'a str)>,
    /// Lines of TOML of the scenario's own.
    pub(crate) extra: &'a [String],
}

impl Told<'_> {
    /// The file.
    pub(crate) fn toml(&self) -> String {
        let Self { address, internal, database, secret, .. } = self;
        let (extra, mirror) = (self.extra.join("\n"), self.mirror.map(mirror).unwrap_or_default());
        format!(
            r#"{extra}
[http]
listen = "{address}"
internal_listen = "{internal}"
[database]
url = "{database}"
[[identity.keys]]
id = "bench"
secret = "{secret}"
[kinds.{COLLECTION}]
fields = ["status", "value.amount"]
{mirror}"#
        )
    }
}

fn mirror((url, token): (&str, &str)) -> String {
    format!(
        r#"[[mirrors]]
name = "{COLLECTION}"
kind = "{COLLECTION}"
url = "{url}"
token = "{token}"
platform_version = "1.0"
reconcile = {{ interval = "0s" }}
"#
    )
}
