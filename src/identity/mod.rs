//! Tokens: who somebody is.
