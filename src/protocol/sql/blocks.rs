//! What stands in the body of a `DO`: the parameters with a dot that it sets, which can only be asked for by name.

use super::{Lexer, Token, is_word, parameter};

/// The names, in lower case, from what follows `DO`.
pub(super) fn sets_within(statement: Lexer<'_>) -> Vec<Box<str>> {
    let texts = statement.take_while(|&token| token != Token::Symbol(b';'));
    let bodies = texts.filter_map(|token| if let Token::Text(text) = token { Some(body(text)) } else { None });
    let mut names = Vec::new();
    for body in bodies {
        let mut tokens = Lexer::new(body);
        while let Some(token) = tokens.next() {
            if is_word(Some(token), &[b"set"]) {
                names.extend(name(tokens.clone()));
            }
        }
    }
    names
}

/// What is between the quotes of a constant.
fn body(text: &[u8]) -> &[u8] {
    let quote = match text.first() {
        Some(b'$') => 2 + text[1..].iter().position(|&b| b == b'$').unwrap_or(0),
        _ => 1,
    };
    text.get(quote..text.len().saturating_sub(quote)).unwrap_or_default()
}

/// The parameter that SET, which the tokens follow, is about, if its name has a dot.
fn name(mut tokens: Lexer<'_>) -> Option<Box<str>> {
    let mut name = parameter(&mut tokens)?;
    if name == "session" {
        name = parameter(&mut tokens)?;
    }
    // One that needs more than plain quotes isn't worth the care.
    (name.contains('.') && !name.contains(['\\', '\''])).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use crate::protocol::settings::Settings;

    #[test]
    fn parameters_that_blocks_set_are_named() {
        for (text, want) in [
            (
                "do $$begin set app.tenant = '5'; SET SESSION \"App\".other to 'x'; end$$",
                &["app.tenant", "app.other"][..],
            ),
            ("do language plpgsql $x$begin set a.b = $$c$$; end$x$", &["a.b"]),
            ("DO 'begin set a.b = 1; end'; select 1", &["a.b"]),
            ("do $$begin set work_mem = 1; set local a.b = 2; end$$", &[]),
            ("do $$", &[]),
            ("do '", &[]),
            ("do $$set", &[]),
        ] {
            let reading = read(text.as_bytes(), &Settings::default());
            let names: Vec<&str> = reading.names.iter().map(AsRef::as_ref).collect();
            assert_eq!(names, want, "{text}");
        }
    }
}
