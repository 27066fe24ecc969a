use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::platform::config::{KindSource, LogFormat};

fn from(toml: &str, vars: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("dzvin.toml");
    std::fs::write(&path, toml).expect("written");
    let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    load_from(Some(&path), vars).map_err(|e| e.0.replace(&dir.path().display().to_string(), "DIR"))
}

const MIRROR: &str = "[[mirrors]]\nname = 'p'\nkind = 'procedure'\nurl = 'ws://m/ws'\n";

#[test]
fn nothing_at_all_is_a_configuration() {
    let config = load_from(None, []).expect("defaults");
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8480");
    assert_eq!(config.channels.queue_bytes, 1 << 20);
    assert!(config.identity.roles.contains_key("viewer"));
}

#[test]
fn the_example_file_shows_every_key_with_its_default() {
    let example = include_str!("../../../docs/configuration.toml");
    // Optional keys are shown commented out with one `#`; explanations have a space after it.
    let defaults = from(example, &[]).expect("the example is valid");
    let text = |config: &Config| toml::to_string(config).expect("toml");
    assert_eq!(text(&defaults), text(&load_from(None, []).expect("defaults")));
    let active: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => rest,
            _ => line,
        })
        .filter(|line| !line.contains("_file ="))
        .map(|line| format!("{line}\n"))
        .collect();
    let all = from(&active, &[]).expect("every key of the example exists");
    assert!(!all.mirrors.is_empty() && !all.kinds.is_empty() && all.redis.url.is_some() && !all.pusher.apps.is_empty());
    for section in [
        "http", "database", "redis", "identity", "cdb", "channels", "pusher", "changes", "leases", "log", "shutdown",
        "dev",
    ] {
        assert!(example.contains(&format!("[{section}]")), "{section}");
    }
    let shown: toml::Table = toml::from_str(&active).expect("toml");
    let known: toml::Table = toml::from_str(&text(&all)).expect("toml");
    for (section, keys) in known.iter().filter_map(|(name, value)| Some((name, value.as_table()?))) {
        for key in keys.keys() {
            assert!(shown[section].get(key).is_some(), "{section}.{key} is not in the example");
        }
    }
}

