//! Tests of the whole: a text in, a checked configuration or all its errors out.

mod example;
mod from_ini;
mod from_toml;
mod pgbouncer;
mod round_trip;
mod tables;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::report::Report;
use super::*;

/// Loads a text of this format.
fn load(text: &str, format: Format) -> Result<Config, ConfigErrors> {
    let file = Path::new(if format == Format::Toml { "c.toml" } else { "c.ini" });
    let mut report = Report::new(file);
    let document = match format {
        Format::Toml => toml_file::parse(text, file, &mut report),
        Format::Ini => ini::parse(text, file, &mut report),
    };
    let Some(document) = document else { return Err(report.into_errors()) };
    build::build(document, format, report)
}

pub(super) fn toml(text: &str) -> Config {
    load(text, Format::Toml).unwrap_or_else(|errors| panic!("{errors}"))
}

pub(super) fn ini(text: &str) -> Config {
    load(text, Format::Ini).unwrap_or_else(|errors| panic!("{errors}"))
}

/// All errors, one a line.
pub(super) fn errors(text: &str, format: Format) -> Vec<String> {
    load(text, format).unwrap_err().iter().map(ToString::to_string).collect()
}

/// A directory that is gone with this value.
struct Directory(PathBuf);

impl std::ops::Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A new directory, with files in it; `DIR` in a file is its path.
fn directory(files: &[(&str, &str)]) -> Directory {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("carpool-config-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for (name, text) in files {
        std::fs::write(directory.join(name), text.replace("DIR", directory.to_str().unwrap())).unwrap();
    }
    Directory(directory)
}
