//! Numbers that stand for names of channels on one node.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Which number stands for which channel that somebody listens to. A number is never given to another channel.
#[derive(Debug, Clone, Default)]
pub struct Numbers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last: u32,
    all: HashMap<Arc<str>, u32>,
}

impl Numbers {
    /// The channel's number: a new one when it has none.
    pub(super) fn of(&self, channel: &Arc<str>) -> u32 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = state.all.get(channel) {
            return *number;
        }
        // Four thousand million channels are the life of a process; then those that come go by their names.
        let Some(number) = state.last.checked_add(1) else { return 0 };
        state.last = number;
        state.all.insert(Arc::clone(channel), number);
        number
    }

    /// Nobody listens to it any more.
    pub(super) fn forget(&self, channel: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all.remove(channel);
    }
}