#[test]
fn the_environment_overrides_the_file() {
    let toml = format!("[http]\nlisten = '127.0.0.1:1'\n{MIRROR}");
    let vars = [
        ("DZVIN__HTTP__LISTEN", "127.0.0.1:2"),
        ("DZVIN__HTTP__ALLOWED_ORIGINS", "['https://a.example', 'https://b.example']"),
        ("DZVIN__DATABASE__MAX_CONNECTIONS", "32"),
        ("DZVIN__CHANNELS__QUEUE_BYTES", "2MiB"),
        ("DZVIN__CHANNELS__MAX_MESSAGE", "70000"),
        ("DZVIN__CHANNELS__PING", "30s"),
        ("DZVIN__MIRRORS__0__TOKEN", "00123"),
        ("DZVIN__MIRRORS__1__NAME", "r"),
        ("DZVIN__MIRRORS__1__KIND", "registry-object"),
        ("DZVIN__MIRRORS__1__URL", "wss://m/r"),
        ("DZVIN__KINDS__REGISTRY_OBJECT__FIELDS", "[\"status\"]"),
        ("DZVIN__KINDS__CUSTOMER__SOURCE", "local"),
        ("DZVIN__LOG__FORMAT", "json"),
        ("DZVIN_PG_BIN", "/not/ours"),
        ("PATH", "/bin"),
    ];
    let config = from(&toml, &vars).expect("valid");
    assert_eq!(config.http.listen.port(), 2);
    assert_eq!(config.http.allowed_origins.len(), 2);
    assert_eq!(config.database.max_connections, 32);
    assert_eq!((config.channels.queue_bytes, config.channels.max_message), (2 << 20, 70_000));
    assert_eq!(config.channels.ping, Duration::from_secs(30));
    let [p, r] = &config.mirrors[..] else { panic!("two mirrors") };
    assert_eq!((p.url.expose(), p.token.as_ref().map(Secret::expose)), ("ws://m/ws", Some("00123")));
    assert_eq!(r.kind.as_str(), "registry-object");
    let kinds: Vec<_> =
        config.kinds.iter().map(|(name, kind)| (name.as_str(), kind.source, kind.fields.len())).collect();
    assert_eq!(kinds, [("customer", KindSource::Local, 0), ("registry-object", KindSource::Mirrored, 1)]);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn secrets_that_are_handed_over_are_found_where_the_environment_says() {
    let dir = tempfile::tempdir().expect("dir");
    std::fs::write(dir.path().join("key"), format!("{}\n", "k".repeat(32))).expect("written");
    std::fs::write(dir.path().join("database_url"), "postgres://h/d").expect("written");
    let toml = |name: &str| {
        format!(
            "[database]\nurl_file = 'credential:database_url'\n[[identity.keys]]\nid = 'a'\nsecret_file = 'credential:{name}'"
        )
    };
    let folder = dir.path().display().to_string();
    let there = [("CREDENTIALS_DIRECTORY", &*folder)];
    let config = from(&toml("key"), &there).expect("valid");
    assert_eq!(config.identity.keys[0].secret.as_ref().map(Secret::expose), Some(&*"k".repeat(32)));
    assert_eq!(config.database.url.as_ref().map(SecretUrl::expose), Some("postgres://h/d"));
    let tls = "[http.tls]\ncertificate = '/etc/cert.pem'\nkey = 'credential:tls_key'";
    let tls = from(&format!("{}\n{tls}", toml("key")), &there).expect("valid").http.tls.expect("tls");
    assert_eq!((tls.certificate, tls.key), ("/etc/cert.pem".into(), dir.path().join("tls_key")));
    for (name, vars, words) in [
        ("key", &[][..], "database.url_file: credential:database_url: CREDENTIALS_DIRECTORY is not set"),
        ("key", &[("CREDENTIALS_DIRECTORY", "")], "CREDENTIALS_DIRECTORY is not set"),
        ("other", &there, "identity.keys.0.secret_file: "),
        ("", &there, "identity.keys.0.secret_file: credential: is followed by the name of a credential"),
        ("..", &there, "which is no path"),
        ("../key", &there, "which is no path"),
        ("/etc/passwd", &there, "which is no path"),
    ] {
        let error = from(&toml(name), vars).map(drop).expect_err(name);
        assert!(error.contains(words) && !error.contains("kkk"), "{name} {vars:?}: {error}");
    }
}

#[test]
fn errors_name_the_key_and_the_source() {
    let file = "(in DIR/dzvin.toml)";
    let env = "(in the environment)";
    for (toml, vars, expected) in [
        ("[http]\nlistn = 'x'", vec![], format!("http.listn: unknown key, did you mean listen? {file}")),
        ("[htpp]\nlisten = 'x'", vec![], format!("htpp: unknown key, did you mean http? {file}")),
        ("[http]\nquaternions = 1", vec![], format!("http.quaternions: unknown key {file}")),
        ("", vec![("DZVIN__HTTP__LISTN", "x")], format!("http.listn: unknown key, did you mean listen? {env}")),
        ("", vec![("DZVIN__HTTP__LISTEN", "x")], format!("http.listen: invalid socket address syntax {env}")),
        ("[http]\nlisten = 'x'", vec![], format!("http.listen: invalid socket address syntax {file}")),
        ("[database]\nmax_connections = 'many'", vec![], {
            format!("database.max_connections: expected u32, found string \"many\" {file}")
        }),
        ("[[mirrors]]\nname = 'p'\nkind = 'p'", vec![], format!("the key mirrors.0.url is missing {file}")),
        (
            "[kinds.Bad]",
            vec![],
            format!("kinds.Bad: a kind is a lower-case letter and up to 40 letters, digits or hyphens {file}"),
        ),
        ("", vec![("DZVIN__HTTP", "x")], format!("http: expected struct Http, found string \"x\" {env}")),
        (
            "",
            vec![("DZVIN__MIRRORS__3__URL", "x")],
            format!("DZVIN__MIRRORS__3__URL: there is no element 0 before 3 {env}"),
        ),
        ("", vec![("DZVIN__", "x")], format!("DZVIN__ names no key (expected DZVIN__SECTION__KEY) {env}")),
        (
            "[channels]\nping = '25'",
            vec![],
            format!("channels.ping: expected a duration such as \"500ms\", \"25s\", \"10m\", \"6h\" or \"30d\" {file}"),
        ),
    ] {
        let error = from(toml, &vars).map(drop).expect_err(toml);
        assert_eq!(error, expected, "{toml} {vars:?}");
    }
    let syntax = from("[http\n", &[]).map(drop).expect_err("no TOML");
    assert!(syntax.ends_with(file) && syntax.contains("line 1") && !syntax.contains('\n'), "{syntax}");
    let missing = load_from(Some(Path::new("/nonexistent.toml")), []).map(drop).expect_err("no file");
    assert!(missing.0.starts_with("cannot read the configuration /nonexistent.toml: "), "{missing}");
}

#[test]
fn errors_do_not_show_secrets() {
    for (toml, vars) in [
        ("[[identity.keys]]\nid = 'a'\nsecret = ['hunter2']", vec![]),
        ("[identity]\nissuers = [{issuer='i', audience='d', jwks_url='http://u:hunter2@keys.example/'}]", vec![]),
        ("[identity]\nkeys = 'hunter2'", vec![]),
        ("[database]\nurl = ['hunter2']", vec![]),
        ("[database]\nurl = 'mysql://u:hunter2@h/d'", vec![]),
        ("[[pusher.apps]]\nid = 'a'\nkeys = [{ key = 'k', secret = ['hunter2'] }]", vec![]),
        ("[[pusher.apps]]\nid = 'a'\nkeys = [{ key = 'k', secret = 'hunter2' }]", vec![]),
        ("", vec![("DZVIN__PUSHER__APPS__0__KEYS", "hunter2")]),
        ("", vec![("DZVIN__IDENTITY__KEYS", "hunter2")]),
        ("", vec![("DZVIN__DATABASE__URL__X", "hunter2")]),
    ] {
        let error = from(toml, &vars).map(drop).expect_err(toml);
        assert!(!error.contains("hunter2"), "{error}");
    }
    let vars = [("DZVIN__IDENTITY__KEYS", "[{ id = 'a', secret = 'hunter2hunter2hunter2hunter2hunter2' }]")];
    let config = from("[database]\nurl = 'postgres://u:hunter2@h/d'", &vars).expect("valid");
    assert!(!format!("{config:?}{}", toml::to_string(&config).expect("toml")).contains("hunter2"));
}

#[test]
fn contradictions_are_found() {
    let app = |id: &str, key: &str| {
        format!("[[pusher.apps]]\nid = '{id}'\nkeys = [{{ key = '{key}', secret = 'sixteen bytes of it' }}]\n")
    };
    let login = |keys: &str| {
        let issuers = "issuers = [{issuer='https://i.example', audience='d', jwks_file='/x'}, {issuer='crm', audience='d', \
                       jwks_file='/x'}, {issuer='subs', audience='d', jwks_file='/x', connections=false, subscriptions=true}]";
        let client = if keys.contains("client_id") { "" } else { "client_id = 'console'\n" };
        format!("[identity]\n{issuers}\n[identity.login]\n{client}{keys}")
    };
    let two = format!("{MIRROR}{MIRROR}");
    let local = format!("{MIRROR}[kinds.procedure]\nsource = 'local'");
    for (toml, part) in [
        ("[http]\nlisten = '127.0.0.1:9'\ninternal_listen = '127.0.0.1:9'", "the same address"),
        ("[http]\nallowed_origins = ['example.com/x']", "is no origin"),
        ("[http]\nallowed_origins = ['*://example.com']", "is no origin"),
        ("[http]\ntrusted_proxies = ['10.0.0.0/33']", "http.trusted_proxies.0: expected a network"),
        ("[http]\ntrusted_proxies = ['localhost']", "http.trusted_proxies.0: expected a network"),
        ("[http]\nclient_header = 'x-real-ip'", "http.client_header"),
        ("[http]\nmax_head = '4KiB'", "http.max_head"),
        ("[http.tls]\ncertificate = 'a'", "http.tls.key is missing"),
        ("[http.tls]\ncertificate = 'a'\nkey = 'b'\nhandshake_timeout = '0s'", "http.tls.handshake_timeout"),
        ("[http.tls]\ncertificate = 'a'\nkey = 'b'\nreload_interval = '1ms'", "http.tls.reload_interval"),
        ("[database]\nurl = 'mysql://x'", "starts with postgres://"),
        ("[channels]\nrecovery_bytes = '1MiB'", "channels.recovery_bytes must be below channels.queue_bytes"),
        ("[channels]\npong = '25s'", "channels.pong must be below channels.ping"),
        ("[channels]\nmax_sessions = 60000", "above http.max_connections"),
        ("[identity]\nkeys = [{id='a', secret='short'}]", "identity.keys.0.secret: shorter than 32 bytes"),
        ("[identity]\nkeys = [{id='a'}]", "secret or secret_file is missing"),
        (
            "[identity]\nkeys = [{id='a', algorithm='HS512', secret='0123456789012345678901234567890123456789'}]",
            "shorter than 64 bytes",
        ),
        (
            "[identity]\nkeys = [{id='a', algorithm='RS256', secret='01234567890123456789012345678901'}]",
            "a secret is for HS256",
        ),
        ("[identity]\nanonymous_role = 'nobody'", "there is no role \"nobody\""),
        ("[kinds.lot]\n[identity.views.nobody.lot]\nmask = ['a']", "identity.views.nobody: there is no such role"),
        ("[identity.views.viewer.lot]\nrows = '{}'", "identity.views.viewer.lot.rows: there is no such kind"),
        (
            "[kinds.lot]\n[identity.views.viewer.lot]\nmask = ['a.0']",
            "identity.views.viewer.lot.mask: \"a.0\" names a place",
        ),
        ("[kinds.lot]\n[identity.views.viewer.lot]", "identity.views.viewer.lot: neither mask nor rows"),
        (
            "[kinds.lot]\nfields = ['status']\n[identity.views.viewer.lot]\nrows = '{\"owner\": \"$user\"}'",
            "identity.views.viewer.lot.rows: \"owner\" is not in kinds.lot.fields",
        ),
        ("[identity]\nissuers = [{issuer='i', audience='d'}]", "exactly one of jwks_url"),
        ("[identity]\nissuers = [{issuer='i', audience='', discovery=true}]", "must not be empty"),
        (
            "[identity]\nissuers = [{issuer='https://i', audience='d', discovery=true, jwks_file='/x'}]",
            "exactly one of jwks_url",
        ),
        (
            "[identity]\nissuers = [{issuer='i', audience='d', jwks_url='http://keys.example/'}]",
            "issuers.0.jwks_url: expected https://",
        ),
        (
            "[identity]\nissuers = [{issuer='http://i.example', audience='d', discovery=true}]",
            "issuers.0.issuer: expected https://",
        ),
        (
            "[identity]\nissuers = [{issuer='i', audience='d', jwks_url='file:///etc/passwd', insecure_http=true}]",
            "expected https://",
        ),
        ("[identity]\nissuers = [{issuer='i', audience='d', jwks_file='/x', algorithms=['HS256']}]", "no secrets"),
        ("[identity]\nissuers = [{issuer='i', audience='d', jwks_file='/x', algorithms=[]}]", "expected some"),
        (
            "[identity]\nissuers = [{issuer='i', audience='d', jwks_file='/x', connections=false}]",
            "neither connections",
        ),
        (
            "[identity]\nissuers = [{issuer='i', audience='d', keys=[{algorithm='ES256'}]}]",
            "pem or pem_file is missing",
        ),
        (
            "[identity]\nissuers = [{issuer='i', audience='d', algorithms=['RS256'], keys=[{algorithm='ES256', pem='x'}]}]",
            "ES256 is not in algorithms",
        ),
        (
            "[identity]\nissuers = [{issuer='i', audience='d', jwks_file='/x'}, {issuer='i', audience='e', jwks_file='/y'}]",
            "issuers.1.issuer: i is used twice",
        ),
        (&login("issuer = 'https://i.example/'"), "identity.login.issuer: there is no \"https://i.example/\" in"),
        (&login("issuer = 'crm'"), "identity.login.issuer: expected https://"),
        (&login("issuer = 'subs'"), "identity.login.issuer: its tokens connect nobody"),
        (&login("issuer = 'https://i.example'\nclient_id = ''"), "identity.login.client_id"),
        (&login("issuer = 'https://i.example'\nscope = 'profile'"), "identity.login.scope: expected words"),
        (&login("issuer = 'https://i.example'\nscope = 'openid\\n'"), "identity.login.scope"),
        (&login("issuer = 'https://i.example'\nresource = 'dzvin'"), "identity.login.resource: expected an absolute"),
        (&login("issuer = 'https://i.example'\nresource = 'https://x/#y'"), "identity.login.resource"),
        (&login("issuer = 'https://i.example'\ntoken = 'refresh'"), "identity.login.token"),
        (&login("issuer = 'https://i.example'\ntoken = 'id'"), "identity.login.token: an ID token is for the client"),
        (&login("issuer = 'https://i.example'\norigins = ['https://*.example']"), "identity.login.origins: "),
        (&login("issuer = 'https://i.example'\norigins = ['https://x.example/token']"), "is no origin"),
        (&login("issuer = 'https://i.example'\norigins = ['http://x.example']"), "is no origin"),
        (&login("issuer = 'https://i.example'\norigins = [\"https://x.example;script-src\"]"), "is no origin"),
        (&login("issuer = 'https://i.example'\nclient_secret = 'x'"), "identity.login.client_secret: unknown key"),
        (&two, "mirrors.1.name: p is used twice"),
        (&local, "procedure is local"),
        ("[redis]\nprefix = '{x}'", "redis.prefix"),
        ("[redis]\nurl = 'redis-sharded://x:1'", "redis.url"),
        ("[http]\nanswer_bytes = '1MiB'", "http.answer_bytes"),
        ("[pusher]\nactivity_timeout = '0s'", "pusher.activity_timeout: must be from 1s to 1h"),
        ("[pusher]\nmax_client_event = '64KiB'", "pusher.max_client_event"),
        ("[pusher]\ncache_age = '31m'", "pusher.cache_age"),
        ("[[pusher.apps]]\nid = 'a'\nkeys = []", "pusher.apps.0.keys: one or two"),
        ("[[pusher.apps]]\nid = 'a'\nkeys = [{ key = 'k' }]", "pusher.apps.0.keys.0: secret or secret_file is missing"),
        (
            "[[pusher.apps]]\nid = 'a'\nkeys = [{ key = 'k', secret = 'short' }]",
            "pusher.apps.0.keys.0.secret: shorter than 16",
        ),
        (&app("a/b", "k"), "pusher.apps.0: an application's id is"),
        (&app("a", "k/"), "pusher.apps.0: an application key is"),
        (&format!("{}{}", app("a", "k"), app("a", "l")), "pusher.apps.1: two applications have this id"),
        (&format!("{}{}", app("a", "k"), app("b", "k")), "pusher.apps.1: this key is used twice"),
        (&format!("{}webhooks = [{{ url = 'ftp://x' }}]", app("a", "k")), "pusher.apps.0.webhooks.0.url"),
        (
            &format!("{}encryption_master_key = 'c2hvcnQ='", app("a", "k")),
            "pusher.apps.0: encryption_master_key is not 32 bytes in base64",
        ),
        (&format!("{}encryption_master_key = 5", app("a", "k")), "expected a string, found another type"),
        ("[channels]\nidempotency_window = '0s'", "channels.idempotency_window: must be from 1s to 24h"),
        ("[channels]\nidempotency_window = '25h'", "channels.idempotency_window"),
        ("[channels]\nidempotency_keys = 0", "channels.idempotency_keys: must be above 0"),
        ("[channels]\nexpiry_grace = '61m'", "channels.expiry_grace: must be at most 1h"),
        ("[channels]\ncommand_timeout = '50ms'", "channels.command_timeout: must be from 100ms to 1m"),
        ("[channels]\nposition_check = '6s'", "channels.position_check: must be from 100ms to 5s"),
        ("[channels]\npresence_lease = '4s'", "channels.presence_lease: must be from 5s to 5m"),
        ("[channels]\nvacated_hold = '2m'", "channels.vacated_hold: must be at most 1m"),
        ("[channels]\nkeep_positions = '59m'", "channels.keep_positions must not be below history_age"),
        ("[channels]\nkeep_positions = '367d'", "channels.keep_positions: must be from 1m to 366d"),
        ("[channels.namespaces.x]\nhistory_age = '31d'", "channels.keep_positions must not be below history_age"),
        ("[channels]\nmax_history = 0", "channels.max_history: must be from 1 to 10000"),
        ("[channels]\nmax_history_bytes = '1MiB'", "channels.max_history_bytes must be below channels.queue_bytes"),
        ("[channels]\nmax_history_bytes = 0", "channels.max_history_bytes: must be above 0"),
        ("[channels]\nmax_presence = 5001", "channels.max_presence: must be from 1 to 5000"),
        ("[channels]\nmax_api_page = 0", "channels.max_api_page: must be from 1 to 5000"),
        ("[channels]\nmax_api_batch = 10001", "channels.max_api_batch: must be from 1 to 10000"),
        ("[channels]\nmax_channel_name = 256", "channels.max_channel_name: must be from 16 to 255"),
        ("[channels]\ncrowd_above = 800", "channels.crowd_below: must be above 0 and not above crowd_above"),
        ("[channels]\ncrowd_above = 100001", "channels.crowd_below"),
        ("[channels]\ncrowd_below = 0", "channels.crowd_below"),
        ("[pusher]\nwebhook_timeout = '2m'", "pusher.webhook_timeout: must be from 100ms to 1m"),
        ("[pusher]\nwebhook_patience = '500ms'", "pusher.webhook_patience: must be from 1s to 1h"),
        ("[kinds.lot]\nfields = ['status', 'limit']", "kinds.lot.fields: \"limit\" is the name of a parameter"),
        ("[kinds.lot]\nhold = '2100ms'", "kinds.lot.hold: with channels.position_check it must be at most 5s"),
        ("[kinds.lot]\nconflate = true", "kinds.lot.conflate: nothing is held back"),
        ("[kinds.lot]\nfields = ['total']", "kinds.lot.fields: \"total\""),
        ("[kinds.lot]\nfields = ['cursor']", "kinds.lot.fields: \"cursor\""),
        ("[kinds.lot]\ntrash_retention = '30d'", "kinds.lot.trash_retention: what is mirrored"),
        ("[kinds.lot]\nsorts = { sum = 'number' }", "kinds.lot.sorts: \"sum\" is not in fields"),
        ("[kinds.lot]\nfields = ['id']\nsorts = { id = 'text' }", "kinds.lot.sorts: \"id\" is what every list"),
        ("[kinds.lot]\nfields = ['a']\nsorts = { a = 'date' }", "kinds.lot.sorts.a"),
    ] {
        let error = from(toml, &[]).map(drop).expect_err(toml);
        assert!(error.contains(part), "{toml}: {error}");
    }
}

#[test]
fn secrets_come_from_files() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("token");
    std::fs::write(&path, "hunter2\n").expect("written");
    let toml = format!("{MIRROR}token_file = '{}'\n", path.display());
    let config = from(&toml, &[]).expect("valid");
    assert_eq!(config.mirrors[0].token.as_ref().map(Secret::expose), Some("hunter2"));
    let both = from(&format!("{toml}token = 'x'"), &[]).map(drop).expect_err("both");
    assert_eq!(both, "mirrors.0.token and mirrors.0.token_file are both set; keep one");
    let none = from(&format!("{MIRROR}token_file = '/nonexistent'"), &[]).map(drop).expect_err("no file");
    assert!(none.starts_with("mirrors.0.token_file: /nonexistent: "), "{none}");
}

