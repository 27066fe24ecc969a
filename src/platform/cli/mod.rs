//! The command line: what is asked, in which order it is done, and how it ends.
//!
//! Invariants: a failure is one line on standard error and one of the exit codes below; what is printed for use by people or
//! scripts goes to standard output, logs to standard error. No secret is printed, but for tokens that were asked for.

mod check;
mod dev;
mod exit;
mod kinds;
mod outside;
mod revoke;
mod serve;
mod token;

use std::{
    ffi::OsString,
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
    task::Poll,
    time::{Duration, Instant},
};

use clap::{ArgGroup, Args, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use check::faults;
pub use exit::{Exit, Failure};

use super::{
    config::{self, Config},
    telemetry,
};

/// The file that is read when none is named, if it is there.
const DEFAULT_FILE: &str = "dzvin.toml";

#[derive(Debug, Parser)]
#[command(name = "dzvin", version, about = "A realtime hub", after_help = exit::TABLE)]
struct Cli {
    /// The configuration file; without it dzvin.toml of the current directory, if there is one.
    #[arg(long, short, global = true, env = "DZVIN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where dev keeps its database and key, and token finds the key; instead of dev.data_dir.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run on this machine alone: a private PostgreSQL, a bus in memory, the sandbox as the outside world.
    Dev,
    /// Run as configured.
    Serve {
        /// Bring the database's schema up to date before anything is served. A schema that is newer than this program stays.
        #[arg(long)]
        migrate: bool,
    },
    /// Bring the database's schema up to date.
    Migrate,
    /// Print the effective configuration, secrets masked, and try every dependency.
    Check,
    /// Print a token.
    Token(Box<TokenArgs>),
    /// List the kinds, show one, or declare them from files.
    Kinds {
        #[command(subcommand)]
        action: KindsAction,
    },
}

#[derive(Debug, Subcommand)]
enum KindsAction {
    /// Every kind: its name, who owns it, who has the say, its version and its declared fields.
    List,
    /// What is declared of a kind, as a file has it.
    Show {
        /// Its name.
        kind: String,
    },
    /// Declare kinds, each by a file that is called as the kind is: customer.json.
    Apply {
        /// Only say what would come of it.
        #[arg(long)]
        dry_run: bool,
        /// Let entities that do not fit be as they are.
        #[arg(long)]
        force: bool,
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
struct TokenArgs {
    #[command(subcommand)]
    action: Option<TokenAction>,
    /// A role of the configuration; may be given again.
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,
    /// A permission beside those of the roles, `area:action:object`; may be given again.
    #[arg(long, value_name = "PERMISSION")]
    permission: Vec<String>,
    /// The user's id.
    #[arg(long, value_name = "ID", required = true)]
    sub: Option<String>,
    /// How long it is valid: 30m, 1h, 7d.
    #[arg(long, default_value = "1h", value_parser = token::ttl)]
    ttl: Duration,
    /// A channel to which the server subscribes the client; may be given again.
    #[arg(long, value_name = "CHANNEL")]
    channel: Vec<String>,
    /// The same with options: the claim `subs`, a JSON object of channels.
    #[arg(long, value_name = "JSON")]
    subs: Option<String>,
    /// What other clients may see of the user: a JSON value.
    #[arg(long, value_name = "JSON")]
    info: Option<String>,
    /// The token's own id, by which it may be revoked; a random one without it.
    #[arg(long, value_name = "ID")]
    jti: Option<String>,
    /// A token for a subscription of the user to this channel, instead of one to connect with.
    #[arg(long, value_name = "CHANNEL", conflicts_with_all = ["role", "permission", "channel", "subs"])]
    subscription: Option<String>,
}

#[derive(Debug, Subcommand)]
enum TokenAction {
    /// Take back a token, all tokens of a user until now, or keep a user out; asks a node that runs.
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true)))]
struct RevokeArgs {
    /// The id of a token (its claim `jti`).
    #[arg(long, value_name = "ID", group = "what")]
    jti: Option<String>,
    /// A user: tokens made until now.
    #[arg(long, value_name = "ID", group = "what")]
    user: Option<String>,
    /// Keep the user out, whatever token there is.
    #[arg(long, conflicts_with = "jti")]
    block: bool,
    /// For how long: 12h, 30d; without it a block lasts until it is lifted, anything else longer than any token.
    #[arg(long, value_name = "TIME", value_parser = token::lasting)]
    lasting: Option<Duration>,
    /// Why, for those who look later.
    #[arg(long)]
    reason: Option<String>,
    /// Where a node is; without it http.listen of the configuration, on this machine.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// The whole program, from its arguments to its exit code.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and the version are asked for, and no failure.
            let asked = !error.use_stderr();
            let _ = error.print();
            return if asked { ExitCode::SUCCESS } else { Exit::Usage.into() };
        }
    };
    match work(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dzvin: {failure}");
            failure.exit.into()
        }
    }
}

