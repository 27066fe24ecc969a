//! What goes wrong, and how often it did. Each strike begins on a live link and leaves it live again.

use std::fs;

use dzvin_sandbox::{ActiveFault, Fault, Manner};

use super::{arena::Site, flow::Flow};
use crate::support::hub::small_object;

/// How often a stream must be hit before that counts.
const HITS: u64 = 8;

/// Begins again with whatever fault is on.
fn cut(site: &Site) {
    site.control.disconnect(site.name, Manner::Rst);
}

/// A fault on the stream: frames of this name are counted.
pub async fn noise(site: &Site, fault: Fault, counted: &str) -> u64 {
    let name = fault.name();
    site.control.fault(fault);
    site.when("noise", || site.control.stats().frames(site.name, counted) >= HITS).await;
    site.control.clear(name);
    site.control.stats().frames(site.name, counted)
}

/// A fault of the way in which bytes come: as many operations must have passed.
pub async fn manner(site: &Site, flow: &mut Flow, fault: Fault) -> u64 {
    let name = fault.name();
    site.control.fault(fault);
    cut(site);
    flow.further(2 * HITS).await;
    let sent = || site.control.stats().links.iter().map(|link| link.operations).max().unwrap_or(0);
    site.when("operations in this manner", || sent() >= HITS).await;
    let count = sent();
    site.control.clear(name);
    count
}

/// The connection is cut three times, each after some operations.
pub async fn cuts(site: &Site, manner: Manner) -> u64 {
    let before = site.connections();
    site.control.fault_with(ActiveFault::new(Fault::Cut { after: 3, manner }).times(3));
    site.when("three cuts and a fourth connection", || site.connections() >= before + 3).await;
    site.control.clear("cut");
    site.is("live").await;
    site.connections() - before
}

/// The upstream says nothing more, and nothing tells that it is gone.
pub async fn silence(site: &Site) -> u64 {
    site.control.fault_with(ActiveFault::new(Fault::Silence { after: 3 }).times(1));
    site.when("a silent connection", || site.seen("backoff", "silent") > 0).await;
    site.control.clear("silence");
    site.is("live").await;
    1
}

/// The server asks and never comes to the point.
pub async fn stuck(site: &Site) -> u64 {
    site.control.fault(Fault::Stuck);
    cut(site);
    site.when("a connection without text is given up", || site.seen("backoff", "silent") >= 2).await;
    site.control.clear("stuck");
    site.is("live").await;
    2
}

/// Quiet connections are closed.
pub async fn idle(site: &Site, flow: &mut Flow, manner: Manner) -> u64 {
    flow.pause();
    let before = site.connections();
    site.control.turn(|knobs| {
        knobs.mirror.noop_ms = 0;
        knobs.mirror.idle_manner = manner;
        knobs.mirror.idle_close_ms = 700;
    });
    site.when("two idle connections were closed", || site.connections() >= before + 2).await;
    site.control.turn(|knobs| knobs.mirror.idle_close_ms = 350_000);
    flow.go_on();
    site.is("live").await;
    site.connections() - before
}

/// Our pings keep a quiet connection alive.
pub async fn kept_alive(site: &Site, flow: &mut Flow) -> u64 {
    flow.pause();
    site.control.turn(|knobs| {
        knobs.mirror.noop_ms = 0;
        knobs.mirror.idle_close_ms = 2_500;
    });
    let pings = || site.control.stats().collection(site.name).pings;
    let (before, connections) = (pings(), site.connections());
    site.when("four pings", || pings() >= before + 4).await;
    assert_eq!(site.connections(), connections, "{}: a pinged connection was closed", site.name);
    flow.go_on();
    pings() - before
}

/// The handshake is answered with a status that passes by itself.
pub async fn refused(site: &Site, status: u16) -> u64 {
    site.control.fault_with(ActiveFault::new(Fault::Handshake { status }).times(3));
    cut(site);
    site.when("three refusals", || site.answered(status) >= 3).await;
    site.is("live").await;
    site.answered(status)
}

/// The handshake is never answered.
pub async fn hang(site: &Site) -> u64 {
    site.control.fault(Fault::HandshakeHang);
    cut(site);
    site.when("a handshake is given up", || site.seen("backoff", "in time") > 0).await;
    site.control.clear("handshake-hang");
    site.is("live").await;
    1
}

