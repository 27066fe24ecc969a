//! Tokens of others and tokens that are taken back, through running nodes.

mod accounts;
mod issuers;
mod revocations;
