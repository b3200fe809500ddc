//! Text to fields: PostgreSQL's rules for quotes, comments, continued lines, lists and included files.
//!
//! Files come through [`Sources`], so that the reader itself does no I/O. Invariant: whatever a file includes, the
//! work is bounded ([`DEPTH_LIMIT`], [`SIZE_LIMIT`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How deep files may include others; PostgreSQL's bound.
const DEPTH_LIMIT: usize = 10;
/// How much text a file may come to with all that it includes, bytes.
const SIZE_LIMIT: usize = 16 << 20;

/// Where the text of files comes from.
pub(crate) trait Sources {
    /// A file's text.
    ///
    /// # Errors
    /// Why it can't be read.
    fn read(&self, path: &Path) -> Result<String, String>;

    /// Whether there is such a file.
    fn exists(&self, path: &Path) -> bool;

    /// The files of a directory.
    ///
    /// # Errors
    /// Why it can't be read.
    fn list(&self, directory: &Path) -> Result<Vec<PathBuf>, String>;
}

/// The files of the system.
#[derive(Debug)]
pub(crate) struct Disk;

impl Sources for Disk {
    fn read(&self, path: &Path) -> Result<String, String> {
        crate::config::document::read_text(path)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn list(&self, directory: &Path) -> Result<Vec<PathBuf>, String> {
        let entries = std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(|error| format!("cannot be read: {error}"))?;
        Ok(entries.iter().map(std::fs::DirEntry::path).filter(|path| path.is_file()).collect())
    }
}

/// No files at all.
#[derive(Debug)]
pub(super) struct Nothing;

impl Sources for Nothing {
    fn read(&self, _: &Path) -> Result<String, String> {
        Err("no files are included here".into())
    }

    fn exists(&self, _: &Path) -> bool {
        false
    }

    fn list(&self, _: &Path) -> Result<Vec<PathBuf>, String> {
        Err("no files are included here".into())
    }
}

/// A word, and whether it began with a quote, which takes its special meaning from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) quoted: bool,
}

impl Token {
    /// Whether it is this word with its special meaning.
    pub(super) fn is_keyword(&self, word: &str) -> bool {
        !self.quoted && self.text == word
    }
}

/// A list of words separated by commas.
pub(super) type Field = Vec<Token>;

/// A line of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1; the first one of several that are continued.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What is wrong, and where.
pub(crate) type Fault = (Place, String);

/// One line with something on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) place: Place,
    pub(super) fields: Vec<Field>,
}

/// Reads files into records.
pub(super) struct Reader<'s> {
    sources: &'s dyn Sources,
    /// Text read so far, bytes.
    size: usize,
    pub(super) faults: Vec<Fault>,
}

impl<'s> Reader<'s> {
    pub(super) fn new(sources: &'s dyn Sources) -> Self {
        Self { sources, size: 0, faults: Vec::new() }
    }

    /// Reads a file with all that it includes.
    ///
    /// # Errors
    /// Why the file itself can't be read; other faults are kept.
    pub(super) fn file(&mut self, path: &Path) -> Result<Vec<Record>, String> {
        let text = self.read(path, 0)?;
        let mut records = Vec::new();
        self.text(path, &text, 0, &mut records);
        Ok(records)
    }

    fn read(&mut self, path: &Path, depth: usize) -> Result<String, String> {
        let named = |message: String| format!("{}: {message}", path.display());
        if depth > DEPTH_LIMIT {
            return Err(named(format!("included more than {DEPTH_LIMIT} levels deep")));
        }
        let text = self.sources.read(path).map_err(named)?;
        self.size += text.len() + 1;
        match self.size > SIZE_LIMIT {
            true => Err(named(format!("the files come to more than {SIZE_LIMIT} bytes"))),
            false => Ok(text),
        }
    }

    /// Reads the text of a file.
    pub(super) fn text(&mut self, path: &Path, text: &str, depth: usize, records: &mut Vec<Record>) {
        let file: Arc<Path> = path.into();
        for (line, text) in logical_lines(text) {
            let place = Place { file: Arc::clone(&file), line };
            let read = self.fields(&text, path, depth).and_then(|fields| match include(&fields) {
                Some((how, name)) => self.include(how, &name.text, path, depth, records),
                None => {
                    if !fields.is_empty() {
                        records.push(Record { place: place.clone(), fields });
                    }
                    Ok(())
                }
            });
            if let Err(message) = read {
                self.faults.push((place, message));
                // A file that includes itself would say the same over and over.
                if self.size > SIZE_LIMIT {
                    return;
                }
            }
        }
    }

