//! Regular expressions of hba and ident files.
//!
//! PostgreSQL's (Tcl's "advanced" ones) and the `regex` crate's look alike but aren't the same, and a pattern that
//! silently means something else lets the wrong people in. So a pattern is taken apart and written anew from what
//! means the same in both, in the C collation that PostgreSQL uses here; all else is refused.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

/// The compiled size of a pattern, bytes.
const SIZE_LIMIT: usize = 1 << 20;
/// The highest number in braces, PostgreSQL's.
const REPEAT_LIMIT: u32 = 255;

/// A pattern, searched for anywhere in a name unless it is anchored. Two are equal when they are written alike.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    text: String,
    regex: Regex,
    /// Whether what a group captures is the same by PostgreSQL's rules, which prefer the longest match as a whole.
    captures_alike: bool,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, or not supported.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut writer = Writer { rest: text.chars().peekable(), out: String::new(), captures_alike: true };
        let written = writer.write();
        let invalid = |why: String| format!("invalid regular expression \"{text}\": {why}");
        written.map_err(invalid)?;
        let built = RegexBuilder::new(&writer.out).dot_matches_new_line(true).size_limit(SIZE_LIMIT).build();
        let regex = built.map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => invalid("it is too large".into()),
            // The last line of several says what is wrong, in a text that isn't quite the operator's.
            error => invalid(error.to_string().lines().last().unwrap_or_default().trim().to_owned()),
        })?;
        Ok(Self { text: text.to_owned(), regex, captures_alike: writer.captures_alike })
    }

    /// Whether it is found in a name.
    pub(super) fn is_match(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }

    /// Whether [`Pattern::capture`] can be used.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_capture(&self) -> Result<(), String> {
        if self.regex.captures_len() < 2 {
            return Err(format!("\\1 is used, but the regular expression \"{}\" has no parentheses", self.text));
        }
        if !self.captures_alike {
            let text = &self.text;
            return Err(format!("\\1 of a regular expression with | or a non-greedy quantifier (\"{text}\")"));
        }
        Ok(())
    }

    /// What the first group captures where the pattern matches.
    pub(super) fn capture<'n>(&self, name: &'n str) -> Option<&'n str> {
        self.regex.captures(name)?.get(1).map(|group| group.as_str())
    }
}

struct Writer<'t> {
    rest: Peekable<Chars<'t>>,
    out: String,
    captures_alike: bool,
}

