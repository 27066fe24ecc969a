//! Members as servers of applications are told of them: each who enters such a channel enters a second stream, silently, and leaves
//! it only when its goodbye has been held.
//!
//! The first and the last client of a user are edges of that stream, so the store knows them over all nodes as it knows all others:
//! who comes back within the hold, on whichever node, was never away there, and who does not is told as gone once, by a burial too.
//! Nobody but presence knows of these streams, and no channel is listed for them.

use std::sync::Arc;

use dzvin_protocols::channels::{ONLINE_PREFIX, centrifuge::ClientInfo};

use crate::platform::ports::Member;

/// What stands between [`ONLINE_PREFIX`] and the channel. No application's id begins so: nobody who is watched has such a stream.
const MARK: char = '@';

/// The second stream of a channel.
pub(super) fn stream(channel: &str) -> Arc<str> {
    format!("{ONLINE_PREFIX}{MARK}{channel}").into()
}

/// Whose second stream this is; `None` when it is none.
pub(super) fn channel(stream: &str) -> Option<&str> {
    stream.strip_prefix(ONLINE_PREFIX)?.strip_prefix(MARK)
}

/// A client as it is kept there: of whom servers are told no more than the user.
pub(super) fn silent(member: &Member) -> Arc<Member> {
    let (user, client) = (Arc::clone(&member.info.user), Arc::clone(&member.info.client));
    let info = ClientInfo { user, client, conn_info: None, chan_info: None };
    Arc::new(Member { info, told: false, shown: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_stream_is_nobody_elses() {
        for name in ["presence-x", "/own/presence-x", "@", "#online-/7"] {
            assert_eq!(channel(&stream(name)), Some(name));
        }
        for other in ["presence-x", "#online-/@presence-x", "#online-own/7", "#online", "@presence-x"] {
            assert_eq!(channel(other), None);
        }
    }
}
