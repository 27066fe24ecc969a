//! Where the numbers come from: the machine, and what processes used of it, read from `/proc`.

use std::{fs, path::Path, process::Command, time::Instant};

/// `USER_HZ`, the unit of processor times in `/proc`: 100 on every Linux that runs this.
const TICKS_PER_S: f64 = 100.0;

/// One line: what a reader must know before comparing.
pub(crate) fn environment(postgres: &str, data: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { "DEBUG build: not comparable" } else { "release" };
    let (model, load) = (cpu_model(), load());
    let (memory, file_system, commit) = (memory_gib(), file_system(data), commit());
    format!(
        "{cores} cores {model}, {memory} GiB, load {load}, {file_system}; {postgres}, durable; dzvin {commit}, {build}"
    )
}

fn line_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn cpu_model() -> String {
    line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn memory_gib() -> u64 {
    kib(line_of("/proc/meminfo", "MemTotal")).div_ceil(1024 * 1024)
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// Seconds that the host of this virtual machine gave to others although we had work, over all cores, since boot.
pub(crate) fn stolen_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = text.lines().next().and_then(|all| all.split_ascii_whitespace().nth(8)?.parse::<f64>().ok());
    ticks.unwrap_or(0.0) / TICKS_PER_S
}

/// What was stolen since a moment at which so much had been, as a share of all cores.
pub(crate) fn stolen_since((begun, before): (Instant, f64)) -> String {
    let (since, stolen) = (begun.elapsed().as_secs_f64(), stolen_seconds() - before);
    let cores = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // Not what this process may use: it may be bound to one of them.
    let cores = cores.lines().filter(|line| line.starts_with("processor")).count().max(1) as f64;
    format!("stolen by the host: {:.1} %", stolen / since / cores * 100.0)
}

fn kib(value: Option<String>) -> u64 {
    value.and_then(|value| value.split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// A commit on a file system in memory costs nothing: such a run must show.
fn file_system(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let found = mounts
        .lines()
        .filter_map(|line| {
            let mut parts = line.split(' ').skip(1);
            Some((parts.next()?, parts.next()?))
        })
        .filter(|(mount, _)| path.starts_with(mount))
        .max_by_key(|(mount, _)| mount.len());
    found.map_or_else(|| "unknown file system".to_owned(), |(_, kind)| kind.to_owned())
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let out = Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "without a commit".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    if changed { commit + " with changes" } else { commit }
}

/// Peak resident memory of a process, in MiB.
pub(crate) fn peak_rss_mib(pid: u32) -> f64 {
    kib(line_of(&format!("/proc/{pid}/status"), "VmHWM")) as f64 / 1024.0
}

/// Resident memory of a process now, in MiB; zero when it is gone.
pub(crate) fn rss_mib(pid: u32) -> f64 {
    kib(line_of(&format!("/proc/{pid}/status"), "VmRSS")) as f64 / 1024.0
}

/// Processor seconds of a process and of its direct children that are alive.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(stat).filter(|stat| stat.pid == pid || stat.parent == pid).map(|stat| stat.ticks).sum::<f64>()
        / TICKS_PER_S
}

struct Stat {
    pid: u32,
    parent: u32,
    ticks: f64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command's name stands in brackets and may hold anything, so fields are counted after the last one.
fn parse_stat(pid: u32, text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |n: usize| fields.get(n)?.parse::<f64>().ok();
    Some(Stat { pid, parent: fields.get(1)?.parse().ok()?, ticks: ticks(11)? + ticks(12)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let stat = parse_stat(7, "7 (a) b (c)) S 3 7 7 0 -1 0 1 2 3 4 250 50 0 0 20 0").unwrap();
        assert_eq!((stat.pid, stat.parent, stat.ticks), (7, 3, 300.0));
        assert!(parse_stat(7, "").is_none());
    }

    #[test]
    fn this_process_has_memory() {
        assert!(peak_rss_mib(std::process::id()) > 0.5);
    }
}
