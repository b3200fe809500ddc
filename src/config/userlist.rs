//! PgBouncer's `auth_file`: lines of `"user" "secret"`, a quote in either doubled, comments from `;` to the line's end.

use std::path::Path;
use std::sync::Arc;

use super::Secret;
use super::document::{read_text, unquote};
use super::report::{KeyPath, Place, Report};
use crate::names::UserName;

/// A user of the file; without a secret when it is empty.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Entry {
    /// The line it starts on.
    pub(super) line: usize,
    /// Its name.
    pub(super) user: UserName,
    /// Its secret.
    pub(super) secret: Option<Secret>,
}

/// Reads the file, which `key` names.
pub(super) fn load(path: &Path, key: &KeyPath, report: &mut Report) -> Vec<Entry> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(message) => {
            report.error(key, format!("{}: {message}", path.display()));
            return Vec::new();
        }
    };
    let file: Arc<Path> = path.into();
    let (entries, errors) = parse(&text);
    for (line, message) in errors {
        report.error_at(&Place { file: Arc::clone(&file), line }, &KeyPath::default(), message);
    }
    entries
}

/// Reads a text; what is wrong comes with its line, and without anything of the line.
pub(super) fn parse(text: &str) -> (Vec<Entry>, Vec<(usize, &'static str)>) {
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    let (mut rest, mut counted, mut line) = (text, 0, 1);
    while !rest.trim_start().is_empty() {
        rest = rest.trim_start();
        let here = text.len() - rest.len();
        line += text[counted..here].matches('\n').count();
        counted = here;
        if !rest.starts_with(';') {
            match entry(rest) {
                Ok((user, secret, behind)) => {
                    let secret = (!secret.is_empty()).then(|| Secret::new(&secret));
                    entries.push(Entry { line, user: user.into(), secret });
                    rest = behind;
                }
                Err(message) => errors.push((line, message)),
            }
        }
        // What else stands on the line is nothing to us.
        rest = rest.split_once('\n').map_or("", |(_, behind)| behind);
    }
    (entries, errors)
}

fn entry(text: &str) -> Result<(String, String, &str), &'static str> {
    const FORM: &str = "expected \"user\" \"secret\"";
    let (user, behind) = unquote(text, '"').ok_or(FORM)?;
    if user.is_empty() || user.contains('\n') {
        return Err("a user without a name, or a quote that isn't closed");
    }
    // PgBouncer takes anything between the two.
    let second = behind.find(['"', '\n']).ok_or(FORM)?;
    let (secret, behind) = unquote(&behind[second..], '"').ok_or(FORM)?;
    match user.contains('\0') || secret.contains('\0') {
        true => Err("must not contain a NUL character"),
        false => Ok((user, secret, behind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(line: usize, user: &str, secret: &str) -> Entry {
        let secret = (!secret.is_empty()).then(|| Secret::new(secret));
        Entry { line, user: user.into(), secret }
    }

    #[test]
    fn the_format() {
        let text = "\n; comment \"x\" \"y\"\n\"plain\" \"it's\"\r\n  \"md5\" \"md5abcdef\" more, ignored\n\
                    \"scram\", \"SCRAM-SHA-256$4096:a==$b=:c=\"\n\"a \"\"quoted\"\" one\" \"p\"\"w\"\n\"none\" \"\"\n\
                    \"two\" \"lines\nlong\"";
        let expected = [
            entry(3, "plain", "it's"),
            entry(4, "md5", "md5abcdef"),
            entry(5, "scram", "SCRAM-SHA-256$4096:a==$b=:c="),
            entry(6, "a \"quoted\" one", "p\"w"),
            entry(7, "none", ""),
            entry(8, "two", "lines\nlong"),
        ];
        let (entries, errors) = parse(text);
        assert_eq!(errors, []);
        assert_eq!(entries, expected);
    }

    #[test]
    fn each_broken_line_is_reported() {
        let form = "expected \"user\" \"secret\"";
        let (entries, errors) = parse("\"a\" \"1\"\nb c\n\"d\"\n\"\" \"x\"\n\"e\" \"2\"\n\"f\" \"unclosed");
        assert_eq!(entries, [entry(1, "a", "1"), entry(5, "e", "2")]);
        assert_eq!(
            errors,
            [(2, form), (3, form), (4, "a user without a name, or a quote that isn't closed"), (6, form)]
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|[\"\n\r; ]){0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read(user in "\\PC{1,20}", secret in "\\PC{0,20}") {
            let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            let (entries, errors) = parse(&format!("{} {} x\n", quote(&user), quote(&secret)));
            prop_assert_eq!(errors, []);
            prop_assert_eq!(entries, [entry(1, &user, &secret)]);
        }
    }
}
