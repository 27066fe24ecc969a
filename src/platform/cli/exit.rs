//! How the program ends: codes for scripts and service managers, one line for people.

use std::{error::Error, fmt, process::ExitCode};

use crate::{
    app::AppError,
    platform::{
        alone::AloneError,
        config::ConfigError,
        dev::DevError,
        http::{ListenError, chain},
    },
};

/// The codes, as `--help` shows them.
pub(super) const TABLE: &str = "\
Exit codes:
   0  done, or stopped in order
  64  the command line is wrong
  69  a dependency cannot be reached or used (PostgreSQL, Redis, a Mirror)
  70  a fault inside, or an actor that could not be kept alive
  71  the machine refuses: a port is taken, a file or directory is closed
  78  the configuration is wrong, or without Redis serves another node already";

/// The codes of `sysexits.h`, as far as they fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command line is wrong.
    Usage = 64,
    /// A dependency cannot be reached or used.
    Unavailable = 69,
    /// A fault of ours, or a meltdown.
    Internal = 70,
    /// The machine refuses: a port, a file.
    Machine = 71,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why the program ends: one line and its code.
#[derive(Debug)]
pub struct Failure {
    /// For scripts.
    pub exit: Exit,
    text: String,
}

impl Failure {
    /// A line of any cause.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    pub(super) fn of(exit: Exit, error: &(dyn Error + 'static)) -> Self {
        Self::new(exit, chain(error))
    }

    pub(super) fn config(error: impl Error + 'static) -> Self {
        Self::of(Exit::Config, &error)
    }

    pub(super) fn internal(error: impl Error + 'static) -> Self {
        Self::of(Exit::Internal, &error)
    }

    pub(super) fn unavailable(error: impl Error + 'static) -> Self {
        Self::of(Exit::Unavailable, &error)
    }
}

/// Always one line, whatever the cause had to say.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.text.lines().map(str::trim).filter(|line| !line.is_empty());
        f.write_str(lines.next().unwrap_or("unknown failure"))?;
        lines.try_for_each(|line| write!(f, "; {line}"))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::config(error)
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        let exit = match &error {
            AppError::Config { .. } | AppError::Tls(_) | AppError::NotAlone(AloneError::Another) => Exit::Config,
            AppError::Database(_) | AppError::NotAlone(AloneError::Database(_)) | AppError::Redis => Exit::Unavailable,
            AppError::Listen(ListenError::Taken { .. } | ListenError::Refused { .. }) => Exit::Machine,
            AppError::Start(_) | AppError::Meltdown(_) | AppError::Internal(_) => Exit::Internal,
        };
        Self::of(exit, &error)
    }
}

impl From<DevError> for Failure {
    fn from(error: DevError) -> Self {
        let exit = match &error {
            DevError::NotFound { .. }
            | DevError::OtherVersion { .. }
            | DevError::Program { .. }
            | DevError::Connect(_) => Exit::Unavailable,
            DevError::InUse(_) | DevError::Closed { .. } | DevError::NotPrivate(_) | DevError::File { .. } => {
                Exit::Machine
            }
        };
        Self::of(exit, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::new(Exit::Unavailable, "away\n  because\n\n");
        assert_eq!(failure.to_string(), "away; because");
        assert_eq!(Failure::new(Exit::Internal, "").to_string(), "unknown failure");
    }

    #[test]
    fn every_code_is_in_the_help() {
        for exit in [Exit::Usage, Exit::Unavailable, Exit::Internal, Exit::Machine, Exit::Config] {
            assert!(TABLE.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }
}
