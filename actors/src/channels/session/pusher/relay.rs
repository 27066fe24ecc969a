//! Events of clients to each other: nothing keeps them, and whoever is away meanwhile never hears them.

use std::{sync::Arc, time::Instant};

use dzvin_protocols::{
    channels::{
        Word,
        pusher::{ErrorCode, Name, WebhookEvent, encode_error},
    },
    platform::StreamName,
};
use serde_json::value::RawValue;

use super::Conversation;
use crate::{
    channels::{App, Publisher, outside},
    platform::ports::{Bus, ChangeLog, Conditions, Offer, Published},
};

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    pub(super) async fn relay(&mut self, app: &Arc<App>, event: &str, channel: &str, data: Option<&RawValue>) {
        let began = Instant::now();
        let refused = self.relayed(app, event, channel, data).await.err();
        let inside = self.inside(app, channel);
        self.count("client event", Some(&inside), began, refused.map_or(0, |_| ErrorCode::ClientEventRejected.code()));
        if let Some(text) = refused {
            self.tell(encode_error(Some(ErrorCode::ClientEventRejected), text).as_bytes());
        }
    }

    async fn relayed(
        &mut self,
        app: &Arc<App>,
        event: &str,
        channel: &str,
        data: Option<&RawValue>,
    ) -> Result<(), &'static str> {
        if !app.client_events {
            return Err("the application does not allow client events");
        }
        let name = Name::parse(channel).map_err(|_| "the channel's name is malformed")?;
        if !name.carries_client_events() {
            return Err("client events are for private and presence channels");
        }
        let inside = app.channel(&name).ok_or("this application has no such channels")?.to_string();
        if !self.session.has(&inside) {
            return Err("not subscribed to this channel");
        }
        let (socket, limits) = (self.socket(), self.hub.limits.command);
        let Some(talk) = &mut self.talk else { return Err("not connected") };
        if !talk.events.admits() {
            return Err("too many client events");
        }
        if !self.user_may().await {
            return Err("too many events of this user");
        }
        let Some(talk) = &self.talk else { return Err("not connected") };
        let member = talk.members.iter().find(|(of, _)| **of == *inside).map(|(_, member)| member.id.as_str());
        let word = Word::Event {
            event: event.into(),
            data: data.map(|data| data.to_owned().into()),
            user: member.map(Into::into),
            except: Some(socket.as_str().into()),
        };
        let told = WebhookEvent::client_event(name.as_str(), event, data, socket.as_str(), member);
        let stream = StreamName::from_checked(&inside);
        let pace = self.hub.namespaces.of(outside(&inside)).pace_of(Publisher::Client);
        let on = Conditions { pace, ..Conditions::default() };
        match tokio::time::timeout(limits, self.hub.bus.put(&stream, Offer::Passing(word.encode()), &on)).await {
            Ok(Ok(Published::TooMany { .. })) => Err("too many events on this channel"),
            Ok(Ok(_)) => {
                self.hub.observer.observe(app, told);
                Ok(())
            }
            Ok(Err(error)) => {
                tracing::debug!(client = %socket, %error, "a client event was not relayed");
                Err("the event could not be relayed now")
            }
            Err(_) => Err("the event could not be relayed now"),
        }
    }
}
