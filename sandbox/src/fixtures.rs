//! Real objects of the CDB for feeding the sandbox: the subset that lives with the tests, or the whole extract where a path says
//! so. Blocking: read them at the start or off the runtime.

use crate::error::SandboxError;
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The environment variable that names the whole extract.
pub const DATA_ENV: &str = "DZVIN_CDB_DATA";

/// Most documents that are read from one file.
const MAX_DOCUMENTS: usize = 200_000;
/// Most bytes that are unpacked from one file.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// The subset, part of the program so that it is found wherever the program runs.
static SUBSET: &[u8] = include_bytes!("../../tests/fixtures/cdb-tenders-subset.jsonl.gz");

/// Real tenders: from the file that `DZVIN_CDB_DATA` names, else the subset.
pub fn real() -> Result<Vec<String>, SandboxError> {
    match std::env::var_os(DATA_ENV).filter(|path| !path.is_empty()) {
        Some(path) => from_file(&PathBuf::from(path)),
        None => subset(),
    }
}

/// The subset of about 1,100 real tenders.
pub fn subset() -> Result<Vec<String>, SandboxError> {
    lines(GzDecoder::new(SUBSET)).map_err(|source| SandboxError::Data { path: "the subset".to_owned(), source })
}

/// One document a line, packed if the name ends in `.gz`.
pub fn from_file(path: &Path) -> Result<Vec<String>, SandboxError> {
    let data = |source| SandboxError::Data { path: path.display().to_string(), source };
    let file = File::open(path).map_err(data)?;
    let packed = path.extension().is_some_and(|ext| ext == "gz");
    if packed { lines(GzDecoder::new(file)) } else { lines(file) }.map_err(data)
}

fn lines(read: impl Read) -> std::io::Result<Vec<String>> {
    BufReader::new(read.take(MAX_BYTES))
        .lines()
        .filter(|line| line.as_ref().map_or(true, |line| !line.trim().is_empty()))
        .take(MAX_DOCUMENTS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn the_subset_is_whole_and_ordered() {
        let all = subset().unwrap();
        assert_eq!(all.len(), 1107);
        assert!(all.iter().any(|text| text.len() > 45_000), "the largest is there");
        let dates: Vec<_> = all.iter().map(|text| json::get_string(text, &["dateModified"]).unwrap()).collect();
        assert!(dates.is_sorted());
        assert!(matches!(from_file(Path::new("/nonexistent.gz")), Err(SandboxError::Data { .. })));
    }
}
