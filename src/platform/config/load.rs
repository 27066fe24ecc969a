//! Reading: file, then environment, then the files that hold secrets; then the check as a whole.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Provider,
    error::{Actual, Kind},
    providers::{Format, Toml},
    value::Dict,
};

use super::{Config, Secret, SecretUrl, env, validate};

/// Largest configuration file.
const MAX_FILE: u64 = 1024 * 1024;

/// How the name of a secret begins that a service manager hands over. The folder is another for each unit, and is told in
/// [`CREDENTIALS`].
const CREDENTIAL: &str = "credential:";
/// The variable in which systemd says where the credentials of a unit are.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What is wrong with the configuration, in one line for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Reads the file (none: only defaults and environment) and this process's environment.
///
/// # Errors
/// One line that names the key and the source.
pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    // A variable that is not UTF-8 is none of ours.
    let vars = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    load_from(file, vars)
}

/// The same with a given environment.
///
/// # Errors
/// One line that names the key and the source.
pub fn load_from(file: Option<&Path>, vars: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let vars: Vec<(String, String)> = vars.into_iter().collect();
    let credentials = vars.iter().find(|(name, _)| name == CREDENTIALS).map(|(_, folder)| PathBuf::from(folder));
    let mut figment = Figment::new();
    if let Some(path) = file {
        figment = figment.merge(Toml::string(&read(path)?));
    }
    let name = file.map_or_else(String::new, |path| path.display().to_string());
    let of_file = figment.data().map_err(|error| describe(&figment, &error, &name))?;
    let dict = of_file.get(&figment::Profile::Default).cloned().unwrap_or_else(Dict::new);
    let layer = env::EnvLayer::new(&dict, vars).map_err(|why| ConfigError(format!("{why} (in {})", env::SOURCE)))?;
    // The layer carries the whole lists it changed: merging replaces them.
    let figment = figment.merge(layer);
    let mut config: Config = figment.extract_lossy().map_err(|error| describe(&figment, &error, &name))?;
    config.source = file.map(Path::to_path_buf);
    read_secrets(&mut config, credentials.as_deref())?;
    validate::check(&config).map_err(ConfigError)?;
    Ok(config)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let told = |why: String| ConfigError(format!("cannot read the configuration {}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|e| told(e.to_string()))?.len();
    if size > MAX_FILE {
        return Err(told(format!("larger than {MAX_FILE} bytes")));
    }
    std::fs::read_to_string(path).map_err(|e| told(e.to_string()))
}

/// One line: key, what is wrong, where. Values are shown only when the key cannot be a secret's.
fn describe(figment: &Figment, error: &figment::Error, file: &str) -> ConfigError {
    let path = &error.path;
    let key = path.join(".");
    let secret = ["token", "secret", "url", "keys", "master_key"].iter().any(|word| key.contains(word));
    let shown = |actual: &Actual| if secret { "another type".to_owned() } else { actual.to_string() };
    let what = match &error.kind {
        Kind::UnknownField(_, known) => match nearest(path.last().map_or("", String::as_str), known) {
            Some(near) => format!("unknown key, did you mean {near}?"),
            None => "unknown key".to_owned(),
        },
        Kind::MissingField(name) if key.is_empty() => format!("the key {name} is missing"),
        Kind::MissingField(name) => format!("the key {key}.{name} is missing"),
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("expected {expected}, found {}", shown(actual))
        }
        // Texts of the TOML reader have several lines with the source's own; the first names line and column.
        kind => kind.to_string().lines().next().unwrap_or_default().to_owned(),
    };
    let found = figment.find_metadata(&key).or(error.metadata.as_ref());
    let source = match found {
        Some(metadata) if metadata.name == env::SOURCE => env::SOURCE,
        _ => file,
    };
    let place = if source.is_empty() { String::new() } else { format!(" (in {source})") };
    let colon =
        if key.is_empty() || matches!(error.kind, Kind::MissingField(_)) { String::new() } else { format!("{key}: ") };
    ConfigError(format!("{colon}{what}{place}"))
}

/// The known name that differs by at most two letters.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    /// More differences than this is another word.
    const NEAR: usize = 2;
    known.iter().map(|k| (distance(name, k), *k)).filter(|(d, _)| *d <= NEAR).min().map(|(_, k)| k)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Fills every `x` from its `x_file`.
fn read_secrets(config: &mut Config, credentials: Option<&Path>) -> Result<(), ConfigError> {
    let secret = |given: bool, file: &Option<PathBuf>, key: &str| secret(given, file.as_deref(), key, credentials);
    let url = |slot: &mut Option<SecretUrl>, file: &Option<PathBuf>, key: &str| {
        let found = secret(slot.is_some(), file, key)?;
        *slot = found.map(|text| SecretUrl::new(text.expose())).or(slot.take());
        Ok::<(), ConfigError>(())
    };
    url(&mut config.database.url, &config.database.url_file, "database.url")?;
    url(&mut config.database.direct_url, &config.database.direct_url_file, "database.direct_url")?;
    url(&mut config.redis.url, &config.redis.url_file, "redis.url")?;
    if let Some(tls) = &mut config.http.tls {
        for (key, file) in [("certificate", &mut tls.certificate), ("key", &mut tls.key)] {
            let place = place(file, credentials).map_err(|why| ConfigError(format!("http.tls.{key}: {why}")))?;
            *file = place.into_owned();
        }
    }
    let identity = &mut config.identity;
    for (list, keys) in [("keys", &mut identity.keys), ("subscription_keys", &mut identity.subscription_keys)] {
        for (i, key) in keys.iter_mut().enumerate() {
            let name = format!("identity.{list}.{i}.secret");
            key.secret = secret(key.secret.is_some(), &key.secret_file, &name)?.or(key.secret.take());
        }
    }
    for (i, issuer) in identity.issuers.iter_mut().enumerate() {
        for (k, key) in issuer.keys.iter_mut().enumerate() {
            let name = format!("identity.issuers.{i}.keys.{k}.pem");
            let read = secret(key.pem.is_some(), &key.pem_file, &name)?;
            key.pem = read.map(|pem| pem.expose().to_owned()).or(key.pem.take());
        }
    }
    for (i, key) in config.identity.api_keys.iter_mut().enumerate() {
        let name = format!("identity.api_keys.{i}.secret");
        key.secret = secret(key.secret.is_some(), &key.secret_file, &name)?.or(key.secret.take());
    }
    for (i, app) in config.pusher.apps.iter_mut().enumerate() {
        for (k, key) in app.keys.iter_mut().enumerate() {
            let name = format!("pusher.apps.{i}.keys.{k}.secret");
            key.secret = secret(key.secret.is_some(), &key.secret_file, &name)?.or(key.secret.take());
        }
        let name = format!("pusher.apps.{i}.encryption_master_key");
        let read = secret(app.encryption_master_key.is_some(), &app.encryption_master_key_file, &name)?;
        app.encryption_master_key = read.or(app.encryption_master_key.take());
    }
    for (i, mirror) in config.mirrors.iter_mut().enumerate() {
        let name = format!("mirrors.{i}.token");
        mirror.token = secret(mirror.token.is_some(), &mirror.token_file, &name)?.or(mirror.token.take());
    }
    Ok(())
}

fn secret(
    given: bool,
    file: Option<&Path>,
    key: &str,
    credentials: Option<&Path>,
) -> Result<Option<Secret>, ConfigError> {
    match file {
        None => Ok(None),
        Some(_) if given => Err(ConfigError(format!("{key} and {key}_file are both set; keep one"))),
        Some(path) => {
            let read = place(path, credentials).and_then(|path| Secret::read(&path));
            read.map(Some).map_err(|why| ConfigError(format!("{key}_file: {why}")))
        }
    }
}

/// Where a secret is.
fn place<'a>(path: &'a Path, credentials: Option<&Path>) -> Result<Cow<'a, Path>, String> {
    let Some(name) = path.to_str().and_then(|path| path.strip_prefix(CREDENTIAL)) else { return Ok(path.into()) };
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(format!("{CREDENTIAL} is followed by the name of a credential, which is no path"));
    }
    match credentials.filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => Ok(folder.join(name).into()),
        None => Err(format!("{CREDENTIAL}{name}: {CREDENTIALS} is not set; by hand it is the folder with the secrets")),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