    fn include(
        &mut self,
        how: Include,
        name: &str,
        from: &Path,
        depth: usize,
        records: &mut Vec<Record>,
    ) -> Result<(), String> {
        let path = beside(from, name);
        let files = match how {
            Include::File => vec![path],
            Include::IfExists if !self.sources.exists(&path) => return Ok(()),
            Include::IfExists => vec![path],
            Include::Directory => {
                let listed = self.sources.list(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                let mut files: Vec<PathBuf> = listed.into_iter().filter(|file| is_configuration(file)).collect();
                files.sort();
                files
            }
        };
        for file in files {
            let text = self.read(&file, depth + 1)?;
            self.text(&file, &text, depth + 1, records);
        }
        Ok(())
    }

    fn fields(&mut self, line: &str, path: &Path, depth: usize) -> Result<Vec<Field>, String> {
        let mut fields = Vec::new();
        let mut rest = line;
        while !rest.is_empty() {
            let mut field = Field::new();
            loop {
                let (word, behind) = next_word(rest)?;
                rest = behind;
                let Some(Word { token, comma }) = word else { break };
                match token.text.strip_prefix('@').filter(|name| !token.quoted && !name.is_empty()) {
                    Some(name) => field.extend(self.words_of(&beside(path, name), depth)?),
                    None => field.push(token),
                }
                if !comma {
                    break;
                }
            }
            // A list may come from an empty file.
            if !field.is_empty() {
                fields.push(field);
            }
        }
        Ok(fields)
    }

    /// All words of a file, for `@FILE`.
    fn words_of(&mut self, path: &Path, depth: usize) -> Result<Vec<Token>, String> {
        let text = self.read(path, depth + 1)?;
        let mut records = Vec::new();
        self.text(path, &text, depth + 1, &mut records);
        Ok(records.into_iter().flat_map(|record| record.fields).flatten().collect())
    }
}

#[derive(Clone, Copy)]
enum Include {
    File,
    IfExists,
    Directory,
}

/// Whether a line asks for another file.
fn include(fields: &[Field]) -> Option<(Include, Token)> {
    let [how, name] = fields else { return None };
    let how = match how.first()?.text.as_str() {
        "include" => Include::File,
        "include_if_exists" => Include::IfExists,
        "include_dir" => Include::Directory,
        _ => return None,
    };
    Some((how, name.first()?.clone()))
}

/// PostgreSQL's rule for the files of a directory.
fn is_configuration(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    !name.starts_with('.') && name.len() > ".conf".len() && name.ends_with(".conf")
}

/// A relative name starts from the directory of the file that has it.
fn beside(file: &Path, name: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(name)
}

/// The lines, each with the ones that continue it and the number of its first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut current: Option<(usize, String)> = None;
    for (index, line) in text.split('\n').enumerate() {
        let line = line.trim_end_matches('\r');
        let (_, whole) = current.get_or_insert_with(|| (index + 1, String::new()));
        match line.strip_suffix('\\') {
            Some(line) => whole.push_str(line),
            None => {
                whole.push_str(line);
                lines.extend(current.take());
            }
        }
    }
    lines.extend(current);
    lines
}

struct Word {
    token: Token,
    /// Whether a comma follows, and so more of the list.
    comma: bool,
}

