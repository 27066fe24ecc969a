//! Large messages.

use crate::client::{Client, LIMIT, Memory, PROCEDURE, sandbox};
use dzvin_sandbox::{Generate, Generator, WorldError};
use futures_util::StreamExt;

#[tokio::test]
async fn frames_have_exactly_the_length_that_was_asked_for() {
    let (handle, control) = sandbox(0, |_| {}).await;
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until(|m| m.count("noop") == 1).await;
    let mut generator = Generator::new(3);
    for bytes in [2_000_000, 5_000_000, 7_500_000, 7_864_320, 7_864_321] {
        let written = control.put_frame(PROCEDURE, &generator.procedure(), bytes).unwrap();
        let message = tokio::time::timeout(LIMIT, client.socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(message.len(), bytes);
        assert!(message.to_text().unwrap().contains(&written.id));
    }
    assert!(matches!(control.put_frame(PROCEDURE, &generator.procedure(), 100), Err(WorldError::TooSmall { .. })));
    // What is kept of them is small: the filling is folded.
    assert!(control.oplog_kept(PROCEDURE).unwrap().1 < 1_000_000);
}

#[tokio::test]
async fn a_hundred_large_ones_cost_next_to_nothing_here() {
    let (_handle, control) = sandbox(0, |_| {}).await;
    let order =
        Generate { collection: PROCEDURE.to_owned(), count: 100, bytes: Some(7_500_000), ..Generate::default() };
    control.generate(&order).unwrap();
    let rows = control.truth_index(PROCEDURE).unwrap();
    assert!(rows.len() == 100 && rows.iter().all(|row| row.bytes > 7_500_000 && row.raw.is_empty()));
    assert!(control.oplog_kept(PROCEDURE).unwrap().1 < 2_000_000);
}

#[tokio::test]
async fn large_ones_survive_edits_and_snapshots() {
    let (handle, control) = sandbox(0, |_| {}).await;
    let id = control.put_sized(PROCEDURE, &Generator::new(3).procedure(), 1_000_000).unwrap().id;
    control.patch(PROCEDURE, &id, r#"{"status":"complete"}"#).unwrap();
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until_equal(&control).await;
    assert!(client.memory.docs[&id]["x_filling"].as_str().unwrap().len() > 900_000);
}
