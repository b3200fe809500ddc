//! A configuration as it was read, from which it can be made again with a setting changed: what SET does, by the
//! same checks as a file goes through.

use std::fmt;
use std::path::Path;

use super::document::{Document, Raw};
use super::report::{KeyPath, Report};
use super::settings::{POOLER, Setting};
use super::{Config, ConfigErrors, Format, Pooler, build, check, foreign, ini, toml_file, url};

/// See the module. No `Debug` of its values: there are secrets among them.
#[derive(Clone)]
pub struct Draft(Origin);

#[derive(Clone)]
enum Origin {
    File { document: Document, format: Format, report: Report },
    Url { url: String, changes: Vec<(&'static str, String)> },
}

/// Why a setting isn't changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SetError {
    /// There is none of this name; what may have been meant.
    #[error("unknown setting \"{0}\"{1}")]
    Unknown(String, String),
    /// It is only read at start.
    #[error("setting \"{0}\" cannot be changed without a restart")]
    Fixed(String),
    /// Carpool doesn't have it; why.
    #[error("setting \"{0}\" {1}")]
    Foreign(String, String),
    /// The value isn't one, or doesn't go with the rest.
    #[error("{0}")]
    Invalid(String),
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Draft")
    }
}

impl Draft {
    /// Reads a file, see [`Config::load`].
    ///
    /// # Errors
    /// What keeps it from being read; whether it makes sense is seen by [`Draft::build`].
    pub fn read(path: &Path) -> Result<Self, ConfigErrors> {
        let mut report = Report::new(path);
        let (document, format) = match path.extension().and_then(|e| e.to_str()) {
            Some("toml") => (toml_file::load(path, &mut report), Format::Toml),
            Some("ini") => (ini::load(path, &mut report), Format::Ini),
            _ => {
                report.error(&KeyPath::default(), "the name of a configuration ends in .toml or .ini");
                (None, Format::Toml)
            }
        };
        match document {
            Some(document) => Ok(Self(Origin::File { document, format, report })),
            None => Err(report.into_errors()),
        }
    }

    /// One database from a URL, see [`Config::from_database_url`].
    #[must_use]
    pub fn of_url(url: &str) -> Self {
        Self(Origin::Url { url: url.to_owned(), changes: Vec::new() })
    }

    /// Makes it a configuration.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn build(&self) -> Result<Config, ConfigErrors> {
        match &self.0 {
            Origin::File { document, format, report } => build::build(document.clone(), *format, report.clone()),
            Origin::Url { url, changes } => {
                let mut config = url::load(url)?;
                let mut report = Report::default();
                for (name, text) in changes {
                    let path = Format::Toml.pooler_path().join(name);
                    if let Err(message) = store(&mut config.pooler, name, text) {
                        report.error(&path, message);
                    }
                }
                check::check(&config, &mut report);
                report.finish().map(|_| config)
            }
        }
    }

    /// Changes a global setting, its value spelled as in an ini file, and makes the whole a configuration. When
    /// that fails nothing has changed.
    ///
    /// # Errors
    /// Why it can't be changed so.
    pub fn set(&mut self, key: &str, text: &str) -> Result<Config, SetError> {
        let format = match &self.0 {
            Origin::File { format, .. } => *format,
            Origin::Url { .. } => Format::Toml,
        };
        let mut changed = self.clone();
        match &mut changed.0 {
            Origin::File { document, .. } => {
                let (names, raw) = value(key, text, format)?;
                document.pooler.retain(|(name, _)| !names.contains(&name.as_str()));
                document.pooler.push((names[0].to_owned(), raw));
            }
            Origin::Url { changes, .. } => {
                let setting = find(key, format)?;
                changes.retain(|(name, _)| *name != setting.name);
                changes.push((setting.name, text.to_owned()));
            }
        }
        let config = changed.build().map_err(|errors| SetError::Invalid(about(&errors, key)))?;
        *self = changed;
        Ok(config)
    }
}

/// The errors without the places in the file, where the value doesn't stand.
fn about(errors: &ConfigErrors, key: &str) -> String {
    let text = |error: &super::ConfigError| {
        let own = error.key.rsplit('.').next() == Some(key);
        if own { format!("invalid value for \"{key}\": {}", error.message) } else { error.to_string() }
    };
    errors.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// The names that a setting may stand under in a file, the usual one first, and the value as the file would have it.
fn value(key: &str, text: &str, format: Format) -> Result<(Vec<&'static str>, Raw), SetError> {
    if format == Format::Ini && key == build::MAX_DB_CONNECTIONS {
        return Ok((vec![build::MAX_DB_CONNECTIONS], Raw::Text(text.into())));
    }
    let setting = find(key, format)?;
    let name = if format == Format::Ini { setting.ini_name.unwrap_or(setting.name) } else { setting.name };
    let names = std::iter::once(name).chain(setting.alias).collect();
    let raw = Raw::Text(text.to_owned());
    if format == Format::Ini || setting.unset == Some(text) {
        return Ok((names, raw));
    }
    // As text on the console, but a number or list in TOML.
    let parsed = setting.kind.parse(&raw, Format::Ini);
    let parsed = parsed.map_err(|message| SetError::Invalid(format!("invalid value for \"{key}\": {message}")))?;
    Ok((names, Raw::from(setting.kind.to_toml(&parsed))))
}

/// The setting of a name, if it can be changed.
fn find(key: &str, format: Format) -> Result<&'static Setting<Pooler>, SetError> {
    if let Some(setting) = POOLER.iter().find(|setting| setting.is_named(key, format)) {
        return if setting.changeable { Ok(setting) } else { Err(SetError::Fixed(key.to_owned())) };
    }
    if let Some(foreign) = foreign::find(foreign::POOLER, key) {
        return Err(SetError::Foreign(key.to_owned(), foreign.explain()));
    }
    let near = build::nearest(key, POOLER.iter().map(|setting| setting.name));
    let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
    Err(SetError::Unknown(key.to_owned(), hint))
}

