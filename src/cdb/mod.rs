//! Outbound HTTP to the central database.
