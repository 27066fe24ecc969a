//! Stands where presence does, and answers as a test has it.

use ractor::ActorProcessingErr;

use super::*;
use crate::channels::presence::PresenceMessage;

struct StandIn;

type Answering = Box<dyn FnMut(PresenceMessage) + Send>;

impl Actor for StandIn {
    type Msg = PresenceMessage;
    type State = Answering;
    type Arguments = Answering;

    async fn pre_start(
        &self,
        _: ActorRef<PresenceMessage>,
        answering: Answering,
    ) -> Result<Answering, ActorProcessingErr> {
        Ok(answering)
    }

    async fn handle(
        &self,
        _: ActorRef<PresenceMessage>,
        message: PresenceMessage,
        answering: &mut Answering,
    ) -> Result<(), ActorProcessingErr> {
        answering(message);
        Ok(())
    }
}

impl Node {
    /// From now on presence is this. A question that it lets drop is one without an answer.
    pub(super) async fn presence(&self, answering: impl FnMut(PresenceMessage) + Send + 'static) {
        let (actor, _) = Actor::spawn(None, StandIn, Box::new(answering)).await.expect("an actor");
        self.hub.presence.fill(actor, Progress::default());
    }
}
