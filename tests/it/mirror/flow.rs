//! Life upstream: edits, touches without content, new objects, deletes, and objects that come back.

use std::{sync::LazyLock, time::Duration};

use dzvin_sandbox::{Control, Generator, fixtures};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::support::hub::small_object;

/// From one operation to the next.
const STEP: Duration = Duration::from_millis(120);
/// Objects that are edited and deleted; more come into being only up to here.
const NUMBERS: usize = 60;

/// The object of a number: its id and its text.
pub type Stock = fn(usize) -> (String, String);

/// Small objects that mean nothing.
pub fn small(n: usize) -> (String, String) {
    (format!("{n:024x}"), small_object(n))
}

/// Real objects of the CDB, from the subset or from the file that `DZVIN_CDB_DATA` names, and every third one of the Sale's
/// shape, generated: HTML in titles, null bids, unknown fields.
pub fn real(n: usize) -> (String, String) {
    static REAL: LazyLock<Vec<String>> = LazyLock::new(|| fixtures::real().expect("real objects"));
    let text = match n % 3 {
        0 => Generator::new(n as u64).procedure(),
        _ => REAL[n * 17 % REAL.len()].clone(),
    };
    let named: serde_json::Value = serde_json::from_str(&text).expect("json");
    let id = named["_id"].as_str().or(named["id"].as_str()).expect("an id");
    (id[..24].to_owned(), text)
}

/// What happens upstream.
#[derive(Clone, Copy)]
pub struct Life {
    pub stock: Stock,
    /// Some go. Where nobody says so, not the stream and not a comparison, nobody can know.
    pub deletes: bool,
}

/// A flow of operations until it is stopped.
pub struct Flow {
    pace: watch::Sender<bool>,
    count: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Flow {
    pub fn start(control: Control, collection: &'static str, life: Life, seed: u64) -> Self {
        let (pace, mut flowing) = watch::channel(true);
        let (counted, count) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            let mut ticks = interval(STEP);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while flowing.wait_for(|flowing| *flowing).await.is_ok() {
                ticks.tick().await;
                // Under the lock of the word to pause, so that nothing comes after it was said.
                let on = flowing.borrow();
                if *on {
                    act(&control, collection, life, &mut random);
                    counted.send_modify(|count| *count += 1);
                }
            }
        });
        Self { pace, count, task }
    }

    pub fn pause(&self) {
        self.pace.send_replace(false);
    }

    pub fn go_on(&self) {
        self.pace.send_replace(true);
    }

    /// Operations so far.
    pub fn count(&self) -> u64 {
        *self.count.borrow()
    }

    /// Waits until so many more have been done.
    pub async fn further(&mut self, more: u64) {
        let wanted = self.count() + more;
        self.count.wait_for(|count| *count >= wanted).await.expect("it flows");
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn act(control: &Control, collection: &str, life: Life, random: &mut StdRng) {
    let number = random.random_range(0..NUMBERS);
    let (id, text) = (life.stock)(number);
    let there = control.document(collection, &id).expect("the collection").is_some();
    let done = match (there, random.random_range(0..100)) {
        (false, 0..40) => control.put(collection, &text).map(drop),
        (true, 0..8) if life.deletes => control.delete(collection, &id).map(drop),
        // Only the version moves: hidden bids do that.
        (true, 0..20) => control.patch(collection, &id, "{}").map(drop),
        (true, _) => {
            let (whole, cents) = (random.random_range(1..9_000_000u32), random.random_range(0..100u8));
            control.patch(collection, &id, &format!(r#"{{"value.amount":{whole}.{cents:02}0,"bids":null}}"#)).map(drop)
        }
        (false, _) => return,
    };
    done.expect("an operation");
}
