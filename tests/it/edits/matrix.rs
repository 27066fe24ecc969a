//! Who may do what: a table, and the loop that runs it. Every role of the default configuration and every permission by itself, beside
//! every action and every sort of kind.

use super::*;
use crate::{spine::caught_up, support::session::Client};

/// `+` done; `-` forbidden; `m` not ours to change (405); `c` refused without a condition (428); `u` nobody's (403 `no_user`);
/// `?` unknown, for the token is none.
#[rustfmt::skip]
const TABLE: &str = "
deal         read list history revision  create update put back trash restore purge bulk  entities entity query
admin         +    +      +       +        +      +     +   +     +      +      +    +       +       +      +
operator      +    +      +       +        +      +     +   +     +      +      -    +       +       +      +
viewer        +    +      +       +        -      -     -   -     -      -      -    -       +       +      +
creator       +    +      +       +        +      -     -   -     -      -      -    -       +       +      +
updater       +    +      +       +        -      +     -   +     -      -      -    -       +       +      +
trasher       +    +      +       +        -      -     -   -     +      -      -    -       +       +      +
restorer      +    +      +       +        -      -     -   -     -      +      -    -       +       +      +
purger        +    +      +       +        -      -     -   -     -      -      +    -       +       +      +
blind         -    -      -       -        -      -     -   -     -      -      -    -       -       -      -
careful       -    -      -       -        -      -     -   -     -      -      -    -       -       -      -
stranger      -    -      -       -        -      -     -   -     -      -      -    -       -       -      -
nobody        +    +      +       +        u      u     u   u     u      u      u    u       +       +      u
rubbish       ?    ?      ?       ?        ?      ?     ?   ?     ?      ?      ?    ?       ?       ?      ?

careful      read list history revision  create update put back trash restore purge bulk  entities entity query
admin         +    +      +       +        +      c     c   c     c      c      c    c       +       +      +
operator      +    +      +       +        +      c     c   c     c      c      -    c       +       +      +
viewer        +    +      +       +        -      -     -   -     -      -      -    -       +       +      +
creator       +    +      +       +        +      -     -   -     -      -      -    -       +       +      +
updater       +    +      +       +        -      c     -   c     -      -      -    -       +       +      +
trasher       +    +      +       +        -      -     -   -     c      -      -    -       +       +      +
restorer      +    +      +       +        -      -     -   -     -      c      -    -       +       +      +
purger        +    +      +       +        -      -     -   -     -      -      c    -       +       +      +
blind         -    -      -       -        -      -     -   -     -      -      -    -       -       -      -
careful       +    +      +       +        +      c     c   c     c      c      c    c       +       +      +
stranger      -    -      -       -        -      -     -   -     -      -      -    -       -       -      -
nobody        +    +      +       +        u      u     u   u     u      u      u    u       +       +      u
rubbish       ?    ?      ?       ?        ?      ?     ?   ?     ?      ?      ?    ?       ?       ?      ?

procedure    read list history revision  create update put back trash restore purge bulk  entities entity query
admin         +    +      +       +        m      m     m   m     m      m      m    m       +       +      +
operator      +    +      +       +        m      m     m   m     m      m      m    m       +       +      +
viewer        +    +      +       +        m      m     m   m     m      m      m    m       +       +      +
creator       +    +      +       +        m      m     m   m     m      m      m    m       +       +      +
updater       +    +      +       +        m      m     m   m     m      m      m    m       +       +      +
trasher       +    +      +       +        m      m     m   m     m      m      m    m       +       +      +
restorer      +    +      +       +        m      m     m   m     m      m      m    m       +       +      +
purger        +    +      +       +        m      m     m   m     m      m      m    m       +       +      +
blind         -    -      -       -        -      -     -   -     -      -      -    -       -       -      -
careful       -    -      -       -        -      -     -   -     -      -      -    -       -       -      -
stranger      -    -      -       -        -      -     -   -     -      -      -    -       -       -      -
nobody        +    +      +       +        m      m     m   m     m      m      m    m       +       +      u
rubbish       ?    ?      ?       ?        ?      ?     ?   ?     ?      ?      ?    ?       ?       ?      ?
";

/// Without roles of their own: those of the default configuration hold.
const PLAIN: &str = "
[kinds.deal]
source = \"local\"
[kinds.careful]
source = \"local\"
require_if_match = true
";

/// Actions after which another revision is there.
const WRITES: [&str; 8] = ["create", "update", "put", "back", "trash", "restore", "purge", "bulk"];

/// The token of a row: a role, or permissions of its own.
fn token_of(who: &str) -> String {
    let read = "entities:read:*";
    let may = |all: &[&str]| token(who, all, &[]);
    match who {
        "creator" => may(&[read, "entities:create:*"]),
        "updater" => may(&[read, "entities:update:*"]),
        "trasher" => may(&[read, "entities:trash:*"]),
        "restorer" => may(&[read, "entities:restore:*"]),
        "purger" => may(&[read, "entities:purge:*"]),
        // Everything but to read.
        "blind" => may(&["create", "update", "trash", "restore", "purge"]
            .map(|it| format!("entities:{it}:*"))
            .each_ref()
            .map(String::as_str)),
        // Everything, of one kind.
        "careful" => may(&["entities:*:careful"]),
        "stranger" => may(&["mirrors:read:*"]),
        "nobody" => token("", &["*"], &[]),
        "rubbish" => "rubbish".to_owned(),
        role => token(who, &[], &[role]),
    }
}

/// The lines of the table, one word for each cell: kind, who, what came of each action.
fn rows() -> Vec<(&'static str, Vec<&'static str>, Vec<&'static str>)> {
    let (mut kind, mut actions, mut rows) = ("", Vec::new(), Vec::new());
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[1] == "read" {
            (kind, actions) = (words[0], words[1..].to_vec());
        } else {
            assert_eq!(words.len(), actions.len() + 1, "{line}");
            rows.push((kind, actions.clone(), words));
        }
    }
    rows
}

