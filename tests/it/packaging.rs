//! What is in packaging/: that it fits the binary.

use std::path::Path;
use std::process::Command;

#[test]
fn the_debian_changelog_has_this_version() {
    let changelog = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/debian/changelog");
    let text = std::fs::read_to_string(changelog).unwrap();
    assert!(text.starts_with(concat!("carpool (", env!("CARGO_PKG_VERSION"), "-")), "{text}");
}

#[test]
fn kubernetes_manifests_fit_each_other_and_the_configuration() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checker = root.join("tests/drivers/kubernetes.py");
    let output = Command::new(root.join(".venv/bin/python")).arg(checker).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = root.join("packaging/kubernetes/carpool.toml");
    let check = |password: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carpool"));
        command.arg("check").arg(&file).env_remove("APP_PASSWORD");
        command.envs(password.map(|password| ("APP_PASSWORD", password))).output().unwrap()
    };
    let output = check(Some("x"));
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(!check(None).status.success(), "the secret is needed");
}
