//! The links to the Mirrors.
