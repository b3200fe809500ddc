//! What the documents say of the tests.

use std::path::{Path, PathBuf};

/// The names of all tests of the crate.
fn tests() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs: Vec<PathBuf> = vec![root.join("src"), root.join("tests/it")];
    let mut names = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(path).unwrap();
                for rest in text.split("#[test]").skip(1).chain(text.split("#[tokio::test]").skip(1)) {
                    let name = rest.split_once("fn ").and_then(|(_, name)| name.split_once('('));
                    names.extend(name.map(|(name, _)| name.to_owned()));
                }
            }
        }
    }
    names
}

#[test]
fn the_tests_that_security_names_are_there() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md")).unwrap();
    let (_, section) = text.split_once("## Known attacks").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let there = tests();
    let mut rows = 0;
    for row in section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what")) {
        let named: Vec<&str> = row.rsplit(" | ").next().unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for name in named {
            let count = there.iter().filter(|test| *test == name).count();
            assert_eq!(count, 1, "{name} names {count} tests");
        }
        rows += 1;
    }
    assert!(rows > 10, "{rows} rows");
}
