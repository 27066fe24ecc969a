//! Subscribing and unsubscribing: who may, until when, what is answered, and where it goes live.
//!
//! What an application's server has signed is open for as long as the socket. What the hub itself has signed is lent to the
//! bearer of a token, whom the signed data names: it ends when that token does, and when it is revoked. What the rights of a
//! signed-in user have opened ends with those rights.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dzvin_protocols::channels::{
    Channel, Publication,
    centrifuge::SubscribeRequest,
    now_micros,
    pusher::{
        self, Bearer, Grant, Guard, MAX_NAME, Member, Name, NameError, Refusal, Subscribe, WebhookEvent,
        encode_cache_miss, encode_change, encode_error, encode_publication, encode_subscription_error,
        encode_subscription_succeeded,
    },
};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::time::sleep;

use super::{Conversation, Trouble, frame};
use crate::{
    channels::{
        Access, Alias, App, outside,
        session::{
            Session,
            live::Terms,
            start::{Prepared, Start},
        },
    },
    platform::ports::{Bus, ChangeLog, Query, SubscriptionGrant, TokenMark},
};

/// Before the second try of a subscription; before each further one it is twice as long.
const AGAIN: Duration = Duration::from_millis(200);

/// What our own endpoint writes into signed data beside what the protocol knows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OfHub<'a> {
    /// The bearer token of the user for whom it was signed.
    #[serde(borrow)]
    pub(super) hub_token: Option<Cow<'a, str>>,
}

impl<'a> OfHub<'a> {
    pub(super) fn read(data: &'a str) -> Option<Cow<'a, str>> {
        serde_json::from_str::<Self>(data).ok().and_then(|it| it.hub_token)
    }
}

/// By what a client has a channel.
#[derive(Default)]
struct Admitted {
    /// On a presence channel, as whom.
    member: Option<Member>,
    /// Until when, and by which token; nothing of both where an application's server has signed.
    grant: SubscriptionGrant,
    /// The rights of the user have opened it, and end it.
    by_rights: bool,
    /// A query is known for as long as somebody holds it; then the topics do.
    query: Option<Arc<Query>>,
}

/// Which name of a hub's channel was asked for.
fn alias(name: &Name) -> Alias {
    match (name.is_reserved(), name.kind().cache) {
        (false, _) => Alias::None,
        (true, false) => Alias::Private,
        (true, true) => Alias::PrivateCache,
    }
}

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    pub(super) async fn subscribe_to(&mut self, app: &Arc<App>, ask: &Subscribe) {
        let began = Instant::now();
        let status = match self.subscribe_as(app, ask).await {
            Ok(()) | Err(Trouble::Done) => 0,
            Err(Trouble::Close(why)) => {
                self.session.close(why);
                why.code()
            }
            Err(Trouble::Told(why, text)) => {
                self.tell_audit("session.subscribe", &ask.channel, why);
                // What cannot be a name is not repeated.
                let named = ask.channel.len() <= MAX_NAME;
                let error =
                    if named { encode_subscription_error(&ask.channel, why, &text) } else { encode_error(None, &text) };
                self.tell(error.as_bytes());
                why.status()
            }
        };
        let channel = self.inside(app, &ask.channel);
        self.count("pusher:subscribe", Some(&channel), began, status);
    }

    async fn subscribe_as(&mut self, app: &Arc<App>, ask: &Subscribe) -> Result<(), Trouble> {
        if !self.talk.as_mut().is_some_and(|talk| talk.subscriptions.admits()) {
            return Err(Trouble::told(Refusal::Limit, "too many subscriptions at once; try again soon"));
        }
        let name = Name::parse(&ask.channel).map_err(|error| match error {
            NameError::Malformed => Trouble::told(Refusal::Invalid, "the channel's name is malformed"),
            NameError::Reserved => Trouble::told(Refusal::Forbidden, "channel names of this prefix are reserved"),
        })?;
        let channel = app.channel(&name);
        let channel = channel.ok_or(Trouble::told(Refusal::Forbidden, "this application has no such channels"))?;
        let admitted = self.admit(app, &name, &channel, ask).await?;
        let inside: Arc<str> = channel.to_string().into();
        let alias = alias(&name);
        match self.session.alias_of(&inside) {
            None => self.begin_on(app, &name, channel, inside, admitted).await,
            // It has had everything since; what it asks is whether it is subscribed. What it has shown last is what it lives on.
            Some(known) if known == alias => {
                let Admitted { member, grant, by_rights, .. } = admitted;
                // Who is shown there would go on being shown by what another has been lent.
                let known = self.talk.as_ref().and_then(|talk| talk.members.iter().find(|(of, _)| *of == inside));
                if member.as_ref().zip(known).is_some_and(|(member, (_, known))| member.id != known.id) {
                    return Err(Trouble::told(Refusal::Invalid, "subscribed already as another user"));
                }
                if !by_rights {
                    let mark = grant.mark.clone();
                    self.prolong(&inside, grant);
                    self.still_lent(&inside, mark.as_ref()).await?;
                }
                let again = self.succeeded(app, &name, &inside, member.as_ref(), false).await?;
                self.tell(&again);
                Ok(())
            }
            Some(_) => Err(Trouble::told(Refusal::Invalid, "subscribed already under another name")),
        }
    }