proptest! {
    #[test]
    fn any_environment_is_a_configuration_or_one_line(
        vars in prop::collection::vec((
            "DZVIN__(HTTP|MIRRORS|KINDS|IDENTITY|LOG|X)(__([A-Z0-9_]{0,6}|0|1|TOKEN|KEYS|ROLES)){0,4}",
            "\\PC{0,12}|\\[\\PC{0,8}\\]|\\{\\PC{0,8}\\}|[0-9]{1,6}",
        ), 0..5),
    ) {
        if let Err(error) = load_from(None, vars) {
            prop_assert!(!error.0.is_empty() && !error.0.contains('\n'), "{}", error);
        }
    }

    #[test]
    fn a_text_arrives_as_it_was(text in "[^\\p{Cc}\\[{]\\PC{0,40}") {
        let vars = [("DZVIN__IDENTITY__ISSUER".to_owned(), text.clone())];
        prop_assert_eq!(load_from(None, vars).expect("valid").identity.issuer, Some(text));
    }

    #[test]
    fn numbers_arrive_as_numbers(n in 4_u32..) {
        let vars = [("DZVIN__DATABASE__MAX_CONNECTIONS".to_owned(), n.to_string())];
        prop_assert_eq!(load_from(None, vars).expect("valid").database.max_connections, n);
    }
}
