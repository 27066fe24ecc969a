//! Configuration: one TOML file and the environment, checked as a whole before anything starts.
//!
//! `DZVIN__SECTION__KEY` overrides the file. Unknown keys are errors everywhere. An error is one line that names the key
//! and where its value came from; values of secrets are never in it. `docs/configuration.toml` shows every key with its
//! default, and a test holds it to this code.

mod env;
mod load;
mod sections;
mod validate;
mod values;

pub use load::{ConfigError, load, load_from};
pub use sections::{
    AccessConfig, AcrossConfig, ApiKeyConfig, Cdb, Changes, Channels, ClientHeader, Config, ConflateConfig,
    DEFAULT_NAMESPACE, Database, Dev, Http, IdentityConfig, IssuerConfig, KeyConfig, KindConfig, KindSource,
    LeaseConfig, Log, LogFormat, LoginConfig, LoginToken, MirrorConfig, NamespaceConfig, PublicKeyConfig,
    PublisherConfig, Pusher, PusherApp, PusherKey, PusherWebhook, PusherWebhookEvent, Reconcile, RecoveryConfig, Redis,
    Shutdown, Tap, Tls, ViewConfig, ViewsConfig,
};
pub use values::{Network, Secret, SecretUrl};
