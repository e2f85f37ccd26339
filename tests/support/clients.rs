//! Client programs that are not part of this project: whether they are here, and what becomes of a test
//! whose client is not.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::unistd::geteuid;

/// Set to `required`, a missing client fails its test; `scripts/test.sh`, which installs them all, sets it.
const REQUIRED: &str = "SOCKETSERVER_TEST_CLIENTS";

/// What the running test has found to be missing.
static MISSING: Mutex<Option<String>> = Mutex::new(None);

/// Whether `program` (`nc`) is on the path. If not, the test that asks is to return at once:
///
/// ```ignore
/// if !clients::available("nc") {
///     return;
/// }
/// ```
///
/// It is then shown as `ignored (no nc)`. Where clients are required the call panics instead, so the test
/// fails.
#[track_caller]
pub fn available(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).any(|directory: PathBuf| directory.join(program).is_file());
    found || skip(program)
}

/// As [`available`], for `python3` with a module (`test.test_socketserver`) that it may come without.
#[track_caller]
pub fn python_with(module: &str) -> bool {
    if !available("python3") {
        return false;
    }
    let import = format!("import {module}");
    let tried = Command::new(python()).args(["-c", &import]).output().unwrap();
    tried.status.success() || skip(&format!("python3 with {module}"))
}

/// The program that `python3` runs in the end: that of pyenv is a script, which starts some thirty processes each time.
#[track_caller]
pub fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let tell = "import sys; print(sys.executable)";
        let told = Command::new("python3").args(["-c", tell]).output().unwrap();
        String::from_utf8(told.stdout).unwrap().trim_end().to_owned()
    })
}

/// Whether this machine has a loopback address of IPv6. If not, the test that asks is to return at once.
pub fn ipv6_available() -> bool {
    has(TcpListener::bind("[::1]:0").is_ok(), "no IPv6".to_owned())
}

/// Whether the tests run as root, who `can` do what the test that asks needs. If not, that is to return at once.
pub fn root_available(can: &str) -> bool {
    has(geteuid().is_root(), format!("no root, who can {can}"))
}

/// Whether Linux is so new (`[6, 6]`) that it has `what`. If not, the test that asks is to return at once.
pub fn linux_available(version: [u32; 2], what: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let running: Vec<u32> = release.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
    let [major, minor] = version;
    has(
        running >= version.to_vec(),
        format!("no Linux {major}.{minor}, which has {what}"),
    )
}

fn has(found: bool, missing: String) -> bool {
    if !found {
        lack(missing);
    }
    found
}

#[track_caller]
fn skip(what: &str) -> bool {
    let missing = format!("no {what}");
    assert!(
        env::var_os(REQUIRED).is_none_or(|value| value != "required"),
        "{missing}, and {REQUIRED}=required: `bash scripts/test.sh` installs the test clients"
    );
    lack(missing);
    false
}

/// The test that runs lacks something that nobody can install (root's privileges), and is to return at once.
pub fn lack(missing: String) {
    *MISSING.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing);
}

/// What the test that has just ended lacked.
pub fn take_missing() -> Option<String> {
    MISSING.lock().unwrap_or_else(PoisonError::into_inner).take()
}