/// The entity of a cell: its own where something is changed, else the one that is there.
fn target(kind: &str, who: &str, action: &str) -> String {
    match kind {
        "procedure" => format!("{:024x}", 0),
        _ => format!("{who}-{action}"),
    }
}

/// What every cell finds: two revisions, and one in the trash where it is to be restored.
async fn prepare(boss: &Writer<'_>, kind: &str, ids: impl Iterator<Item = (String, &'static str)>) {
    let mut items = Vec::new();
    for (id, action) in ids.filter(|(_, action)| *action != "create") {
        items.push(json!({"op": "create", "id": id, "doc": {"n": 1}}));
        items.push(json!({"op": "merge", "id": id, "if_match": 1, "patch": {"n": 2}}));
        if action == "restore" {
            items.push(json!({"op": "trash", "id": id, "if_match": 2}));
        }
    }
    let body = json!({"items": items}).to_string();
    boss.send(Method::POST, &format!("/api/v1/entities/{kind}/bulk"), &[JSON], body).await.is(200);
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// Asks for one thing over REST.
async fn ask(who: &Writer<'_>, kind: &str, action: &str, id: &str) -> Answer {
    let base = format!("/api/v1/entities/{kind}");
    let of = format!("{base}/{id}");
    let merge = ("content-type", "application/merge-patch+json");
    let (method, path, headers, body) = match action {
        "read" => (Method::GET, of, vec![], json!(null)),
        "list" => (Method::GET, base, vec![], json!(null)),
        "history" => (Method::GET, format!("{of}/history"), vec![], json!(null)),
        "revision" => (Method::GET, format!("{of}/history/1"), vec![], json!(null)),
        "create" => (Method::PUT, of, vec![JSON, ("if-none-match", "*")], json!({"n": 1})),
        "update" => (Method::PATCH, of, vec![merge], json!({"n": 3})),
        "put" => (Method::PUT, of, vec![JSON], json!({"n": 3})),
        "back" => (Method::POST, format!("{of}/restore?revision=1"), vec![], json!(null)),
        "trash" => (Method::DELETE, of, vec![], json!(null)),
        "restore" => (Method::POST, format!("{of}/restore"), vec![], json!(null)),
        "purge" => (Method::DELETE, format!("{of}?purge=true"), vec![], json!(null)),
        "bulk" => {
            let items = [json!({"op": "merge", "id": id, "patch": {"n": 3}}), json!({"op": "trash", "id": id})];
            (Method::POST, format!("{base}/bulk"), vec![JSON], json!({ "items": items }))
        }
        "query" => (Method::POST, "/api/v1/queries".to_owned(), vec![], json!({"kind": kind, "filter": {}})),
        other => panic!("{other}"),
    };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    who.send(method, &path, &headers, body).await
}

fn letter(answer: &Answer) -> &'static str {
    match (answer.status, answer.body["code"].as_str()) {
        (200 | 201, _) => "+",
        (401, Some("unauthorized")) => "?",
        (403, Some("forbidden")) => "-",
        (403, Some("no_user")) => "u",
        (405, Some("read_only_kind")) => "m",
        (428, Some("precondition_required")) => "c",
        _ => panic!("{}: {}", answer.status, answer.body),
    }
}

/// Asks for a channel on a connection of its own.
async fn subscribe(hub: &Hub, token: &str, channel: &str) -> &'static str {
    let mut client = Client::new(hub).await;
    let hello = client.ask(&json!({"id": 1, "connect": {"token": token}}).to_string()).await;
    if !hello["connect"].is_object() {
        return "?";
    }
    let reply = client.ask(&json!({"id": 2, "subscribe": {"channel": channel}}).to_string()).await;
    match reply["error"]["code"].as_u64() {
        None if reply["subscribe"].is_object() => "+",
        Some(103) => "-",
        _ => panic!("{reply}"),
    }
}

#[tokio::test]
async fn who_may_do_what() {
    let mut world = World::new(1, false).await;
    world.mirrors.push_str(PLAIN);
    // Nobody asks more often than the guard lets anybody.
    let hub = world.hub_with("a", "[identity.guard]\nfailures = 0\ntoken_failures = 0\n").await;
    caught_up(&world, &hub).await;
    let boss = Writer::new(&hub, "olha", "admin");
    let rows = rows();
    for kind in ["deal", "careful"] {
        let of = rows.iter().filter(|row| row.0 == kind);
        let ids =
            of.flat_map(|(_, actions, cells)| actions.iter().map(|action| (target(kind, cells[0], action), *action)));
        prepare(&boss, kind, ids).await;
    }
    let mut wrong = Vec::new();
    for (kind, actions, cells) in rows {
        let who = Writer::with(&hub, token_of(cells[0]));
        for (action, expected) in actions.into_iter().zip(&cells[1..]) {
            let id = target(kind, cells[0], action);
            let revision = async || ask(&boss, kind, "read", &id).await.body["revision"].clone();
            let before = revision().await;
            let got = match action {
                "entities" => subscribe(&hub, &who.token, &format!("entities.{kind}")).await,
                "entity" => subscribe(&hub, &who.token, &format!("entity.{kind}.{id}")).await,
                _ => letter(&ask(&who, kind, action, &id).await),
            };
            if got != *expected {
                wrong.push(format!("{} may {action} {kind}: {got} instead of {expected}", cells[0]));
            }
            let changes = WRITES.contains(&action) && got == "+";
            assert_eq!(
                revision().await != before,
                changes,
                "what is refused changes nothing: {} {action} {kind}",
                cells[0]
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
