//! The central database over HTTP, as far as it can be told from bytes: what an answer means, and a page of the feed.
//! Deliberately absent: requests, their limits and their repeats.

mod answer;

pub use answer::{CdbError, FeedPage, error_of, page_of};
