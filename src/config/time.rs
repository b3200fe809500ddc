//! Lengths of time: seconds, or a text with its unit. Exact to the microsecond, as PgBouncer's.

use std::time::Duration;

/// The longest that is taken: what fits PgBouncer's whole seconds, some 68 years.
pub(super) const LONGEST: Duration = Duration::from_secs(i32::MAX as u64);

/// The units, as PostgreSQL spells them, in microseconds.
const UNITS: [(&str, f64); 6] = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("min", 60e6), ("h", 3_600e6), ("d", 86_400e6)];

/// Reads `90`, `1.5`, `500ms`, `10 min`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let wrong = || format!("{text:?} isn't a time: a number of seconds, or a number with one of us, ms, s, min, h, d");
    if let Ok(seconds) = text.parse::<f64>() {
        return of(seconds, 1e6).ok_or_else(wrong)?;
    }
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.trim_end().parse().map_err(|_| wrong())?;
    let (_, micros) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    of(number, *micros).ok_or_else(wrong)?
}

/// Takes a number of seconds.
///
/// # Errors
/// What is wrong with it.
pub(super) fn of_seconds(seconds: f64) -> Result<Duration, String> {
    of(seconds, 1e6).unwrap_or_else(|| Err("not a number of seconds".into()))
}

/// `None`: not a time at all. `Some(Err)`: out of range.
fn of(number: f64, micros: f64) -> Option<Result<Duration, String>> {
    if !number.is_finite() {
        return None;
    }
    // Something is never taken for nothing, which would switch the limit off.
    let least = if number > 0.0 { 1.0 } else { f64::NEG_INFINITY };
    let micros = (number * micros).round().max(least);
    if !(0.0..=LONGEST.as_secs_f64() * 1e6).contains(&micros) {
        return Some(Err(format!("out of range (0 to {} seconds)", LONGEST.as_secs())));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range, as just checked")]
    let micros = micros as u64;
    Some(Ok(Duration::from_micros(micros)))
}

/// In seconds, as PgBouncer shows it.
pub(super) fn to_seconds(time: Duration) -> String {
    time.as_secs_f64().to_string()
}

/// As TOML: whole seconds as a number, else text with the largest unit that gives a whole number.
pub(super) fn to_toml(time: Duration) -> toml::Value {
    let micros = time.as_micros();
    if micros % 1_000_000 == 0 {
        return i64::try_from(time.as_secs()).map_or_else(|_| format!("{}s", time.as_secs()).into(), Into::into);
    }
    match micros % 1000 {
        0 => format!("{}ms", micros / 1000).into(),
        _ => format!("{micros}us").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings() {
        for (text, micros) in [
            ("0", 0),
            ("90", 90_000_000),
            ("1.5", 1_500_000),
            ("5.0", 5_000_000),
            ("1e1", 10_000_000),
            ("500ms", 500_000),
            (" 10 min ", 600_000_000),
            ("2h", 7_200_000_000),
            ("1d", 86_400_000_000),
            ("30s", 30_000_000),
            ("7us", 7),
            ("0.5h", 1_800_000_000),
            ("0.0000000001", 1),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_micros(micros)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in ["", "ten", "10m", "10 minutes", "min", "1h30min", "nan", "inf", "10MIN", "1,5", "--1"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("isn't a time"), "{text}: {error}");
        }
        for text in ["-1", "-5ms", "1e300", "25000d"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("out of range"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,20}") {
            let _ = parse(&text);
        }

        #[test]
        fn written_and_read(micros in 0..LONGEST.as_micros() as u64) {
            let time = Duration::from_micros(micros);
            let read = match to_toml(time) {
                toml::Value::Integer(seconds) => of_seconds(seconds as f64),
                value => parse(value.as_str().unwrap()),
            };
            prop_assert_eq!(read, Ok(time));
        }
    }
}
