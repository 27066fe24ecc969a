//! Life in the world: generated objects, and a steady flow of edits so that a person sees a board that moves.

use super::{Control, micros};
use crate::clock;
use crate::error::WorldError;
use crate::generate::Generator;
use crate::json;
use crate::shared::{Shared, lock};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Most objects of one order.
const MAX_GENERATED: usize = 100_000;
/// Most bytes of one order that are generated at once.
const MAX_BYTES: usize = 2 * 1024 * 1024 * 1024;
/// Most edits or objects a second.
const MAX_RATE: f64 = 50_000.0;
/// How often a flow does its part.
const STEP: Duration = Duration::from_millis(10);
const SALE: [&str; 5] = ["active_tendering", "active_auction", "active_qualification", "active_awarded", "complete"];
const TENDER: [&str; 5] = ["active.tendering", "active.auction", "active.qualification", "active.awarded", "complete"];

/// An order for objects.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// Where to put them.
    pub collection: String,
    /// How many.
    pub count: usize,
    /// The generator's seed.
    #[serde(default)]
    pub seed: u64,
    /// Each of exactly so many bytes before it is stamped.
    #[serde(default)]
    pub bytes: Option<usize>,
    /// All with this `dateModified`.
    #[serde(default)]
    pub same_date: Option<String>,
    /// So many a second instead of all at once.
    #[serde(default)]
    pub rate_per_s: Option<f64>,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Generated {
    /// Objects that are written.
    pub written: usize,
    /// Objects that will be written at the rate asked for.
    pub coming: usize,
}

/// An order for a flow of edits.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Play {
    /// So many edits a second; zero stops.
    pub rate_per_s: f64,
    /// Where; in every collection that has objects if none.
    #[serde(default)]
    pub collection: Option<String>,
    /// The seed of what is edited.
    #[serde(default)]
    pub seed: u64,
}

fn rate(asked: f64) -> Result<f64, WorldError> {
    if asked.is_finite() && (0.0..=MAX_RATE).contains(&asked) {
        Ok(asked)
    } else {
        Err(WorldError::Bad(format!("a rate is between 0 and {MAX_RATE}")))
    }
}

impl Control {
    /// Writes generated objects, at once or at a rate.
    pub fn generate(&self, order: &Generate) -> Result<Generated, WorldError> {
        let over = |what, asked, limit| Err(WorldError::TooMuch { what, asked, limit });
        self.shared.shelf(&order.collection)?;
        if order.count > MAX_GENERATED {
            return over("the count", order.count, MAX_GENERATED);
        }
        let bytes = order.bytes.unwrap_or(4096).saturating_mul(order.count);
        if bytes > MAX_BYTES {
            return over("the number of bytes", bytes, MAX_BYTES);
        }
        let date = order.same_date.as_deref().map(micros).transpose()?;
        let mut generator = Generator::new(order.seed);
        let Some(per_second) = order.rate_per_s else {
            for _ in 0..order.count {
                one(&self.shared, &mut generator, order, date)?;
            }
            return Ok(Generated { written: order.count, coming: 0 });
        };
        let (shared, order, mut left) = (self.shared.clone(), order.clone(), order.count);
        let coming = left;
        let flow = Flow::new(rate(per_second)?);
        self.shared.spawn(flow.run(move || {
            let written = one(&shared, &mut generator, &order, date);
            left = left.saturating_sub(1);
            written.is_ok() && left > 0
        }));
        Ok(Generated { written: 0, coming })
    }

    /// Starts, changes or stops the steady flow of edits.
    pub fn play(&self, order: &Play) -> Result<(), WorldError> {
        let per_second = rate(order.rate_per_s)?;
        let names = match &order.collection {
            Some(name) => vec![self.shared.shelf(name)?.name.clone()],
            None => self.collections(),
        };
        let mut player = lock(&self.shared.player);
        if let Some(old) = player.take() {
            // Under its lock, so that no edit comes after this call has returned.
            *lock(&old) = false;
        }
        if per_second > 0.0 {
            let mut editor =
                Editor { shared: self.shared.clone(), rng: StdRng::seed_from_u64(order.seed), names, ids: Vec::new() };
            let on = Arc::new(Mutex::new(true));
            *player = Some(on.clone());
            self.shared.spawn(Flow::new(per_second).run(move || {
                let on = lock(&on);
                if *on {
                    editor.edit();
                }
                *on
            }));
        }
        Ok(())
    }
}

fn one(shared: &Shared, generator: &mut Generator, order: &Generate, date: Option<i64>) -> Result<(), WorldError> {
    let mut text = generator.object(&order.collection);
    let mut fill = 0;
    if let Some(wanted) = order.bytes {
        text = json::set(&text, &[("x_filling", "\"\"")])?;
        let least = text.len();
        fill = wanted.checked_sub(least).ok_or(WorldError::TooSmall { wanted, least })?;
    }
    let knobs = shared.knobs();
    let shelf = shared.shelf(&order.collection)?;
    shelf.write(|c| c.put_filled(&text, fill, clock::now(), date, &knobs.world)).map(|_| ())
}

/// Does something so many times a second. What a busy machine cannot keep up with is forgiven after a second's worth.
struct Flow {
    per_second: f64,
}

impl Flow {
    fn new(per_second: f64) -> Self {
        Self { per_second }
    }

    async fn run(self, mut act: impl FnMut() -> bool) {
        let mut ticks = interval(STEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut due, mut last) = (0.0, Instant::now());
        loop {
            let now = ticks.tick().await;
            due += self.per_second * now.duration_since(last).as_secs_f64();
            due = due.min(self.per_second.max(1.0));
            last = now;
            let end = Instant::now() + STEP;
            while due >= 1.0 && Instant::now() < end {
                due -= 1.0;
                if !act() {
                    return;
                }
            }
        }
    }
}

/// Edits what is there: the status, and the amount where there is one.
struct Editor {
    shared: Arc<Shared>,
    rng: StdRng,
    names: Vec<String>,
    ids: Vec<(String, Arc<str>)>,
}

impl Editor {
    fn edit(&mut self) {
        if self.ids.is_empty() || self.rng.random_range(0..10_000) == 0 {
            self.look_around();
        }
        if self.ids.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.ids.len());
        let (name, id) = self.ids[at].clone();
        let Ok(shelf) = self.shared.shelf(&name) else { return };
        let Some(doc) = shelf.read(|c| c.get(&id)) else {
            self.ids.swap_remove(at);
            return;
        };
        let text = doc.body.text();
        let statuses = if json::get(&text, &["tenderID"]).is_some() { TENDER } else { SALE };
        let mut set = format!("{{\"status\":\"{}\"", statuses[self.rng.random_range(0..statuses.len())]);
        if json::get(&text, &["value", "amount"]).is_some() {
            let (whole, cents) = (self.rng.random_range(1..9_000_000u32), self.rng.random_range(0..100u8));
            set.push_str(&format!(",\"value.amount\":{whole}.{cents:02}0"));
        }
        set.push('}');
        let knobs = self.shared.knobs();
        if let Err(error) = shelf.write(|c| c.patch(&id, &set, clock::now(), &knobs.world)) {
            tracing::debug!(%error, "an edit was not possible");
        }
    }

    fn look_around(&mut self) {
        self.ids.clear();
        for name in &self.names {
            if let Ok(shelf) = self.shared.shelf(name) {
                self.ids.extend(shelf.read(|c| c.since(None)).into_iter().map(|doc| (name.clone(), doc.id.clone())));
            }
        }
    }
}