impl Writer<'_> {
    fn write(&mut self) -> Result<(), String> {
        let mut is_atom = false;
        while let Some(c) = self.rest.next() {
            match c {
                '(' => {
                    self.group()?;
                    is_atom = false;
                    continue;
                }
                '[' => self.bracket()?,
                '\\' => self.escape()?,
                '|' | '^' => {
                    self.captures_alike &= c != '|';
                    self.out.push(c);
                    is_atom = false;
                    continue;
                }
                '*' | '+' | '?' => {
                    self.quantified(is_atom)?;
                    self.out.push(c);
                    self.after_quantifier()?;
                    is_atom = false;
                    continue;
                }
                '{' if self.rest.peek().is_some_and(char::is_ascii_digit) => {
                    self.quantified(is_atom)?;
                    self.repetition()?;
                    self.after_quantifier()?;
                    is_atom = false;
                    continue;
                }
                '.' | ')' => self.out.push(c),
                '$' => {
                    self.out.push(c);
                    is_atom = false;
                    continue;
                }
                c => self.literal(c),
            }
            is_atom = true;
        }
        Ok(())
    }

    fn literal(&mut self, c: char) {
        self.out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    }

    #[expect(clippy::unused_self, reason = "reads as the others")]
    fn quantified(&self, is_atom: bool) -> Result<(), String> {
        is_atom.then_some(()).ok_or_else(|| "a quantifier stands behind nothing that it could repeat".into())
    }

    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        if self.rest.next_if_eq(&'?').is_some() {
            match self.rest.next() {
                Some(':') => self.out.push_str("?:"),
                _ => return Err("of the constructs with (? only (?: is supported".into()),
            }
        }
        Ok(())
    }

    /// `{m}`, `{m,}`, `{m,n}`, behind the brace.
    fn repetition(&mut self) -> Result<(), String> {
        let mut text = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_digit() || *c == ',') {
            text.push(c);
        }
        if self.rest.next() != Some('}') {
            return Err("a repetition is {m}, {m,} or {m,n}".into());
        }
        let (least, most) = text.split_once(',').unwrap_or((&text, &text));
        let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n <= REPEAT_LIMIT);
        let most = if most.is_empty() { Some(REPEAT_LIMIT) } else { number(most) };
        match (number(least), most) {
            (Some(least), Some(most)) if least <= most => {
                // Writing to a string can't fail.
                let _ = write!(self.out, "{{{text}}}");
                Ok(())
            }
            _ => Err(format!("a repetition is {{m}}, {{m,}} or {{m,n}} with numbers up to {REPEAT_LIMIT}")),
        }
    }

    fn after_quantifier(&mut self) -> Result<(), String> {
        if self.rest.next_if_eq(&'?').is_some() {
            self.captures_alike = false;
            self.out.push('?');
        }
        match self.rest.peek() {
            Some('*' | '+' | '?') => Err("a quantifier stands behind another".into()),
            Some('{') => Err("a brace stands behind a quantifier".into()),
            _ => Ok(()),
        }
    }

    fn escape(&mut self) -> Result<(), String> {
        let Some(c) = self.rest.next() else { return Err("it ends with a backslash".into()) };
        match c {
            'd' => self.out.push_str("[0-9]"),
            'w' => self.out.push_str("[0-9A-Za-z_]"),
            's' => self.out.push_str(r"[\t\n\x0B\x0C\r ]"),
            'D' => self.out.push_str("[^0-9]"),
            'W' => self.out.push_str("[^0-9A-Za-z_]"),
            'S' => self.out.push_str(r"[^\t\n\x0B\x0C\r ]"),
            c if c.is_ascii_alphanumeric() => return Err(format!("the escape \\{c} is not supported")),
            c => self.literal(c),
        }
        Ok(())
    }

    /// A bracket expression, behind its opening bracket.
    fn bracket(&mut self) -> Result<(), String> {
        const OPEN: &str = "a bracket isn't closed";
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let c = self.rest.next().ok_or(OPEN)?;
            match c {
                ']' if !first => break,
                '[' if matches!(self.rest.peek(), Some(':')) => self.class()?,
                '[' if matches!(self.rest.peek(), Some('.' | '=')) => {
                    return Err("collating elements ([. and [=) are not supported".into());
                }
                c => self.range(c)?,
            }
            first = false;
        }
        self.out.push(']');
        Ok(())
    }

    /// One character of a bracket expression, or a range that starts with it.
    fn range(&mut self, c: char) -> Result<(), String> {
        let Some(from) = self.bracket_character(c)? else { return Ok(()) };
        let mut ahead = self.rest.clone();
        let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']');
        put_in_bracket(&mut self.out, from);
        if is_range {
            self.rest.next();
            let Some(c) = self.rest.next().filter(|c| *c != '[') else {
                return Err("a range ends with a bracket".into());
            };
            let Some(to) = self.bracket_character(c)? else { return Err("a range ends with a class".into()) };
            if to < from {
                return Err(format!("the range {from}-{to} is empty"));
            }
            self.out.push('-');
            put_in_bracket(&mut self.out, to);
            // What `a-b-c` would be is nobody's guess.
            let mut ahead = self.rest.clone();
            if ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']') {
                return Err("a range is followed by a dash".into());
            }
        }
        Ok(())
    }

    /// The character that stands here; nothing when it was a class such as `\d`, which has been written.
    fn bracket_character(&mut self, c: char) -> Result<Option<char>, String> {
        if c != '\\' {
            return Ok(Some(c));
        }
        match self.rest.next() {
            Some('d') => self.out.push_str("0-9"),
            Some('w') => self.out.push_str("0-9A-Za-z_"),
            Some('s') => self.out.push_str(r"\t\n\x0B\x0C\r "),
            Some(c) if !c.is_ascii_alphanumeric() => return Ok(Some(c)),
            Some(c) => return Err(format!("the escape \\{c} in brackets is not supported")),
            None => return Err("a bracket isn't closed".into()),
        }
        Ok(None)
    }

    /// `[:alpha:]` and so on within brackets, behind the first of its own.
    fn class(&mut self) -> Result<(), String> {
        const CLASSES: [&str; 13] = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper",
            "xdigit",
        ];
        self.rest.next();
        let mut name = String::new();
        while let Some(c) = self.rest.next_if(char::is_ascii_lowercase) {
            name.push(c);
        }
        let closed = self.rest.next() == Some(':') && self.rest.next() == Some(']');
        if !closed || !CLASSES.contains(&name.as_str()) {
            return Err(format!("[:{name}: is not a character class"));
        }
        let _ = write!(self.out, "[:{name}:]");
        Ok(())
    }
}

