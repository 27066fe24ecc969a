//! From the change log to the bus.