fn work(cli: Cli) -> Result<(), Failure> {
    let file = cli.config.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.is_file()));
    let mut config = load(file.as_deref())?;
    config.dev.data_dir = cli.data_dir.or(config.dev.data_dir);
    if let Command::Token(args) = &cli.command
        && args.action.is_none()
    {
        return token::print(&config, args);
    }
    // What check finds it says itself, in one line each.
    let check = matches!(cli.command, Command::Check);
    let level = if check { "off".to_owned() } else { config.log.level.clone() };
    telemetry::init(&config::Log { level, ..config.log.clone() }).map_err(Failure::config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::internal)?;
    let done = runtime.block_on(async move {
        match cli.command {
            Command::Dev => Box::pin(dev::run(config)).await,
            Command::Serve { migrate } => serve::run(&config, file, migrate).await,
            Command::Migrate => serve::migrate(&config).await,
            Command::Check => check::run(&config, file.as_deref()).await,
            Command::Kinds { action } => kinds::run(&config, &action).await,
            Command::Token(args) => match args.action {
                Some(TokenAction::Revoke(_)) if args.sub.is_some() => {
                    Err(Failure::new(Exit::Usage, "revoke takes --user or --jti; --sub is for a new token"))
                }
                Some(TokenAction::Revoke(args)) => revoke::run(&config, &args).await,
                // Printed above.
                None => Ok(()),
            },
        }
    });
    // A thread that hangs in a blocking call must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

fn load(file: Option<&Path>) -> Result<Config, Failure> {
    config::load(file).map_err(Failure::config)
}

/// A signal so soon after the first is the same one: a terminal and whoever started us may both pass it on.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// Ends with the first signal that asks for a stop. Take it before anything is started, so that no signal is missed.
struct Stop(Vec<Signal>);

impl Stop {
    /// SIGTERM and SIGINT.
    fn new() -> Result<Self, Failure> {
        Self::at(&[SignalKind::terminate(), SignalKind::interrupt()])
    }

    /// SIGHUP as well: the terminal closed. Only for who does not read its configuration again at that signal.
    fn with_terminal() -> Result<Self, Failure> {
        Self::at(&[SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()])
    }

    fn at(kinds: &[SignalKind]) -> Result<Self, Failure> {
        kinds.iter().map(|kind| signal(*kind).map_err(Failure::internal)).collect::<Result<_, _>>().map(Self)
    }

    async fn asked(&mut self) {
        std::future::poll_fn(|cx| {
            let asked = self.0.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
            if asked { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Runs `main` with a future that ends at the first signal; a second signal ends the waiting as well.
async fn until_stopped<F: Future<Output = Result<(), Failure>>>(
    mut stop: Stop,
    main: impl FnOnce(tokio::sync::oneshot::Receiver<()>) -> F,
) -> Result<(), Failure> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut main = std::pin::pin!(main(told));
    tokio::select! {
        ended = &mut main => return ended,
        () = stop.asked() => {}
    }
    let _ = tell.send(());
    let again = async {
        let asked = Instant::now();
        while asked.elapsed() < SAME_SIGNAL {
            stop.asked().await;
        }
    };
    tokio::select! {
        ended = main => ended,
        () = again => Err(Failure::new(Exit::Internal, "stopped by a second signal, not in order")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_whole() {
        Cli::command().debug_assert();
        let parsed = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(matches!(parsed("dzvin serve -c x.toml").expect("serve").command, Command::Serve { migrate: false }));
        assert!(matches!(parsed("dzvin serve --migrate").expect("serve").command, Command::Serve { migrate: true }));
        let token = parsed("dzvin token --role viewer --role x --sub olha --ttl 2h").expect("token").command;
        let Command::Token(args) = token else { panic!("{token:?}") };
        assert_eq!((args.role.len(), args.ttl), (2, Duration::from_secs(7200)));
        let revoke = parsed("dzvin token revoke --user olha --block --lasting 30d").expect("revoke").command;
        let Command::Token(args) = revoke else { panic!("{revoke:?}") };
        let Some(TokenAction::Revoke(args)) = args.action else { panic!("{args:?}") };
        assert!(args.block && args.jti.is_none());
        assert!(parsed("dzvin token -c x.toml revoke --jti a --reason lost --url http://h").is_ok());
        for bad in [
            "dzvin token revoke",
            "dzvin token revoke --jti a --user b",
            "dzvin token revoke --jti a --block",
            "dzvin token --sub a --subscription c --role viewer",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        assert!(
            parsed("dzvin kinds apply --dry-run customer.json deal.json").is_ok() && parsed("dzvin kinds list").is_ok()
        );
        for bad in [
            "dzvin",
            "dzvin kinds apply",
            "dzvin sereve",
            "dzvin token",
            "dzvin token --sub a --ttl 1",
            "dzvin serve --x",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
