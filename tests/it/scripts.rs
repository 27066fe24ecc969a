//! What the scripts do on machines that are not this one: their functions with the machine's programs replaced.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

/// Runs lines after `scripts/lib.sh`, in a folder of its own; answers whether all went well, and what was printed.
fn bash(folder: &Path, lines: &str) -> (bool, String) {
    let text = format!("set -euo pipefail\n. '{}/lib.sh'\n{lines}", scripts().display());
    let output = Command::new("bash").args(["-c", &text]).current_dir(folder).env("PATH", "/usr/bin:/bin").output();
    let output = output.expect("bash");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn every_script_is_well_formed() {
    for script in fs::read_dir(scripts()).expect("scripts").flatten() {
        let read = Command::new("bash").arg("-n").arg(script.path()).output().expect("bash");
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    }
}

#[test]
fn an_ordinary_user_finds_nginx() {
    let (done, said) = bash(Path::new("/"), "echo $PATH");
    assert!(done && said.trim().split(':').any(|folder| folder == "/usr/sbin"), "{said}");
}

/// Whatever comes of an installation, its services do not start and nothing of ours stays behind.
#[test]
fn installed_services_do_not_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let machine = r#"
        POLICY=$PWD/policy-rc.d
        as_root() { "$@"; }
        have() { true; }
        apt_update() { :; }
        env() { echo "installing: policy $("$POLICY" >/dev/null; echo $?)" >&2; return "$STATUS"; }
    "#;
    let policy = dir.path().join("policy-rc.d");
    for status in ["0", "100"] {
        let (done, said) = bash(dir.path(), &format!("{machine} STATUS={status} \n apt_install nginx-light"));
        assert_eq!(done, status == "0", "{said}");
        assert!(said.contains("installing: policy 101\n"), "{said}");
        assert!(!policy.exists(), "left behind: {said}");
    }
    // The machine's own word is left as it is.
    fs::write(&policy, "#!/bin/sh\nexit 0\n").expect("written");
    assert!(bash(dir.path(), &format!("{machine} STATUS=0 \n apt_install nginx-light")).0);
    assert_eq!(fs::read_to_string(&policy).expect("kept"), "#!/bin/sh\nexit 0\n");
}

/// Cargo has not seen the folder that was missing when it built: the source that embeds it must look changed.
#[test]
fn a_page_that_was_built_gets_into_the_binary() {
    let dir = tempfile::tempdir().expect("a folder");
    for folder in ["src", "console/src"] {
        fs::create_dir_all(dir.path().join(folder)).expect("made");
    }
    let source = dir.path().join("src/console.rs");
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    fs::File::create(&source).expect("made").set_modified(long_ago).expect("set");
    let built = r"need_node() { :; }
        node_packages() { :; }
        npm() { mkdir -p dist && touch dist/index.html; }
        touch console/index.html console/package-lock.json
        build_console";
    let (done, said) = bash(dir.path(), built);
    assert!(done && dir.path().join("console/dist/index.html").exists(), "{said}");
    let touched = fs::metadata(&source).expect("there").modified().expect("a time");
    assert!(touched > long_ago, "cargo would not look at it");
}
