//! The Pusher protocol as one session speaks it: an event a frame, each answered for itself.
//!
//! Invariants: a refusal leaves the socket open, for a client that is closed with a code above 4299, or below 4100, never
//! comes back; the hub's own channels are opened by the permissions of a user whose bearer token the hub has seen, never by a
//! signature alone; what a client misses on one channel ends the connection, for the protocol has no other way to recover.
//! The application is looked up for every event: a changed secret holds at once.

mod channels;
mod members;
mod relay;
mod signin;
mod watchlist;

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;
use dzvin_protocols::{
    channels::{
        Happening,
        centrifuge::{Disconnect, ErrorCode, Form},
        pusher::{self, Close, Event, Member, Name, PONG, SocketId, User, encode_error},
    },
    identity::Permissions,
};

use super::{
    clock::{NEVER, millis},
    commands::{Conversation, Refusal},
    pace::Pace,
};
use crate::{
    channels::{App, Limits, metrics::CommandLabel},
    platform::ports::{Bus, ChangeLog, Identity, Member as Present},
};

/// What the upgrade of a connection came to. A client is told of a refusal after it, for none can read an answer of HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// A client of this application.
    App(Arc<str>),
    /// It is to be closed so.
    Refused(Close),
}

/// One client's talk, beside what every session has.
#[derive(Debug)]
pub(super) struct Talk {
    /// The id of its application.
    app: Arc<str>,
    /// Who has signed in: for good.
    user: Option<User>,
    /// The pace of its events to others.
    events: Pace,
    /// The pace of its subscriptions.
    subscriptions: Pace,
    /// Who it is on presence channels, by their names inside the hub.
    members: Vec<(Arc<str>, Member)>,
    /// Until when subscriptions that cannot be answered are tried again, once one could not; or when the last of them was given up.
    waits_until: Option<Instant>,
    /// As whom it enters the channel to which it subscribes now.
    entering: Option<Arc<Present>>,
    /// Refusals in a row of what was no event, or one too many.
    wrong: u32,
}

impl Talk {
    pub(super) fn entering(&self) -> Option<Arc<Present>> {
        self.entering.clone()
    }
}

/// Subscriptions of one client in a second. A public channel needs nothing but the key of a page, and each new name is a stream on
/// the bus; a page that begins, or comes back, asks for all of its own at once.
const SUBSCRIPTIONS_PER_SECOND: u32 = 20;

fn subscriptions_at_once(limits: &Limits) -> u32 {
    u32::try_from(limits.channels).unwrap_or(u32::MAX).saturating_mul(2).max(100)
}

/// Why an event was not done.
#[derive(Debug)]
enum Trouble {
    /// The client is told, and the connection goes on.
    Told(pusher::Refusal, Cow<'static, str>),
    /// The connection ends.
    Close(Disconnect),
    /// Told already.
    Done,
}

impl Trouble {
    const fn told(why: pusher::Refusal, text: &'static str) -> Self {
        Self::Told(why, Cow::Borrowed(text))
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        use pusher::Refusal::{Forbidden, Invalid, Limit, Unavailable};
        match refusal {
            Refusal::Close(why) => Self::Close(why),
            Refusal::Done => Self::Done,
            Refusal::Error(ErrorCode::UnknownChannel) => Self::told(Invalid, "there is no such channel"),
            Refusal::Error(ErrorCode::LimitExceeded) => Self::told(Limit, "too many channels on this connection"),
            Refusal::Error(ErrorCode::BadRequest) => Self::told(Invalid, "the channel's name is too long"),
            Refusal::Error(ErrorCode::PermissionDenied) => Self::told(Forbidden, "no right to this channel"),
            Refusal::Error(_) | Refusal::Own(_) => Self::told(Unavailable, "the hub cannot answer now; try again"),
        }
    }
}

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    /// Greets the client before anything of it is read, or says why it may not stay.
    pub(super) fn greet(&mut self, admission: Option<Admission>) {
        let app = match admission {
            Some(Admission::App(id)) => self.hub.apps.by_id(&id).ok_or(Close::UnknownApp),
            Some(Admission::Refused(close)) => Err(close),
            None => Err(Close::UnknownApp),
        };
        let app = match app {
            Ok(app) if app.enabled => app,
            Ok(_) => return self.refuse(Close::AppDisabled),
            Err(close) => return self.refuse(close),
        };
        let socket = self.session.client.socket();
        self.session.reply(pusher::encode_connection_established(&socket, app.rules.activity_timeout).as_bytes());
        self.session.send_replies();
        // There is nothing that it must say first.
        self.look_by_now(NEVER);
        self.talk = Some(Box::new(Talk {
            app: Arc::clone(&app.id),
            user: None,
            events: Pace::new(Some(app.rules.client_events_per_second)),
            subscriptions: Pace::bursting(SUBSCRIPTIONS_PER_SECOND, subscriptions_at_once(&self.hub.limits)),
            members: Vec::new(),
            waits_until: None,
            entering: None,
            wrong: 0,
        }));
        tracing::debug!(client = %socket, app = %app.id, "session connected");
        self.session.tell_trace(None, Happening::Connect { wire: self.session.wire.name() });
    }

