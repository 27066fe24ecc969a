//! The one binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One crypto provider for the whole process, before anybody opens a connection. A second call would only repeat it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    dzvin::platform::cli::run(std::env::args_os())
}
