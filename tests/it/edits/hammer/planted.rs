//! The checker can fail: a run without a fault passes, and one fault of each sort turns it red.

use serde_json::{Value, json};

use super::ledger::{Ack, Did, Fault, Follows, Ledger, Read, Rows, State, of_counters, of_reads, of_writes};

fn merge(n: u64) -> Did {
    Did::Merge(json!({"n": n}).as_object().expect("an object").clone())
}

/// Created, added to three times, to the trash and back, purged and made anew.
fn acks() -> Vec<Ack> {
    let life = [(None, Did::Put(json!({"n": 0, "status": "open"}))), (Some(1), merge(1)), (Some(2), merge(2))];
    let more = [(None, merge(3)), (Some(4), Did::Trash), (Some(5), Did::Restore)];
    let of = |id: &str, all: Vec<(Option<u64>, Did)>| -> Vec<Ack> {
        let ack = |(n, (named, did))| Ack { id: id.to_owned(), revision: n, named, did };
        (1..).zip(all).map(ack).collect()
    };
    let other = vec![(None, Did::Put(json!({"status": "won"}))), (None, Did::Purge), (None, Did::Put(json!({})))];
    [of("a", life.into_iter().chain(more).collect()), of("b", other)].concat()
}

fn rows() -> Rows {
    let of = |revision, doc: Value| State { revision, trashed: false, doc: Some(doc) };
    Rows::from([("a".into(), of(6, json!({"n": 3, "status": "open"}))), ("b".into(), of(3, json!({})))])
}

fn counted(acks: &[Ack], rows: &Rows) -> Vec<Fault> {
    of_counters(acks, &["a".to_owned()], rows)
}

#[test]
fn a_run_without_a_fault_passes() {
    assert_eq!((of_writes(&acks(), &rows()), counted(&acks(), &rows())), (vec![], vec![]));
    let mut shuffled = acks();
    shuffled.reverse();
    assert_eq!(of_writes(&shuffled, &rows()), vec![], "answers come in any order");
}

#[test]
fn a_write_that_is_lost_is_found() {
    let mut two = acks();
    two[2].revision = 2;
    let faults = of_writes(&two, &rows());
    assert!(faults.contains(&Fault::Shared { id: "a".into(), revision: 2 }), "{faults:?}");
    assert!(faults.contains(&Fault::Unowned { id: "a".into(), revision: 3 }), "{faults:?}");

    let mut last = rows();
    last.get_mut("a").expect("there").revision = 5;
    assert!(
        matches!(&of_writes(&acks(), &last)[..], [Fault::Differs { id, .. }] if id == "a"),
        "acknowledged, and gone"
    );
    last = rows();
    last.get_mut("a").expect("there").doc = Some(json!({"n": 3}));
    assert!(matches!(&of_writes(&acks(), &last)[..], [Fault::Differs { .. }]), "a field that nobody took away");
    last.remove("a");
    assert!(matches!(&of_writes(&acks(), &last)[..], [Fault::Differs { is: None, .. }]), "the whole of it");
    let mut more = rows();
    more.insert("c".into(), State::default());
    assert!(matches!(&of_writes(&acks(), &more)[..], [Fault::Differs { should: None, .. }]), "that nobody made");
}

#[test]
fn a_condition_that_does_not_hold_is_found() {
    let mut acks = acks();
    acks[2].named = Some(1);
    assert_eq!(of_writes(&acks, &rows()), [Fault::Jumped { id: "a".into(), named: 1, revision: 3 }]);
}

#[test]
fn an_addition_that_is_not_in_the_sum_is_found() {
    let mut fewer = rows();
    fewer.get_mut("a").expect("there").doc = Some(json!({"n": 2}));
    let fault = Fault::Miscounted { id: "a".into(), acknowledged: 3, is: json!(2) };
    assert_eq!(counted(&acks(), &fewer), [fault]);
    assert!(matches!(counted(&acks()[..3], &rows())[..], [Fault::Miscounted { acknowledged: 2, .. }]));
}

#[test]
fn an_old_read_is_found() {
    let read = |read| Read { id: "a".into(), written: 2, read };
    assert_eq!(of_reads(&[read(2), read(3), read(1)]), [Fault::Stale { id: "a".into(), written: 2, read: 1 }]);
}

/// The four changes of a kind with two entities, from a list behind the first.
fn told() -> Vec<Value> {
    let of = |offset: u64, id: &str, revision: u64, op: &str, status: &str| json!({"offset": offset, "data": {"offset": offset, "id": id, "revision": revision, "op": op, "doc": {"status": status}}});
    vec![of(2, "a", 2, "update", "won"), of(3, "b", 1, "create", "open"), of(4, "a", 3, "trash", "won")]
}

