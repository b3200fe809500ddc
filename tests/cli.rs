//! The commands that check and convert a configuration, as an operator runs them.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::PathBuf;
use std::process::Command;

/// Runs the binary on a file with this text: exit code, stdout, stderr.
fn run(command: &str, name: &str, text: &str) -> (i32, String, String) {
    let file: PathBuf = std::env::temp_dir().join(format!("carpool-cli-{}-{name}", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_carpool")).arg(command).arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn check_says_all_that_is_wrong() {
    let text = "[pooler]\nlisten_port = -1\npool_mod = 1\n[databases.app]\npool_size = 0\n";
    let (code, stdout, stderr) = run("check", "wrong.toml", text);
    assert_eq!((code, stdout.as_str()), (64, ""));
    for error in [":2: pooler.listen_port: ", ":3: pooler.pool_mod: ", ":5: databases.app.pool_size: "] {
        assert!(stderr.contains(error), "{stderr}");
    }
}

#[test]
fn check_passes_with_warnings() {
    let (code, stdout, stderr) = run("check", "good.ini", "[pgbouncer]\npkt_buf = 8192\n");
    assert_eq!(code, 0);
    assert!(stdout.trim_end().ends_with("good.ini: ok"), "{stdout}");
    assert!(stderr.contains("pgbouncer.pkt_buf: has no effect"), "{stderr}");
}

#[test]
fn convert_gives_toml_that_passes() {
    let text = "[databases]\napp = host=db user=a password='p w' pool_size=3\n[pgbouncer]\nlisten_addr = *\n";
    let (code, converted, _) = run("convert", "convert.ini", text);
    assert_eq!(code, 0);
    assert!(converted.contains("password = \"p w\"") && converted.contains("user_pool_size = 3"), "{converted}");
    let (code, _, stderr) = run("check", "converted.toml", &converted);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_file_that_is_missing_is_a_bad_configuration() {
    let output = Command::new(env!("CARGO_BIN_EXE_carpool")).arg("/nonexistent/carpool.toml").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/carpool.toml: cannot be read"));
}

#[test]
fn diff_shows_what_a_reload_changes() {
    let file = |name: &str, text: &str| {
        let path = std::env::temp_dir().join(format!("carpool-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    };
    let old = file("old.toml", "[pooler]\nquery_timeout = 1\n[databases.a]\nhost = 'h'\n");
    let new = file("new.ini", "[pgbouncer]\nquery_timeout = 2\n[databases]\na = host=h password=secret\n");
    let broken = file("broken.toml", "[pooler]\nquery_timeout = 'x'\n");
    let diff = |old: &PathBuf, new: &PathBuf| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_carpool")).args(["check", "--diff"]).args([old, new]).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, stdout, _) = diff(&old, &old);
    assert_eq!((code, stdout.as_str()), (0, "nothing changes\n"));
    let (code, stdout, _) = diff(&old, &new);
    assert_eq!(code, 0);
    assert!(stdout.contains("pgbouncer.query_timeout: 1 -> 2\n") && stdout.contains("databases.a.password: changed\n"));
    assert!(!stdout.contains("secret"), "{stdout}");
    let (code, stdout, stderr) = diff(&old, &broken);
    assert_eq!((code, stdout.as_str()), (64, ""));
    assert!(stderr.contains("query_timeout"), "{stderr}");
    [old, new, broken].iter().for_each(|path| std::fs::remove_file(path).unwrap());
}

#[test]
fn packages_get_a_man_page_and_completions() {
    let dir = std::env::temp_dir().join(format!("carpool-cli-{}-generated", std::process::id()));
    let status = Command::new(env!("CARGO_BIN_EXE_carpool")).arg("generate").arg(&dir).status().unwrap();
    assert!(status.success());
    for (file, part) in [
        ("man/carpool.1", "\\-\\-daemon"),
        ("completions/carpool.bash", "--daemon"),
        ("completions/_carpool", "--daemon"),
        ("completions/carpool.fish", "daemon"),
    ] {
        let text = std::fs::read_to_string(dir.join(file)).unwrap();
        assert!(text.contains(part), "{file}: {text}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