/// 403 waits for the operator: nothing is repeated, however much is missed meanwhile.
pub async fn forbidden(site: &Site, flow: &mut Flow) -> u64 {
    site.control.fault(Fault::Handshake { status: 403 });
    cut(site);
    site.is("forbidden").await;
    flow.further(40).await;
    assert_eq!(site.answered(403), 1, "{}: repeated with the same token: {:?}", site.name, site.moves());
    site.resume().await;
    site.when("the operator's word is one try", || site.answered(403) == 2).await;
    flow.further(20).await;
    assert_eq!(site.answered(403), 2, "{}: repeated with the same token", site.name);
    site.control.clear("handshake");
    site.resume().await;
    site.is("live").await;
    site.answered(403)
}

/// The token loses its rights while it is in use; a new one is taken without a restart.
pub async fn rights_change(site: &Site, flow: &mut Flow) -> u64 {
    site.control.set_token(dzvin_sandbox::DEFAULT_TOKEN, ["nothing"]);
    cut(site);
    site.is("forbidden").await;
    flow.further(20).await;
    // One on the socket, and at most one on the comparison's request.
    let refused = site.answered(403);
    assert!((1..=2).contains(&refused), "{}: {refused} requests with a token without rights", site.name);
    site.control.set_token("a-new-token", ["mirror", "api"]);
    fs::write(&site.token, "a-new-token\n").expect("token");
    site.resume().await;
    site.is("live").await;
    assert_eq!(site.answered(403), refused, "{}: the old token was used again", site.name);
    refused
}

/// The upstream raises the version that it wants.
pub async fn version(site: &Site, flow: &mut Flow) -> u64 {
    site.control.turn(|knobs| knobs.access.platform_version = Some("1.1".to_owned()));
    cut(site);
    site.is("forbidden").await;
    flow.further(20).await;
    let refused = site.answered(400);
    assert!((1..=2).contains(&refused), "{}: {refused} requests with the wrong version", site.name);
    site.control.turn(|knobs| knobs.access.platform_version = Some("1.0".to_owned()));
    site.resume().await;
    site.is("live").await;
    refused
}

/// What was missed can not be had from the stream any more.
pub async fn history_lost(site: &Site, flow: &mut Flow, forget: bool) -> u64 {
    if forget {
        site.control.fault(Fault::Handshake { status: 502 });
        cut(site);
        site.when("it is away", || site.answered(502) > 0).await;
        flow.further(20).await;
        site.control.forget_history(site.name).expect("the collection");
        site.control.clear("handshake");
    } else {
        site.control.fault_with(ActiveFault::new(Fault::HistoryLost).times(1));
        cut(site);
    }
    site.until("the gap is healed", async || {
        let (gaps, gap) = (site.metric("dzvin_mirror_gaps_total").await, site.metric("dzvin_mirror_gap").await);
        let shown = site.seen("reconciling", "");
        if gaps >= 1.0 && gap == 0.0 && shown > 0 { Ok(()) } else { Err(format!("{gaps} {gap} {shown}")) }
    })
    .await;
    site.is("live").await;
    1
}

/// More objects share a moment than the feed shows at once.
pub async fn equal_dates(site: &Site, flow: &mut Flow, stuck: bool) -> u64 {
    history_lost(site, flow, true).await;
    let alarms = site.metric("dzvin_mirror_feed_stuck_total").await;
    assert_eq!(alarms > 0.0, stuck, "{}: {alarms} alarms", site.name);
    150
}

/// Questions in any order, any number of times, all at once, and in the middle of the stream.
pub async fn questions(site: &Site) -> u64 {
    let asked = || site.control.stats().collection(site.name).answers;
    for _ in 0..3 {
        let before = site.connections();
        cut(site);
        site.when("another connection", || site.connections() > before).await;
        site.is("live").await;
    }
    site.when("questions", || asked().values().map(|it| it.asked).sum::<u64>() > 30).await;
    let all = asked();
    let known = if site.full { 4 } else { 3 };
    assert_eq!(all.len(), known, "{}: {all:?}", site.name);
    all.values().map(|it| it.answered).sum()
}

/// Nothing is known at first: the answers are spelled as this upstream wants them.
pub async fn spelled_empty(site: &Site) -> u64 {
    let ends = site.control.stats().collection(site.name).ends;
    assert!(ends.is_empty(), "{}: {ends:?}", site.name);
    1
}

/// A snapshot that is cut in its middle again and again, from the beginning; after each cut something goes that it had shown.
pub async fn cut_snapshot(site: &Site) -> u64 {
    let pool = &site.arena.pool;
    for _ in 0..3 {
        let shown = site
            .until("a row that is still upstream", async || {
                let rows =
                    sqlx::query_scalar("SELECT id FROM entities WHERE kind = $1").bind(site.name).fetch_all(pool);
                let rows: Vec<String> = rows.await.map_err(|error| error.to_string())?;
                let there = |id: &String| site.control.document(site.name, id).expect("the collection").is_some();
                rows.into_iter().find(there).ok_or_else(|| "none".to_owned())
            })
            .await;
        site.control.delete(site.name, &shown).expect("the object");
        let before = site.connections();
        // The back-off grows with every cut; an operator ends it.
        site.resume().await;
        site.when("another snapshot began without it", || site.connections() > before).await;
    }
    site.control.clear("cut");
    site.resume().await;
    site.is("live").await;
    site.control.stats().collection(site.name).snapshots - 1
}

