//! The caller's trace, as sqlcommenter writes it into a query's text: a comment with
//! `traceparent='00-<trace>-<span>-<flags>'`, see <https://google.github.io/sqlcommenter/spec/> and
//! <https://www.w3.org/TR/trace-context/#traceparent-header>.

/// Where a query comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parent {
    /// The trace.
    pub trace: [u8; 16],
    /// The caller's span.
    pub span: [u8; 8],
    /// Whether the caller records its own.
    pub is_sampled: bool,
}

const KEY: &[u8] = b"traceparent='";
/// Version, trace, span and flags in hexadecimal, with hyphens between.
const LEN: usize = 55;

/// The parent that a comment of `text` names.
#[must_use]
pub fn parent(text: &[u8]) -> Option<Parent> {
    // Comments mostly stand at the end.
    let at = memchr::memmem::rfind(text, KEY)?;
    let begin = memchr::memmem::rfind(&text[..at], b"/*")?;
    if memchr::memmem::rfind(&text[..at], b"*/").is_some_and(|end| end > begin) {
        return None;
    }
    let value = text.get(at + KEY.len()..)?;
    (value.get(LEN) == Some(&b'\'')).then_some(())?;
    read(&value[..LEN])
}

fn read(value: &[u8]) -> Option<Parent> {
    let mut parts = value.split(|&b| b == b'-');
    let version = number::<1>(parts.next()?)?;
    let trace = number::<16>(parts.next()?)?;
    let span = number::<8>(parts.next()?)?;
    let flags = number::<1>(parts.next()?)?;
    let is_valid = parts.next().is_none() && version != [0xff] && trace != [0; 16] && span != [0; 8];
    is_valid.then_some(Parent { trace, span, is_sampled: flags[0] & 1 == 1 })
}

/// Lower-case hexadecimal digits.
fn number<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01";

    fn of(text: &str) -> Option<Parent> {
        parent(text.as_bytes())
    }

    #[test]
    fn it_is_found_in_a_comment_wherever_that_stands() {
        let want = of(&format!("select 1 /*traceparent='{GOOD}'*/")).unwrap();
        assert_eq!((want.trace[0], want.trace[15], want.span[0], want.is_sampled), (0x5b, 0x6a, 0xc5, true));
        for text in [
            format!("/* route='%2Fx',traceparent='{GOOD}',tracestate='a' */ select 1;"),
            format!("select /* hint */ 1 /*action='a',traceparent='{GOOD}'*/;"),
        ] {
            assert_eq!(of(&text), Some(want), "{text}");
        }
        let text = format!("select 1 /*traceparent='{}0'*/", &GOOD[..54]);
        assert!(!of(&text).unwrap().is_sampled);
    }

    #[test]
    fn what_is_none_is_not_taken_for_one() {
        for text in [
            String::new(),
            "select 1".into(),
            format!("select 'traceparent=''{GOOD}'"),
            format!("select /* a */ 1, traceparent='{GOOD}'"),
            format!("select 1 /*traceparent='{GOOD}"),
            format!("select 1 /*traceparent='{}'*/", &GOOD[..54]),
            format!("select 1 /*traceparent='ff{}'*/", &GOOD[2..]),
            format!("select 1 /*traceparent='{}'*/", GOOD.to_uppercase()),
            "select 1 /*traceparent='00-00000000000000000000000000000000-c532cb4098ac3dd2-01'*/".into(),
            "select 1 /*traceparent='00-5bd66ef5095369c7b0d1f8f4bd33716a-0000000000000000-01'*/".into(),
            format!("select 1 /*traceparent='{}'*/", GOOD.replace('-', "é").chars().take(53).collect::<String>()),
        ] {
            assert_eq!(of(&text), None, "{text}");
        }
    }
}
