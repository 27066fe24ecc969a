//! What becomes of a channel when another life has begun: the store knows nothing of this node, and everything is entered again.
//!
//! Invariant: of one who stays nobody is told anything, unless others have told that it has gone.

use std::collections::HashSet;

use super::{super::tell::Tell, Channel, Work};
use crate::platform::ports::MemberChange;

impl Channel {
    /// Another life has begun: the store knows nothing of this node. `told`: who was there is told as gone by others.
    pub(in super::super) fn lost(&mut self, told: bool) {
        if self.written != Some(0) || self.total() > 0 || matches!(self.doubt, Some(Work::Occupy { .. })) {
            self.written = None;
        }
        let doubt = match self.doubt.take() {
            Some(Work::Change { changes, .. }) => changes,
            _ => Vec::new(),
        };
        self.landed(&doubt);
        for client in self.clients.values_mut() {
            client.fresh = false;
            let leaving = client.known && (!client.here || client.again);
            (client.stored, client.again) = (leaving, leaving && client.here);
            client.quiet = client.known && !leaving && (client.quiet || !told);
        }
        for change in &doubt {
            let Some(client) = self.clients.get_mut(change.client()) else { continue };
            match change {
                MemberChange::Exit { .. } if client.known => {
                    (client.stored, client.again, client.quiet) = (true, client.here, false);
                }
                MemberChange::Exit { .. } => {}
                MemberChange::Enter(_) if client.known => {}
                // The last life may still have it.
                MemberChange::Enter(_) => (client.unheard, client.stored) = (true, !client.here),
            }
        }
        if told {
            // Others say goodbye for them. One whose goodbye was in doubt may be left out: rather twice than never.
            let doubted: HashSet<_> = doubt.iter().filter(|it| it.is_exit()).map(MemberChange::client).collect();
            self.clients.iter_mut().for_each(|(name, client)| client.known &= doubted.contains(name));
            // Said after their goodbyes these would be wrong.
            let clients = &mut self.clients;
            self.unsaid.retain(|tell| match tell {
                Tell::Join(member, _) => {
                    clients.get_mut(&member.info.client).into_iter().for_each(|client| client.unheard = true);
                    false
                }
                _ => true,
            });
        }
        self.clients.retain(|_, client| client.here || client.stored);
        let mut names: Vec<_> = self.clients.keys().cloned().collect();
        // Who is here first: of two clients of a user the one that stays.
        names.sort_by_key(|name| self.clients.get(name).is_some_and(|client| !client.here));
        names.iter().for_each(|name| self.enqueue(name));
    }
}