/// The next word of a line, and what comes behind it.
fn next_word(line: &str) -> Result<(Option<Word>, &str), String> {
    let is_blank = |c: char| matches!(c, ' ' | '\t' | '\r');
    let start = line.trim_start_matches(|c| is_blank(c) || c == ',');
    let mut text = String::new();
    let (mut in_quote, mut was_quote, mut saw_quote, mut quoted, mut comma) = (false, false, false, false, false);
    let mut end = start.len();
    for (at, c) in start.char_indices() {
        if !in_quote && (is_blank(c) || matches!(c, ',' | '#')) {
            // A comment goes to the end of the line.
            comma = c == ',';
            end = if c == '#' { start.len() } else { at + usize::from(comma) };
            break;
        }
        if c == '\0' {
            return Err("has a NUL character".into());
        }
        if c != '"' || was_quote {
            text.push(c);
        }
        // Two quotes within quotes are one.
        was_quote = in_quote && c == '"' && !was_quote;
        if c == '"' {
            in_quote = !in_quote;
            saw_quote = true;
            quoted |= text.is_empty();
        }
    }
    if in_quote {
        return Err("a quote isn't closed".into());
    }
    let token = Token { text, quoted };
    let word = (saw_quote || !token.text.is_empty()).then_some(Word { token, comma });
    Ok((word, &start[end..]))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Files;
    use super::*;
    use proptest::prelude::*;

    /// The records of a file in short form: `LINE: field|field`, words of a list joined by commas, quoted ones in quotes.
    fn read(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let sources = Files::new(files);
        let mut reader = Reader::new(&sources);
        let records = reader.file(Path::new(files[0].0)).unwrap();
        let word = |t: &Token| if t.quoted { format!("\"{}\"", t.text) } else { t.text.clone() };
        let field = |f: &Field| f.iter().map(word).collect::<Vec<_>>().join(",");
        let line = |r: &Record| {
            let fields: Vec<_> = r.fields.iter().map(field).collect();
            format!("{}: {}", r.place, fields.join("|"))
        };
        let faults = reader.faults.iter().map(|(place, message)| format!("{place}: {message}"));
        (records.iter().map(line).collect(), faults.collect())
    }

    #[test]
    fn words_lists_and_quotes() {
        for (line, expected) in [
            ("a b\tc", "a|b|c"),
            ("a,b , c", "a,b|c"),
            ("a, b,c d", "a,b,c|d"),
            (",,a ,b", "a|b"),
            ("a # b", "a"),
            ("a#b", "a"),
            ("\"a#b\" \"c,d e\"", "\"a#b\"|\"c,d e\""),
            ("\"a\"\"b\"", "\"a\"b\""),
            ("\"\" x", "\"\"|x"),
            ("a\"b c\"d", "ab cd"),
            ("\"all\",all", "\"all\",all"),
            ("x\r", "x"),
            ("@ y", "@|y"),
            ("\"@file\"", "\"@file\""),
            ("ldapurl=\"ldap://h/dc=a,dc=b\"", "ldapurl=ldap://h/dc=a,dc=b"),
        ] {
            assert_eq!(read(&[("f", line)]).0, [format!("f:1: {expected}")], "{line}");
        }
        assert_eq!(read(&[("f", "\n# x\n  \n,\n")]), (vec![], vec![]));
    }

    #[test]
    fn continued_lines() {
        let (records, faults) = read(&[("f", "a \\\nb\\\nc\n\nd \\\\\ne\nlast \\")]);
        assert_eq!(records, ["f:1: a|bc", "f:5: d|\\e", "f:7: last"]);
        assert!(faults.is_empty());
        assert_eq!(read(&[("f", "a \"b\nc\n\"d\" e\"")]).1, ["f:1: a quote isn't closed", "f:3: a quote isn't closed"]);
    }

    #[test]
    fn other_files() {
        let (records, faults) = read(&[
            ("d/f", "1 @names x\ninclude sub/g\ninclude_if_exists none\ninclude none\n2 @none\ninclude_dir dir\n3"),
            ("d/names", "a b,\"c\" # comment\n\nd"),
            ("d/sub/g", "g @../names"),
            ("d/dir/b.conf", "b"),
            ("d/dir/a.conf", "a"),
            ("d/dir/.h.conf", "hidden"),
            ("d/dir/other", "other"),
        ]);
        let expected = [
            "d/f:1: 1|a,b,\"c\",d|x",
            "d/sub/g:1: g|a,b,\"c\",d",
            "d/dir/a.conf:1: a",
            "d/dir/b.conf:1: b",
            "d/f:7: 3",
        ];
        assert_eq!(records, expected);
        assert_eq!(faults, ["d/f:4: d/none: no such file", "d/f:5: d/none: no such file"]);
    }

    #[test]
    fn including_is_bounded() {
        let (records, faults) = read(&[("f", "x\ninclude f")]);
        assert_eq!((records.len(), faults.len()), (11, 1));
        assert!(faults[0].contains("more than 10 levels"), "{faults:?}");
        let many = "include f\n".repeat(200_000);
        let (_, faults) = read(&[("f", &many)]);
        assert!(faults.iter().any(|f| f.contains("come to more than")) && faults.len() < 30, "{}", faults.len());
    }

    proptest! {
        #[test]
        fn a_quoted_word_is_read_as_it_is(word in "[^\0\n\r]{0,20}") {
            // A backslash at the end of the line would continue it.
            let line = format!("x \"{}\" y", word.replace('"', "\"\""));
            let mut reader = Reader::new(&Disk);
            let mut records = Vec::new();
            reader.text(Path::new("f"), &line, 0, &mut records);
            prop_assert_eq!(&reader.faults, &[]);
            prop_assert_eq!(&records[0].fields[1], &vec![Token { text: word, quoted: true }]);
        }
    }
}
