//! The Pusher protocol: unmodified libraries of both sides against real hubs.

mod http;
mod webhooks;
