//! `POST /pusher/auth` and `POST /pusher/user-auth`: what a client of the Pusher protocol asks before it subscribes or signs
//! in, answered for the bearer of a token of the hub.
//!
//! An application's server signs with its secret whatever it likes, and the hub cannot know who was behind that. So what is
//! signed here carries the bearer's token as well, where the hub will want to know the user: on its own channels, and at the
//! sign-in. It reads the token again when the client shows it, and lets the session go on for as long as the token does. On
//! channels of the application it carries whose token it was and until when ([`Bearer`]), by which the subscription ends.
//! The token goes nowhere else: it is in no log.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, Uri, header},
    routing::post,
};
use dzvin_actors::{
    channels::{App, Apps, Namespaces},
    platform::ports::{Authenticator, Identity},
};
use dzvin_protocols::channels::{
    Channel,
    pusher::{Bearer, Guard, Member, Name, SocketId, Target, UserId, shared_secret},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{identity::Origin, platform::http::Problem};

/// A socket's id, a channel's name, and what libraries add.
const MAX_BODY: usize = 8 * 1024;

/// What the endpoints need.
#[derive(Clone)]
pub struct Signing {
    /// Whose keys sign.
    pub apps: Apps,
    /// What holds for channels of the application.
    pub namespaces: Arc<Namespaces>,
    /// Who somebody is.
    pub auth: Arc<dyn Authenticator>,
}

/// The routes.
pub fn router(signing: Signing) -> Router {
    let channel =
        |state, whose, origin, headers, body| sign(state, whose, origin, headers, body, Signing::sign_channel);
    let user =
        |state, whose, origin, headers, body| sign(state, whose, origin, headers, body, |_, asking| sign_user(asking));
    Router::new().route("/pusher/auth", post(channel)).route("/pusher/user-auth", post(user)).with_state(signing)
}

/// For which application; without it the first that shares the hub's channels.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct For {
    app: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Asked {
    socket_id: String,
    #[serde(default)]
    channel_name: Option<String>,
}

/// Who asks, and for what.
struct Asking<'a> {
    app: Arc<App>,
    identity: Identity,
    token: &'a str,
    socket: SocketId,
    channel: String,
}

/// It holds what nobody is to read in a log.
#[derive(Serialize, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
struct Signed {
    auth: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_data: Option<String>,
    /// The key of an encrypted channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_secret: Option<String>,
}

