//! Watchlists where presence cannot be asked, words are lost, and topics begin again: who is online is told in the end, and once.

use dzvin_protocols::channels::{TraceTarget, Word, centrifuge::ClientInfo};

use super::{
    pusher::{Pusher, app, pusher},
    *,
};
use crate::{
    channels::{
        App,
        presence::{Looked, PresenceError, PresenceMessage},
    },
    platform::ports::Counts,
};

/// Who is online, as the store has it.
#[derive(Default)]
struct Known {
    online: HashSet<String>,
    /// Too many ask.
    busy: bool,
    /// The store is away.
    away: bool,
    /// It has lost everything a moment ago.
    unsettled: bool,
    life: u64,
    /// Looks that were answered.
    looks: usize,
}

impl Known {
    fn add(&mut self, user: &str) {
        self.online.insert(user.to_owned());
    }

    fn clients(&self, channel: &str) -> u64 {
        u64::from(channel.strip_prefix("#online-/").is_some_and(|user| self.online.contains(user)))
    }
}

#[derive(Clone, Default)]
struct Presence(Arc<Mutex<Known>>);

impl Presence {
    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.0.lock().unwrap());
    }

    fn looks(&self) -> usize {
        self.0.lock().unwrap().looks
    }

    async fn looked(&self, times: usize) {
        let until = self.looks() + times;
        eventually("looked", || async { self.looks() >= until }).await;
    }

    fn answer(&self, message: PresenceMessage) {
        let mut known = self.0.lock().unwrap();
        match message {
            PresenceMessage::Stats { channel, reply } => {
                let clients = known.clients(&channel);
                let counts = Counts { clients, users: clients, ..Counts::default() };
                let _ = reply.send(if known.busy { Err(PresenceError::Busy) } else { Ok(counts) });
            }
            PresenceMessage::Look { channels, reply } => {
                known.looks += 1;
                let clients = channels.iter().map(|channel| Some(known.clients(channel))).collect();
                let looked = Looked { clients, life: known.life, settled: !known.unsettled };
                let _ = reply.send(if known.away { Err(PresenceError::Unavailable) } else { Ok(looked) });
            }
            _ => {}
        }
    }
}

/// A node that checks all the time, and its presence.
async fn node() -> (Node, Presence) {
    let node = Node::start(Limits { check: Duration::from_millis(2), ..Limits::default() }).await;
    node.hub.apps.replace(vec![App { watchlists: true, ..app("main", "k1") }]).expect("apps");
    let presence = Presence::default();
    let answering = presence.clone();
    node.presence(move |message| answering.answer(message)).await;
    (node, presence)
}

impl Pusher {
    /// Signs in as olha, who watches these.
    async fn watching(mut self, watchlist: &[&str]) -> Self {
        let user = json!({"id": "olha", "watchlist": watchlist}).to_string();
        assert_eq!(self.sign_in(&user).await["event"], "pusher:signin_success");
        self
    }

    /// The next word of the watchlist.
    async fn told(&mut self) -> Value {
        let heard = self.client.receive().await;
        assert_eq!(heard["event"], "pusher_internal:watchlist_events", "{heard}");
        let data: Value = serde_json::from_str(heard["data"].as_str().expect("text")).expect("json");
        let events = data["events"].as_array().expect("events").iter();
        events.map(|it| (it["name"].as_str().expect("a name").to_owned(), it["user_ids"].clone())).collect()
    }
}

fn word(user: &str, online: bool) -> BusEvent {
    let info = ClientInfo { user: user.into(), client: "1.1".into(), conn_info: None, chan_info: None };
    let word = if online { Word::Join { info, first: true } } else { Word::Leave { info, last: true } };
    BusEvent::Word { stream: StreamName::from_checked(&format!("#online-/{user}")), word: word.encode() }
}

