//! What a token, or a server, grants with a subscription: what others see of it, what it hears, and since when.

use dzvin_protocols::channels::{Control, Since, Subscribing, Whose, Word, centrifuge::ClientInfo};
use dzvin_protocols::identity::Overrides;
use tokio::sync::mpsc;

use super::*;
use crate::{
    channels::presence::PresenceMessage,
    platform::ports::{Counts, Member, MemberPage},
};

fn named(n: usize) -> Member {
    let info =
        ClientInfo { user: format!("u{n}").into(), client: format!("c{n}").into(), conn_info: None, chan_info: None };
    Member { info, told: true, shown: true }
}

impl Node {
    /// Notes who enters, and says that so many are there.
    async fn noting(&self, there: usize) -> mpsc::Receiver<(Arc<str>, Arc<Member>)> {
        let (told, heard) = mpsc::channel(64);
        let answering = move |message| match message {
            PresenceMessage::Enter { channel, member, .. } => told.try_send((channel, member)).expect("heard"),
            // Two in a page, of which the first is in the page before as well.
            PresenceMessage::Members { from, reply, .. } => {
                let first = usize::try_from(from).unwrap_or(0);
                let last = (first + 2).min(there);
                let members = (first.saturating_sub(1)..last).map(|n| Arc::new(named(n))).collect();
                let counts = Counts { clients: there as u64, users: there as u64, ..Counts::default() };
                let next = (last < there).then_some(last as u64);
                let _ = reply.send(Ok(MemberPage { members, counts, next }));
            }
            _ => {}
        };
        self.presence(answering).await;
        heard
    }
}

fn with(channel: &str, token: &str) -> Value {
    json!({"id": 2, "subscribe": {"channel": channel, "token": token}})
}

