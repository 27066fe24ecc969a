//! Metrics of the actors, passed in as structs.