    async fn begin_on(
        &mut self,
        app: &Arc<App>,
        name: &Name,
        channel: Channel,
        inside: Arc<str>,
        admitted: Admitted,
    ) -> Result<(), Trouble> {
        let Admitted { member, grant, by_rights, query: _held } = admitted;
        let mark = grant.mark.clone();
        let (began, mut pause) = (Instant::now(), AGAIN);
        let (prepared, newcomer) = loop {
            let begun = self.begin(app, name, &channel, &inside, (member.as_ref(), by_rights), grant.clone()).await;
            if !matches!(begun, Err(Trouble::Told(Refusal::Unavailable, _)))
                || !self.may_wait(member.is_some(), began, pause)
            {
                break begun?;
            }
            sleep(pause).await;
            pause *= 2;
        };
        if let Some(talk) = self.talk.as_mut().filter(|_| member.is_some()) {
            // Members are there again; of other channels' success that says nothing.
            talk.waits_until = None;
        }
        self.still_lent(&inside, mark.as_ref()).await?;
        match self.first_frames(app, name, &channel, (member.as_ref(), newcomer), &prepared).await {
            Ok(frames) => {
                let frames: Vec<&[u8]> = frames.iter().map(|it| &it[..]).collect();
                self.settle_all(vec![prepared.going()], &frames).await;
                if let (Some(member), Some(talk)) = (member, &mut self.talk) {
                    talk.members.retain(|(channel, _)| *channel != inside);
                    talk.members.push((inside, member));
                }
                Ok(())
            }
            Err(trouble) => {
                self.undo(&inside).await;
                Err(trouble)
            }
        }
    }

    /// Listens and enters; whether it is a newcomer among the members.
    async fn begin(
        &mut self,
        app: &Arc<App>,
        name: &Name,
        channel: &Channel,
        inside: &Arc<str>,
        (member, by_rights): (Option<&Member>, bool),
        grant: SubscriptionGrant,
    ) -> Result<(Prepared, bool), Trouble> {
        let newcomer = match member {
            Some(member) => self.is_newcomer(app, inside, member).await?,
            None => false,
        };
        let own = member.map(|member| member.id.as_str().into());
        let terms =
            Terms { alias: alias(name), join_leave: name.is_presence(), own, granted: !by_rights, ..Terms::default() };
        let request = SubscribeRequest { channel: inside.to_string(), ..SubscribeRequest::default() };
        let entering = member.map(|member| self.shown(member));
        self.enter_as(entering);
        let prepared = self.prepare(request, channel.clone(), terms, grant, None).await;
        self.enter_as(None);
        Ok((prepared?, newcomer))
    }

    /// Whether a subscription may be tried again after a pause. Members are away for some seconds while a server of the bus is replaced or
    /// a slot is on its way, and the library asks once in a connection. One conversation waits as long as one command may take, however
    /// many channels it asks for: what is behind them is not to wait for all.
    fn may_wait(&mut self, among_members: bool, began: Instant, pause: Duration) -> bool {
        let Some(talk) = self.talk.as_mut().filter(|_| among_members) else { return false };
        let (now, most) = (Instant::now(), self.hub.limits.command);
        // What was refused long before it was asked for this one was another outage.
        let known = talk.waits_until.filter(|until| began < *until + most);
        let until = known.unwrap_or(now + most);
        let waits = now + pause < until && self.session.closing().is_none() && !self.session.left();
        talk.waits_until = Some(if waits { until } else { now });
        waits
    }

    /// What a subscriber is told before anything live.
    async fn first_frames(
        &self,
        app: &Arc<App>,
        name: &Name,
        channel: &Channel,
        (member, newcomer): (Option<&Member>, bool),
        prepared: &Prepared,
    ) -> Result<Vec<Bytes>, Trouble> {
        let mut frames = vec![self.succeeded(app, name, &prepared.name, member, newcomer).await?];
        if name.kind().cache {
            frames.extend(self.last(app, name, channel, &prepared.start).await?);
        }
        Ok(frames)
    }

