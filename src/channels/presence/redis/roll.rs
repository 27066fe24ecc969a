//! Copies of the list of lives, on several servers of a cluster: a node that ends in the moment in which the list is lost would be
//! buried by nobody.
//!
//! Invariant: a life is in a copy before anything is entered in it, and for as long as something of it may be left.

use std::collections::BTreeSet;

use dzvin_actors::platform::ports::BusError;
use fred::types::{Key, Value};
use futures_util::future::join_all;

use super::{
    ADOPT, ENROL, RedisPresence,
    wire::{self, millis},
};

/// Copies of the list of lives, each in a place of its own. On a cluster each lies on any of the servers: that one server has the list and
/// all of these is less likely than that two fail in the same minute.
const COPIES: usize = 8;

impl RedisPresence {
    fn copy(&self, n: usize) -> Key {
        format!("{{{}:roll:{n}}}", self.server.config().prefix).into()
    }

    /// The answers of all copies, those of servers that are away aside.
    async fn copies(&self, args: Vec<Value>) -> Vec<Result<Value, BusError>> {
        join_all((0..COPIES).map(|n| self.run(&ENROL, vec![self.copy(n)], args.clone()))).await
    }

    /// Writes a life into the copies, before anything is entered in it. One is enough to be found by.
    pub(super) async fn enrol(&self, life: &str) -> Result<(), BusError> {
        let answers = self.copies(vec!["+".into(), life.into()]).await;
        if answers.iter().any(Result::is_ok) {
            return Ok(());
        }
        answers.into_iter().next().map_or(Ok(()), |answer| answer.map(drop))
    }

    /// Looks for lives that the list has lost: a node that ended in the moment of the loss would be buried by nobody.
    pub(super) async fn search(&self) -> Result<(), BusError> {
        let mut whole = Ok(());
        let mut lives = BTreeSet::new();
        for answer in self.copies(vec!["?".into()]).await {
            match answer.and_then(wire::names) {
                Ok(names) => lives.extend(names),
                Err(error) => whole = Err(error),
            }
        }
        let keys = ["presence", "dying", "buried", "left"].map(|name| self.nodes(name)).to_vec();
        let mut args = vec![millis(self.settings.lease)];
        args.extend(lives.into_iter().map(Value::from));
        let over = wire::names(self.run(&ADOPT, keys, args).await?)?;
        if !over.is_empty() {
            self.strike(over).await;
        }
        whole
    }

    /// Takes lives of which nothing is left out of the copies. One that stays there is looked for once more, and nothing is found.
    pub(super) async fn strike(&self, lives: Vec<String>) {
        let mut args = vec!["-".into()];
        args.extend(lives.into_iter().map(Value::from));
        self.copies(args).await;
    }
}
