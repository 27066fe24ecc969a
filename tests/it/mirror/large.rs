//! The largest objects that are promised, one after another.