#[tokio::test]
async fn a_token_says_what_others_see() {
    let node = Node::start(Limits::default()).await;
    let mut entered = node.noting(0).await;
    let mut client = node.client().await.connected("reader").await;
    for (channel, token) in [("room.1", ""), ("room.2", "room.2 hidden"), ("room.3", "room.3 named")] {
        assert!(client.ask(with(channel, token)).await["subscribe"].is_object(), "{channel}");
    }
    let mut next = async || entered.recv().await.expect("somebody enters");
    let (channel, member) = next().await;
    assert_eq!((&*channel, member.shown, member.told, &member.info.chan_info), ("room.1", true, true, &None));
    // Who is hidden does not enter at all.
    let (channel, member) = next().await;
    assert_eq!((&*channel, member.shown, member.told), ("room.3", true, false));
    assert_eq!(member.info.chan_info.as_deref(), Some(&br#"{"role": "clerk"}"#[..]), "in one line");
    // What it publishes there goes out with the same; elsewhere there is nothing to go with it.
    for (channel, shown) in [("room.3", json!({"role": "clerk"})), ("chat.1", Value::Null), ("room.1", Value::Null)] {
        assert!(client.ask(json!({"id": 5, "publish": {"channel": channel, "data": 1}})).await["publish"].is_object());
        let published = node.world.published.lock().unwrap().last().cloned().expect("published");
        let info = published.extra.as_ref().and_then(|extra| extra.info.clone()).expect("a client's");
        let chan_info = info.chan_info.map_or(Value::Null, |info| serde_json::from_slice(&info).expect("json"));
        assert_eq!((&*info.user, chan_info), ("u1", shown), "{channel}");
    }
}

#[tokio::test]
async fn a_connections_token_says_what_is_heard() {
    let node = Node::start(Limits::default()).await;
    let mut entered = node.noting(0).await;
    let mut client = node.client().await;
    let reply = client.ask(json!({"id": 1, "connect": {"token": "overriding"}})).await;
    let subs = reply["connect"]["subs"].as_object().expect("subscriptions");
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["chat.1", "news.1"]);
    assert_eq!(subs["news.1"]["data"], json!({"hello": 1}));
    let (channel, member) = entered.recv().await.expect("one enters");
    assert_eq!((&*channel, member.shown, member.told), ("news.1", true, true), "where nobody is shown otherwise");
    let info = named(7).info;
    for channel in ["chat.1", "news.1"] {
        let word = Word::Join { info: info.clone(), first: true }.encode();
        node.hear(BusEvent::Word { stream: StreamName::from_checked(channel), word }).await;
    }
    let heard = client.receive().await;
    assert_eq!(heard["push"]["channel"], "news.1", "and not of chat.1, of which all others would: {heard}");
    assert_eq!(client.ask(json!({"id": 9, "ping": {}})).await["id"], 9);
}

/// The messages of one frame.
async fn frame(client: &mut Client) -> Vec<Value> {
    loop {
        match timeout(PATIENCE, client.0.next()).await.expect("in time").expect("open").expect("well formed") {
            tungstenite::Message::Text(text) => {
                return text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
            }
            tungstenite::Message::Close(frame) => panic!("{frame:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_server_subscribes_with_all_that_it_says() {
    let node = Node::start(Limits::default()).await;
    let mut entered = node.noting(0).await;
    let mut client = node.client().await.connected("reader").await;
    for n in 1..=3 {
        node.say("news.1", &n.to_string(), &[]).await;
    }
    let order = |channel: &str, terms| {
        let whose = Whose { user: Some("u1".into()), ..Whose::default() };
        BusEvent::Told(Control::Subscribe { whose, channel: channel.into(), terms: Some(Box::new(terms)) }.encode())
    };
    let overrides = Overrides { presence: Some(true), force_push_join_leave: Some(true), ..Overrides::default() };
    let since = Some(Since { offset: 1, epoch: "e1".to_owned() });
    let terms = Subscribing {
        info: Some(r#"{"by":"server"}"#.to_owned()),
        data: Some("[7]".to_owned()),
        expire_at: None,
        since,
        overrides,
    };
    node.hear(order("news.1", terms.clone())).await;
    let told = frame(&mut client).await;
    let subscribed = &told[0]["push"]["subscribe"];
    assert_eq!((&subscribed["offset"], &subscribed["data"]), (&json!(1), &json!([7])), "{told:?}");
    let missed: Vec<_> = told[1..].iter().map(|push| push["push"]["pub"]["data"].clone()).collect();
    assert_eq!(missed, [json!(2), json!(3)]);
    let (_, member) = entered.recv().await.expect("it enters");
    assert_eq!((member.shown, member.info.chan_info.as_deref()), (true, Some(&br#"{"by":"server"}"#[..])));
    node.say("news.1", "4", &[]).await;
    assert_eq!(client.offsets(1).await, [4]);
    let word = Word::Join { info: named(7).info, first: true }.encode();
    node.hear(BusEvent::Word { stream: StreamName::from_checked("news.1"), word }).await;
    assert_eq!(client.receive().await["push"]["join"]["info"]["user"], "u7");
    // Said again it changes nothing; a position that is lost is answered with where the stream stands.
    node.hear(order("news.1", terms)).await;
    let since = Some(Since { offset: 1, epoch: "gone".to_owned() });
    node.hear(order("news.2", Subscribing { since, ..Subscribing::default() })).await;
    let told = frame(&mut client).await;
    assert_eq!((told.len(), &told[0]["push"]["channel"]), (1, &json!("news.2")), "{told:?}");
    assert_eq!(told[0]["push"]["subscribe"]["epoch"], "e1");
}

/// Whoever is shown a part takes it for all.
#[tokio::test]
async fn members_are_told_all_or_none() {
    for (there, told) in [(0, true), (3, true), (5, true), (6, false)] {
        let node = Node::start(Limits { presence: 5, ..Limits::default() }).await;
        let _entered = node.noting(there).await;
        let mut client = node.client().await.connected("reader").await;
        let reply = client.ask(json!({"id": 2, "presence": {"channel": "room.1"}})).await;
        if told {
            let clients = reply["presence"]["presence"].as_object().map_or(0, serde_json::Map::len);
            assert_eq!(clients, there, "{reply}");
        } else {
            assert_eq!(reply["error"]["code"], 106, "{reply}");
        }
    }
}

#[tokio::test]
async fn names_have_a_limit_and_the_hubs_own_are_as_long_as_they_are() {
    let node = Node::start(Limits { name: 16, ..Limits::default() }).await;
    let mut client = node.client().await.connected("reader").await;
    let (fits, long) = (format!("chat.{}", "x".repeat(11)), format!("chat.{}", "x".repeat(12)));
    assert!(client.ask(subscribe(&fits)).await["subscribe"].is_object());
    assert_eq!(client.ask(subscribe(&long)).await["error"]["code"], 107);
    let publish = |channel: &str| json!({"id": 3, "publish": {"channel": channel, "data": 1}});
    assert!(client.ask(publish(&fits)).await["publish"].is_object());
    assert_eq!(client.ask(publish(&long)).await["error"]["code"], 107);
    assert!(client.ask(subscribe("entities.procedure")).await["subscribe"].is_object());
}
