use proptest::prelude::*;

use super::*;

/// A client's.
const N: u32 = 1_234_567_890;

fn process(number: u32) -> Option<Process> {
    (number == N).then_some(Process { pid: 77, own: true })
}

fn known() -> Numbers {
    let mut numbers = Numbers::ask([N, N + 1]);
    assert!(!numbers.answers(&[N]));
    numbers.answer(process);
    assert!(numbers.answers(&[N, N + 1]) && !numbers.answers(&[N + 2]));
    numbers
}

/// The text that is sent for one with `N` in it.
fn sent(text: &str) -> Option<String> {
    let text = text.replace('N', &N.to_string());
    let sent = known().in_text(text.as_bytes(), &arguments(text.as_bytes()))?;
    assert_eq!(sent.len(), text.len());
    Some(String::from_utf8(sent).unwrap())
}

#[test]
fn constants_are_replaced_and_nothing_else_moves() {
    for (text, want) in [
        ("select pg_terminate_backend(N)", "select pg_terminate_backend(77        )"),
        ("SELECT Pg_Cancel_Backend ( N )", "SELECT Pg_Cancel_Backend ( 77         )"),
        ("select pg_catalog.pg_terminate_backend(N, 500)", "select pg_catalog.pg_terminate_backend(77        , 500)"),
        ("select \"pg_terminate_backend\"(N::int)", "select \"pg_terminate_backend\"(77        ::int)"),
        ("select pg_terminate_backend('N'::int8::int)", "select pg_terminate_backend('77        '::int8::int)"),
        ("begin; select N, pg_cancel_backend(/* N */ N)", "begin; select N, pg_cancel_backend(/* N */ 77        )"),
        ("with a as (select pg_cancel_backend(N)) table a", "with a as (select pg_cancel_backend(77        )) table a"),
        (
            "select pg_cancel_backend(N), pg_cancel_backend(5), pg_cancel_backend(N)",
            "select pg_cancel_backend(77        ), pg_cancel_backend(5), pg_cancel_backend(77        )",
        ),
    ] {
        assert_eq!(sent(text), Some(want.replace('N', &N.to_string())), "{text}");
    }
}

#[test]
fn what_is_none_or_only_looks_so_stays() {
    for text in [
        "select 'pg_terminate_backend(N)'",
        "select 1 -- pg_terminate_backend(N)",
        "select /* pg_terminate_backend(N) */ N",
        "select $$pg_terminate_backend(N)$$",
        "select mine.pg_terminate_backend(N)",
        "select my_pg_terminate_backend(N)",
        "select pg_terminate_backend(N + 1)",
        "select pg_terminate_backend(-N)",
        "select pg_terminate_backend((N))",
        "select pg_terminate_backend(N0)",
        "select pg_terminate_backend(N.5)",
        "select pg_terminate_backend(N_0)",
        "select pg_terminate_backend('N' '0')",
        "select pg_terminate_backend('N0')",
        "select pg_terminate_backend(E'N')",
        "select pg_terminate_backend(N::text::int)",
        "select pg_terminate_backend(N::numeric)",
        "select pg_terminate_backend(N::int[])",
        "select pg_terminate_backend(5, N)",
        "select pg_terminate_backend(N",
        "select pg_terminate_backend N",
        "select pg_terminate_backend(4194303)",
        "select pg_terminate_backend(2147483648)",
        "select pg_terminate_backend(99999999999999999999)",
        "create view v as select pg_terminate_backend(N)",
        "create table t as select pg_terminate_backend(N)",
        "prepare p as select pg_terminate_backend(N)",
        "declare c cursor with hold for select pg_terminate_backend(N)",
        "select 1; prepare p as select pg_terminate_backend(N)",
        "do $$ begin perform pg_terminate_backend(N); end $$",
        "select '\\', pg_terminate_backend(N), '\\'",
        "",
    ] {
        assert_eq!(sent(text), None, "{text}");
    }
    // Of another than those that are known, and of nobody.
    assert_eq!(known().in_text(b"x", &arguments(format!("select pg_cancel_backend({})", N + 1).as_bytes())), None);
}

#[test]
fn a_longer_number_needs_more_room() {
    let text = b"select pg_cancel_backend(4194304), 1";
    let mut numbers = Numbers::ask([FIRST]);
    numbers.answer(|_| Some(Process { pid: 1_000_000_000, own: false }));
    assert_eq!(numbers.in_text(text, &arguments(text)).unwrap(), b"select pg_cancel_backend(1000000000), 1");
}

/// Which parameters of a text are arguments.
fn places(text: &str) -> Vec<usize> {
    let index = |argument: Argument| match argument.value {
        Value::Parameter(index) => Some(index),
        Value::Constant(..) => None,
    };
    arguments(text.as_bytes()).into_iter().filter_map(index).collect()
}

