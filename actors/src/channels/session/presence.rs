//! Who is on a channel, as a client asks it.

use super::commands::{Answer, Conversation, Refusal};
use crate::platform::ports::{Bus, ChangeLog};
use dzvin_protocols::channels::centrifuge::ErrorCode;

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    pub(super) async fn presence(&self, _id: u32, _channel: &str) -> Answer {
        Err(Refusal::Error(ErrorCode::NotAvailable))
    }

    pub(super) async fn presence_stats(&self, _id: u32, _channel: &str) -> Answer {
        Err(Refusal::Error(ErrorCode::NotAvailable))
    }
}