async fn sign(
    State(signing): State<Signing>,
    Query(whose): Query<For>,
    origin: Origin,
    headers: HeaderMap,
    body: Bytes,
    answer: impl FnOnce(&Signing, &Asking<'_>) -> Result<Signed, Problem>,
) -> Result<Json<Signed>, Problem> {
    let (identity, token) = signing.bearer(origin, &headers).await?;
    let (app, Asked { channel_name, .. }, socket) = signing.asked(&whose, &headers, &body)?;
    let asking = Asking { app, identity, token, socket, channel: channel_name.unwrap_or_default() };
    answer(&signing, &asking).map(Json)
}

impl Signing {
    /// Who asks, and by which token.
    async fn bearer<'a>(&self, origin: Origin, headers: &'a HeaderMap) -> Result<(Identity, &'a str), Problem> {
        let mut all = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(only), None) = (all.next(), all.next()) else { return Err(Problem::unauthorized()) };
        let (scheme, token) = only.to_str().ok().and_then(|it| it.split_once(' ')).ok_or_else(Problem::unauthorized)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Problem::unauthorized());
        }
        let token = token.trim();
        let (identity, _) = origin.authenticate(&*self.auth, token).await?;
        Ok((identity, token))
    }

    fn asked(&self, whose: &For, headers: &HeaderMap, body: &Bytes) -> Result<(Arc<App>, Asked, SocketId), Problem> {
        let app = match &whose.app {
            Some(named) => self.apps.by_id(named).or_else(|| self.apps.by_key(named)),
            None => self.apps.all().iter().find(|app| app.enabled && !app.isolated).cloned(),
        };
        let app = app.filter(|app| app.enabled && !app.isolated).ok_or_else(|| {
            Problem::not_found("app_unknown", "no enabled application that shares the hub's channels is named so")
        })?;
        let bad = || Problem::bad_request("bad_request", "expected socket_id and channel_name as a form or as JSON");
        if body.len() > MAX_BODY {
            return Err(bad());
        }
        let is_json = headers
            .get(header::CONTENT_TYPE)
            .and_then(|it| it.to_str().ok())
            .is_some_and(|it| it.to_ascii_lowercase().starts_with("application/json"));
        let asked: Asked = if is_json {
            serde_json::from_slice(body).map_err(|_| bad())?
        } else {
            // A form is spelled as the query of an address.
            let form = std::str::from_utf8(body).ok().and_then(|form| format!("/?{form}").parse::<Uri>().ok());
            Query::try_from_uri(&form.ok_or_else(bad)?).map_err(|_| bad())?.0
        };
        let socket = SocketId::parse(&asked.socket_id).ok_or_else(bad)?;
        Ok((app, asked, socket))
    }

    fn sign_channel(&self, asking: &Asking<'_>) -> Result<Signed, Problem> {
        let Asking { app, identity, token, socket, channel } = asking;
        let malformed = |why: String| Problem::bad_request("channel_unknown", why);
        let name = Name::parse(channel).map_err(|error| malformed(error.to_string()))?;
        let forbidden = |action: &str| Problem::forbidden(format_args!("{action}:{name}"));
        let data = match (name.kind().guard, name.target()) {
            (Guard::Public | Guard::User, _) => return Err(malformed("this channel needs no signature".to_owned())),
            (Guard::Encrypted, _) if app.master_key.is_none() => {
                return Err(malformed("the application's server has the keys of encrypted channels".to_owned()));
            }
            (_, Target::Channel(Channel::Entities(kind) | Channel::Entity(kind, _))) => {
                if !identity.permissions.may_read(kind) {
                    return Err(Problem::forbidden(format_args!("entities:read:{kind}")));
                }
                with_token(&member(identity)?.channel_data(), token)
            }
            // Whose query it is the hub sees when it is subscribed to.
            (_, Target::Channel(Channel::Query(_))) => with_token(&member(identity)?.channel_data(), token),
            (guard, _) => {
                if !self.namespaces.may_subscribe(name.as_str(), identity) {
                    return Err(forbidden("channels:subscribe"));
                }
                let member = if guard == Guard::Presence { Some(member(identity)?.channel_data()) } else { None };
                bearer(identity).written_into(member.as_deref())
            }
        };
        let auth = app.ring.signer().channel_token(socket, name.as_str(), Some(&data));
        let encrypted = name.kind().guard == Guard::Encrypted;
        let master = app.master_key.as_ref().filter(|_| encrypted);
        // Whoever has it reads and writes the channel; of the master key, and of other channels' keys, it tells nothing.
        let shared_secret = master.map(|key| shared_secret(name.as_str(), key.expose()));
        Ok(Signed { auth, channel_data: Some(data), user_data: None, shared_secret })
    }
}

fn sign_user(asking: &Asking<'_>) -> Result<Signed, Problem> {
    #[derive(Serialize)]
    struct Data<'a> {
        id: &'a UserId,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_info: Option<&'a RawValue>,
    }
    let Asking { app, identity, token, socket, .. } = asking;
    let member = member(identity)?;
    let data = Data { id: &member.id, user_info: member.info.as_deref() };
    let data = with_token(&serde_json::to_string(&data).map_err(Problem::internal)?, token);
    let auth = app.ring.signer().user_token(socket, &data);
    Ok(Signed { auth, channel_data: None, user_data: Some(data), shared_secret: None })
}

/// By what the bearer's token may be ended.
fn bearer(identity: &Identity) -> Bearer {
    Bearer {
        sub: identity.user.to_string(),
        exp: identity.expires_at.map(time::OffsetDateTime::unix_timestamp),
        iat: identity.issued_at,
        jti: identity.jti.as_deref().map(str::to_owned),
    }
}

/// The bearer as others see it.
fn member(identity: &Identity) -> Result<Member, Problem> {
    let id = UserId::new(&identity.user)
        .map_err(|error| Problem::bad_request("user_unusable", format!("the token's user: {error}")))?;
    let info = identity.info.as_deref().and_then(|info| std::str::from_utf8(info).ok());
    let info = info.and_then(|info| RawValue::from_string(info.to_owned()).ok());
    Ok(Member { id, info })
}

