//! Traces as text: `GET /api/trace` writes it, `carpool advise` reads it.
//!
//! ```text
//! carpool-trace 1
//! database app
//! size 25
//! window 1000000 3000000
//! 1500000 0 1200 17 1
//! end 1
//! ```
//!
//! The first line has the version. Each database has its name (line ends and `%` in it as `%XX`), the size of its
//! pool, and its windows: the moments between which the record is whole, with one line for each loan that ended in
//! one, in the order of its end: the end, the wait, the hold, the client's number, the group's. Times are microseconds. `end` gives
//! the number of all loans: a file without it is cut off. Reading is strict: what isn't as it is written here is an error,
//! with its line.

use std::fmt::Write;

use super::trace::{Loan, Trace, Window};

/// The first line.
const FIRST: &str = "carpool-trace 1";
/// Loans in one file at most.
pub const MOST_LOANS: usize = 4_000_000;
/// Databases in one file at most.
const MOST_DATABASES: usize = 10_000;
/// The latest moment: centuries, and sums of a few can't overflow.
const LATEST: u64 = 1 << 60;

/// What is wrong with a file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct FormatError {
    /// Where, from 1.
    pub line: usize,
    /// What.
    pub what: String,
}

/// Traces as text.
#[must_use]
pub fn write(traces: &[Trace]) -> String {
    let mut text = format!("{FIRST}\n");
    let mut count = 0;
    for trace in traces {
        // Writing to a String can't fail.
        let _ = write!(text, "database {}\nsize {}\n", escaped(&trace.database), trace.size);
        for window in &trace.windows {
            let _ = writeln!(text, "window {} {}", window.begin, window.end);
            for Loan { end, wait, hold, client, group } in &window.loans {
                let _ = writeln!(text, "{end} {wait} {hold} {client} {group}");
            }
            count += window.loans.len();
        }
    }
    let _ = writeln!(text, "end {count}");
    text
}

/// Reads traces.
///
/// # Errors
/// The first thing that isn't as [`write`] has it.
pub fn read(text: &str) -> Result<Vec<Trace>, FormatError> {
    let mut reader = Reader { line: 0, traces: Vec::new(), loans: 0, ended: false };
    if !text.ends_with('\n') {
        let line = text.lines().count();
        return Err(FormatError { line, what: "the file is cut off: the last line has no end".into() });
    }
    for line in text.split_terminator('\n') {
        reader.line += 1;
        reader.take(line).map_err(|what| FormatError { line: reader.line, what })?;
    }
    match reader.ended {
        true => Ok(reader.traces),
        false => {
            Err(FormatError { line: reader.line, what: "the file is cut off: the line \"end\" is missing".into() })
        }
    }
}

struct Reader {
    line: usize,
    traces: Vec<Trace>,
    loans: usize,
    ended: bool,
}

impl Reader {
    fn take(&mut self, line: &str) -> Result<(), String> {
        if self.line == 1 {
            return match line {
                FIRST => Ok(()),
                line if line.starts_with("carpool-trace ") => {
                    Err(format!("this is version {:?}, and only 1 is known", shown(&line["carpool-trace ".len()..])))
                }
                _ => Err("this is no trace of Carpool".into()),
            };
        }
        if self.ended {
            return Err("something comes behind \"end\"".into());
        }
        let (word, rest) = line.split_once(' ').ok_or_else(|| format!("{:?} is no line of a trace", shown(line)))?;
        match word {
            "database" => self.database(rest),
            "size" => self.size(rest),
            "window" => self.window(rest),
            "end" => {
                self.ended = true;
                match number(rest)? {
                    n if n == self.loans as u64 => Ok(()),
                    n => Err(format!("{n} loans should be here, but {} are", self.loans)),
                }
            }
            _ => self.loan(line),
        }
    }

    fn database(&mut self, name: &str) -> Result<(), String> {
        if self.traces.len() >= MOST_DATABASES {
            return Err(format!("more than {MOST_DATABASES} databases"));
        }
        if self.traces.last().is_some_and(|trace| trace.size == 0) {
            return Err("the database before has no size".into());
        }
        self.traces.push(Trace { database: unescaped(name)?, size: 0, windows: Vec::new() });
        Ok(())
    }

    fn trace(&mut self) -> Result<&mut Trace, String> {
        self.traces.last_mut().ok_or_else(|| "no database comes before".into())
    }

    fn size(&mut self, rest: &str) -> Result<(), String> {
        let size = u32::try_from(number(rest)?).ok().filter(|size| *size > 0).ok_or("no size of a pool")?;
        let trace = self.trace()?;
        if trace.size != 0 {
            return Err("a second size".into());
        }
        trace.size = size;
        Ok(())
    }

