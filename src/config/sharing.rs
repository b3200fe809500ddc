//! How those who wait for a server share what comes free: `share_by` and `share_weights`.

use std::collections::BTreeMap;

use super::document::Raw;

/// The weights that there may be.
const WEIGHTS: std::ops::RangeInclusive<i64> = 1..=1000;

/// What makes clients a group, which gets servers in turn with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum ShareBy {
    /// Nothing: first come, first served.
    #[default]
    None,
    /// The user that they log in as.
    User,
    /// Their `application_name`.
    ApplicationName,
}

impl ShareBy {
    /// All.
    pub const ALL: [Self; 3] = [Self::None, Self::User, Self::ApplicationName];
    /// The words of the configuration, in the same order.
    pub const WORDS: [&'static str; 3] = ["none", "user", "application_name"];

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// Groups by name, with what they may have in relation to others. Those that aren't named have 1.
pub type Weights = BTreeMap<String, u32>;

/// Reads weights: a table, or text as [`to_text`] has it. Text has no way to write a name with a comma.
pub(super) fn parse(raw: &Raw) -> Result<Weights, String> {
    match raw {
        Raw::Table(table) => table.iter().map(|(name, weight)| Ok((name.clone(), weight_of(name, weight)?))).collect(),
        Raw::Text(text) => text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(parse_item).collect(),
        _ => Err(format!("expected a table such as {{ web = 3, batch = 1 }}, found {}", raw.describe())),
    }
}

fn parse_item(item: &str) -> Result<(String, u32), String> {
    let (name, weight) = item.rsplit_once('=').ok_or("expected weights such as \"web=3, batch=1\"")?;
    let value = weight.trim().parse().map_err(|_| format!("{name:?} has no whole number"))?;
    let name = name.trim();
    Ok((name.to_owned(), weight_of(name, &Raw::Integer { value, decimal: true })?))
}

fn weight_of(name: &str, weight: &Raw) -> Result<u32, String> {
    let Raw::Integer { value, .. } = weight else {
        return Err(format!("{name:?}: expected a whole number, found {}", weight.describe()));
    };
    let allowed = WEIGHTS.contains(value).then(|| u32::try_from(*value).ok()).flatten();
    allowed.ok_or_else(|| format!("{name:?}: {value} is out of range ({} to {})", WEIGHTS.start(), WEIGHTS.end()))
}

/// Weights as an ini file has them.
pub(super) fn to_text(weights: &Weights) -> String {
    weights.iter().map(|(name, weight)| format!("{name}={weight}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: i64) -> Raw {
        Raw::Integer { value, decimal: true }
    }

    #[test]
    fn weights_are_a_table_or_a_text() {
        let table = Raw::Table([("web".to_owned(), number(3)), ("a, b".to_owned(), number(1000))].into());
        assert_eq!(parse(&table), Ok([("web".to_owned(), 3), ("a, b".to_owned(), 1000)].into()));
        let both: Weights = [("web".to_owned(), 3), ("a=b".to_owned(), 1)].into();
        assert_eq!(parse(&Raw::Text(" web = 3,, a=b=1".into())), Ok(both.clone()));
        assert_eq!(parse(&Raw::Text(to_text(&both))), Ok(both));
        assert_eq!(parse(&Raw::Text(String::new())), Ok(Weights::new()));
    }

    #[test]
    fn what_is_no_weight_is_refused() {
        for wrong in [number(0), number(1001), number(-1), Raw::Flag(true), Raw::Text("3".into())] {
            let error = parse(&Raw::Table([("web".to_owned(), wrong)].into())).unwrap_err();
            assert!(error.contains("\"web\""), "{error}");
        }
        assert!(parse(&number(3)).is_err());
        for text in ["web", "web=", "web=x", "web=0", "web=1 batch"] {
            assert!(parse(&Raw::Text(text.into())).is_err(), "{text}");
        }
    }
}
