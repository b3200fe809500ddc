//! Statements that differ only in their constants are the same: the form of a text in which they are, for statistics of
//! statements. As pg_stat_statements has it, but from the tokens: names, keywords and operators stay as they are, also
//! where another spelling would mean the same.

use super::{Lexer, Token, is_word, quoted_len};

/// As much of a text as is looked at, bytes.
const LOOKED_AT: usize = 64 * 1024;
/// What takes the place of a constant in the canonical form.
const CONSTANT: u8 = 1;
/// And of a list of several.
const LIST: u8 = 2;
/// Words behind which a minus belongs to the number that follows.
const BEFORE_OPERAND: [&[u8]; 24] = [
    b"all",
    b"and",
    b"any",
    b"array",
    b"between",
    b"by",
    b"case",
    b"default",
    b"distinct",
    b"else",
    b"from",
    b"having",
    b"in",
    b"is",
    b"like",
    b"limit",
    b"not",
    b"offset",
    b"or",
    b"returning",
    b"select",
    b"then",
    b"when",
    b"where",
];

/// A part of a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece {
    /// A keyword or an unquoted identifier.
    Word,
    /// A quoted identifier, an operator or a parameter, which stay as they are.
    Verbatim,
    /// A comma, a parenthesis and the like.
    Symbol(u8),
    /// A constant.
    Constant,
    /// Several constants or parameters with commas between them.
    List,
}

/// Splits a text into [`Piece`]s, with where they stand.
#[derive(Clone)]
struct Pieces<'a> {
    text: &'a [u8],
    lexer: Lexer<'a>,
    /// What went before, where anything did.
    before: Option<(Piece, usize, usize)>,
    /// What went before was `IN` or `ARRAY`.
    opens_list: bool,
    /// A list follows, which ends here.
    list: Option<usize>,
    /// Lists are folded.
    folds: bool,
}

impl<'a> Pieces<'a> {
    fn new(text: &'a [u8], backslashes: bool) -> Self {
        let text = &text[..text.len().min(LOOKED_AT)];
        let lexer = if backslashes { Lexer::with_backslashes(text) } else { Lexer::new(text) };
        Self { text, lexer, before: None, opens_list: false, list: None, folds: true }
    }

    fn skip(&mut self, len: usize) {
        Lexer::take(&mut self.lexer, len);
    }

    fn at(&self) -> usize {
        self.text.len() - self.lexer.rest.len()
    }

    /// Passes over the strings that continue one that has just been read.
    fn continued(&mut self) {
        loop {
            let before = self.lexer.clone();
            if !matches!(self.lexer.next(), Some(Token::Text(_))) {
                self.lexer = before;
                return;
            }
        }
    }

    /// A word, or what a word of one letter is the beginning of: `X'1F'`, `U&'…'`, `U&"…"`.
    fn word(&mut self, word: &[u8]) -> Piece {
        let (letter, rest) = (word[0].to_ascii_lowercase(), self.lexer.rest);
        if word.len() == 1 && matches!(letter, b'b' | b'n' | b'x') && rest.first() == Some(&b'\'') {
            self.lexer.next();
            self.continued();
            return Piece::Constant;
        }
        match (word.len(), letter, rest) {
            (1, b'u', [b'&', quote @ (b'\'' | b'"'), ..]) => {
                self.skip(1 + quoted_len(&rest[1..], *quote, false));
                if *quote == b'"' {
                    return Piece::Verbatim;
                }
                self.continued();
                Piece::Constant
            }
            _ => Piece::Word,
        }
    }

    /// Whether what went before may be the left side of an operator. Looked at for a minus alone: it is dear.
    fn follows_operand(&self) -> bool {
        let Some((piece, start, end)) = self.before else { return false };
        let bytes = &self.text[start..end];
        match piece {
            Piece::Word => !is_word(Some(Token::Word(bytes)), &BEFORE_OPERAND),
            Piece::Verbatim => !is_operator(bytes[0]),
            Piece::Symbol(symbol) => matches!(symbol, b')' | b']'),
            Piece::Constant | Piece::List => true,
        }
    }

    /// An operator that begins at `start`, or a number with its sign.
    fn operator(&mut self, start: usize) -> Piece {
        let len = operator_len(&self.text[start..]);
        self.skip(len - 1);
        if self.text[start..start + len] == *b"-" && !self.follows_operand() {
            let before = self.lexer.clone();
            self.lexer.skip_blank();
            let number = number_len(self.lexer.rest);
            if number > 0 {
                self.skip(number);
                return Piece::Constant;
            }
            self.lexer = before;
        }
        Piece::Verbatim
    }

