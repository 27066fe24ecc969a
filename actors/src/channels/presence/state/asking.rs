//! Questions about channels: each waits for what was entered before it, and takes one of the places that there are.

use std::sync::Arc;

use ractor::RpcReplyPort;
use tokio::time::Instant;

use super::{
    super::{
        PresenceError,
        channel::Channel,
        questions::{Asked, Looked, Question, ask, look},
    },
    State,
};
use crate::platform::ports::{Bus, Presence};

impl<P: Presence, B: Bus> State<P, B> {
    /// A question about a channel.
    pub(in super::super) fn ask(&mut self, channel: &Arc<str>, asked: Asked) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return asked.refuse(PresenceError::Busy) };
        let known = self.channels.get(channel);
        if self.away || known.is_some_and(|known| known.failed) {
            return asked.refuse(PresenceError::Unavailable);
        }
        let barrier = known.map_or(0, Channel::barrier);
        self.questions.entry(Arc::clone(channel)).or_default().push_back(Question { barrier, asked, place });
        self.answer(channel);
    }

    /// A look at many channels at once.
    pub(in super::super) fn look(
        &mut self,
        channels: Vec<Arc<str>>,
        reply: RpcReplyPort<Result<Looked, PresenceError>>,
    ) {
        if self.away {
            let _ = reply.send(Err(PresenceError::Unavailable));
            return;
        }
        let (store, within) = (Arc::clone(&self.args.store), self.args.limits.command);
        let (life, settled) = (self.life, self.unsettled.is_none_or(|until| until <= Instant::now()));
        self.tasks.spawn(async move {
            let clients = look(channels, store, within).await;
            let _ = reply.send(Ok(Looked { clients, life, settled }));
        });
    }

    /// Asks what waits for nothing any more.
    pub(super) fn answer(&mut self, name: &Arc<str>) {
        let Some(waiting) = self.questions.get_mut(name) else { return };
        let known = self.channels.get(name);
        while let Some(question) = waiting.front()
            && known.is_none_or(|known| known.is_through(question.barrier))
        {
            let Some(question) = waiting.pop_front() else { break };
            let (store, turns) = (Arc::clone(&self.args.store), Arc::clone(&self.readers));
            self.tasks.spawn(ask(question, Arc::clone(name), store, turns, self.args.limits.command));
        }
        if waiting.is_empty() {
            self.questions.remove(name);
        }
    }

    pub(super) fn refuse(&mut self, name: &Arc<str>) {
        for question in self.questions.remove(name).into_iter().flatten() {
            question.asked.refuse(PresenceError::Unavailable);
        }
    }
}