/// One member more in an object that has some.
fn with_token(object: &str, token: &str) -> String {
    // Tokens are letters, digits, hyphens, underscores and dots; should one be more, it is written as JSON has it.
    let token = serde_json::to_string(token).unwrap_or_default();
    format!("{},\"hub_token\":{token}}}", object.strip_suffix('}').unwrap_or(object))
}

#[cfg(test)]
mod tests {
    use dzvin_actors::{
        channels::{Access, MasterKey},
        platform::ports::AuthError,
    };
    use dzvin_protocols::{channels::pusher::Credentials, identity::Permissions};

    use super::*;

    struct Olha;

    impl Authenticator for Olha {
        fn authenticate<'a>(&'a self, token: &'a str) -> dzvin_actors::platform::ports::Verified<'a, Identity> {
            Box::pin(async move {
                match token {
                    "good" => Ok(who("olha")),
                    "old" => Err(AuthError::Expired),
                    _ => Err(AuthError::Invalid),
                }
            })
        }

        fn subscription<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
            _: &'a str,
        ) -> dzvin_actors::platform::ports::Verified<'a, dzvin_actors::platform::ports::SubscriptionGrant> {
            Box::pin(async { Err(AuthError::Invalid) })
        }
    }

    fn who(user: &str) -> Identity {
        let granted = [
            "entities:read:procedure",
            "channels:subscribe:private-chat.*",
            "channels:subscribe:private-encrypted-safe.*",
            "channels:subscribe:presence-*",
        ];
        Identity {
            expires_at: Some(time::OffsetDateTime::from_unix_timestamp(2_000_000_000).expect("a time")),
            issued_at: Some(1_000_000_000),
            jti: Some("t-1".into()),
            ..Identity::new(user, Arc::new(Permissions::parse(granted).expect("permissions")))
        }
    }

    fn signing() -> Signing {
        let app = |id: &str, key: &str| {
            App::new(id, vec![Credentials::new(key, "a secret of sixteen").expect("key")]).expect("app")
        };
        let apps = Apps::default();
        let isolated = App { isolated: true, ..app("own", "k0") };
        let master_key = Some(MasterKey::new(&[7; 32]).expect("a key"));
        let safe = App { master_key, ..app("safe", "k3") };
        apps.replace(vec![isolated, app("main", "k1"), App { enabled: false, ..app("off", "k2") }, safe])
            .expect("apps");
        assert_eq!(Access::default(), Access::Granted, "nobody else is let in");
        Signing { apps, namespaces: Arc::default(), auth: Arc::new(Olha) }
    }

    fn headers(authorization: &[&str], kind: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(header::AUTHORIZATION, value.parse().expect("header"));
        }
        headers.insert(header::CONTENT_TYPE, kind.parse().expect("header"));
        headers
    }

    /// The name of a query is a hash.
    const QUERY: &str = "private-query.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    /// What the token of the tests may be ended by.
    const BEARER: &str = r#"{"hub_bearer":{"sub":"olha","exp":2000000000,"iat":1000000000,"jti":"t-1"}}"#;
    const FORM: &str = "application/x-www-form-urlencoded; charset=UTF-8";

    async fn ask(app: Option<&str>, authorization: &[&str], kind: &str, body: &str) -> Result<Signed, &'static str> {
        let whose = For { app: app.map(ToOwned::to_owned) };
        let headers = headers(authorization, kind);
        let answer = sign(
            State(signing()),
            Query(whose),
            Origin::default(),
            headers,
            body.to_owned().into(),
            Signing::sign_channel,
        )
        .await;
        answer.map(|Json(signed)| signed).map_err(|problem| problem.code())
    }

    #[tokio::test]
    async fn only_the_bearer_of_a_token_is_signed_for() {
        let body = "socket_id=1.2&channel_name=private-chat.1";
        let expected = {
            let signer = Credentials::new("k1", "a secret of sixteen").expect("key");
            signer.channel_token(&SocketId::parse("1.2").expect("id"), "private-chat.1", Some(BEARER))
        };
        for (authorization, code) in [
            (vec!["Bearer good"], Ok(expected.clone())),
            (vec!["Bearer old"], Err("token_expired")),
            (vec!["Bearer bad"], Err("unauthorized")),
            (vec!["Basic good"], Err("unauthorized")),
            (vec!["Bearer good", "Bearer good"], Err("unauthorized")),
            (vec![], Err("unauthorized")),
        ] {
            assert_eq!(ask(None, &authorization, FORM, body).await.map(|it| it.auth), code, "{authorization:?}");
        }
        let json = r#"{"socket_id":"1.2","channel_name":"private-chat.1"}"#;
        let good = ["Bearer good"];
        assert_eq!(ask(Some("k1"), &good, "application/json", json).await.map(|it| it.auth), Ok(expected));
        for app in ["own", "off", "k2", "none"] {
            assert_eq!(ask(Some(app), &good, FORM, body).await, Err("app_unknown"), "{app}");
        }
        for bad in ["", "socket_id=1", "socket_id=x.y&channel_name=private-chat.1", "\u{7}", &"a".repeat(MAX_BODY + 1)]
        {
            assert_eq!(ask(None, &good, FORM, bad).await, Err("bad_request"), "{bad}");
        }
    }

    #[tokio::test]
    async fn rights_decide_which_channels() {
        let name = |name: &str| format!("socket_id=1.2&channel_name={name}");
        for (channel, code) in [
            ("private-chat.1", None),
            ("presence-room", None),
            ("private-other", Some("forbidden")),
            ("private-entities.procedure", None),
            ("private-cache-entity.procedure.x", None),
            ("private-entities.contract", Some("forbidden")),
            (QUERY, None),
            ("chat", Some("channel_unknown")),
            ("%23server-to-user-olha", Some("channel_unknown")),
            ("private-encrypted-x", Some("channel_unknown")),
            ("entities.procedure", Some("channel_unknown")),
            ("a%20b", Some("channel_unknown")),
        ] {
            assert_eq!(ask(None, &["Bearer good"], FORM, &name(channel)).await.err(), code, "{channel}");
        }
        let signed = ask(None, &["Bearer good"], FORM, &name("private-entities.procedure")).await.expect("signed");
        assert_eq!(signed.channel_data.as_deref(), Some(r#"{"user_id":"olha","hub_token":"good"}"#));
        let signed = ask(None, &["Bearer good"], FORM, &name("presence-room")).await.expect("signed");
        let member = format!(r#"{{"user_id":"olha",{}"#, &BEARER[1..]);
        assert_eq!(signed.channel_data.as_deref(), Some(&*member), "not the token, but by what it ends");
        let asking = |user| Asking {
            app: signing().apps.by_id("main").expect("app"),
            identity: who(user),
            token: "good",
            socket: SocketId::parse("1.2").expect("id"),
            channel: String::new(),
        };
        let signed = sign_user(&asking("olha")).expect("signed");
        assert_eq!(signed.user_data.as_deref(), Some(r#"{"id":"olha","hub_token":"good"}"#));
        assert!(sign_user(&asking("")).is_err(), "nobody is no user");
    }

    #[tokio::test]
    async fn keys_of_encrypted_channels_are_for_those_who_may_listen() {
        let ask = async |app, channel: &str| {
            let body = format!("socket_id=1.2&channel_name={channel}");
            ask(Some(app), &["Bearer good"], FORM, &body).await
        };
        let signed = ask("safe", "private-encrypted-safe.1").await.expect("signed");
        // What npm `pusher` answers for a master key of 32 bytes of 7.
        let known = "vx/t5ISIZkdJKjztNi6faNL96YTgcxy25fZIzJ9AsVk=";
        assert_eq!((signed.shared_secret.as_deref(), signed.channel_data.as_deref()), (Some(known), Some(BEARER)));
        let other = ask("safe", "private-encrypted-safe.2").await.expect("signed");
        assert_ne!(other.shared_secret.as_deref(), Some(known), "each channel has its own");
        assert_eq!(ask("safe", "private-encrypted-other").await.err(), Some("forbidden"));
        assert_eq!(
            ask("main", "private-encrypted-safe.1").await.err(),
            Some("channel_unknown"),
            "without a master key"
        );
        assert_eq!(ask("safe", "private-chat.1").await.expect("signed").shared_secret, None);
        assert_eq!(format!("{:?}", MasterKey::new(&[7; 32])), "Ok(MasterKey(***))");
        for length in [0, 16, 31, 33] {
            MasterKey::new(&vec![7; length]).expect_err("no key");
        }
    }
}
