//! What the scenarios tell their hubs is held to the hub's own check of settings, as `dzvin check` makes it: a rule that refuses a
//! line is to be known here, and not half an hour into a soak. No server is started.

use clap::{CommandFactory, Parser};
use dzvin::platform::{cli, config};

use crate::{Cli, Scenario, world::Told};

/// An address on which nobody listens; only its form is looked at.
const REDIS: &str = "redis://127.0.0.1:1";
/// Seconds from ping to ping that a scenario may be asked for: the time for an answer goes along with them.
const PINGS: [&str; 6] = ["1", "5", "8", "9", "25", "60"];

/// The lines that the hubs of a scenario are told; `None` where it starts none.
fn lines(scenario: &Scenario) -> Option<Vec<String>> {
    Some(match scenario {
        Scenario::Ingest(args) => args.world.settings(),
        Scenario::E2e(args) => args.world.settings(),
        Scenario::Rest(args) => args.settings(),
        Scenario::Soak(args) => args.world.settings(),
        Scenario::SoakHub(args) => args.settings(REDIS),
        Scenario::SoakDrain(args) => args.settings(REDIS),
        Scenario::Fanout(args) => args.common.settings(),
        Scenario::Burst(args) => args.common.settings(),
        Scenario::Idle(args) => args.common.settings(),
        Scenario::Connect(args) => args.common.settings(),
        Scenario::Publish(args) => args.common.settings(),
        Scenario::Growth(args) => args.common.settings(),
        Scenario::Cluster(args) => args.settings(REDIS),
        Scenario::Drive | Scenario::Floor(_) | Scenario::Bare | Scenario::Feed => return None,
    })
}

/// What the hub finds wrong with these lines, among what every hub is told.
fn faults(extra: &[String], mirror: Option<(&str, &str)>) -> Vec<String> {
    let told = Told {
        address: "127.0.0.1:1",
        internal: "127.0.0.1:2",
        database: "postgres:///dzvin?host=/nowhere",
        secret: &"s".repeat(64),
        mirror,
        extra,
    };
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("dzvin.toml");
    std::fs::write(&file, told.toml()).expect("written");
    match config::load_from(Some(&file), []) {
        Ok(config) => cli::faults(&config),
        Err(error) => vec![error.to_string()],
    }
}

#[test]
fn the_hub_takes_what_every_scenario_tells_it() {
    let (mut hubs, mut slow) = (0, 0);
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let has_pings = command.get_arguments().any(|argument| argument.get_id() == "ping");
        let pings = PINGS.iter().filter(|_| has_pings).map(|ping| vec!["dzvin-bench", name, "--ping", ping]);
        for line in [vec!["dzvin-bench", name]].into_iter().chain(pings) {
            let scenario = Cli::try_parse_from(&line).expect("a scenario runs with what it has by default").scenario;
            let Some(lines) = lines(&scenario) else { continue };
            for mirror in [None, Some(("ws://127.0.0.1:1/mirror", "a token of the Mirror"))] {
                assert_eq!(faults(&lines, mirror), [""; 0], "{line:?} tells\n{}", lines.join("\n"));
            }
            hubs += 1;
            slow += usize::from(lines.iter().any(|line| line.starts_with("channels.pong")));
        }
    }
    assert!(hubs > 12 && slow > 12, "{hubs} and {slow}: hardly a scenario was looked at");
}

/// A check that finds nothing wrong in anything would let everything pass.
#[test]
fn a_line_that_the_hub_refuses_is_named() {
    for (line, named) in [
        ("channels.pings = \"10s\"", "channels.pings"),
        ("channels.recovery_bytes = \"2MiB\"", "channels.recovery_bytes"),
        ("redis.url = \"redis://127.0.0.1:none\"", "redis.url"),
        ("log.level = \"dzvin=loud\"", "log"),
        (
            "[[identity.api_keys]]\nid = \"a\"\nsecret = \"0123456789abcdef0123456789abcdef\"\npermissions = [\"all\"]",
            "api_keys.a",
        ),
    ] {
        let faults = faults(&[line.to_owned()], None);
        assert!(faults.len() == 1 && faults[0].contains(named), "{line}: {faults:?}");
    }
}
