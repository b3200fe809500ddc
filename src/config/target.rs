//! What waits for a server should be like: `advisor_target`.

use std::fmt;

/// A bound of a part of all waits, such as `p99 wait < 5ms`.
#[derive(Clone, PartialEq, Debug)]
pub struct Target {
    /// Of which part of all waits, 0 to 1.
    pub quantile: f64,
    /// They are shorter than this, microseconds.
    pub micros: f64,
    /// As it was written, but for spaces.
    text: String,
}

impl Default for Target {
    fn default() -> Self {
        Self { quantile: 0.99, micros: 5_000.0, text: "p99 wait < 5ms".into() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = text.replace('<', " < ");
        let words: Vec<&str> = words.split_whitespace().collect();
        let wrong = || format!("{text:?} is no target: one is \"p99 wait < 5ms\", with p50 to p99.9");
        let [part, "wait", "<", time @ ..] = words.as_slice() else { return Err(wrong()) };
        let percent = part.strip_prefix('p').filter(|n| n.starts_with(|c: char| c.is_ascii_digit()));
        let percent: f64 = percent.and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
        if !(50.0..=99.9).contains(&percent) {
            return Err(format!("{part} is out of range (p50 to p99.9)"));
        }
        let time = time.concat();
        let bound = super::time::parse(&time)?;
        if bound.is_zero() {
            return Err("the time must be more than 0".into());
        }
        let micros = bound.as_secs_f64() * 1e6;
        Ok(Self { quantile: (percent * 10.0).round() / 1000.0, micros, text: format!("{part} wait < {time}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_shown() {
        for (text, quantile, micros, shown) in [
            ("p99 wait < 5ms", 0.99, 5_000.0, "p99 wait < 5ms"),
            ("  p99.9   wait<1.5s", 0.999, 1_500_000.0, "p99.9 wait < 1.5s"),
            ("p50 wait < 200 us", 0.5, 200.0, "p50 wait < 200us"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.quantile, target.micros), (quantile, micros), "{text}");
            assert_eq!(target.to_string(), shown);
            assert_eq!(shown.parse::<Target>().unwrap(), target);
        }
        assert_eq!("p99 wait < 5ms".parse::<Target>().unwrap(), Target::default());
        for text in [
            "",
            "p99",
            "p99 wait",
            "p99 wait <",
            "p99 wait < 0",
            "p99 wait > 5ms",
            "p99 hold < 5ms",
            "p0 wait < 1s",
            "p100 wait < 1s",
            "pnan wait < 1s",
            "p-99 wait < 1s",
            "99 wait < 1s",
            "p99 wait < soon",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
