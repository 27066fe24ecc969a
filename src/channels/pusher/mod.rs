//! The Pusher protocol: its applications as they are configured, the socket, and the endpoints that sign for users.

mod apps;
pub mod auth;
mod endpoint;
pub mod http;
pub mod webhooks;

pub use apps::apps;
pub use endpoint::router;
