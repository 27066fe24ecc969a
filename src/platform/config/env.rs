//! The environment as a layer over the file: `DZVIN__MIRRORS__0__TOKEN=x` is `mirrors[0].token = "x"`.
//!
//! Values are texts (numbers and flags are read as such where the key wants them); `[..]` and `{..}` are TOML values.
//! Elements of a list that the file has are changed in place, the next index appends. Kinds have hyphens and variable
//! names do not: below `kinds` an underscore in the name stands for a hyphen.

use figment::{
    Error, Metadata, Profile, Provider,
    value::{Dict, Map, Tag, Value},
};

/// What our variables start with.
pub(super) const PREFIX: &str = "DZVIN__";
/// The name of this source in errors.
pub(super) const SOURCE: &str = "the environment";
/// A deeper path names no key of ours.
const MAX_DEPTH: usize = 8;

/// The layer: the file's top-level values that variables touch, with the changes applied.
pub(super) struct EnvLayer(Dict);

impl EnvLayer {
    /// Applies the variables to a copy of what the file says.
    pub(super) fn new(file: &Dict, vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, String> {
        let mut ours: Vec<(String, String)> = vars.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        // Sorted, so that list elements are appended in order and errors do not depend on the environment's order.
        ours.sort();
        let mut dict = Dict::new();
        for (name, text) in ours {
            let keys = keys_of(&name);
            if keys.len() > MAX_DEPTH || keys.iter().any(String::is_empty) {
                return Err(format!("{name} names no key (expected {PREFIX}SECTION__KEY)"));
            }
            let Some((first, rest)) = keys.split_first() else { continue };
            let base = dict.remove(first).or_else(|| file.get(first).cloned());
            let changed = put(base, rest, value(&text)).map_err(|why| format!("{name}: {why}"))?;
            dict.insert(first.clone(), changed);
        }
        Ok(Self(dict))
    }
}

fn keys_of(name: &str) -> Vec<String> {
    let lower = name.get(PREFIX.len()..).unwrap_or_default().to_ascii_lowercase();
    let mut keys: Vec<String> = lower.split("__").map(str::to_owned).collect();
    if let [section, kind, ..] = keys.as_mut_slice()
        && section == "kinds"
    {
        *kind = kind.replace('_', "-");
    }
    keys
}

/// Lists and tables are TOML; everything else is text, so that a password of digits stays a password.
fn value(text: &str) -> Value {
    match text.trim_start().as_bytes().first() {
        Some(b'[' | b'{') => {
            toml::from_str::<Dict>(&format!("value = {text}")).ok().and_then(|mut dict| dict.remove("value"))
        }
        _ => None,
    }
    .unwrap_or_else(|| Value::from(text))
}

/// `base` with the value at the path replaced.
fn put(base: Option<Value>, path: &[String], new: Value) -> Result<Value, String> {
    let Some((key, rest)) = path.split_first() else { return Ok(new) };
    if let Ok(index) = key.parse::<usize>() {
        let mut list = match base {
            Some(Value::Array(_, list)) => list,
            None => Vec::new(),
            Some(_) => return Err(format!("{key} is no key here")),
        };
        if index > list.len() {
            return Err(format!("there is no element {} before {index}", list.len()));
        }
        let old = list.get(index).cloned();
        let changed = put(old, rest, new)?;
        list.truncate(list.len());
        match list.get_mut(index) {
            Some(slot) => *slot = changed,
            None => list.push(changed),
        }
        return Ok(Value::Array(Tag::Default, list));
    }
    let (tag, mut dict) = match base {
        Some(Value::Dict(tag, dict)) => (tag, dict),
        None => (Tag::Default, Dict::new()),
        Some(Value::Array(..)) => return Err(format!("a list: its elements are 0, 1, 2..., not {key}")),
        Some(_) => return Err(format!("{key} is no key here")),
    };
    let changed = put(dict.remove(key), rest, new)?;
    dict.insert(key.clone(), changed);
    Ok(Value::Dict(tag, dict))
}

impl Provider for EnvLayer {
    fn metadata(&self) -> Metadata {
        Metadata::named(SOURCE)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Profile::Default.collect(self.0.clone()))
    }
}
