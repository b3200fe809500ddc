//! Errors and warnings with their place. Nothing here ever holds the value of a secret.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One thing that is wrong with a configuration. Displayed as `FILE:LINE: KEY: MESSAGE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// The file, unless it came from the environment.
    pub file: Option<PathBuf>,
    /// The line, from 1, where there is one.
    pub line: Option<usize>,
    /// The way to the setting (`databases.app.pool_size`); empty for the file as a whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            match self.line {
                Some(line) => write!(f, "{line}: ")?,
                None => f.write_str(" ")?,
            }
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// All that is wrong with a configuration, in the order of the file; displayed one a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors; at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'e> IntoIterator for &'e ConfigErrors {
    type Item = &'e ConfigError;
    type IntoIter = std::slice::Iter<'e, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let line_end = if index > 0 { "\n" } else { "" };
            write!(f, "{line_end}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The way to a key from the top of the file. Displayed as TOML writes a dotted key.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct KeyPath(Vec<String>);

impl KeyPath {
    /// A key at the top.
    pub(super) fn top(key: &str) -> Self {
        Self(vec![key.to_owned()])
    }

    /// A key below this one.
    pub(super) fn join(&self, key: &str) -> Self {
        let mut keys = self.0.clone();
        keys.push(key.to_owned());
        Self(keys)
    }

    /// The key that this one is below of.
    fn parent(&self) -> Option<Self> {
        let (_, above) = self.0.split_last()?;
        Some(Self(above.to_vec()))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, key) in self.0.iter().enumerate() {
            let dot = if index > 0 { "." } else { "" };
            let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
            match bare {
                true => write!(f, "{dot}{key}")?,
                false => write!(f, "{dot}{key:?}")?,
            }
        }
        Ok(())
    }
}

/// A line of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The file.
    pub(super) file: Arc<Path>,
    /// The line, from 1.
    pub(super) line: usize,
}

/// Gathers what is to be said about a configuration while it is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    file: Option<Arc<Path>>,
    places: HashMap<KeyPath, Place>,
    errors: Vec<ConfigError>,
    warnings: Vec<String>,
}

impl Report {
    /// Nothing yet, on this file.
    pub(super) fn new(file: &Path) -> Self {
        Self { file: Some(file.into()), ..Self::default() }
    }

    /// Notes where a key stands.
    pub(super) fn found(&mut self, key: KeyPath, place: Place) {
        self.places.insert(key, place);
    }

    /// An error at a key, or at what the key is below of.
    pub(super) fn error(&mut self, key: &KeyPath, message: impl Into<String>) {
        let error = self.located(key, message.into());
        self.errors.push(error);
    }

    /// An error at a line, of a key where that is known.
    pub(super) fn error_at(&mut self, place: &Place, key: &KeyPath, message: impl Into<String>) {
        let (file, line) = (Some(place.file.to_path_buf()), Some(place.line));
        self.errors.push(ConfigError { file, line, key: key.to_string(), message: message.into() });
    }

    /// Something that doesn't keep the configuration from being used.
    pub(super) fn warn(&mut self, key: &KeyPath, message: impl Into<String>) {
        let warning = self.located(key, message.into()).to_string();
        self.warnings.push(warning);
    }

    /// Whether there is no error so far.
    pub(super) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// The errors, by line where they have one.
    pub(super) fn into_errors(mut self) -> ConfigErrors {
        self.errors.sort_by(|a, b| (&a.file, a.line.is_none(), a.line).cmp(&(&b.file, b.line.is_none(), b.line)));
        ConfigErrors(self.errors)
    }

    /// The warnings, or the errors if there are any.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigErrors> {
        if self.is_clean() { Ok(self.warnings) } else { Err(self.into_errors()) }
    }

    fn located(&self, key: &KeyPath, message: String) -> ConfigError {
        let mut at = Some(key.clone());
        while let Some(path) = at {
            if let Some(place) = self.places.get(&path) {
                let (file, line) = (Some(place.file.to_path_buf()), Some(place.line));
                return ConfigError { file, line, key: key.to_string(), message };
            }
            at = path.parent();
        }
        ConfigError { file: self.file.as_deref().map(Path::to_owned), line: None, key: key.to_string(), message }
    }
}
