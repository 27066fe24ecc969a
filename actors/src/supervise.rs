//! Supervision: budgets, back-off and the order of stopping.
