//! The page, built into the binary.
