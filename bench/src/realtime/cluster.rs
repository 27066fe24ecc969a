//! Two nodes over one Redis.
