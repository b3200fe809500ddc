//! The value of a database or user: `key=value key='with spaces'`.

use crate::config::document::unquote;

/// Reads the keys and values; `is_known` says which keys there are.
///
/// # Errors
/// What is wrong, without any of the text: it may be a part of a password.
pub(super) fn parse(text: &str, is_known: impl Fn(&str) -> bool) -> Result<Vec<(String, String)>, String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((key, behind)) = key(rest) else {
            return Err("expected key=value pairs; a value with spaces stands in '…'".into());
        };
        let behind = behind.trim_start();
        let quoted = behind.starts_with('\'');
        let (value, behind) = match quoted {
            true => {
                let (value, behind) = unquote(behind, '\'').ok_or_else(|| format!("{key}: a ' is missing"))?;
                if !(behind.is_empty() || behind.starts_with(char::is_whitespace)) {
                    return Err(format!("{key}: expected a space after the closing '"));
                }
                (value, behind)
            }
            false => {
                let end = behind.find([' ', '\t']).unwrap_or(behind.len());
                (behind[..end].to_owned(), &behind[end..])
            }
        };
        if value.is_empty() {
            return Err(format!("{key}: has no value"));
        }
        pairs.push((key.to_owned(), value));
        rest = behind.trim_start();
        // What looks like an unknown key may be the rest of a password, which no error is to show.
        let goes_on = !rest.is_empty() && self::key(rest).is_none_or(|(next, _)| !is_known(next));
        if !quoted && key == "password" && goes_on {
            return Err("password: a value with spaces stands in '…'".into());
        }
    }
    Ok(pairs)
}

/// A key and what stands behind its `=`.
fn key(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once('=')?;
    let key = key.trim_end();
    (!key.is_empty() && !key.contains([' ', '\t'])).then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(key: &str) -> bool {
        ["host", "user"].contains(&key)
    }

    #[test]
    fn as_pgbouncer_reads_them() {
        let read = |text| {
            let pairs = parse(text, known).unwrap();
            pairs.into_iter().map(|(key, value)| format!("{key}<{value}>")).collect::<String>()
        };
        assert_eq!(read(""), "");
        assert_eq!(read("host=a port=5432"), "host<a>port<5432>");
        assert_eq!(read("host = a   port= 5432 "), "host<a>port<5432>");
        assert_eq!(read("connect_query='set x = ''y''' user=b"), "connect_query<set x = 'y'>user<b>");
        assert_eq!(read("password=a=b'c user=x"), "password<a=b'c>user<x>");
        assert_eq!(read("host= port=1"), "host<port=1>");
    }

    #[test]
    fn what_is_wrong_is_named_but_not_shown() {
        for (text, error) in [
            ("secret", "expected key=value pairs; a value with spaces stands in '…'"),
            ("a b=secret", "expected key=value pairs; a value with spaces stands in '…'"),
            ("=secret", "expected key=value pairs; a value with spaces stands in '…'"),
            ("password='secret", "password: a ' is missing"),
            ("password='secret'x", "password: expected a space after the closing '"),
            ("password=", "password: has no value"),
            ("password=''", "password: has no value"),
            ("password=my s3cret=1", "password: a value with spaces stands in '…'"),
            ("password=my secret", "password: a value with spaces stands in '…'"),
        ] {
            assert_eq!(parse(text, known).unwrap_err(), error, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|[=' ]){0,60}") {
            let _ = parse(&text, known);
        }

        #[test]
        fn quoted_values_are_read(value in "\\PC{1,20}") {
            let text = format!("a='{}' b=1", value.replace('\'', "''"));
            let expected = vec![("a".to_owned(), value), ("b".to_owned(), "1".to_owned())];
            prop_assert_eq!(parse(&text, known), Ok(expected));
        }
    }
}