    /// The reason as the first frame, for clients that know no close codes, and as the close code for all others.
    fn refuse(&mut self, close: Close) {
        self.session.reply(pusher::encode_refused_connection(close).as_bytes());
        self.session.close_with(close.code(), close.reason());
    }

    /// The session's application, as it is configured now; without one the connection ends.
    fn app(&mut self) -> Option<Arc<App>> {
        let found = self.talk.as_ref().and_then(|talk| self.hub.apps.by_id(&talk.app));
        match found {
            Some(app) if app.enabled => Some(app),
            Some(_) => {
                self.refuse(Close::AppDisabled);
                None
            }
            None => {
                self.refuse(Close::UnknownApp);
                None
            }
        }
    }

    fn socket(&self) -> SocketId {
        self.session.client.socket()
    }

    /// Answers one frame.
    pub(super) async fn event(&mut self, form: Form, frame: &[u8]) {
        let Some(app) = self.app() else { return };
        let text = if form == Form::Json { std::str::from_utf8(frame).ok() } else { None };
        let Some(text) = text else {
            self.tell(encode_error(None, "binary frames are not part of the protocol").as_bytes());
            // Unsupported data, of RFC 6455: the client tries again in a second.
            return self.session.close_with(1003, "binary frames are not part of the protocol");
        };
        let event = match pusher::decode(text, app.rules.max_client_event) {
            Ok(event) => event,
            Err(error) => {
                self.count("malformed", None, Instant::now(), error.code().map_or(400, pusher::ErrorCode::code));
                tracing::debug!(client = %self.socket(), user = self.session.user(), %error, "an event was refused");
                return self.wrong(error.frame().as_bytes());
            }
        };
        if !self.pace.admits() {
            self.count("too many", None, Instant::now(), pusher::Refusal::Limit.status());
            return self.wrong(encode_error(None, "too many events").as_bytes());
        }
        if let Some(talk) = &mut self.talk {
            talk.wrong = 0;
        }
        match event {
            Event::Subscribe(ask) => self.subscribe_to(&app, &ask).await,
            Event::Unsubscribe { channel } => self.unsubscribe_from(&app, &channel).await,
            Event::SignIn { auth, user_data } => self.sign_in(&app, &auth, &user_data).await,
            Event::Client { event, channel, data } => self.relay(&app, &event, &channel, data).await,
            Event::Ping => self.tell(PONG.as_bytes()),
            Event::Pong | Event::Unknown => {}
        }
    }

    /// Refused, and counted: who goes on with nonsense is closed, for as long as a second.
    fn wrong(&mut self, told: &[u8]) {
        self.tell(told);
        let wrong = self.talk.as_mut().map_or(0, |talk| {
            talk.wrong = talk.wrong.saturating_add(1);
            talk.wrong
        });
        if wrong > self.hub.limits.too_many {
            self.session.close(Disconnect::TooManyErrors);
        }
    }

