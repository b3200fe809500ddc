//! A text without its plain numbers and strings, found in one pass: texts of one shape have one [`super::normal`] form, so
//! that the form needs to be worked out only for the first of them.
//!
//! It is no form itself: texts that mean the same may differ in shape. Wherever telling would take a lexer (comments,
//! dollar quotes, strings with a letter in front) there is none.

/// Texts longer than this have no shape, bytes.
const LONGEST: usize = 8 * 1024;
/// What takes the place of a number or of what is in a string; no text has it.
const HOLE: u8 = 0;

/// What a byte may begin.
const fn is_plain(byte: u8) -> bool {
    !(byte.is_ascii_digit() || matches!(byte, b'\'' | b'"' | b'$' | b'-' | b'/'))
}

const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = is_plain(byte as u8);
        byte += 1;
    }
    table
};

/// A letter, digit or the like, which makes one token with its neighbours.
const fn joins(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

/// Appends the shape of `text` to `out`. Without one it gives `false`, and what it has appended means nothing.
///
/// For sessions with `standard_conforming_strings`.
pub fn shape(text: &[u8], out: &mut Vec<u8>) -> bool {
    if text.len() > LONGEST {
        return false;
    }
    let (mut at, mut kept) = (0, 0);
    loop {
        while text.get(at).is_some_and(|&byte| PLAIN[byte as usize]) {
            at += 1;
        }
        let Some(&byte) = text.get(at) else { break };
        let before = at.checked_sub(1).map(|before| text[before]);
        let hole = match byte {
            b'\'' if before.is_some_and(|byte| joins(byte) || byte == b'&') => return false,
            b'\'' => string_len(&text[at..]).map(|len| (1, len)),
            b'"' => text[at + 1..].iter().position(|&byte| byte == b'"').map(|len| (len + 2, 0)),
            b'$' => None,
            b'-' | b'/' if matches!(text.get(at + 1), Some(b'-' | b'*')) => None,
            b'-' | b'/' => Some((1, 0)),
            _ => Some(number(&text[at..], before)),
        };
        let Some((verbatim, left_out)) = hole else { return false };
        at += verbatim;
        if left_out > 0 {
            out.extend_from_slice(&text[kept..at]);
            out.push(HOLE);
            at += left_out;
            kept = at;
        }
    }
    out.extend_from_slice(&text[kept..]);
    true
}

/// Of digits: how many stay, and how many may be others.
fn number(text: &[u8], before: Option<u8>) -> (usize, usize) {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // `x1` is a name, `0x1` another kind of number.
    let alone = !before.is_some_and(joins) && !text.get(digits).copied().is_some_and(joins);
    if alone { (0, digits) } else { (digits, 0) }
}

/// How long a string is behind its first quote, the last one included.
fn string_len(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += text[at..].iter().position(|&byte| byte == b'\'')? + 1;
        if text.get(at) != Some(&b'\'') {
            return Some(at - 1);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::normal;
    use super::*;

    fn of(text: &str) -> Option<String> {
        let mut out = Vec::new();
        shape(text.as_bytes(), &mut out).then(|| String::from_utf8(out).unwrap().replace('\0', "?"))
    }

    #[test]
    fn numbers_and_strings_leave_holes() {
        for (text, expected) in [
            ("", ""),
            (
                "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
                "SELECT abalance FROM pgbench_accounts WHERE aid = ?;",
            ),
            ("select 1, -2.50 , 'it''s', t1.c2", "select ?, -?.? , '?, t1.c2"),
            ("select ''", "select '?"),
            ("select \"a 1\", 0x1f, 1e5, 1_000", "select \"a 1\", 0x1f, 1e5, 1_000"),
            ("select 4/2 - 1", "select ?/? - ?"),
        ] {
            assert_eq!(of(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_takes_a_lexer_has_none() {
        for text in [
            "select $1",
            "select $$1$$",
            "select 1 -- 2",
            "select /* 1 */ 2",
            "select e'\\'1'",
            "select U&'1'",
            "select '1",
            "select \"1",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(of(&"1".repeat(LONGEST + 1)), None);
    }

    fn canonical(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        normal::canonical(text, false, &mut out);
        out
    }

    const PARTS: [&str; 32] = [
        "select ", "1", "23", "'a'", "'b''c'", "x", "x1", "0x", "0", "e5", ".", "-", "--", "\n", "/*", "*/", "\"a1\"",
        "$1", "$$", "E", "'", "\"", "in (", ",", ")", "::", "_", "é", "U&", " ", "\\", "array[",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        /// Others of the same shape, made by putting other digits and letters where some are.
        #[test]
        fn texts_of_one_shape_have_one_form(
            parts in prop::collection::vec(0..PARTS.len(), 0..14),
            others in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&b"0123456789ax' -"[..])), 1..6),
        ) {
            let text: String = parts.iter().map(|&part| PARTS[part]).collect();
            let mut other = text.clone().into_bytes();
            for (index, byte) in others {
                if !other.is_empty() {
                    let at = index.index(other.len());
                    if other[at].is_ascii() {
                        other[at] = byte;
                    }
                }
            }
            let (mut one, mut two) = (Vec::new(), Vec::new());
            if shape(text.as_bytes(), &mut one) && shape(&other, &mut two) && one == two {
                prop_assert_eq!(canonical(text.as_bytes()), canonical(&other), "{}", String::from_utf8_lossy(&other));
            }
        }
    }
}