    /// Where the list ends that begins here, if all of it are constants or parameters, and several.
    fn list_end(&self, close: u8) -> Option<usize> {
        let mut ahead = Self { folds: false, before: None, ..self.clone() };
        let mut items = 0;
        loop {
            let (item, range) = ahead.next()?;
            let is_parameter = item == Piece::Verbatim && self.text[range.start] == b'$';
            if item != Piece::Constant && !is_parameter {
                return None;
            }
            items += 1;
            let end = ahead.at();
            match ahead.next()?.0 {
                Piece::Symbol(b',') => {}
                Piece::Symbol(symbol) if symbol == close => return (items > 1).then_some(end),
                _ => return None,
            }
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = (Piece, std::ops::Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        self.lexer.skip_blank();
        let start = self.at();
        if let Some(end) = self.list.take() {
            self.skip(end - start);
            self.before = Some((Piece::List, start, end));
            return Some((Piece::List, start..end));
        }
        let token = self.lexer.next()?;
        let opens_list = std::mem::take(&mut self.opens_list);
        let piece = match token {
            Token::Word(word) => self.word(word),
            Token::Quoted(_) => Piece::Verbatim,
            Token::Text(_) => {
                self.continued();
                Piece::Constant
            }
            Token::Symbol(symbol) => match number_len(&self.text[start..]) {
                0 if is_operator(symbol) => self.operator(start),
                0 if symbol == b'$' && self.lexer.rest.first().is_some_and(u8::is_ascii_digit) => {
                    let digits = self.lexer.rest.iter().take_while(|b| b.is_ascii_digit()).count();
                    self.skip(digits);
                    Piece::Verbatim
                }
                0 => Piece::Symbol(symbol),
                len => {
                    self.skip(len - 1);
                    Piece::Constant
                }
            },
        };
        let range = start..self.at();
        self.before = Some((piece, range.start, range.end));
        let bytes = &self.text[range.clone()];
        self.opens_list =
            piece == Piece::Word && (bytes.eq_ignore_ascii_case(b"in") || bytes.eq_ignore_ascii_case(b"array"));
        if let (Piece::Symbol(open @ (b'(' | b'[')), true, true) = (piece, opens_list, self.folds) {
            self.list = self.list_end(if open == b'(' { b')' } else { b']' });
        }
        Some((piece, range))
    }
}

/// Whether an operator may have this character.
const fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'+' | b'-'
            | b'*'
            | b'/'
            | b'<'
            | b'>'
            | b'='
            | b'~'
            | b'!'
            | b'@'
            | b'#'
            | b'%'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
    )
}

/// Length of the operator that starts `text`, by PostgreSQL's rules: no comment begins in it, and one of several
/// characters ends in a sign only where it has another that no operator of SQL's own has.
fn operator_len(text: &[u8]) -> usize {
    let run = text.iter().position(|&b| !is_operator(b)).unwrap_or(text.len());
    let comment = (1..run).find(|&at| matches!(&text[at..], [b'-', b'-', ..] | [b'/', b'*', ..]));
    let mut len = comment.unwrap_or(run);
    let own = text[..len].iter().any(|b| b"~!@#%^&|`?".contains(b));
    while !own && len > 1 && matches!(text[len - 1], b'+' | b'-') {
        len -= 1;
    }
    len.max(1)
}

/// Length of the number that starts `text`; 0 for none.
fn number_len(text: &[u8]) -> usize {
    let digits = |from: usize, is: fn(u8) -> bool| {
        text.get(from..).map_or(0, |text| text.iter().take_while(|&&b| is(b) || b == b'_').count())
    };
    let decimal = |from: usize| digits(from, |b| b.is_ascii_digit());
    let starts = match text {
        [b'0', b'x' | b'X', b, ..] if b.is_ascii_hexdigit() || *b == b'_' => {
            return 2 + digits(2, |b| b.is_ascii_hexdigit());
        }
        [b'0', b'o' | b'O' | b'b' | b'B', b, ..] if b.is_ascii_digit() || *b == b'_' => return 2 + decimal(2),
        [first, ..] if first.is_ascii_digit() => true,
        [b'.', second, ..] => second.is_ascii_digit(),
        _ => false,
    };
    if !starts {
        return 0;
    }
    let mut len = decimal(0);
    if text.get(len) == Some(&b'.') && text.get(len + 1) != Some(&b'.') {
        len += 1;
        len += decimal(len);
    }
    match text.get(len..) {
        Some([b'e' | b'E', b'+' | b'-', b, ..]) if b.is_ascii_digit() => len + 2 + decimal(len + 2),
        Some([b'e' | b'E', b, ..]) if b.is_ascii_digit() => len + 1 + decimal(len + 1),
        _ => len,
    }
}

