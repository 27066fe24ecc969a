//! Sign-in: who the user of a connection is, as the application's server or the hub's own endpoint has signed.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Instant};

use dzvin_protocols::channels::pusher::{self, ErrorCode, User, encode_error, encode_signin_success};
use serde_json::value::RawValue;

use super::{Conversation, Trouble, channels::OfHub};
use crate::{
    channels::App,
    platform::ports::{Bus, ChangeLog},
};

/// The member of signed data that only the hub reads.
const TOKEN: &str = "hub_token";

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    pub(super) async fn sign_in(&mut self, app: &Arc<App>, auth: &str, user_data: &str) {
        let began = Instant::now();
        let status = match self.signed_in_as(app, auth, user_data).await {
            Ok(()) | Err(Trouble::Done) => 0,
            Err(Trouble::Close(why)) => {
                self.session.close(why);
                why.code()
            }
            Err(Trouble::Told(why, text)) => {
                self.tell_audit("session.connect", "", why);
                self.tell(encode_error(Some(ErrorCode::Unauthorized), &text).as_bytes());
                ErrorCode::Unauthorized.code()
            }
        };
        self.count("pusher:signin", None, began, status);
    }

    async fn signed_in_as(&mut self, app: &Arc<App>, auth: &str, user_data: &str) -> Result<(), Trouble> {
        let refused = |text: String| Trouble::Told(pusher::Refusal::Unauthorized, text.into());
        app.ring.verify_user(auth, &self.socket(), user_data).map_err(|error| refused(error.to_string()))?;
        let user = User::parse(user_data, app.rules.max_user_info).map_err(|error| refused(error.to_string()))?;
        let known = self.talk.as_ref().and_then(|talk| talk.user.as_ref()).map(|known| &known.member.id);
        let hubs = self.identity.as_ref().map(|identity| &*identity.user);
        if known.is_some_and(|known| *known != user.member.id)
            || hubs.is_some_and(|hubs| hubs != user.member.id.as_str())
        {
            return Err(refused("another user has signed in on this connection".to_owned()));
        }
        // Users of an isolated application are not the hub's.
        if let Some(token) = OfHub::read(user_data).filter(|_| !app.isolated) {
            let identity = self.bearer(&token).await?;
            if *identity.user != *user.member.id.as_str() {
                return Err(refused("the bearer token is another user's".to_owned()));
            }
            self.adopt(identity).await?;
        }
        let whole = app.user(&user.member.id);
        self.count_in(&whole)?;
        self.session.signed_in(&whole);
        self.tell(encode_signin_success(&without_token(user_data)).as_bytes());
        if user.watchlist_cut {
            self.tell(
                encode_error(Some(ErrorCode::WatchlistTooLong), "the watchlist is cut to its first users").as_bytes(),
            );
        }
        tracing::debug!(client = %self.socket(), user = self.session.user(), app = %app.id, "a user signed in");
        let watchlist = user.watchlist.clone();
        if let Some(talk) = &mut self.talk {
            talk.user = Some(user);
        }
        if app.watchlists {
            self.watch(app, &watchlist).await;
        }
        Ok(())
    }
}

/// The same data without what is the hub's: nobody is sent a token, not even its own user.
fn without_token(user_data: &str) -> Cow<'_, str> {
    let Ok(mut members) = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(user_data) else {
        return user_data.into();
    };
    if members.remove(TOKEN).is_none() {
        return user_data.into();
    }
    // Strings and raw text: this cannot fail.
    serde_json::to_string(&members).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_sent_back() {
        assert_eq!(
            without_token(r#"{"id": "7", "hub_token":"t","user_info":{"n": 1.50}}"#),
            r#"{"id":"7","user_info":{"n": 1.50}}"#
        );
        assert_eq!(without_token(r#"{"id": "7"}"#), r#"{"id": "7"}"#);
    }
}