fn truth() -> Rows {
    let of = |revision, trashed, status| State { revision, trashed, doc: Some(json!({"status": status})) };
    Rows::from([("a".into(), of(3, true, "won")), ("b".into(), of(1, false, "open"))])
}

fn taken(follows: Follows, items: &[Value], told: &[Value]) -> Vec<Fault> {
    let mut ledger = Ledger::new(follows);
    ledger.begin(1, items);
    told.iter().for_each(|told| ledger.take(told));
    ledger.faults(&truth())
}

fn first() -> Value {
    json!({"id": "a", "revision": 1, "trashed_at": null, "doc": {"status": "new"}})
}

#[test]
fn offsets_that_are_left_out_come_twice_or_late_are_found() {
    let kind = |told: &[Value]| taken(Follows::Kind, &[first()], told);
    assert_eq!(kind(&told()), []);
    let [two, three, four] = <[Value; 3]>::try_from(told()).expect("three");
    let gap = kind(&[two.clone(), four.clone()]);
    assert!(gap.contains(&Fault::Gap { at: 2, told: 4 }) && gap.len() == 2, "and b is missing: {gap:?}");
    assert_eq!(kind(&[two.clone(), three.clone(), three.clone(), four.clone()]), [Fault::Doubled { offset: 3 }]);
    let late = kind(&[two, four, three]);
    assert_eq!(late, [Fault::Gap { at: 2, told: 4 }, Fault::Disordered { at: 4, told: 3 }]);
}

#[test]
fn a_subscriber_that_has_something_else_is_found() {
    let differs = |faults: &[Fault], id: &str| matches!(faults, [Fault::Differs { id: it, .. }] if it == id);
    let mut wrong = told();
    wrong[0]["data"]["doc"]["status"] = json!("lost");
    assert_eq!(taken(Follows::Kind, &[first()], &wrong), [], "what a later one has put right");
    wrong[2]["data"]["doc"]["status"] = json!("lost");
    assert!(differs(&taken(Follows::Kind, &[first()], &wrong), "a"), "another document");
    wrong = told();
    wrong[2]["data"]["op"] = json!("update");
    assert!(differs(&taken(Follows::Kind, &[first()], &wrong), "a"), "not in the trash");
    let behind = taken(Follows::Kind, &[first()], &told()[..2]);
    assert!(differs(&behind, "a"), "behind: {behind:?}");
    let ghost = json!({"id": "c", "revision": 1, "trashed_at": null, "doc": {}});
    assert!(differs(&taken(Follows::Kind, &[first(), ghost], &told()), "c"), "a ghost");
}

#[test]
fn what_does_not_belong_there_is_found() {
    let mut wrong = told();
    wrong[1]["data"]["offset"] = json!(7);
    assert!(matches!(taken(Follows::Kind, &[first()], &wrong)[..], [Fault::Stray { .. }]));
    let entity = |offset: u64, id: &str| {
        let op = if offset == 3 { "trash" } else { "update" };
        json!({"offset": offset, "data": {"id": id, "revision": offset, "op": op, "doc": {"status": "won"}}})
    };
    let of_a = |told: &[Value]| taken(Follows::Entity("a".into()), &[first()], told);
    assert_eq!(of_a(&[entity(2, "a"), entity(3, "a")]), []);
    assert!(of_a(&[entity(2, "b"), entity(3, "a")]).iter().any(|fault| matches!(fault, Fault::Stray { .. })));
    assert!(of_a(&[entity(3, "a")]).contains(&Fault::Gap { at: 1, told: 3 }));
}

#[test]
fn queries_are_held_to_what_meets_them() {
    let of = |words: [&str; 3]| {
        let mut all = told();
        all.iter_mut().zip(words).for_each(|(told, word)| told["data"]["query"] = json!(word));
        all
    };
    let open = |told: &[Value]| taken(Follows::Query("open"), &[], told);
    let b = &of(["enter", "enter", "leave"])[1..2];
    assert_eq!(open(b), [], "what jumps over others is no gap");
    assert!(matches!(open(&[])[..], [Fault::Differs { is: None, .. }]), "never told");
    let won = |told: &[Value]| taken(Follows::Query("won"), &[], told);
    let [enter, _, leave] = <[Value; 3]>::try_from(of(["enter", "enter", "leave"])).expect("three");
    assert_eq!(won(&[enter.clone(), leave.clone()]), []);
    assert!(
        matches!(won(std::slice::from_ref(&enter))[..], [Fault::Differs { should: None, .. }]),
        "a leave was swallowed"
    );
    assert_eq!(won(&[enter.clone(), leave.clone(), leave.clone()]), [Fault::Doubled { offset: 4 }]);
    assert!(won(&[leave, enter]).contains(&Fault::Disordered { at: 4, told: 2 }), "and what has left stays away");
    assert!(matches!(won(&told()[2..])[0], Fault::Stray { .. }), "without a word");
}
