//! Channels on a node: topics, shards and the sessions that they own.