    fn tell(&self, frame: &[u8]) {
        self.session.reply(frame);
    }

    fn count(&self, command: &'static str, channel: Option<&str>, began: Instant, error: u16) {
        self.hub.metrics.commands.get_or_create(&CommandLabel { command, error }).inc();
        self.session.tell_trace(channel, Happening::Command { command, error, took_ms: millis(began.elapsed()) });
    }

    /// The channel's name inside the hub, for a trace; as the client spells it where there is none.
    fn inside<'a>(&self, app: &App, channel: &'a str) -> Cow<'a, str> {
        if !self.hub.tracer.is_on() {
            return channel.into();
        }
        let inside = Name::parse(channel).ok().and_then(|name| app.channel(&name));
        inside.map_or(channel.into(), |inside| inside.to_string().into())
    }

    /// Who the bearer of a token is, when the hub itself knows; for the time of the token.
    async fn bearer(&mut self, token: &str) -> Result<Identity, Trouble> {
        use crate::platform::ports::AuthError;
        let identity = self.hub.auth.authenticate(token).await.map_err(|error| match error {
            AuthError::Expired => Trouble::told(pusher::Refusal::Unauthorized, "the bearer token has expired"),
            AuthError::Invalid => Trouble::told(pusher::Refusal::Unauthorized, "the bearer token is refused"),
            AuthError::Unavailable => {
                Trouble::told(pusher::Refusal::Unavailable, "the bearer token cannot be checked now")
            }
            AuthError::TooMany(_) => Trouble::told(pusher::Refusal::Limit, "too many attempts failed"),
        })?;
        let same = |known: &str| *known == *identity.user;
        let signed = self.talk.as_ref().and_then(|talk| talk.user.as_ref());
        let stays = signed.is_none_or(|user| same(user.member.id.as_str()))
            && self.identity.as_ref().is_none_or(|known| same(&known.user));
        if identity.user.is_empty() || !stays {
            return Err(Trouble::told(pusher::Refusal::Forbidden, "this connection is another user's"));
        }
        Ok(identity)
    }

    /// From now on the session has the rights of this user, and no others.
    async fn adopt(&mut self, identity: Identity) -> Result<(), Trouble> {
        self.count_in(&identity.user)?;
        self.keep_until(&identity);
        self.session.signed_in(&identity.user);
        // Between the look at the token and the moment from which this session is told.
        if self.hub.auth.revoked(&identity) {
            return Err(Trouble::Close(Disconnect::InvalidToken));
        }
        self.identity = Some(identity);
        self.keep_to_rights().await;
        Ok(())
    }

    /// The connection is one of this user's, of whom there may be so many.
    fn count_in(&mut self, user: &Arc<str>) -> Result<(), Trouble> {
        if self.counted.is_none() {
            let counted = self.hub.users.admit(user, self.hub.limits.of_user);
            self.counted = counted.ok_or(Trouble::Close(Disconnect::ConnectionLimit))?;
        }
        Ok(())
    }

    /// Somebody without any rights, where a rule asks who it is.
    fn somebody(&self) -> Cow<'_, Identity> {
        match &self.identity {
            Some(identity) => Cow::Borrowed(identity),
            None => Cow::Owned(Identity::new("", Arc::new(Permissions::default()))),
        }
    }

    /// Tells the audit of a refusal of rights, or of a signature.
    fn tell_audit(&self, action: &'static str, channel: &str, why: pusher::Refusal) {
        let code = match why {
            pusher::Refusal::Forbidden => "forbidden",
            pusher::Refusal::Unauthorized => "unauthorized",
            _ => return,
        };
        self.refused(action, channel, code, ());
    }

    fn look_by_now(&mut self, until: u64) {
        self.look_by(self.session.keep_until(until));
    }
}

/// A frame of the protocol as bytes to be shared.
fn frame(text: String) -> Bytes {
    text.into_bytes().into()
}
