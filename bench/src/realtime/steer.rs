//! Each end of a loopback connection on the core of its process, for as long as a scenario runs.
//!
//! On loopback the kernel does the receiving side's work within the sender's `write`: a server is billed for its clients' sockets, which
//! over a network lie in other machines, and whose memory grows with their number. Receive flow steering hands a packet to the
//! core where its socket is used, so clients cost the generator's core, and answers to the server the server's.

use crate::error::{BenchError, Fallible};
use std::fs;

/// Flows that are told apart: several times as many as there are sockets, for the table is one of hashes.
const FLOWS: &str = "262144";

/// The steering, until it is dropped: then everything is as it was.
#[derive(Debug)]
pub(crate) struct Steered {
    before: Vec<(&'static str, String)>,
}

impl Steered {
    /// Steers between these cores.
    ///
    /// # Errors
    /// We may not, or the kernel cannot.
    pub(crate) fn between(cores: [usize; 2]) -> Fallible<Self> {
        let mask =
            format!("{:x}", cores.iter().fold(0u64, |mask, core| mask | 1u64.checked_shl(*core as u32).unwrap_or(0)));
        let mut steered = Self { before: Vec::new() };
        let settings = [
            ("/proc/sys/net/core/rps_sock_flow_entries", FLOWS),
            ("/sys/class/net/lo/queues/rx-0/rps_flow_cnt", FLOWS),
            ("/sys/class/net/lo/queues/rx-0/rps_cpus", &mask),
        ];
        for (path, value) in settings {
            let because = || BenchError::because("steering loopback to the cores of its sockets (needs root)");
            let before = fs::read_to_string(path).map_err(because())?;
            fs::write(path, value).map_err(because())?;
            steered.before.push((path, before));
        }
        Ok(steered)
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        for (path, before) in self.before.iter().rev() {
            // What cannot be put back was not ours to set; the next start of the machine forgets it.
            let _ = fs::write(path, before.trim());
        }
    }
}
