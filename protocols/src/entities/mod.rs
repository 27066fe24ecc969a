//! Entities as they are said: documents as raw text, changes, and the rules that compare and merge them.

mod change;

pub use change::{Change, INLINE_DOC_LIMIT, Op};
