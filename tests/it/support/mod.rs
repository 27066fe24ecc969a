//! What every room's tests share: patience, servers and broken networks.
#![allow(dead_code, reason = "shared by rooms that come and go")]

pub mod eventually;
pub mod front;
pub mod hub;
pub mod kinds;
pub mod node;
pub mod plans;
pub mod ports;
pub mod postgres;
pub mod protobuf;
pub mod proxy;
pub mod redis;
pub mod scenarios;
pub mod session;
