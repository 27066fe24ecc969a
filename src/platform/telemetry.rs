//! What the process says of itself: logs to standard error, metrics as OpenMetrics text.
//!
//! Invariants: one registry, made once at start and read at every scrape; process figures are read from `/proc` at the
//! scrape, so nothing runs in between. Logs never carry a secret: values that are secret have types that do not print.

use std::{
    fmt, fs,
    io::{self, IsTerminal},
    panic::PanicHookInfo,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabelSet, EncodeMetric,
        text::{encode_eof, encode_registry},
    },
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};
use tracing_subscriber::{EnvFilter, util::TryInitError};

use super::config::{Log, LogFormat};

/// The label of what something came to. Whoever counts by it has a closed set of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    /// In a word.
    pub(crate) result: &'static str,
}

/// Logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The directives of `log.level` are malformed.
    #[error("log.level: {0:?} is no list of directives (expected \"info\" or \"info,dzvin=debug\")")]
    Level(String),
    /// Logs were set up before.
    #[error("logs are set up twice")]
    Twice(#[source] TryInitError),
}

/// Sets up logs for the whole process, panics included. Call once, before anything that logs.
///
/// # Errors
/// Malformed directives, or a second call.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let filter = filter(&log.level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Colours are for people at a terminal, not for files.
    let builder = builder.with_ansi(io::stderr().is_terminal());
    let done = match log.format {
        LogFormat::Pretty => tracing_subscriber::util::SubscriberInitExt::try_init(builder.compact().finish()),
        LogFormat::Json => {
            let json = builder.json().flatten_event(true).with_span_list(false).finish();
            tracing_subscriber::util::SubscriberInitExt::try_init(json)
        }
    };
    done.map_err(TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Checks the directives without setting anything up.
///
/// # Errors
/// Malformed directives.
pub fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(level).map_err(|_| TelemetryError::Level(level.to_owned()))
}

/// Where it happened; what became of it is told by whoever contained it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let text = panic.payload_as_str().unwrap_or("no text");
    let place = panic.location().map(ToString::to_string);
    tracing::error!(place, text, thread = std::thread::current().name(), "panic");
}

/// What writes everything as OpenMetrics text: the rooms' registry, the build, and the process's own figures, which keep the
/// names that all exporters give them.
pub fn scrape(mut rooms: Registry) -> impl Fn() -> Result<String, fmt::Error> + Send + Sync + 'static {
    let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    rooms.register("build", "What is running", version);
    let mut process = Registry::default();
    process.register_collector(Box::new(Process { started: SystemTime::now() }));
    move || {
        let mut text = String::new();
        encode_registry(&mut text, &rooms)?;
        encode_registry(&mut text, &process)?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// Figures of this process, under the names that dashboards know. What cannot be read is left out.
#[derive(Debug)]
struct Process {
    started: SystemTime,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<f64>| match value {
            Some(value) => {
                let metric = ConstGauge::new(value);
                metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
            }
            None => Ok(()),
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rss = field(&status, "VmRSS:").map(|kib| kib * 1024.0);
        let peak = field(&status, "VmHWM:").map(|kib| kib * 1024.0);
        let descriptors = fs::read_dir("/proc/self/fd").ok().map(|all| all.count() as f64);
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        gauge("process_resident_memory", "Memory in use", Some(&Unit::Bytes), rss)?;
        gauge("process_resident_memory_peak", "The most memory that was in use", Some(&Unit::Bytes), peak)?;
        gauge("process_open_fds", "Open file descriptors", None, descriptors)?;
        gauge("process_max_fds", "The limit of open file descriptors", None, field(&limits, "Max open files"))?;
        gauge("process_threads", "Threads", None, field(&status, "Threads:"))?;
        let tasks =
            tokio::runtime::Handle::try_current().ok().map(|runtime| runtime.metrics().num_alive_tasks() as f64);
        gauge("process_tasks", "Tasks of the runtime that have not ended", None, tasks)?;
        let started = self.started.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64());
        gauge("process_start_time", "When it was started", Some(&Unit::Seconds), started)?;
        let uptime = self.started.elapsed().ok().map(|since| since.as_secs_f64());
        gauge("process_uptime", "Since it was started", Some(&Unit::Seconds), uptime)?;
        match cpu_seconds() {
            Some(seconds) => {
                let metric = ConstCounter::new(seconds);
                let (name, help) = ("process_cpu", "Processor time used");
                metric.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), metric.metric_type())?)
            }
            None => Ok(()),
        }
    }
}

/// The first number behind the name.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// User and system time. The second field of `stat` is the program's name and may contain anything but its closing bracket.
fn cpu_seconds() -> Option<f64> {
    /// `USER_HZ`: fixed at 100 for every program on Linux.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = |text: Option<&str>| text?.parse::<f64>().ok();
    Some((ticks(fields.next())? + ticks(fields.next())?) / TICKS)
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn the_text_has_ours_with_the_prefix_and_the_process_without() {
        let mut rooms = Registry::with_prefix("dzvin");
        let gauge: Gauge = Gauge::default();
        gauge.set(7);
        rooms.register("sessions", "Client connections now", gauge);
        let text = scrape(rooms)().expect("text");
        assert!(text.contains("\ndzvin_sessions 7\n"), "{text}");
        assert!(text.contains(&format!("dzvin_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))), "{text}");
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).expect(name);
            line.split_whitespace().nth(1).expect("value").parse().expect("number")
        };
        assert!(value("process_resident_memory_bytes") > 1_000_000.0);
        assert!(value("process_open_fds") > 2.0 && value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_uptime_seconds") >= 0.0 && value("process_threads") >= 1.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }

    #[test]
    fn directives_are_checked() {
        assert!(filter("info,dzvin=debug").is_ok());
        let error = filter("info,dzvin=loud").expect_err("no level").to_string();
        assert!(error.starts_with("log.level: \"info,dzvin=loud\""), "{error}");
    }
}
