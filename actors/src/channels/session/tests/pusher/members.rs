//! The cap of members where several come in one moment. Who comes meanwhile the test says, so that nothing is left to luck.

use dzvin_protocols::channels::centrifuge::ClientInfo;

use super::*;
use crate::{
    channels::presence::{PresenceMessage, Roster},
    platform::ports::{Counts, Member},
};

const CHANNEL: &str = "presence-x";

/// A channel as presence has it.
#[derive(Default)]
struct Room {
    /// Who is there, in the order in which presence tells it.
    there: Vec<Arc<Member>>,
    /// Who comes in the moment in which the next one does.
    racing: &'static [&'static str],
    /// Clients that were entered, and those that left.
    entered: usize,
    left: usize,
}

#[derive(Clone, Default)]
struct Door(Arc<Mutex<Room>>);

impl Door {
    fn room<T>(&self, look: impl FnOnce(&mut Room) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    /// These users are there, each with a client of its own, and those come with whoever comes next.
    fn holds(&self, users: &[&str], racing: &'static [&'static str]) {
        let there = users.iter().map(|user| elsewhere(user)).collect();
        self.room(|room| *room = Room { there, racing, ..Room::default() });
    }
}

impl Room {
    fn counts(&self) -> Counts {
        let users: HashSet<&str> = self.there.iter().map(|member| &*member.info.user).collect();
        Counts { clients: self.there.len() as u64, users: users.len() as u64, ..Counts::default() }
    }

    fn answer(&mut self, message: PresenceMessage) {
        match message {
            PresenceMessage::Enter { member, .. } => {
                self.there.push(member);
                self.there.extend(std::mem::take(&mut self.racing).iter().map(|user| elsewhere(user)));
                self.entered += 1;
            }
            PresenceMessage::Exit { client, .. } => {
                self.there.retain(|member| member.info.client != client);
                self.left += 1;
            }
            PresenceMessage::Roster { most, reply, .. } => {
                let mut seen = HashSet::new();
                let members = self.there.iter().filter(|member| seen.insert(Arc::clone(&member.info.user)));
                let members: Vec<_> = members.take(most).cloned().collect();
                let counts = self.counts();
                let complete = members.len() as u64 == counts.users;
                let _ = reply.send(Ok(Roster { members, counts, complete }));
            }
            _ => {}
        }
    }
}

/// A client of this user at another node.
fn elsewhere(user: &str) -> Arc<Member> {
    let client = format!("elsewhere.{user}").into();
    let info = ClientInfo { user: user.into(), client, conn_info: None, chan_info: None };
    Arc::new(Member { info, told: true, shown: true })
}

/// A node whose presence channels have two members at most.
async fn node() -> (Node, Door) {
    let (node, door) = (super::node().await, Door::default());
    node.hub.apps.replace(vec![App { max_members: 2, ..app("main", "k1") }]).expect("apps");
    let answering = door.clone();
    node.presence(move |message| answering.room(|room| room.answer(message))).await;
    (node, door)
}

async fn come(node: &Node, user: &str) -> (Pusher, Value) {
    let mut one = pusher(node, "main").await;
    let answer = one.signed(CHANNEL, Some(&json!({"user_id": user}).to_string())).await;
    (one, answer)
}

/// Who is shown there.
fn ids(answer: &Value) -> Vec<String> {
    assert_eq!(answer["event"], "pusher_internal:subscription_succeeded", "{answer}");
    let data: Value = serde_json::from_str(answer["data"].as_str().expect("text")).expect("json");
    serde_json::from_value(data["presence"]["ids"].clone()).expect("ids")
}

#[tokio::test]
async fn a_member_comes_again_whoever_comes_with_it() {
    let (node, door) = node().await;
    let mut tabs = Vec::new();
    // There was room when it was looked at, and is none when it has come in; or there are too many already, of whom some will leave.
    for (there, racing) in [
        (&["olha"][..], &["ivan", "petro"][..]),
        (&["ivan", "olha"], &["petro"]),
        (&["ivan", "petro", "olha"], &[]),
        (&["ivan", "petro", "marko", "olha"], &["daria"]),
    ] {
        door.holds(there, racing);
        let (mut tab, answer) = come(&node, "olha").await;
        assert!(ids(&answer).contains(&"olha".to_owned()), "{there:?} {racing:?}: {answer}");
        tab.is_well().await;
        assert_eq!(door.room(|room| (room.entered, room.left)), (1, 0), "{there:?} {racing:?}");
        tabs.push(tab);
    }
}

#[tokio::test]
async fn a_stranger_who_is_one_too_many_leaves_again() {
    let (node, door) = node().await;
    door.holds(&["ivan"], &["petro"]);
    let (mut one, answer) = come(&node, "olha").await;
    assert_eq!(refused(&answer, CHANNEL), 429);
    one.is_well().await;
    eventually("it has left", || async { door.room(|room| (room.entered, room.left)) == (1, 1) }).await;
    // Where it is seen before that there is no room nobody is told of it; where there is, it is let in.
    for (there, refused_with) in
        [(&["ivan", "petro"][..], Some(429)), (&["ivan", "petro", "marko"], Some(429)), (&["ivan"], None)]
    {
        door.holds(there, &[]);
        let (_one, answer) = come(&node, "olha").await;
        match refused_with {
            Some(status) => assert_eq!(refused(&answer, CHANNEL), status, "{there:?}"),
            None => assert_eq!(ids(&answer).len(), 2, "{answer}"),
        }
        assert_eq!(door.room(|room| room.entered), usize::from(refused_with.is_none()), "{there:?}");
    }
}
