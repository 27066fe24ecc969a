//! The bus: in memory for one node, Redis for many.
