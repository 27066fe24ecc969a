//! The codes of the protocol, with what each makes a client do. The same numbers stand in logs, metrics and docs.

/// An error in a reply: the command failed, the connection goes on (after a failed `connect` the client leaves).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[allow(missing_docs, reason = "each name is the protocol's own; `message` says it in words")]
pub enum ErrorCode {
    Internal = 100,
    Unauthorized = 101,
    UnknownChannel = 102,
    PermissionDenied = 103,
    MethodNotFound = 104,
    AlreadySubscribed = 105,
    LimitExceeded = 106,
    BadRequest = 107,
    NotAvailable = 108,
    TokenExpired = 109,
    Expired = 110,
    TooManyRequests = 111,
    UnrecoverablePosition = 112,
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The protocol's words.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Internal => "internal server error",
            Self::Unauthorized => "unauthorized",
            Self::UnknownChannel => "unknown channel",
            Self::PermissionDenied => "permission denied",
            Self::MethodNotFound => "method not found",
            Self::AlreadySubscribed => "already subscribed",
            Self::LimitExceeded => "limit exceeded",
            Self::BadRequest => "bad request",
            Self::NotAvailable => "not available",
            Self::TokenExpired => "token expired",
            Self::Expired => "expired",
            Self::TooManyRequests => "too many requests",
            Self::UnrecoverablePosition => "unrecoverable position",
        }
    }

    /// Whether the client should try again by itself.
    #[must_use]
    pub const fn temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests)
    }
}

/// Why the server closes: 3000-3499 and 4000-4499 let the client come back, the rest of 3000-4999 does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[allow(missing_docs, reason = "each name is the protocol's own; `reason` says it in words")]
pub enum Disconnect {
    Shutdown = 3001,
    Internal = 3004,
    Expired = 3005,
    Slow = 3008,
    WriteError = 3009,
    InsufficientState = 3010,
    ForceReconnect = 3011,
    NoPong = 3012,
    TooManyRequests = 3013,
    InvalidToken = 3500,
    BadRequest = 3501,
    Stale = 3502,
    ForceDisconnect = 3503,
    ConnectionLimit = 3504,
    ChannelLimit = 3505,
    InappropriateProtocol = 3506,
    PermissionDenied = 3507,
}

impl Disconnect {
    /// The close code on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The close reason: plain words, because a reason that happens to be JSON makes centrifuge-js stay away for good.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Internal => "internal server error",
            Self::Expired => "connection expired",
            Self::Slow => "slow",
            Self::WriteError => "write error",
            Self::InsufficientState => "insufficient state",
            Self::ForceReconnect => "force reconnect",
            Self::NoPong => "no pong",
            Self::TooManyRequests => "too many requests",
            Self::InvalidToken => "invalid token",
            Self::BadRequest => "bad request",
            Self::Stale => "stale",
            Self::ForceDisconnect => "force disconnect",
            Self::ConnectionLimit => "connection limit",
            Self::ChannelLimit => "channel limit",
            Self::InappropriateProtocol => "inappropriate protocol",
            Self::PermissionDenied => "permission denied",
        }
    }

    /// Whether the client comes back by itself.
    #[must_use]
    pub const fn reconnect(self) -> bool {
        !matches!(self.code(), 3500..=3999 | 4500..=4999)
    }
}

/// Why the server ends one subscription; from 2500 on the client subscribes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[allow(missing_docs, reason = "each name is the protocol's own; `reason` says it in words")]
pub enum Unsubscribe {
    Server = 2000,
    InsufficientState = 2500,
    Expired = 2501,
}

impl Unsubscribe {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The words on the wire.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Server => "server unsubscribe",
            Self::InsufficientState => "insufficient state",
            Self::Expired => "subscription expired",
        }
    }
}
