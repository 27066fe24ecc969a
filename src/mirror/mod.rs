//! What is kept of a Mirror, and what is told of it.