/// Characters in brackets that mean something to the `regex` crate lose that.
fn put_in_bracket(out: &mut String, c: char) {
    if c.is_ascii_punctuation() {
        out.push('\\');
    }
    out.push(c);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn matching() {
        for (pattern, name, expected) in [
            ("b", "abc", true),
            ("^b", "abc", false),
            ("^a.c$", "abc", true),
            ("^a.c$", "a\nc", true),
            (r"^db\d{2,3}$", "db12", true),
            (r"^db\d{2,3}$", "db1", false),
            (r"^\w+$", "ä", false),
            (r"^[[:alpha:]_]+$", "ab_c", true),
            (r"^[]a]+$", "]a", true),
            (r"^[^]a]+$", "]a", false),
            (r"^[a&&b]+$", "&", true),
            (r"^[a-c-]+$", "a-", true),
            (r"^[\d\-x]+$", "1-x", true),
            (r"^[[]+$", "[", true),
            (r"^a{,2}$", "a{,2}", true),
            (r"^a\.b$", "a.b", true),
            (r"^a\.b$", "axb", false),
            (r"^(?:a|b)+$", "ab", true),
            ("^~~x--$", "~~x--", true),
            (r"^a+?$", "aaa", true),
            ("é", "café", true),
            ("", "anything", true),
        ] {
            let parsed = Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert_eq!(parsed.is_match(name), expected, "{pattern} in {name}");
        }
    }

    #[test]
    fn what_may_mean_something_else_is_refused() {
        for pattern in [
            r"\bx",
            r"\<x",
            r"\mx\M",
            r"(?i)x",
            r"(?=x)",
            r"(a)\1",
            r"\x41",
            r"\pL",
            "[[=a=]]",
            "[[.a.]]",
            "[[:word:]]",
            "*a",
            "a**",
            "a{2}{3}",
            "a{300}",
            "a{2",
            "a{3,2}",
            "[a",
            "[z-a]",
            "[a-c-e]",
            "(a",
            "a)",
            "a\\",
            r"\Ax",
            "^*",
            "(((a{200}){200}){200}){200}",
        ] {
            // `\<` is a plain < to PostgreSQL, and so here.
            if pattern == r"\<x" {
                assert!(Pattern::parse(pattern).unwrap().is_match("<x"));
                continue;
            }
            let error = Pattern::parse(pattern).expect_err(pattern);
            assert!(error.contains(pattern), "{error}");
        }
    }

    #[test]
    fn captures() {
        let capture = |pattern: &str, name| Pattern::parse(pattern).unwrap().capture(name).map(str::to_owned);
        assert_eq!(capture("^(.*)@example\\.com$", "ann@example.com").as_deref(), Some("ann"));
        assert_eq!(capture("^(.*)@example\\.com$", "ann@example.org"), None);
        let check = |pattern: &str| Pattern::parse(pattern).unwrap().check_capture().is_ok();
        assert!(check("^(.*)@x$") && !check("^.*@x$") && !check("^(a|ab)") && !check("^(a+?)"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|[\\[\\](){}|\\\\*+?^$.:=a-c0-9-]){0,24}", name in "\\PC{0,10}") {
            if let Ok(pattern) = Pattern::parse(&text) {
                let _ = (pattern.is_match(&name), pattern.capture(&name), pattern.check_capture());
            }
        }

        #[test]
        fn a_word_is_found_as_it_is(word in "[a-z0-9_&~-]{1,12}") {
            let pattern = Pattern::parse(&format!("^{word}$")).unwrap();
            let longer = format!("{word}x");
            prop_assert!(pattern.is_match(&word) && !pattern.is_match(&longer));
        }
    }
}
