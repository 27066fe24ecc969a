//! Members of presence channels: as whom a client is there, whether there is room for it, and whom it finds.

use std::sync::Arc;

use bytes::Bytes;
use dzvin_protocols::channels::{
    centrifuge::ClientInfo,
    pusher::{Member, Name, Refusal, Subscribe, encode_presence_succeeded, member},
};

use super::{Conversation, Trouble, frame};
use crate::{
    channels::{
        App,
        presence::{PresenceMessage, Roster},
    },
    platform::ports::{Bus, ChangeLog, Member as Present},
};

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    /// As whom the client may be there: as the application's server has signed, or as the user who has signed in.
    pub(super) fn member_of(&self, app: &App, name: &Name, ask: &Subscribe) -> Result<Member, Trouble> {
        let refused = |error: &dyn std::fmt::Display| Trouble::Told(Refusal::Unauthorized, error.to_string().into());
        let data = ask.channel_data.as_deref().filter(|data| !data.is_empty());
        app.ring.verify_channel(ask.auth(), &self.socket(), name.as_str(), data).map_err(|error| refused(&error))?;
        if let Some(data) = data {
            return Member::parse(data, app.rules.max_user_info)
                .map_err(|error| Trouble::Told(Refusal::Invalid, error.to_string().into()));
        }
        let user = self.talk.as_ref().and_then(|talk| talk.user.as_ref());
        user.map(|user| user.member.clone())
            .ok_or(Trouble::told(Refusal::Unauthorized, "sign in first, or send channel_data"))
    }

    /// The member as presence keeps it.
    pub(super) fn shown(&self, member: &Member) -> Arc<Present> {
        let info = ClientInfo {
            user: member.id.as_str().into(),
            client: self.session.client_name().into(),
            conn_info: None,
            chan_info: member.info.as_ref().map(|info| Bytes::copy_from_slice(info.get().as_bytes())),
        };
        Arc::new(Present { info, told: true, shown: true })
    }

    pub(super) fn enter_as(&mut self, member: Option<Arc<Present>>) {
        if let Some(talk) = &mut self.talk {
            talk.entering = member;
        }
    }

    /// Whether the client would be there as another user, for whom there is room: then it is looked at again with the [roster]. Who
    /// is there already comes in whatever happens meanwhile; should its other client leave in that moment, it is one more than may
    /// be. Looked at before it is entered, so that those who are too many are told to nobody.
    ///
    /// [roster]: Self::roster
    pub(super) async fn is_newcomer(&self, app: &App, inside: &Arc<str>, who: &Member) -> Result<bool, Trouble> {
        // All of them: for a moment they are more than may be there, until those who are too many have left again.
        let there = self.present(inside, usize::MAX).await?;
        if there.members.iter().any(|present| *present.info.user == *who.id.as_str()) {
            return Ok(false);
        }
        if there.counts.users >= app.max_members as u64 { Err(too_many()) } else { Ok(true) }
    }

    /// What a member is answered: who is there, itself included.
    ///
    /// A `newcomer` finds itself among the counted: of those who came in the same moment, on whatever nodes, whoever counts too
    /// many leaves again. Of newcomers it may be one too many who leaves, never one too many who stays.
    pub(super) async fn roster(
        &self,
        app: &App,
        name: &Name,
        inside: &Arc<str>,
        who: &Member,
        newcomer: bool,
    ) -> Result<Bytes, Trouble> {
        let there = self.present(inside, app.max_members).await?;
        if newcomer && there.counts.users > app.max_members as u64 {
            return Err(too_many());
        }
        let mut members: Vec<Member> = there.members.iter().filter_map(|present| member(&present.info)).collect();
        if !members.iter().any(|present| present.id == who.id) {
            members.push(who.clone());
        }
        Ok(frame(encode_presence_succeeded(name.as_str(), &members)))
    }

    /// Users who are there, at most so many.
    async fn present(&self, inside: &Arc<str>, most: usize) -> Result<Roster, Trouble> {
        let channel = Arc::clone(inside);
        self.ask(|reply| PresenceMessage::Roster { channel, most, reply }).await
    }

    async fn ask<T: Send + 'static, E: Send + 'static>(
        &self,
        question: impl FnOnce(ractor::RpcReplyPort<Result<T, E>>) -> PresenceMessage,
    ) -> Result<T, Trouble> {
        match self.hub.presence.call(question, self.hub.limits.command).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(Trouble::told(Refusal::Unavailable, "members cannot be asked now; try again")),
        }
    }
}

const fn too_many() -> Trouble {
    Trouble::told(Refusal::Limit, "too many members on this channel")
}