fn store(pooler: &mut Pooler, name: &str, text: &str) -> Result<(), String> {
    let Some(setting) = POOLER.iter().find(|setting| setting.name == name) else { return Ok(()) };
    let raw = Raw::Text(text.to_owned());
    let value =
        if setting.unset == Some(text) { super::field::Value::Unset } else { setting.kind.parse(&raw, Format::Ini)? };
    setting.store(pooler, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn draft(name: &str, text: &str) -> Draft {
        let path = Path::new(name);
        let mut report = Report::new(path);
        let format = if name.ends_with("ini") { Format::Ini } else { Format::Toml };
        let document = match format {
            Format::Ini => ini::parse(text, path, &mut report),
            Format::Toml => toml_file::parse(text, path, &mut report),
        };
        Draft(Origin::File { document: document.unwrap(), format, report })
    }

    #[test]
    fn values_are_spelled_alike_in_both_formats() {
        let toml = draft("x.toml", "[pooler]\nquery_wait_timeout = 7\n[databases.a]\nhost = 'h'\n");
        let ini = draft("x.ini", "[pgbouncer]\nquery_wait_timeout = 7\n[databases]\na = host=h\n");
        for mut draft in [toml, ini] {
            assert_eq!(draft.build().unwrap().pooler.query_wait_timeout, Duration::from_secs(7));
            for (key, value) in [
                ("query_wait_timeout", "9"),
                ("query_wait_timeout", "1.5"),
                ("pool_mode", "session"),
                ("log_stats", "0"),
                ("stats_users", "a,b"),
                ("server_reset_query", "select 1"),
                ("auth_type", "trust"),
                ("default_pool_size", "0"),
            ] {
                let config = draft.set(key, value).unwrap();
                let entry = config.entries().into_iter().find(|e| e.name == key).unwrap();
                assert_eq!(entry.value, value, "{key}");
            }
            let config = draft.build().unwrap();
            assert_eq!(config.pooler.query_wait_timeout, Duration::from_millis(1500), "what was set before is kept");
        }
    }

    #[test]
    fn databases_inherit_what_is_set() {
        let mut draft = draft("x.toml", "[databases.a]\nhost = 'h'\n[databases.b]\nhost = 'h'\npool_size = 3\n");
        let config = draft.set("default_pool_size", "7").unwrap();
        assert_eq!(config.databases["a"].pool_size, 7);
        assert_eq!(config.databases["b"].pool_size, 3);
    }

    #[test]
    fn nothing_changes_when_it_is_wrong() {
        let mut draft = draft("x.toml", "[pooler]\ndefault_pool_size = 5\n[databases.a]\nhost = 'h'\n");
        for (key, value, want) in [
            ("listen_port", "1", "setting \"listen_port\" cannot be changed without a restart"),
            (
                "pool_mode",
                "both",
                "invalid value for \"pool_mode\": \"both\" is not one of session, transaction, statement",
            ),
            ("max_client_conn", "many", "invalid value for \"max_client_conn\": expected a whole number"),
            ("min_pool_size", "9", "invalid value for \"min_pool_size\": 9 is more than default_pool_size (5)"),
            ("pool_mod", "session", "unknown setting \"pool_mod\"; did you mean pool_mode?"),
        ] {
            assert_eq!(draft.set(key, value).unwrap_err().to_string(), want);
        }
        assert!(matches!(draft.set("pkt_buf", "1"), Err(SetError::Foreign(..))));
        assert_eq!(draft.build().unwrap().pooler.min_pool_size, 0);
        assert!(draft.set("min_pool_size", "5").is_ok());
    }

    #[test]
    fn a_url_has_settings_too() {
        let mut draft = Draft::of_url("postgres://u:p@h/d");
        assert!(draft.set("query_timeout", "x").is_err());
        assert_eq!(draft.set("query_timeout", "3").unwrap().pooler.query_timeout, Duration::from_secs(3));
        assert_eq!(draft.set("verbose", "1").unwrap().pooler.query_timeout, Duration::from_secs(3));
    }
}
