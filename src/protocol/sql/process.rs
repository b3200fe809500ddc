//! What depends on the server's process rather than on the session: its number, its statistics, the libraries that it
//! has loaded, the temporary schema that it has had.

use super::{Lexer, Token, is_word, unquote};

/// Parameters of PL/pgSQL. Another of its prefix is refused by a server that has loaded it, of whichever client, and
/// taken by one that hasn't.
const PLPGSQL: [&str; 5] =
    ["check_asserts", "extra_errors", "extra_warnings", "print_strict_params", "variable_conflict"];

/// Whether what becomes of setting a parameter, by its name in lower case, depends on what the server has run before,
/// or who sets it watches the statistics of its own session.
pub(super) fn is_of_process(name: &str) -> bool {
    name == "stats_fetch_consistency" || name.strip_prefix("plpgsql.").is_some_and(|name| !PLPGSQL.contains(&name))
}

/// Whether a `search_path`, from what follows its name on, has new objects be temporary.
pub(super) fn leads_to_temporary(value: Lexer<'_>) -> bool {
    let sign = |token: &Token<'_>| *token == Token::Symbol(b'=') || is_word(Some(*token), &[b"to"]);
    leads(value.skip_while(sign).map_while(|token| match token {
        Token::Symbol(b',') => Some(None),
        Token::Word(word) => Some(Some(word.to_ascii_lowercase())),
        Token::Quoted(quoted) => Some(Some(unquote(quoted))),
        Token::Text(text) => Some(Some(text.get(1..text.len() - 1).unwrap_or_default().to_vec())),
        Token::Symbol(_) => None,
    }))
}

/// As [`leads_to_temporary`], of the value of the parameter.
#[must_use]
pub fn makes_temporary(search_path: &str) -> bool {
    leads(search_path.split(',').map(|name| Some(unquote(name.trim().as_bytes()))))
}

/// Whether the first of these schemas that surely exists is the temporary one.
fn leads(names: impl Iterator<Item = Option<Vec<u8>>>) -> bool {
    names.flatten().find(|name| name != b"$user").is_some_and(|name| name == b"pg_temp")
}

/// Whether the text writes its server's process number somewhere. One that only compares it doesn't.
pub(super) fn writes_process_number(text: &[u8]) -> bool {
    const WRITES: [&[u8]; 3] = [b"insert", b"update", b"merge"];
    const CONDITIONS: [&[u8]; 5] = [b"where", b"on", b"and", b"or", b"having"];
    const VALUES: [&[u8]; 3] = [b"set", b"values", b"select"];
    let (mut writes, mut condition) = (false, false);
    let mut last = [None; 4];
    let mut tokens = Lexer::new(text);
    while let Some(token) = tokens.next() {
        if token == Token::Symbol(b';') {
            (writes, condition) = (false, false);
        }
        writes |= is_word(Some(token), &WRITES);
        condition |= is_word(Some(token), &CONDITIONS);
        condition &= !is_word(Some(token), &VALUES);
        if writes && is_word(Some(token), &[b"pg_backend_pid"]) {
            // Perhaps with its schema.
            let at = if last[0] == Some(Token::Symbol(b'.')) { 2 } else { 0 };
            let behind = tokens.clone().find(|token| !matches!(token, Token::Symbol(b'(' | b')')));
            let compared = is_sign(last[at]) && (condition || is_sign(last[at + 1])) || is_sign(behind);
            if !compared {
                return true;
            }
        }
        last = [Some(token), last[0], last[1], last[2]];
    }
    false
}

fn is_sign(token: Option<Token<'_>>) -> bool {
    matches!(token, Some(Token::Symbol(b'=' | b'<' | b'>' | b'!')))
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;
    use crate::protocol::session::Taint;
    use crate::protocol::settings::Settings;

    fn has(text: &str, taint: Taint) -> bool {
        read(text.as_bytes(), &Settings::default()).taint.has(taint)
    }

    #[test]
    fn what_depends_on_the_process() {
        for text in [
            "SET search_path TO 'pg_temp'",
            "set search_path = pg_temp, public",
            "set session search_path to \"$user\", Pg_Temp",
            "set schema 'pg_temp'",
            "select pg_stat_force_next_flush()",
            "select * from pg_stat_xact_user_tables",
            "SELECT pg_stat_get_xact_function_calls(1)",
            "set stats_fetch_consistency = none",
            "begin; set local stats_fetch_consistency = snapshot",
            "select set_config('stats_fetch_consistency', 'none', false)",
            "set plpgsql.extra_foo_warnings = true",
        ] {
            assert!(has(text, Taint::Process), "{text}");
        }
        for text in [
            "set search_path = public, pg_temp",
            "set search_path = \"$user\", public",
            "set search_path to default",
            "set search_path = \"PG_TEMP\"",
            "select * from pg_stat_user_tables",
            "set plpgsql.extra_warnings = 'all'",
            "set my.plpgsql = 1",
            "set local work_mem = 1",
            "select 'pg_temp'",
        ] {
            assert!(!has(text, Taint::Process), "{text}");
        }
    }

    #[test]
    fn values_of_search_path() {
        for (value, want) in [
            ("pg_temp", true),
            ("pg_temp, public", true),
            ("\"$user\", pg_temp", true),
            ("\"pg_temp\"", true),
            ("public, pg_temp", false),
            ("\"$user\", public", false),
            ("", false),
        ] {
            assert_eq!(makes_temporary(value), want, "{value}");
        }
    }

    #[test]
    fn one_who_ends_its_own_server() {
        for (text, ends) in [
            ("select pg_terminate_backend(pg_backend_pid())", true),
            ("SELECT Pg_Terminate_Backend(pg_catalog.Pg_Backend_Pid())", true),
            ("select pg_terminate_backend(5)", false),
            ("select pg_backend_pid()", false),
        ] {
            assert_eq!(has(text, Taint::EndsServer), ends, "{text}");
        }
    }

    #[test]
    fn process_numbers_that_are_written_down() {
        for text in [
            "INSERT INTO pids SELECT pg_backend_pid()",
            "insert into a values (1, pg_catalog.pg_backend_pid())",
            "update jobs set worker = Pg_Backend_Pid() where id = 5",
            "update jobs set worker = pg_backend_pid(), at = now()",
            "with x as (insert into a values (pg_backend_pid()) returning *) select * from x",
            "insert into a select 1 where true; insert into a values (pg_backend_pid())",
        ] {
            assert!(has(text, Taint::ProcessNumber), "{text}");
        }
        for text in [
            "select pg_backend_pid()",
            "select * from pg_stat_activity where pid <> pg_backend_pid()",
            "insert into seen select pid from pg_stat_activity where pid <> pg_backend_pid()",
            "insert into seen select pid from pg_stat_activity where pid != pg_catalog.pg_backend_pid()",
            "insert into seen select 1 from pg_locks where pid = pg_backend_pid()",
            "insert into seen select 1 from pg_locks where pg_backend_pid() = pid",
            "update jobs set a = 1 where worker = pg_backend_pid()",
            "insert into a values ('pg_backend_pid()')",
            "delete from jobs where worker = pg_backend_pid(); select pg_backend_pid()",
        ] {
            assert!(!has(text, Taint::ProcessNumber), "{text}");
        }
    }
}
