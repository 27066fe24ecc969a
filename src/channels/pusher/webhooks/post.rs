//! One attempt: a request to a receiver, and whether it has taken the batch.
//!
//! The addresses are the operator's alone. Nothing that a receiver answers leads anywhere else: redirects are not followed, and
//! of the body so much is read as the connection needs to be used again.

use dzvin_protocols::channels::pusher::{KEY_HEADER, SIGNATURE_HEADER, Webhook};
use reqwest::{Response, Url, header::CONTENT_TYPE, redirect::Policy};

use super::WebhookLimits;

/// Idle connections are closed before those who balance in front of the receiver do.
const IDLE: std::time::Duration = std::time::Duration::from_secs(30);
/// What receivers are told of who calls.
const AGENT: &str = concat!("dzvin/", env!("CARGO_PKG_VERSION"));

/// Why a receiver did not take a batch. Never holds its address, which may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// It answered something else than 2xx.
    #[error("it answered {0}")]
    Status(u16),
    /// It did not answer.
    #[error("{0}")]
    Transport(&'static str),
}

impl Failure {
    /// A label: the class of the status, or what went wrong below HTTP.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Status(300..=399) => "redirected",
            Self::Status(400..=499) => "refused",
            Self::Status(_) => "failed",
            Self::Transport(_) => "unreachable",
        }
    }
}

/// Posts batches.
#[derive(Debug, Clone)]
pub(super) struct Poster {
    http: reqwest::Client,
    answer: usize,
}

impl Poster {
    pub(super) fn new(limits: &WebhookLimits) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .redirect(Policy::none())
            .user_agent(AGENT)
            .connect_timeout(limits.connect)
            .timeout(limits.attempt)
            .pool_idle_timeout(IDLE)
            .build()?;
        Ok(Self { http, answer: limits.answer })
    }

    pub(super) async fn post(&self, url: Url, hook: &Webhook) -> Result<(), Failure> {
        let request = self
            .http
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(KEY_HEADER, &hook.key)
            .header(SIGNATURE_HEADER, &hook.signature)
            .body(hook.body.clone());
        let answer = request.send().await.map_err(|error| Failure::Transport(transport(&error)))?;
        let status = answer.status();
        self.swallow(answer).await;
        if status.is_success() { Ok(()) } else { Err(Failure::Status(status.as_u16())) }
    }

    /// The status has said everything: an answer that is longer, or breaks off, costs the connection and nothing else.
    async fn swallow(&self, mut answer: Response) {
        let mut left = self.answer;
        while let Ok(Some(chunk)) = answer.chunk().await {
            let Some(rest) = left.checked_sub(chunk.len()) else { return };
            left = rest;
        }
    }
}

/// What went wrong below HTTP, without the address.
fn transport(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "it did not answer in time"
    } else if error.is_connect() {
        "it could not be reached"
    } else {
        "the request failed"
    }
}
