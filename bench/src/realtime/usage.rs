//! What a server used, by its process: nanoseconds of processor time over all its threads, and resident memory.

use serde::{Deserialize, Serialize};
use std::fs;

/// One look at a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Look {
    /// Microseconds of processor time of the threads that live.
    pub(crate) cpu_us: f64,
    /// Resident memory.
    pub(crate) rss_kib: f64,
}

impl Look {
    /// Looks at a process; zeros when it is gone.
    pub(crate) fn at(pid: u32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
        let nanos: u64 = texts.filter_map(|text| on_cpu(&text)).sum();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        Self { cpu_us: nanos as f64 / 1e3, rss_kib: resident(&status).unwrap_or(0) as f64 }
    }

    /// What was used since an earlier look; the memory is what is held now.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { cpu_us: self.cpu_us - before.cpu_us, ..self }
    }
}

/// `schedstat` holds nanoseconds on a processor, nanoseconds of waiting for one, and the number of turns.
fn on_cpu(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// `VmRSS` of a `status`, in KiB.
fn resident(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// The first child of a process: the worker of an nginx.
pub(crate) fn child_of(parent: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_the_time_on_a_processor() {
        assert_eq!(on_cpu("1234567890 42 7\n"), Some(1_234_567_890));
        assert_eq!(on_cpu("1234567890 42 7\n").zip(on_cpu("")), None);
    }

    #[test]
    fn resident_memory_is_found_among_its_like() {
        assert_eq!(resident("VmHWM:\t  900 kB\nVmRSS:\t    812 kB\nRssAnon:\t 5 kB\n"), Some(812));
        assert_eq!(resident("Name: x"), None);
    }

    #[test]
    fn a_process_uses_more_and_more() {
        let before = Look::at(std::process::id());
        let sum = (0..5_000_000_u64).fold(0, |sum: u64, n| std::hint::black_box(sum.wrapping_mul(31) ^ n));
        assert_ne!(sum, 1);
        let used = Look::at(std::process::id()).since(before);
        assert!(used.cpu_us >= 0.0 && used.rss_kib > 500.0, "{used:?}");
        assert_eq!(Look::at(u32::MAX), Look::default());
    }
}
