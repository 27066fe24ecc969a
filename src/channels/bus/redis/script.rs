//! Scripts that run on the server: each is one atomic step.
//!
//! A script is a `static`; a server gets its text when it does not know it yet, and from then on only its name. Every key of a
//! call begins with one tag ([`super::RedisConfig::tag`]), so that a cluster keeps them on one server. A script that
//! publishes says `redis.call('PUBLISH', ...)`: on a cluster that word becomes `SPUBLISH`, and the channel must have the
//! tag of the keys. One that has to know whether it runs ahead of its slot says `local AHEAD = false`: there that becomes `true`.

use std::{borrow::Cow, sync::OnceLock};

use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike, LuaInterface},
    types::{ClusterHash, CustomCommand, Key, Value},
};

const ASKING: CustomCommand = command("ASKING");
const EVAL: CustomCommand = command("EVAL");

/// A command that the client library has no words for.
pub(super) const fn command(name: &'static str) -> CustomCommand {
    CustomCommand { cmd: fred::util::static_str(name), cluster_hash: ClusterHash::FirstKey, blocking: false }
}

/// A script, and the names that servers have given it: the same on every server, for it is a hash of the text.
#[derive(Debug)]
pub(in crate::channels) struct Script {
    lua: &'static str,
    /// As written, and with sharded publishing.
    names: [OnceLock<String>; 2],
}

impl Script {
    /// For a `static`; the text comes by `include_str!`.
    pub(in crate::channels) const fn new(lua: &'static str) -> Self {
        Self { lua, names: [OnceLock::new(), OnceLock::new()] }
    }

    fn text(&self, sharded: bool) -> Cow<'static, str> {
        if sharded { self.lua.replace("'PUBLISH'", "'SPUBLISH'").into() } else { self.lua.into() }
    }

    async fn name(&self, client: &Client, sharded: bool) -> Result<&str, Error> {
        let known = &self.names[usize::from(sharded)];
        if known.get().is_none() {
            let name = client.script_load(&*self.text(sharded)).await?;
            let _ = known.set(name);
        }
        Ok(known.get().map_or("", String::as_str))
    }

    /// Runs it; a server that has forgotten it gets the text.
    pub(super) async fn run(
        &self,
        client: &Client,
        sharded: bool,
        keys: Vec<Key>,
        args: Vec<Value>,
    ) -> Result<Value, Error> {
        let name = self.name(client, sharded).await?;
        // Keys and values are reference-counted: the copy for the second try is cheap.
        match client.evalsha(name, keys.clone(), args.clone()).await {
            Err(error) if forgotten(&error) => client.eval(&*self.text(sharded), keys, args).await,
            answer => answer,
        }
    }

    /// Runs it on a server that has the keys but not yet their slot. Seldom, so always by its text. `alone`: some of the keys may be
    /// nowhere at all, for which such a server would ask to wait until it has the slot; so it is told of the first alone, and of the
    /// others by the script itself.
    pub(super) async fn run_asking(
        &self,
        client: &Client,
        sharded: bool,
        keys: Vec<Key>,
        args: Vec<Value>,
        alone: bool,
    ) -> Result<Value, Error> {
        let mut text = self.text(sharded).replace("local AHEAD = false", "local AHEAD = true");
        let named = if alone { keys.len().min(1) } else { keys.len() };
        if named < keys.len() {
            text.insert_str(0, &rename(keys.len()));
        }
        let mut words: Vec<Value> = vec![text.into(), i64::try_from(named).unwrap_or_default().into()];
        words.extend(keys.into_iter().map(|key| Value::Bytes(key.into_bytes())));
        words.extend(args);
        // One after the other on one socket: the first is for the second alone.
        let pipeline = client.pipeline();
        pipeline.custom::<(), Value>(ASKING, Vec::new()).await?;
        pipeline.custom::<(), Value>(EVAL, words).await?;
        pipeline.last().await
    }
}

/// Makes keys of the first arguments: for a script that has so many.
fn rename(keys: usize) -> String {
    let others: String = (1..keys).map(|n| format!(", ARGV[{n}]")).collect();
    format!("local KEYS, ARGV = {{KEYS[1]{others}}}, {{unpack(ARGV, {keys})}}\n")
}

fn forgotten(error: &Error) -> bool {
    error.details().starts_with("NOSCRIPT")
}