/// Writes what two texts have in common that differ only in constants, comments, white space, the case of unquoted
/// words and the length of lists: to be compared, not to be read. `backslashes` as in [`Lexer::with_backslashes`].
pub fn canonical(text: &[u8], backslashes: bool, out: &mut Vec<u8>) {
    for (piece, range) in Pieces::new(text, backslashes) {
        match piece {
            Piece::Word => {
                let from = out.len();
                out.extend_from_slice(&text[range]);
                out[from..].make_ascii_lowercase();
                out.push(b' ');
            }
            Piece::Verbatim => {
                out.extend_from_slice(&text[range]);
                out.push(b' ');
            }
            Piece::Symbol(symbol) => out.push(symbol),
            Piece::Constant => out.push(CONSTANT),
            Piece::List => out.push(LIST),
        }
    }
    // It may end in semicolons or not.
    while out.last() == Some(&b';') {
        out.pop();
    }
}

/// The text for people, at most `limit` bytes of it: with `$n` in the place of each constant, behind the numbers that it
/// has itself, and without comments.
#[must_use]
pub fn readable(text: &[u8], backslashes: bool, limit: usize) -> String {
    let pieces = || Pieces::new(text, backslashes);
    let number = |range: std::ops::Range<usize>| match &text[range] {
        [b'$', digits @ ..] => std::str::from_utf8(digits).ok()?.parse::<u32>().ok(),
        _ => None,
    };
    let unfolded = Pieces { folds: false, ..pieces() };
    let mut next = unfolded.filter_map(|(_, range)| number(range)).max().unwrap_or(0);
    let (mut out, mut end) = (Vec::new(), 0);
    for (piece, range) in pieces() {
        if range.start > end && !out.is_empty() {
            out.push(b' ');
        }
        end = range.end;
        match piece {
            Piece::Constant | Piece::List => {
                next = next.saturating_add(1);
                out.extend_from_slice(format!("${next}").as_bytes());
                if piece == Piece::List {
                    out.extend_from_slice(b" /*, ... */");
                }
            }
            _ => out.extend_from_slice(&text[range]),
        }
        if out.len() > limit {
            break;
        }
    }
    let text = String::from_utf8_lossy(out.trim_ascii_end()).into_owned();
    let text = text.trim_end_matches([';', ' ']);
    match (0..=limit).rfind(|&at| text.is_char_boundary(at)) {
        Some(at) if text.len() > limit => format!("{}…", &text[..at]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canon(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        canonical(text.as_bytes(), false, &mut out);
        out
    }

    fn read(text: &str) -> String {
        readable(text.as_bytes(), false, 1000)
    }

    #[test]
    fn constants_are_numbered() {
        for (text, want) in [
            ("select 1", "select $1"),
            (
                "SELECT  a,\n b -- x\nFROM t /* 'c' */ WHERE a = 'x''y' AND b=-1.5e-3;",
                "SELECT a, b FROM t WHERE a = $1 AND b=$2",
            ),
            ("select a - 1, a -1, (a) -1, -1, $1 - 1", "select a - $2, a -$3, (a) -$4, $5, $1 - $6"),
            ("select a=-1, a <-1, a@-1", "select a=$1, a <$2, a@-$3"),
            ("select E'a\\'b', U&'x' , X'1F', b'01', N'x', $$a$$, $x$b$x$", "select $1, $2 , $3, $4, $5, $6, $7"),
            ("select 'a'\n 'b', 0x1F, 1_000, .5, 5., 1e10", "select $1, $2, $3, $4, $5, $6"),
            ("select \"A1\", u&\"x\", a1, t1.c2", "select \"A1\", u&\"x\", a1, t1.c2"),
            ("insert into t values (1, $3, 'x')", "insert into t values ($4, $3, $5)"),
            (
                "select * from t where a in (1, -2,'x') and b in (1)",
                "select * from t where a in ($1 /*, ... */) and b in ($2)",
            ),
            (
                "select a from t where a in ($1,$2) or b = any(array[1,2])",
                "select a from t where a in ($3 /*, ... */) or b = any(array[$4 /*, ... */])",
            ),
            ("select a in (select 1, 2), b in (c, 1)", "select a in (select $1, $2), b in (c, $3)"),
            ("alter role x password 'secret'", "alter role x password $1"),
            ("copy t from stdin;;", "copy t from stdin"),
            ("", ""),
            ("select 1 limit - 5", "select $1 limit $2"),
            ("select 1--2\n+3", "select $1 +$2"),
        ] {
            assert_eq!(read(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_alike_is_the_same() {
        let same = [
            &["select 1", "SELECT 2 ;", "select/**/-'x'"[..].replace('-', "").leak(), "Select\t$$x$$ -- c"][..],
            &["select a from t where b in (1,2)", "select a from t where b in ('x', -3, 4.5, $1)"],
            &["select a<=1", "select a <= -5"],
            &["select 'a'", "select 'a'\n'b'"],
        ];
        for texts in same {
            for text in texts {
                assert_eq!(canon(text), canon(texts[0]), "{text}");
            }
        }
    }

    #[test]
    fn what_differs_is_not() {
        let texts = [
            "select 1",
            "select a",
            "select \"a\"",
            "select \"A\"",
            "select $1",
            "select $2",
            "select 1, 2",
            "select a-1",
            "select a @- 1",
            "select a @ -1",
            "select a in (1)",
            "select a in (1,2)",
            "select a in (b,2)",
            "select a.b",
            "select ab",
            "select a b",
            "select 1; select 1",
        ];
        for (at, one) in texts.iter().enumerate() {
            for other in &texts[at + 1..] {
                assert_ne!(canon(one), canon(other), "{one} / {other}");
            }
        }
    }

    #[test]
    fn backslashes_escape_where_the_session_says_so() {
        let text = br"select 'a\', secret, 'b\', x";
        assert_eq!(readable(text, false, 1000), "select $1, secret, $2, x");
        assert_eq!(readable(text, true, 1000), r"select $1b\$2");
    }

    #[test]
    fn long_texts_are_cut() {
        let cut = readable("select é1, é2, é3".as_bytes(), false, 8);
        assert_eq!(cut, "select …");
        assert_eq!(readable(b"select 1", false, 9), "select $1");
        let long = format!("select {} 'x' from t", "a,".repeat(LOOKED_AT));
        assert!(readable(long.as_bytes(), false, 100).len() < 110);
    }

    fn constant() -> impl Strategy<Value = String> {
        prop_oneof![
            "[0-9]{1,8}",
            "[0-9]{1,3}\\.[0-9]{0,3}(e[+-]?[0-9])?",
            "'[a-z ;$(,-]{0,8}(''[a-z]{0,3})?'",
            "E'[a-z]{0,4}(\\\\')?[a-z]{0,4}'",
            "\\$q\\$[a-z ';]{0,6}\\$q\\$",
        ]
    }

    fn blank() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(" ".to_owned()),
            Just("\n\t".into()),
            Just(" /* '(/* ; */ */ ".into()),
            Just(" -- ' x\n".into())
        ]
    }

    proptest! {
        #[test]
        fn any_text_has_a_form(text: Vec<u8>, backslashes: bool) {
            let mut out = Vec::new();
            canonical(&text, backslashes, &mut out);
            let _ = readable(&text, backslashes, 50);
        }

        #[test]
        fn constants_comments_and_blanks_do_not_matter(
            constants in proptest::collection::vec((constant(), constant()), 3),
            blanks in proptest::collection::vec(blank(), 6),
            list in proptest::collection::vec(constant(), 2..9),
        ) {
            let of = |c: [&str; 3], b: &[String], list: &str| {
                let [b0, b1, b2, b3, b4, b5] = b else { unreachable!() };
                format!("select{b0}a ,{} from t{b1}where{b2}x ={b3}{} and y in ({list}){b4}limit{b5}{}", c[0], c[1], c[2])
            };
            let plain = vec![" ".to_owned(); 6];
            let first = of([&constants[0].0, &constants[1].0, &constants[2].0], &plain, "1,2");
            let second = of([&constants[0].1, &constants[1].1, &constants[2].1], &blanks, &list.join(","));
            prop_assert_eq!(canon(&first), canon(&second));
            prop_assert_eq!(read(&first), "select a ,$1 from t where x = $2 and y in ($3 /*, ... */) limit $4");
        }

        /// What stands in constants is nowhere in what people read.
        #[test]
        fn no_constant_is_shown(marker in "[a-f]{12}", digits in 100_000_000u64..) {
            let text = format!(
                "select '{marker}', E'\\'{marker}', $a${marker}$a$, X'{marker}', U&'{marker}', -{digits}, a={digits}, \
                 f({digits}) in ('{marker}', {digits}) /* {marker} */ -- {marker}"
            );
            let shown = read(&text);
            prop_assert!(!shown.contains(&marker) && !shown.contains(&digits.to_string()), "{}", shown);
        }
    }
}
