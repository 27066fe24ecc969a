//! The codes of the protocol, with what each makes a client do. The same numbers stand in logs, metrics and docs.

/// A table of numbers and words.
macro_rules! table {
    ($(#[$meta:meta])* $name:ident, $words:ident, $(#[$doc:meta])* { $($variant:ident = $code:literal $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "each name is the protocol's own, and its words stand beside it")]
        pub enum $name {
            $($variant = $code,)+
        }

        impl $name {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> u16 {
                self as u16
            }

            $(#[$doc])*
            #[must_use]
            pub const fn $words(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

table! {
    /// An error in a reply: the command failed, the connection goes on (after a failed `connect` the client leaves).
    ErrorCode, message,
    /// The protocol's words.
    {
        Internal = 100 "internal server error",
        Unauthorized = 101 "unauthorized",
        UnknownChannel = 102 "unknown channel",
        PermissionDenied = 103 "permission denied",
        MethodNotFound = 104 "method not found",
        AlreadySubscribed = 105 "already subscribed",
        LimitExceeded = 106 "limit exceeded",
        BadRequest = 107 "bad request",
        NotAvailable = 108 "not available",
        TokenExpired = 109 "token expired",
        Expired = 110 "expired",
        TooManyRequests = 111 "too many requests",
        UnrecoverablePosition = 112 "unrecoverable position",
        ConcurrentPagination = 113 "concurrent pagination",
    }
}

impl ErrorCode {
    /// Whether the client should try again by itself.
    #[must_use]
    pub const fn temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests | Self::ConcurrentPagination)
    }
}

table! {
    /// Why the server closes: 3000-3499 and 4000-4499 let the client come back, the rest of 3000-4999 does not. (3000 itself
    /// is what a connection that was simply closed is counted under; it is never written.)
    Disconnect, reason,
    /// The close reason: plain words, because a reason that happens to be JSON makes centrifuge-js stay away for good.
    {
        ConnectionClosed = 3000 "connection closed",
        Shutdown = 3001 "shutdown",
        Internal = 3004 "internal server error",
        Expired = 3005 "connection expired",
        SubscriptionExpired = 3006 "subscription expired",
        Slow = 3008 "slow",
        WriteError = 3009 "write error",
        InsufficientState = 3010 "insufficient state",
        ForceReconnect = 3011 "force reconnect",
        NoPong = 3012 "no pong",
        TooManyRequests = 3013 "too many requests",
        StateInvalidated = 3014 "state invalidated",
        InvalidToken = 3500 "invalid token",
        BadRequest = 3501 "bad request",
        Stale = 3502 "stale",
        ForceDisconnect = 3503 "force disconnect",
        ConnectionLimit = 3504 "connection limit",
        ChannelLimit = 3505 "channel limit",
        InappropriateProtocol = 3506 "inappropriate protocol",
        PermissionDenied = 3507 "permission denied",
        NotAvailable = 3508 "not available",
        TooManyErrors = 3509 "too many errors",
    }
}

impl Disconnect {
    /// Whether the client comes back by itself.
    #[must_use]
    pub const fn reconnect(self) -> bool {
        reconnects(self.code())
    }
}

/// Whether a client comes back by itself after a close with this code, of ours or of the application.
#[must_use]
pub const fn reconnects(code: u16) -> bool {
    !matches!(code, 3500..=3999 | 4500..=4999)
}

/// Whether the application may close a connection so: a code of its own (4000-4999), and a reason of at most 123 bytes which
/// centrifuge-js does not take for JSON.
#[must_use]
pub fn is_custom_close(code: u16, reason: &str) -> bool {
    let plain = serde_json::from_str::<serde::de::IgnoredAny>(reason).is_err();
    (4000..=4999).contains(&code) && reason.len() <= crate::channels::websocket::MAX_CLOSE_REASON && plain
}

/// Whether the application may refuse a command with this number.
#[must_use]
pub const fn is_custom_error(code: u16) -> bool {
    matches!(code, 400..=1999)
}

table! {
    /// Why the server ends one subscription; from 2500 on the client subscribes again.
    Unsubscribe, reason,
    /// The words on the wire.
    {
        Server = 2000 "server unsubscribe",
        InsufficientState = 2500 "insufficient state",
        Expired = 2501 "subscription expired",
        StateInvalidated = 2502 "state invalidated",
    }
}

impl Unsubscribe {
    /// Whether the client subscribes again by itself.
    #[must_use]
    pub const fn resubscribe(self) -> bool {
        self.code() >= 2500
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_the_protocols() {
        let temporary: Vec<u16> =
            ErrorCode::ALL.iter().filter(|error| error.temporary()).map(|error| error.code()).collect();
        assert_eq!(temporary, [100, 111, 113]);
        assert!(ErrorCode::ALL.iter().map(|error| error.code()).eq(100..=113));
        let (back, gone): (Vec<&Disconnect>, Vec<_>) = Disconnect::ALL.iter().partition(|why| why.reconnect());
        let codes = |all: Vec<&Disconnect>| all.iter().map(|why| why.code()).collect::<Vec<_>>();
        assert_eq!(codes(back), [3000, 3001, 3004, 3005, 3006, 3008, 3009, 3010, 3011, 3012, 3013, 3014]);
        assert!(codes(gone).into_iter().eq(3500..=3509));
        let again: Vec<_> = Unsubscribe::ALL.iter().map(|why| (why.code(), why.resubscribe())).collect();
        assert_eq!(again, [(2000, false), (2500, true), (2501, true), (2502, true)]);
    }

    #[test]
    fn no_reason_is_json() {
        for why in Disconnect::ALL {
            assert!(is_custom_close(4000, why.reason()), "{why:?}");
        }
        for (code, reason, good) in [
            (4000, "go away", true),
            (4999, "", true),
            (3999, "x", false),
            (5000, "x", false),
            (4000, "true", false),
            (4000, " 12 ", false),
            (4000, "{\"reason\":\"x\"}", false),
        ] {
            assert_eq!(is_custom_close(code, reason), good, "{code} {reason}");
        }
        assert!(!is_custom_close(4000, &"x".repeat(124)));
        assert_eq!([1000, 3001, 4000, 4499, 4500].map(reconnects), [true, true, true, true, false]);
        assert_eq!([399, 400, 1999, 2000].map(is_custom_error), [false, true, true, false]);
    }
}
