//! The committed corpora of the fuzz targets, fed through the same checks on stable.

#[cfg(test)]
#[allow(unreachable_pub, reason = "public in the library that it is for the fuzz targets")]
#[path = "../../fuzz/src/lib.rs"]
mod checks;

#[cfg(test)]
mod tests {
    use std::{fs, panic, path::Path};

    use super::checks::{Check, TARGETS};

    /// Files of a target's corpus, sorted so that a failure is always the same one.
    fn corpus(target: &str) -> Vec<std::path::PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut files: Vec<_> = fs::read_dir(&folder).expect(target).map(|file| file.expect("file").path()).collect();
        files.sort();
        files
    }

    fn feed(target: &str, check: Check) {
        let files = corpus(target);
        assert!(files.len() >= 5, "{target}: a corpus of {}", files.len());
        for file in files {
            let bytes = fs::read(&file).expect("readable");
            let outcome = panic::catch_unwind(|| {
                check(&bytes);
                // What a cut connection leaves of it, and what a flipped bit makes of it.
                for at in (0..bytes.len()).step_by(bytes.len() / 16 + 1) {
                    check(&bytes[..at]);
                    let mut flipped = bytes.clone();
                    flipped[at] ^= 1 << (at % 8);
                    check(&flipped);
                }
            });
            assert!(outcome.is_ok(), "{target}: {}", file.display());
        }
    }

    #[test]
    fn every_corpus_passes_its_check() {
        for (target, check) in TARGETS {
            feed(target, check);
        }
    }

    #[test]
    fn every_target_has_a_folder_and_every_folder_a_target() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let mut folders: Vec<_> =
            fs::read_dir(folder).expect("corpus").map(|f| f.expect("folder").file_name().into_string()).collect();
        folders.sort();
        let mut targets: Vec<_> = TARGETS.iter().map(|(name, _)| Ok((*name).to_owned())).collect();
        targets.sort();
        assert_eq!(folders, targets);
    }
}