    async fn succeeded(
        &self,
        app: &Arc<App>,
        name: &Name,
        inside: &Arc<str>,
        member: Option<&Member>,
        newcomer: bool,
    ) -> Result<Bytes, Trouble> {
        if let Some(member) = member {
            return self.roster(app, name, inside, member, newcomer).await;
        }
        Ok(frame(encode_subscription_succeeded(name.as_str())))
    }

    /// The last event of a cache channel, or the word that there is none. Of the application's neither where it is no more: what has taken
    /// its place comes live.
    async fn last(
        &self,
        app: &Arc<App>,
        name: &Name,
        channel: &Channel,
        start: &Start,
    ) -> Result<Option<Bytes>, Trouble> {
        let top = start.position.offset;
        let of_application = matches!(channel, Channel::Application(_) | Channel::User(_));
        let place = |it: &Publication| {
            if matches!(channel, Channel::Entity(..)) { it.revision } else { it.offset }
        };
        let last = match top {
            0 => None,
            // What is in a query is asked of the query itself, over REST.
            _ if matches!(channel, Channel::Query(_)) => None,
            top => self.page(channel, top - 1, 1).await?.publications.into_iter().next(),
        };
        if of_application && last.as_ref().is_some_and(|it| place(it) > top) {
            return Ok(None);
        }
        let last = last.filter(|it| place(it) == top).filter(|it| {
            let age = app.rules.cache_age.as_micros();
            !of_application || u128::try_from(now_micros() - it.at).unwrap_or(0) <= age
        });
        // The state as this user sees it, whatever of it changed last.
        let last = match self.viewer(channel) {
            Ok(Some(viewer)) => last.and_then(|it| viewer.sight.state(&it)),
            Ok(None) => last,
            Err(_) => None,
        };
        Ok(Some(match last {
            Some(publication) if of_application => encode_publication(name.as_str(), &publication).into(),
            Some(publication) => encode_change(name.as_str(), &publication).into(),
            None => {
                if of_application {
                    self.hub.observer.observe(app, WebhookEvent::CacheMiss { channel: name.as_str().to_owned() });
                }
                frame(encode_cache_miss(name.as_str()))
            }
        }))
    }

    /// Whether the client may have the channel, and by what.
    async fn admit(
        &mut self,
        app: &Arc<App>,
        name: &Name,
        channel: &Channel,
        ask: &Subscribe,
    ) -> Result<Admitted, Trouble> {
        Ok(match name.grant() {
            Grant::Open => Admitted { by_rights: self.open(channel)?, ..Admitted::default() },
            Grant::Signature => {
                let grant = self.lent(self.signed(app, name, ask)?)?;
                Admitted { grant, ..Admitted::default() }
            }
            Grant::Membership => {
                let (member, grant) = (self.member_of(app, name, ask)?, self.lent(ask.channel_data.as_deref())?);
                Admitted { member: Some(member), grant, ..Admitted::default() }
            }
            Grant::SignIn if name.kind().guard == Guard::User => {
                self.own(name)?;
                Admitted::default()
            }
            Grant::SignIn => {
                self.verify(app, name, ask.auth(), ask.channel_data.as_deref())?;
                Admitted { by_rights: true, query: self.of_hub(channel, ask).await?, ..Admitted::default() }
            }
        })
    }

    /// A channel without a prefix is anybody's, unless the configuration names its namespace and lets in fewer: then the rights
    /// of the user decide, which is answered.
    fn open(&self, channel: &Channel) -> Result<bool, Trouble> {
        let Channel::Application(name) = channel else { return Ok(false) };
        // Of an isolated application the name that its clients know.
        let name = outside(name);
        let fewer = self.hub.namespaces.named(name).is_some_and(|rules| rules.subscribe != Access::Anyone);
        if fewer && !self.hub.namespaces.may_subscribe(name, &self.somebody()) {
            return Err(Trouble::told(Refusal::Forbidden, "no right to this channel"));
        }
        Ok(fewer)
    }

    fn verify(&self, app: &App, name: &Name, auth: &str, data: Option<&str>) -> Result<(), Trouble> {
        app.ring
            .verify_channel(auth, &self.socket(), name.as_str(), data)
            .map_err(|error| Trouble::Told(Refusal::Unauthorized, error.to_string().into()))
    }

