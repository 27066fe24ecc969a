//! The one integration binary: real servers on free ports.