    fn window(&mut self, rest: &str) -> Result<(), String> {
        let [begin, end] = numbers(rest)?;
        let trace = self.trace()?;
        if trace.size == 0 {
            return Err("the database has no size".into());
        }
        if begin >= end || trace.windows.last().is_some_and(|before| before.end > begin) {
            return Err("windows are in order, and end after they begin".into());
        }
        trace.windows.push(Window { begin, end, loans: Vec::new() });
        Ok(())
    }

    fn loan(&mut self, line: &str) -> Result<(), String> {
        let [end, wait, hold, client, group] = numbers(line)?;
        if self.loans >= MOST_LOANS {
            return Err(format!("more than {MOST_LOANS} loans"));
        }
        self.loans += 1;
        let small = |n: u64| u32::try_from(n).map_err(|_| format!("{n} is too large"));
        let group = u16::try_from(group).map_err(|_| format!("{group} is too large"))?;
        let loan = Loan { end, wait: small(wait)?, hold: small(hold)?, client: small(client)?, group };
        let window = self.trace()?.windows.last_mut().ok_or("no window comes before")?;
        if !(window.begin..=window.end).contains(&end) || window.loans.last().is_some_and(|before| before.end > end) {
            return Err("a loan ends in its window, and after those before".into());
        }
        window.loans.push(loan);
        Ok(())
    }
}

/// So many numbers, and nothing else.
fn numbers<const N: usize>(text: &str) -> Result<[u64; N], String> {
    let mut parts = text.split(' ');
    let mut all = [0; N];
    for n in &mut all {
        *n = number(parts.next().ok_or_else(|| format!("{N} numbers should be here"))?)?;
    }
    match parts.next() {
        None => Ok(all),
        Some(_) => Err(format!("{N} numbers should be here")),
    }
}

fn number(text: &str) -> Result<u64, String> {
    // `parse` would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten().filter(|n| *n <= LATEST);
    number.ok_or_else(|| format!("{:?} is no number that can stand here", shown(text)))
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace('\n', "%0A").replace('\r', "%0D")
}

fn unescaped(name: &str) -> Result<String, String> {
    let plain = name.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%");
    match !name.is_empty() && escaped(&plain) == name {
        true => Ok(plain),
        false => Err(format!("{:?} is no name of a database", shown(name))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Vec<Trace> {
        let loan = |end, client| Loan { end, wait: 3, hold: 1200, client, group: 2 };
        let windows = vec![
            Window { begin: 1_000_000, end: 3_000_000, loans: vec![loan(1_500_000, 17), loan(1_500_000, 4)] },
            Window { begin: 3_000_000, end: 4_000_000, loans: Vec::new() },
        ];
        vec![
            Trace { database: "app".into(), size: 25, windows },
            Trace { database: "a %25\nb\\".into(), size: 1, windows: Vec::new() },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(&write(&example())), Ok(example()));
        assert_eq!(read(&write(&[])), Ok(Vec::new()));
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_refused() {
        let text = write(&example());
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            assert!(read(&text[..end]).is_err(), "{:?}", &text[..end]);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let good = "carpool-trace 1\ndatabase app\nsize 2\nwindow 0 10\n5 0 1 1 0\nend 1\n";
        assert!(read(good).is_ok());
        for (from, to, line, word) in [
            ("trace 1", "trace 2", 1, "version"),
            ("carpool-trace 1", "PGDMP", 1, "no trace"),
            ("size 2\n", "", 3, "no size"),
            ("size 2", "size 0", 3, "no size"),
            ("window 0 10\n", "", 4, "no window"),
            ("window 0 10", "window 10 0", 4, "in order"),
            ("window 0 10", "window 0 4", 5, "in its window"),
            ("5 0 1 1 0", "5 0 1 1", 5, "5 numbers"),
            ("5 0 1 1 0", "5 0 1 1 0 0", 5, "5 numbers"),
            ("5 0 1 1 0", "5 0 -1 1 0", 5, "no number"),
            ("5 0 1 1 0", "5 0 +1 1 0", 5, "no number"),
            ("5 0 1 1 0", "5 0 9999999999 1 0", 5, "too large"),
            ("5 0 1 1 0", "5 0 1 1 70000", 5, "too large"),
            ("end 1", "end 2", 6, "should be here"),
            ("end 1\n", "end 1\nx\n", 7, "behind"),
            ("end 1\n", "", 5, "cut off"),
            ("app", "a%00", 2, "no name"),
        ] {
            let error = read(&good.replace(from, to)).unwrap_err();
            assert!(error.line == line && error.what.contains(word), "{from} -> {to}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_trace_or_an_error(lines in prop::collection::vec("[a-z0-9 %]{0,30}", 0..20)) {
            let _ = read(&format!("{FIRST}\n{}\n", lines.join("\n")));
        }

        #[test]
        fn a_changed_byte_never_panics(at in 0..200usize, byte: u8) {
            let mut bytes = write(&example()).into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = read(&String::from_utf8_lossy(&bytes));
        }
    }
}