#[tokio::test]
async fn who_cannot_be_asked_about_at_once_is_told_when_there_is_room() {
    let (node, presence) = node().await;
    presence.change(|known| {
        (known.busy, known.away) = (true, true);
        known.add("ivan");
    });
    let mut olha = pusher(&node, "main").await.watching(&["ivan", "petro"]).await;
    // Nothing was told, and nothing was refused.
    olha.is_well().await;
    presence.looked(3).await;
    presence.change(|known| known.away = false);
    assert_eq!(olha.told().await, json!({"online": ["ivan"]}));
    assert_eq!(olha.told().await, json!({"offline": ["petro"]}));
    presence.looked(10).await;
    olha.is_well().await;
    assert_eq!(node.hub.metrics.watch_mended.get(), 0, "nothing was lost");
}

#[tokio::test]
async fn who_cannot_be_heard_of_while_the_bus_is_away_is_told_afterwards() {
    let (node, presence) = node().await;
    presence.change(|known| known.add("ivan"));
    *node.world.bus_down.lock().unwrap() = true;
    let mut olha = pusher(&node, "main").await.watching(&["ivan"]).await;
    olha.is_well().await;
    *node.world.bus_down.lock().unwrap() = false;
    assert_eq!(olha.told().await, json!({"online": ["ivan"]}));
    node.hear(word("ivan", false)).await;
    assert_eq!(olha.told().await, json!({"offline": ["ivan"]}));
}

#[tokio::test]
async fn a_word_that_is_lost_is_made_up_for() {
    let (node, presence) = node().await;
    presence.change(|known| known.add("ivan"));
    let mut olha = pusher(&node, "main").await.watching(&["ivan", "petro"]).await;
    assert_eq!(olha.told().await, json!({"online": ["ivan"], "offline": ["petro"]}));
    presence.looked(10).await;
    // While nobody heard it one went and the other came.
    presence.change(|known| known.online = HashSet::from(["petro".into()]));
    node.hear(BusEvent::Lost).await;
    assert_eq!(olha.told().await, json!({"online": ["petro"]}));
    assert_eq!(olha.told().await, json!({"offline": ["ivan"]}));
    assert_eq!(node.hub.metrics.watch_mended.get(), 2);
    // And without anything that says so: everybody is asked about now and then.
    presence.change(|known| known.online.clear());
    assert_eq!(olha.told().await, json!({"offline": ["petro"]}));
    // A word that comes in the end is not told again.
    node.hear(word("petro", false)).await;
    presence.looked(10).await;
    olha.is_well().await;
}

#[tokio::test]
async fn a_store_that_has_lost_everything_makes_nobody_offline() {
    let (node, presence) = node().await;
    presence.change(|known| known.online = HashSet::from(["ivan".into(), "petro".into()]));
    let mut olha = pusher(&node, "main").await.watching(&["ivan", "petro"]).await;
    olha.told().await;
    presence.change(|known| {
        (known.life, known.unsettled) = (known.life + 1, true);
        known.online.clear();
    });
    presence.looked(20).await;
    olha.is_well().await;
    // One is entered again without a word, the other has gone.
    presence.change(|known| known.add("ivan"));
    presence.looked(20).await;
    olha.is_well().await;
    presence.change(|known| known.unsettled = false);
    assert_eq!(olha.told().await, json!({"offline": ["petro"]}));
    presence.looked(10).await;
    olha.is_well().await;
}

#[tokio::test]
async fn topics_that_begin_again_end_no_watching_and_no_trace_tells_of_it() {
    let (node, presence) = node().await;
    presence.change(|known| known.add("ivan"));
    let mut following = node.hub.tracer.follow(TraceTarget::User("olha".into())).expect("room");
    let mut olha = pusher(&node, "main").await.watching(&["ivan"]).await;
    assert_eq!(olha.told().await, json!({"online": ["ivan"]}));
    node.topics_again().await;
    presence.looked(10).await;
    olha.is_well().await;
    presence.change(|known| known.online.clear());
    assert_eq!(olha.told().await, json!({"offline": ["ivan"]}));
    drop(olha);
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &String| !line.contains("disconnect")) {
        let noted = timeout(PATIENCE, following.next()).await.expect("in time").expect("followed");
        lines.push(noted.line.get().to_owned());
    }
    assert!(lines.iter().all(|line| !line.contains("#online-")), "{lines:?}");
}
