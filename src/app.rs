//! The composition root: the whole system on one page, in start order.
