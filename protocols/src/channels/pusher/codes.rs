//! The codes of the protocol, with what each makes pusher-js do. The same numbers stand in logs, metrics and docs.

/// Why the server closes a socket. There is nothing above 4299 here: pusher-js would take it for a refusal for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Close {
    /// Only TLS is served: the client switches to it at once.
    TlsRequired = 4000,
    /// No application has this key.
    UnknownApp = 4001,
    /// The application is switched off.
    AppDisabled = 4003,
    /// Too many connections, and it will not pass by itself.
    OverQuota = 4004,
    /// The path is not `/app/{key}`.
    PathNotFound = 4005,
    /// The client's version is not spelled as one.
    BadVersion = 4006,
    /// A protocol that we do not speak.
    UnsupportedProtocol = 4007,
    /// No protocol was named.
    NoProtocol = 4008,
    /// The connection is not allowed; never for one bad channel, which leaves the socket open.
    Unauthorized = 4009,
    /// No room now: a slow consumer, or a full cluster. The client is back in a second.
    OverCapacity = 4100,
    /// Come back at once: a node that drains, staggered by the caller, for every client waits equally long.
    Reconnect = 4200,
    /// A ping had no answer.
    NoPong = 4201,
    /// Silent for long, by a client that cannot ping.
    Inactive = 4202,
}

impl Close {
    /// All of them, for tables and tests.
    pub const ALL: [Self; 13] = [
        Self::TlsRequired,
        Self::UnknownApp,
        Self::AppDisabled,
        Self::OverQuota,
        Self::PathNotFound,
        Self::BadVersion,
        Self::UnsupportedProtocol,
        Self::NoProtocol,
        Self::Unauthorized,
        Self::OverCapacity,
        Self::Reconnect,
        Self::NoPong,
        Self::Inactive,
    ];

    /// The close code on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The close reason.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TlsRequired => "only TLS connections are accepted",
            Self::UnknownApp => "no application has this key",
            Self::AppDisabled => "the application is disabled",
            Self::OverQuota => "too many connections",
            Self::PathNotFound => "path not found",
            Self::BadVersion => "the version is not understood",
            Self::UnsupportedProtocol => "the protocol version is not supported",
            Self::NoProtocol => "no protocol version was given",
            Self::Unauthorized => "the connection is unauthorized",
            Self::OverCapacity => "over capacity",
            Self::Reconnect => "reconnect",
            Self::NoPong => "no pong in time",
            Self::Inactive => "closed after inactivity",
        }
    }

    /// What the client does then.
    #[must_use]
    pub const fn then(self) -> ClientAction {
        ClientAction::of(self.code())
    }
}

/// What pusher-js does when a socket closes with a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAction {
    /// Takes it for a lost connection: tries again after one second.
    Lost,
    /// Tries again after one second, without jitter or growth.
    Backoff,
    /// Tries again at once.
    Retry,
    /// Tries again at once, over TLS.
    SwitchToTls,
    /// Never comes back until its page is loaded again.
    Refused,
}

impl ClientAction {
    /// The action for a close code, ours or not.
    #[must_use]
    pub const fn of(code: u16) -> Self {
        match code {
            1002..=1004 | 4100..=4199 => Self::Backoff,
            0..=3999 => Self::Lost,
            4000 => Self::SwitchToTls,
            4200..=4299 => Self::Retry,
            _ => Self::Refused,
        }
    }

    /// Whether the client comes back by itself.
    #[must_use]
    pub const fn reconnects(self) -> bool {
        !matches!(self, Self::Refused)
    }
}

/// The code in a `pusher:error` of an open socket: something was refused, the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    /// The sign-in failed.
    Unauthorized = 4009,
    /// A client event that is not allowed, too large, or one too many.
    ClientEventRejected = 4301,
    /// The watchlist was longer than is kept; the sign-in itself succeeded.
    WatchlistTooLong = 4302,
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_close_code_of_ours_is_a_trap() {
        for close in Close::ALL {
            assert!((4000..=4299).contains(&close.code()), "{close:?}");
            // A close frame has 125 bytes, two of them the code.
            assert!(close.reason().len() <= 123, "{close:?}");
        }
        assert_eq!(Close::ALL.len(), 13);
    }

    #[test]
    fn the_client_does_what_the_table_says() {
        for (code, action) in [
            (1000, ClientAction::Lost),
            (1001, ClientAction::Lost),
            (1003, ClientAction::Backoff),
            (1006, ClientAction::Lost),
            (4000, ClientAction::SwitchToTls),
            (4001, ClientAction::Refused),
            (4099, ClientAction::Refused),
            (4100, ClientAction::Backoff),
            (4199, ClientAction::Backoff),
            (4200, ClientAction::Retry),
            (4299, ClientAction::Retry),
            (4300, ClientAction::Refused),
            (4301, ClientAction::Refused),
            (4999, ClientAction::Refused),
        ] {
            assert_eq!(ClientAction::of(code), action, "{code}");
        }
        assert!(Close::Reconnect.then().reconnects() && !Close::OverQuota.then().reconnects());
    }
}
