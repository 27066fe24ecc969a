//! As whom PostgreSQL runs: it refuses root, so root lends it another user.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use super::DevError;

/// The user for the programs of PostgreSQL: ourselves, or another when we are root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Runner {
    /// Of the user.
    pub(super) uid: u32,
    other: Option<(String, u32)>,
}

impl Runner {
    /// By the process's own user and the system's list of users.
    pub(super) fn of_process() -> Self {
        // Without a unsafe call: the owner of a process's directory is its effective user.
        let uid = fs::metadata("/proc/self").map_or(0, |meta| meta.uid());
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self::choose(uid, &users)
    }

    fn choose(uid: u32, users: &str) -> Self {
        if uid != 0 {
            return Self { uid, other: None };
        }
        // `nobody` is 65534 where the list does not say otherwise.
        let (name, uid, gid) = ["postgres", "nobody"]
            .iter()
            .find_map(|name| find(users, name))
            .unwrap_or_else(|| ("nobody".to_owned(), 65_534, 65_534));
        Self { uid, other: Some((name, gid)) }
    }

    /// Whether it is somebody else than ourselves.
    pub(super) fn is_other(&self) -> bool {
        self.other.is_some()
    }

    /// A program that runs as this user, with nothing of our environment: PG* variables would change its meaning.
    pub(super) fn command(&self, program: &Path, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir(dir);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some((_, gid)) = &self.other {
            command.uid(self.uid).gid(*gid);
        }
        command
    }

    /// Gives a file or directory to this user.
    pub(super) fn own(&self, path: &Path) -> Result<(), DevError> {
        let Some((_, gid)) = &self.other else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(self.uid), Some(*gid)).map_err(DevError::file("change the owner of", path))
    }

    /// Whether this user may pass through every directory down to this one.
    pub(super) fn check_way(&self, dir: &Path) -> Result<(), DevError> {
        let Some((user, gid)) = &self.other else { return Ok(()) };
        for part in dir.ancestors().filter(|part| !part.as_os_str().is_empty()) {
            let meta = fs::metadata(part).map_err(DevError::file("look at", part))?;
            let needed = match (meta.uid() == self.uid, meta.gid() == *gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            if meta.permissions().mode() & needed == 0 {
                return Err(DevError::Closed { closed: part.display().to_string(), user: user.clone() });
            }
        }
        Ok(())
    }
}

/// `name:password:uid:gid:...`
fn find(users: &str, name: &str) -> Option<(String, u32, u32)> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (found && uid != 0).then(|| (name.to_owned(), uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_lends_another_user() {
        let users = "root:x:0:0::/root:/bin/sh\nbad\npostgres:x:104:110::/:/bin/sh\nnobody:x:65534:65533::/:/x\n";
        assert_eq!(Runner::choose(1000, users), Runner { uid: 1000, other: None });
        assert_eq!(Runner::choose(0, users), Runner { uid: 104, other: Some(("postgres".into(), 110)) });
        let without = users.replace("postgres", "mysql");
        assert_eq!(Runner::choose(0, &without), Runner { uid: 65_534, other: Some(("nobody".into(), 65_533)) });
        let trick = "postgres:x:0:0::/:/bin/sh\n";
        assert_eq!(Runner::choose(0, trick).uid, 65_534, "never root under another name");
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let dir = tempfile::tempdir().expect("dir");
        let (closed, inner) = (dir.path().join("closed"), dir.path().join("closed/inner"));
        fs::create_dir_all(&inner).expect("made");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("set");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("set");
        let stranger = Runner { uid: 4_000_000, other: Some(("stranger".into(), 4_000_000)) };
        let error = stranger.check_way(&inner).expect_err("closed").to_string();
        assert!(error.starts_with(&format!("{} is closed to the user stranger", closed.display())), "{error}");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o711)).expect("set");
        stranger.check_way(&inner).expect("open");
    }
}