/// The comparison over HTTP is refused again and again, and ends all the same.
pub async fn hindered(site: &Site, flow: &mut Flow, status: u16) -> u64 {
    flow.further(20).await;
    site.when("refusals", || site.answered(status) >= 3).await;
    site.answered(status)
}

/// The address has no connection left: first the Mirror's own is the only one, then not even that.
pub async fn crowded(site: &Site, flow: &mut Flow, status: u16) -> u64 {
    site.control.turn(|knobs| (knobs.nginx.conn_per_ip, knobs.nginx.conn_status) = (Some(1), status));
    flow.further(10).await;
    site.when("a comparison is refused", || site.answered(status) > 0).await;
    let before = site.connections();
    site.control.turn(|knobs| knobs.nginx.conn_per_ip = Some(0));
    cut(site);
    site.is("backoff").await;
    let refused = site.answered(status);
    site.when("handshakes are refused", || site.answered(status) >= refused + 2).await;
    assert_eq!(site.connections(), before, "{}: nobody came in", site.name);
    site.control.turn(|knobs| knobs.nginx.conn_per_ip = None);
    site.is("live").await;
    site.answered(status)
}

/// Edits come as sets, here of dotted paths.
pub async fn edits(site: &Site) -> u64 {
    let edits = || site.control.stats().frames(site.name, "update");
    site.when("edits", || edits() >= HITS).await;
    edits()
}

/// The API behind the Mirror fails now and then, and is slow.
pub async fn failing_http(site: &Site, flow: &mut Flow) -> u64 {
    site.control.fault(Fault::HttpSlow { ms: 30 });
    site.control.fault(Fault::Http { percent: 30, status: 500 });
    flow.further(20).await;
    site.when("failures", || site.answered(500) >= 3).await;
    site.control.clear_all();
    site.answered(500)
}

/// The server cannot send what it has.
pub async fn closed_1009(site: &Site) -> u64 {
    let before = site.answered(200);
    site.control.disconnect(site.name, Manner::Close(1009));
    // The state may have passed already when we look.
    site.when("the state is named", || site.seen("over_limit", "") > 0).await;
    site.when("the feed is read instead", || site.answered(200) > before).await;
    site.is("live").await;
    1
}

/// Messages of every promised size, and one byte more than the limit.
pub async fn sizes(site: &Site, flow: &mut Flow, limit: usize) -> u64 {
    let put = |n: usize, bytes: usize| {
        let written = site.control.put_frame(site.name, &small_object(n), bytes).expect("an object");
        assert!(written.bytes > bytes - 1_000);
    };
    for (n, bytes) in [2_000_000, 5_000_000, 7_500_000, limit].into_iter().enumerate() {
        put(1_000 + n, bytes);
    }
    flow.further(5).await;
    site.until("all came over the stream", async || committed(site, 1_003).await).await;
    assert_eq!(site.metric("dzvin_mirror_over_limit_total").await, 0.0);
    put(1_004, limit + 1);
    put(1_005, 2_000);
    site.until("it was fetched", async || committed(site, 1_004).await).await;
    site.until("the stream goes on", async || committed(site, 1_005).await).await;
    site.is("live").await;
    assert_eq!(site.seen("over_limit", "bytes"), 1, "{}: {:?}", site.name, site.moves());
    let connections = site.connections();
    let (old, new) = (format!("max_message_bytes = {limit}"), format!("max_message_bytes = {}", limit * 2));
    site.arena.hub.reconfigure(|text| text.replace(&old, &new));
    site.resume().await;
    put(1_006, limit + 1);
    site.until("it came over the stream", async || committed(site, 1_006).await).await;
    assert_eq!(site.metric("dzvin_mirror_over_limit_total").await, 1.0);
    assert_eq!(site.connections(), connections, "the limit is raised without a new connection");
    6
}

async fn committed(site: &Site, n: usize) -> Result<(), String> {
    let found: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM entities WHERE kind = $1 AND id = $2)")
        .bind(site.name)
        .bind(format!("{n:024x}"))
        .fetch_one(&site.arena.pool)
        .await
        .map_err(|error| error.to_string())?;
    if found { Ok(()) } else { Err(format!("{n} is not there")) }
}