#[test]
fn parameters_are_found_where_they_stand_nowhere_else() {
    for (text, want) in [
        ("select pg_terminate_backend($1)", &[0][..]),
        ("select pg_terminate_backend( $2::int4 , $1)", &[1]),
        ("select $2, pg_cancel_backend($1::int)", &[0]),
        ("select pg_cancel_backend($1), pg_terminate_backend($1)", &[0, 0]),
        ("select pg_cancel_backend($1), $10, '$1' /* $1 */", &[0]),
        ("select pg_cancel_backend($1), $1", &[]),
        ("select pg_cancel_backend($1 + $2)", &[]),
        ("select pg_cancel_backend($1), pg_cancel_backend($2), $2 + 1", &[0]),
        ("select pg_cancel_backend($0)", &[]),
        ("select pg_cancel_backend($1) from t where pid = $1", &[]),
        ("select pg_terminate_backend(5, $1)", &[]),
        ("select pg_cancel_backend(a$1)", &[]),
    ] {
        assert_eq!(places(text), want, "{text}");
    }
}

/// A Bind body behind its names, with one format of results.
fn bind(formats: &[u16], values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&u16::try_from(formats.len()).unwrap().to_be_bytes());
    formats.iter().for_each(|format| body.extend_from_slice(&format.to_be_bytes()));
    body.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        let len = value.map_or(u32::MAX, |value| u32::try_from(value.len()).unwrap());
        body.extend_from_slice(&len.to_be_bytes());
        body.extend_from_slice(value.unwrap_or_default());
    }
    body.extend_from_slice(&[0, 1, 0, 1]);
    body
}

fn types(oids: &[u32]) -> Vec<u8> {
    let count = u16::try_from(oids.len()).unwrap().to_be_bytes();
    count.into_iter().chain(oids.iter().flat_map(|oid| oid.to_be_bytes())).collect()
}

#[test]
fn parameters_are_replaced_in_every_format() {
    let arguments = arguments(b"select $1, pg_terminate_backend($2)");
    let digits = N.to_string();
    let (text, four, eight) = (digits.as_bytes(), &N.to_be_bytes()[..], &u64::from(N).to_be_bytes()[..]);
    let (four_77, eight_77) = (&77u32.to_be_bytes()[..], &77u64.to_be_bytes()[..]);
    for (oids, formats, value, want) in [
        (&[][..], &[][..], text, Some(&b"77"[..])),
        (&[], &[0], text, Some(b"77")),
        (&[25, 25], &[1, 0], text, Some(b"77")),
        (&[], &[1], four, Some(four_77)),
        (&[0, 23], &[0, 1], four, Some(four_77)),
        (&[0, 20], &[1, 1], eight, Some(eight_77)),
        // What is not a number, or another's.
        (&[0, 25], &[1], four, None),
        (&[0, 700], &[1], four, None),
        (&[], &[0], four, None),
        (&[], &[1], text, None),
        (&[], &[], b" 1234567890", None),
        (&[], &[], b"1234567891", None),
        (&[], &[], b"-1234567890", None),
        (&[], &[], b"", None),
        (&[], &[1], b"", None),
        (&[], &[1], &[0xff; 8], None),
    ] {
        let types = types(oids);
        let calls = Calls { arguments: &arguments, types: &types };
        // The other parameter has the same value, and keeps it.
        let body = bind(formats, &[Some(value), Some(value)]);
        let want = want.map(|want| bind(formats, &[Some(value), Some(want)]));
        assert_eq!(known().in_parameters(&body, &calls), want, "{oids:?} {formats:?} {value:?}");
        let named = calls.numbers(&body);
        assert_eq!(known().ends_own(&named), want.is_some(), "{named:?}");
        for end in 0..body.len() {
            // Never more than the values.
            let _ = known().in_parameters(&body[..end], &calls);
        }
    }
    let calls = Calls { arguments: &arguments, types: &types(&[]) };
    assert_eq!(known().in_parameters(&bind(&[], &[None, None]), &calls), None);
    assert_eq!(known().in_parameters(&bind(&[], &[Some(text)]), &calls), None, "there is no second one");
}

#[test]
fn only_one_who_ends_its_own_server_does() {
    for (text, ends) in
        [("select pg_terminate_backend(1234567890)", true), ("select pg_cancel_backend(1234567890)", false)]
    {
        let arguments = arguments(text.as_bytes());
        let calls = Calls { arguments: &arguments, types: &[] }.numbers(&bind(&[], &[]));
        assert_eq!(calls, [(ends, N)]);
        assert_eq!(known().ends_own(&calls), ends);
        let mut others = Numbers::ask([N]);
        others.answer(|_| Some(Process { pid: 5, own: false }));
        assert!(!others.ends_own(&calls));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read(text: Vec<u8>, body: Vec<u8>, types: Vec<u8>) {
        let text = [b"select pg_cancel_backend($1), pg_cancel_backend(".to_vec(), text].concat();
        let arguments = arguments(&text);
        let calls = Calls { arguments: &arguments, types: &types };
        let _ = (known().in_parameters(&body, &calls), known().in_text(&text, &arguments), calls.numbers(&body));
    }
}
