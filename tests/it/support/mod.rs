//! What every room's tests share: patience, servers and broken networks.
#![allow(unreachable_pub, dead_code, reason = "shared by rooms that come and go, and a test binary has no outside")]

pub mod eventually;
pub mod postgres;
pub mod proxy;
pub mod redis;