    /// Checks the signature of a private channel; answers the data that it covers. Data beside a signature that does not cover it
    /// says nothing, as ever in this protocol; of what the hub has signed it cannot be taken away.
    fn signed<'a>(&self, app: &App, name: &Name, ask: &'a Subscribe) -> Result<Option<&'a str>, Trouble> {
        let data = ask.channel_data.as_deref().filter(|data| !data.is_empty());
        if data.is_some() && self.verify(app, name, ask.auth(), data).is_ok() {
            return Ok(data);
        }
        self.verify(app, name, ask.auth(), None).map(|()| None)
    }

    /// What signed data says of the bearer of a token, for whom the hub itself has signed; without one there is no end.
    fn lent(&self, data: Option<&str>) -> Result<SubscriptionGrant, Trouble> {
        let unreadable = || Trouble::told(Refusal::Invalid, "the bearer in channel_data cannot be read");
        let bearer = data.map(Bearer::read).transpose().map_err(|_| unreadable())?.flatten();
        let Some(Bearer { sub, exp, iat, jti }) = bearer else { return Ok(SubscriptionGrant::default()) };
        let expires_at = exp.map(OffsetDateTime::from_unix_timestamp).transpose().map_err(|_| unreadable())?;
        if expires_at.is_some_and(|end| end <= OffsetDateTime::now_utc()) {
            return Err(Trouble::told(Refusal::Unauthorized, "the bearer token has expired"));
        }
        let mark = TokenMark { user: Some(sub.into()), jti: jti.map(Into::into), issued_at: iat };
        if self.is_revoked(&mark) {
            return Err(taken_back());
        }
        Ok(SubscriptionGrant { expires_at, mark: Some(mark), ..SubscriptionGrant::default() })
    }

    /// Looked at again when the session is told what becomes of the token: it may have been revoked in between.
    async fn still_lent(&self, inside: &Arc<str>, mark: Option<&TokenMark>) -> Result<(), Trouble> {
        if !mark.is_some_and(|mark| self.is_revoked(mark)) {
            return Ok(());
        }
        self.undo(inside).await;
        Err(taken_back())
    }

    /// What the application sends to one user is that user's.
    fn own(&self, name: &Name) -> Result<(), Trouble> {
        let pusher::Target::User(id) = name.target() else { return Err(Trouble::Done) };
        match self.talk.as_ref().and_then(|talk| talk.user.as_ref()) {
            None => Err(Trouble::told(Refusal::Unauthorized, "sign in first")),
            Some(user) if user.member.id == *id => Ok(()),
            Some(_) => Err(Trouble::told(Refusal::Forbidden, "this channel is another user's")),
        }
    }

    /// A channel of the hub's own is opened by the permissions of a user whom the hub knows: by the sign-in, or by the token
    /// that the hub's endpoint has put into what it signed.
    async fn of_hub(&mut self, channel: &Channel, ask: &Subscribe) -> Result<Option<Arc<Query>>, Trouble> {
        if let Some(token) = ask.channel_data.as_deref().and_then(OfHub::read) {
            let identity = self.bearer(&token).await?;
            self.adopt(identity).await?;
        }
        if self.identity.is_none() {
            return Err(Trouble::told(Refusal::Unauthorized, "sign in with the hub's own endpoint first"));
        }
        let inside = channel.to_string();
        let query = self.look_up(&inside).await?;
        self.permitted(&inside)?;
        Ok(query)
    }

    pub(super) async fn unsubscribe_from(&mut self, app: &Arc<App>, channel: &str) {
        let inside = self.inside(app, channel);
        self.count("pusher:unsubscribe", Some(&inside), Instant::now(), 0);
        let Ok(name) = Name::parse(channel) else { return };
        let Some(inside) = app.channel(&name) else { return };
        let inside: Arc<str> = inside.to_string().into();
        if self.session.alias_of(&inside) != Some(alias(&name)) {
            return;
        }
        self.given_up(&inside).await;
        if let Some(talk) = &mut self.talk {
            talk.members.retain(|(channel, _)| *channel != inside);
        }
    }
}

/// The token on which the hub has signed is no longer good.
const fn taken_back() -> Trouble {
    Trouble::told(Refusal::Unauthorized, "the bearer token is refused")
}

impl Session {
    /// Under which name the client has the channel, if it does.
    fn alias_of(&self, channel: &str) -> Option<Alias> {
        let inner = self.lock();
        inner.find(channel).map(|at| inner.subscriptions[at].terms.alias)
    }
}
