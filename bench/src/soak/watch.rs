//! Resident memory of the nodes once a second, kept apart for each life of each node.

use super::memory::Memory;
use crate::host;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A life that is shorter says nothing about growth: the first fifth of it is warm-up.
const LONG_ENOUGH: usize = 120;

/// One life of a node.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    /// Which node.
    pub(crate) node: usize,
    /// How many lives it had before.
    pub(crate) number: usize,
    pid: u32,
    samples: Vec<f64>,
}

impl Life {
    /// Seconds that were watched.
    pub(crate) fn seconds(&self) -> usize {
        self.samples.len()
    }

    /// What it used; `None` when it was too short to tell.
    pub(crate) fn memory(&self) -> Option<Memory> {
        (self.samples.len() >= LONG_ENOUGH).then(|| Memory::of(&self.samples))
    }

    /// The most that was seen, in MiB.
    pub(crate) fn peak(&self) -> f64 {
        self.samples.iter().copied().fold(0.0, f64::max)
    }
}

/// Watches.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The process of each node now; zero while there is none.
    pids: Arc<Vec<AtomicU32>>,
    lives: Arc<Mutex<Vec<Life>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Begins with these processes.
    pub(crate) fn start(pids: &[u32]) -> Self {
        let pids: Arc<Vec<AtomicU32>> = Arc::new(pids.iter().map(|pid| AtomicU32::new(*pid)).collect());
        let lives: Arc<Mutex<Vec<Life>>> = Arc::default();
        let task = tokio::spawn({
            let (pids, lives) = (Arc::clone(&pids), Arc::clone(&lives));
            async move {
                let mut second = tokio::time::interval(Duration::from_secs(1));
                loop {
                    second.tick().await;
                    for (node, pid) in pids.iter().enumerate() {
                        note(&lives, node, pid.load(Ordering::Relaxed));
                    }
                }
            }
        });
        Self { pids, lives, task }
    }

    /// A node is another process now.
    pub(crate) fn is_now(&self, node: usize, pid: u32) {
        self.pids[node].store(pid, Ordering::Relaxed);
    }

    /// All lives that were seen.
    pub(crate) fn stop(self) -> Vec<Life> {
        self.task.abort();
        std::mem::take(&mut *self.lives.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn note(lives: &Mutex<Vec<Life>>, node: usize, pid: u32) {
    let rss = host::rss_mib(pid);
    if pid == 0 || rss <= 0.0 {
        return;
    }
    let mut lives = lives.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(life) = lives.iter_mut().find(|life| life.node == node && life.pid == pid) {
        life.samples.push(rss);
    } else {
        let number = lives.iter().filter(|life| life.node == node).count();
        lives.push(Life { node, number, pid, samples: vec![rss] });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_kept_apart() {
        let lives = Mutex::default();
        let own = std::process::id();
        note(&lives, 0, own);
        note(&lives, 0, own);
        note(&lives, 1, own);
        note(&lives, 1, 0);
        let mut lives = lives.into_inner().unwrap();
        assert_eq!(
            lives.iter().map(|it| (it.node, it.number, it.seconds())).collect::<Vec<_>>(),
            [(0, 0, 2), (1, 0, 1)]
        );
        assert!(lives[0].memory().is_none());
        lives[0].samples = (0..200).map(|n| 100.0 + f64::from(n)).collect();
        assert!(lives[0].memory().is_some_and(|memory| !memory.flat()) && lives[0].peak() > 298.0);
    }
}
