//! Which PostgreSQL of the machine to run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::DevError;
use crate::platform::config::Dev;

/// The oldest major version that the hub is tested on.
pub(super) const OLDEST: u32 = 15;
/// The variable that names the directory.
const VARIABLE: &str = "DZVIN_PG_BIN";
/// Where distributions put each major version's programs: `{parent}/{prefix}{version}/bin`.
const FOLDERS: [(&str, &str); 3] =
    [("/usr/lib/postgresql", ""), ("/usr", "pgsql-"), ("/opt/homebrew/opt", "postgresql@")];

/// The programs of one installed version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// Where they are.
    pub dir: PathBuf,
    /// Their major version.
    pub major: u32,
}

impl Binaries {
    /// The version of the data if it is installed, else the newest. A directory that is named by hand is the only candidate.
    ///
    /// # Errors
    /// None that is new enough, or none that fits the data.
    pub(super) fn find(dev: &Dev, data: &Path) -> Result<Self, DevError> {
        let named = dev.pg_bin.clone().or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
        let dirs = named.map_or_else(usual_dirs, |dir| vec![dir]);
        let found: Vec<Self> = dirs.iter().filter_map(|dir| Self::at(dir)).collect();
        let of = fs::read_to_string(data.join("PG_VERSION")).ok().and_then(|text| text.trim().parse().ok());
        choose(found, of).map_err(|reason| match reason {
            Misfit::None => {
                let looked = dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
                DevError::NotFound { looked }
            }
            Misfit::Other { of, found } => DevError::OtherVersion { data: data.display().to_string(), of, found },
        })
    }

    /// A program of this version.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn at(dir: &Path) -> Option<Self> {
        let whole = ["postgres", "initdb", "pg_ctl"].iter().all(|name| dir.join(name).is_file());
        let output = whole.then(|| Command::new(dir.join("postgres")).arg("--version").output().ok())??;
        let major = major(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { dir: dir.to_owned(), major })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Misfit {
    None,
    Other { of: u32, found: u32 },
}

fn choose(mut found: Vec<Binaries>, of: Option<u32>) -> Result<Binaries, Misfit> {
    found.retain(|binaries| binaries.major >= OLDEST);
    // Stable: of equal versions the first found stays first.
    found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
    let newest = found.first().ok_or(Misfit::None)?.clone();
    match of {
        None => Ok(newest),
        Some(of) => {
            found.into_iter().find(|binaries| binaries.major == of).ok_or(Misfit::Other { of, found: newest.major })
        }
    }
}

fn usual_dirs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).filter(|dir| dir.join("postgres").is_file()).collect();
    for (parent, prefix) in FOLDERS {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let versions = entries.filter(|entry| {
            let name = entry.file_name();
            name.to_str().and_then(|name| name.strip_prefix(prefix)).is_some_and(|rest| rest.parse::<u32>().is_ok())
        });
        dirs.extend(versions.map(|entry| entry.path().join("bin")));
    }
    if dirs.is_empty() {
        dirs.extend(FOLDERS.iter().map(|(parent, prefix)| Path::new(parent).join(format!("{prefix}*/bin"))));
    }
    dirs
}

/// `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`; betas are `18beta1`.
fn major(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL) ")?.1;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, expected) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("postgres 15", None),
            ("", None),
        ] {
            assert_eq!(major(text), expected, "{text}");
        }
    }

    #[test]
    fn the_version_of_the_data_wins_over_the_newest() {
        let all = |versions: &[u32]| {
            versions.iter().map(|v| Binaries { dir: format!("/{v}").into(), major: *v }).collect::<Vec<_>>()
        };
        let chosen = |versions: &[u32], of| choose(all(versions), of).map(|binaries| binaries.major);
        assert_eq!(chosen(&[15, 17, 16], None), Ok(17));
        assert_eq!(chosen(&[15, 17, 16], Some(15)), Ok(15));
        assert_eq!(chosen(&[16, 17], Some(15)), Err(Misfit::Other { of: 15, found: 17 }));
        assert_eq!(chosen(&[14, 13], None), Err(Misfit::None));
        assert_eq!(chosen(&[], Some(15)), Err(Misfit::None));
    }
}
