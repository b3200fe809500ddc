use proptest::prelude::*;

use super::*;

const IDLE: TransactionStatus = TransactionStatus::Idle;

fn forward(kinds: &[Kind]) -> Pipeline {
    let mut pipeline = Pipeline::default();
    for &kind in kinds {
        match kind {
            Kind::Sync => drop(pipeline.sync()),
            Kind::CopyEnd => pipeline.copy_end(),
            _ => pipeline.push(Request::forward(kind)),
        }
    }
    pipeline
}

/// The kinds in flight.
fn kinds(pipeline: &Pipeline) -> Vec<Kind> {
    pipeline.requests.iter().map(|r| r.kind).collect()
}

fn replies(pipeline: &mut Pipeline, messages: &[u8]) {
    for &message in messages {
        if message == tag::READY_FOR_QUERY {
            pipeline.ready(IDLE).unwrap();
        } else {
            pipeline.reply(message).unwrap();
        }
    }
}

#[test]
fn each_reply_ends_what_it_should() {
    use Kind::{Bind, Close, DescribePortal, DescribeStatement, Execute, FunctionCall, Parse, Query, Sync};
    let cases: [(&[Kind], &[u8]); 7] = [
        (&[Parse, Bind, DescribePortal, Execute, Sync], b"12TDDCZ"),
        (&[Parse, DescribeStatement, Bind, Execute, Close, Sync], b"1tn2I3Z"),
        (&[DescribeStatement, Execute, Execute, Sync], b"tTDsDCZ"),
        (&[Query], b"TDDCTDCIZ"),
        (&[Query], b"HddcCZ"),
        (&[Execute, Sync], b"HddcCZ"),
        (&[FunctionCall], b"VZ"),
    ];
    for (requests, messages) in cases {
        let mut pipeline = forward(requests);
        replies(&mut pipeline, messages);
        assert!(pipeline.is_idle(), "{requests:?}");
    }
}

#[test]
fn what_answers_nothing_is_unexpected() {
    for kind in [Kind::Parse, Kind::Bind, Kind::DescribePortal, Kind::Execute, Kind::Close, Kind::Sync, Kind::Query] {
        let wrong: &[u8] = match kind {
            Kind::Query => b"12nstV",
            Kind::Execute => b"12nTtV3",
            Kind::Sync => b"12nTtVCDI3",
            _ => b"CDIV",
        };
        for &message in wrong {
            assert_eq!(forward(&[kind]).reply(message).unwrap_err(), Unexpected(message), "{kind:?}");
        }
    }
    assert!(Pipeline::default().reply(tag::DATA_ROW).is_err());
    assert!(Pipeline::default().ready(IDLE).is_err());
    assert!(forward(&[Kind::Parse]).ready(IDLE).is_err(), "a Sync that nobody sent");
}

#[test]
fn an_open_batch_is_not_idle() {
    let mut pipeline = forward(&[Kind::Parse]);
    replies(&mut pipeline, b"1");
    assert!(pipeline.is_answered() && !pipeline.is_idle(), "Flush without Sync");
    pipeline.sync();
    replies(&mut pipeline, b"Z");
    assert!(pipeline.is_idle());
}

#[test]
fn sync_and_the_next_parse_in_one_write_keep_the_server() {
    let mut pipeline = forward(&[Kind::Query, Kind::Parse]);
    replies(&mut pipeline, b"CZ");
    assert!(!pipeline.is_idle());
}

#[test]
fn the_status_is_that_of_the_last_ready() {
    for status in [TransactionStatus::InBlock, TransactionStatus::Failed] {
        let mut pipeline = forward(&[Kind::Query]);
        pipeline.ready(status).unwrap();
        assert_eq!(pipeline.status(), status);
        assert!(!pipeline.is_idle());
    }
}

#[test]
fn an_error_undoes_up_to_the_next_sync_only() {
    use Kind::{Bind, Execute, Parse, Sync};
    let mut pipeline = forward(&[Parse, Bind, Execute, Sync, Parse, Sync]);
    replies(&mut pipeline, b"1");
    let failure = pipeline.error();
    let undone: Vec<_> = failure.undone.iter().map(|r| r.kind).collect();
    assert_eq!(undone, [Execute, Bind], "newest first, the failed one last");
    assert!(failure.forward && !failure.own_query && !failure.doubtful && !pipeline.is_skipping());
    assert_eq!(kinds(&pipeline), [Sync, Parse, Sync]);
    replies(&mut pipeline, b"Z1Z");
    assert!(pipeline.is_idle());
}

#[test]
fn an_error_without_a_sync_in_flight_skips_what_follows() {
    let mut pipeline = forward(&[Kind::Parse, Kind::Bind]);
    assert_eq!(pipeline.error().undone.len(), 2);
    assert!(pipeline.is_skipping() && !pipeline.is_idle());
    assert!(pipeline.sync());
    assert!(!pipeline.is_skipping());
    replies(&mut pipeline, b"Z");
    assert!(pipeline.is_idle());
}

/// A simple query that fails ends by itself; one that stands behind a failed request is skipped with it.
#[test]
fn queries_and_errors() {
    use Kind::{Bind, Parse, Query, Sync};
    let mut pipeline = forward(&[Query, Parse, Sync]);
    assert!(pipeline.error().undone.is_empty());
    assert_eq!(kinds(&pipeline), [Query, Parse, Sync]);
    replies(&mut pipeline, b"Z1Z");
    let mut pipeline = forward(&[Bind, Query, Parse]);
    assert_eq!(pipeline.error().undone.len(), 3);
    assert!(!pipeline.awaits_ready() && !pipeline.runs(), "the query will not be answered");
    assert!(pipeline.is_skipping());
}

/// What Sync does (commit) can fail, and function calls end as queries do.
#[test]
fn errors_of_sync_and_function_calls() {
    for kind in [Kind::Sync, Kind::FunctionCall] {
        let mut pipeline = forward(&[kind]);
        let failure = pipeline.error();
        assert!(failure.undone.is_empty() && failure.forward && !pipeline.is_skipping());
        replies(&mut pipeline, b"Z");
        assert!(pipeline.is_idle());
    }
}

#[test]
fn the_failure_of_an_own_request_is_the_clients() {
    let mut pipeline = Pipeline::default();
    pipeline.push(Request::skip(Kind::Parse, ServerUndo::Added(7)));
    pipeline.push(Request::forward(Kind::Bind));
    pipeline.sync();
    let failure = pipeline.error();
    assert!(failure.forward);
    assert!(matches!(failure.undone.last().unwrap().undo.server, ServerUndo::Added(7)));
}

#[test]
fn the_failure_of_an_own_query_is_nobodys() {
    let mut pipeline = Pipeline::default();
    pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
    let failure = pipeline.error();
    assert!(failure.own_query && !failure.forward);
}

/// The client hasn't synced, so that it counts on all being skipped.
#[test]
fn an_own_sync_does_not_end_the_clients_skipping() {
    let mut pipeline = Pipeline::default();
    pipeline.push(Request::skip(Kind::Parse, ServerUndo::None));
    pipeline.push(Request::skip(Kind::Sync, ServerUndo::None));
    pipeline.error();
    replies(&mut pipeline, b"Z");
    assert!(pipeline.is_skipping() && !pipeline.is_idle());
}

#[test]
fn an_error_that_answers_nothing_goes_on() {
    let failure = Pipeline::default().error();
    assert!(failure.forward && failure.undone.is_empty());
}

#[test]
fn inserts_come_in_their_turn() {
    let mut pipeline = forward(&[Kind::Parse]);
    pipeline.push(Request::insert(tag::PARSE_COMPLETE, ClientUndo::None));
    pipeline.push(Request::insert(tag::CLOSE_COMPLETE, ClientUndo::None));
    pipeline.sync();
    assert_eq!(pipeline.next_insert(), None);
    replies(&mut pipeline, b"1");
    assert_eq!(pipeline.next_insert(), Some(tag::PARSE_COMPLETE));
    assert_eq!(pipeline.next_insert(), Some(tag::CLOSE_COMPLETE));
    assert_eq!(pipeline.next_insert(), None);
    replies(&mut pipeline, b"Z");
}

#[test]
fn inserts_behind_a_failure_are_undone() {
    let mut pipeline = forward(&[Kind::Bind]);
    pipeline.push(Request::insert(tag::PARSE_COMPLETE, ClientUndo::named(b"a", None)));
    assert_eq!(pipeline.error().undone.len(), 2);
    assert_eq!(pipeline.next_insert(), None);
}

/// Simple and extended, with the data's end sent ahead or not, ending well or not.
#[test]
fn copy_in() {
    for (kind, sync) in [(Kind::Query, false), (Kind::Execute, true)] {
        for ahead in [false, true] {
            for fails in [false, true] {
                let mut pipeline = forward(&[kind]);
                if ahead {
                    pipeline.copy_end();
                }
                replies(&mut pipeline, b"G");
                assert_eq!(pipeline.reads_copy_data(), !ahead);
                if !ahead {
                    assert!(!pipeline.sync(), "the server would drop it");
                    pipeline.copy_end();
                }
                if sync {
                    assert!(pipeline.sync());
                }
                if fails {
                    assert!(!pipeline.error().doubtful);
                } else {
                    replies(&mut pipeline, b"C");
                }
                replies(&mut pipeline, b"Z");
                assert!(pipeline.is_idle(), "{kind:?} {ahead} {fails}");
            }
        }
    }
}

/// The server answers each Sync that it reads after the failure.
#[test]
fn copy_in_that_fails_before_its_data_ends() {
    let mut pipeline = forward(&[Kind::Execute]);
    replies(&mut pipeline, b"G");
    pipeline.error();
    assert!(pipeline.is_skipping() && !pipeline.reads_copy_data());
    assert!(pipeline.sync());
    replies(&mut pipeline, b"Z");
    assert!(pipeline.is_idle());
}

/// A Sync sent ahead is dropped by a server that begins to read data, and answered by one that fails before it
/// does (COPY FREEZE): which of them, nobody can tell.
#[test]
fn a_sync_ahead_of_a_copy() {
    let mut pipeline = forward(&[Kind::Execute, Kind::Sync, Kind::CopyEnd, Kind::Sync]);
    replies(&mut pipeline, b"GCZ");
    assert!(pipeline.is_idle());
    let mut pipeline = forward(&[Kind::Execute, Kind::Sync, Kind::CopyEnd, Kind::Sync]);
    replies(&mut pipeline, b"G");
    assert!(pipeline.error().doubtful);
    // One that fails before it says that it reads data answers all.
    let mut pipeline = forward(&[Kind::Execute, Kind::Sync, Kind::CopyEnd, Kind::Sync]);
    assert!(!pipeline.error().doubtful);
    replies(&mut pipeline, b"ZZ");
    assert!(pipeline.is_idle());
}

#[test]
fn two_copies_in_one_query() {
    let mut pipeline = forward(&[Kind::Query, Kind::CopyEnd, Kind::CopyEnd]);
    replies(&mut pipeline, b"GCGCZ");
    assert!(pipeline.is_idle());
    let mut pipeline = forward(&[Kind::Query]);
    replies(&mut pipeline, b"G");
    pipeline.copy_end();
    replies(&mut pipeline, b"CG");
    assert!(pipeline.reads_copy_data());
}

/// CopyDone where no COPY is on marks nothing.
#[test]
fn stray_ends_of_copy_data() {
    let mut pipeline = forward(&[Kind::CopyEnd, Kind::Query, Kind::CopyEnd, Kind::CopyEnd]);
    replies(&mut pipeline, b"CZ");
    assert!(pipeline.is_idle());
}

#[test]
fn what_may_be_taken_back_is_uncertain() {
    let named = |name: &[u8], id| Request {
        undo: Undo { client: ClientUndo::named(name, None), server: ServerUndo::Added(id) },
        ..Request::forward(Kind::Parse)
    };
    let mut pipeline = Pipeline::default();
    pipeline.push(named(b"a", 1));
    assert!(!pipeline.uncertain(b"a", 1), "if it fails, what follows is skipped, too");
    pipeline.push(Request::forward(Kind::Query));
    assert!(!pipeline.uncertain(b"a", 1), "a query doesn't end that");
    pipeline.sync();
    assert!(pipeline.uncertain(b"a", 0) && pipeline.uncertain(b"", 1));
    assert!(!pipeline.uncertain(b"b", 2));
    pipeline.push(named(b"b", 2));
    assert!(!pipeline.uncertain(b"b", 2));
    replies(&mut pipeline, b"1CZ");
    assert!(!pipeline.uncertain(b"a", 1), "answered");
}

#[test]
fn the_unnamed_statement_is_uncertain_from_sync_to_its_next_change() {
    let unnamed = |id| Request {
        undo: Undo { client: ClientUndo::None, server: ServerUndo::unnamed(id) },
        ..Request::forward(Kind::Parse)
    };
    let mut pipeline = Pipeline::default();
    pipeline.push(unnamed(None));
    assert!(!pipeline.unnamed_uncertain());
    pipeline.sync();
    assert!(pipeline.unnamed_uncertain());
    pipeline.push(unnamed(Some(1)));
    assert!(!pipeline.unnamed_uncertain());
    // Taking the first back must not take the second along.
    let failure = pipeline.error();
    assert_eq!(failure.undone.len(), 1);
    assert_eq!(pipeline.restore_server_unnamed(NonZero::new(9)), None);
    pipeline.ready(IDLE).unwrap();
    let ServerUndo::Unnamed(old) = pipeline.front().unwrap().undo.server else { panic!() };
    assert_eq!(old, NonZero::new(9));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Request(Kind),
    Reply(u8),
    Error,
    Ready,
}

fn take(pipeline: &mut Pipeline, step: Step) {
    match step {
        Step::Request(Kind::Sync) => drop(pipeline.sync()),
        Step::Request(Kind::CopyEnd) => pipeline.copy_end(),
        // A reply of Carpool's own, for a statement that it has already.
        Step::Request(Kind::Close) => {
            pipeline.push(Request::insert(tag::CLOSE_COMPLETE, ClientUndo::named(b"s", None)))
        }
        Step::Request(kind) => {
            let server = if kind == Kind::Parse { ServerUndo::Added(1) } else { ServerUndo::unnamed(None) };
            pipeline.push(Request { undo: Undo { server, ..Undo::default() }, ..Request::forward(kind) });
        }
        Step::Reply(message) => drop(pipeline.reply(message)),
        Step::Error => drop(pipeline.error()),
        Step::Ready => drop(pipeline.ready(IDLE)),
    }
}

proptest! {
    /// The counts are those of what is in flight, whatever happens, and nothing panics. The short way for simple replies
    /// leads where the long one does.
    #[test]
    fn counts_are_right_in_any_order(steps in prop::collection::vec(prop_oneof![
        6 => prop::sample::select(vec![
            Kind::Parse, Kind::Bind, Kind::DescribeStatement, Kind::DescribePortal, Kind::Execute, Kind::Close,
            Kind::Sync, Kind::Query, Kind::FunctionCall, Kind::CopyEnd,
        ]).prop_map(Step::Request),
        6 => prop::sample::select(b"123tTnDCIsGHdcV".to_vec()).prop_map(Step::Reply),
        1 => Just(Step::Error),
        2 => Just(Step::Ready),
    ], 0..60)) {
        let (mut pipeline, mut short) = (Pipeline::default(), Pipeline::default());
        for step in steps {
            if let Step::Reply(message) = step {
                let long = pipeline.reply(message);
                if short.pass_end(message) {
                    prop_assert!(matches!(long, Ok((true, None))), "{message}: {long:?}");
                } else {
                    drop(short.reply(message));
                }
            } else {
                take(&mut pipeline, step);
                take(&mut short, step);
            }
            prop_assert_eq!(format!("{pipeline:?}"), format!("{short:?}"));
            let any = |of: fn(&Request) -> bool| pipeline.requests.iter().any(of);
            let count = pipeline.count;
            let ready = pipeline.requests.iter().filter(|r| r.ends_in_ready()).count();
            prop_assert_eq!(count.ready(), ready as u64);
            prop_assert_eq!(count.any_sync(), any(|r| r.kind == Kind::Sync));
            prop_assert_eq!(count.any_run(), any(|r| matches!(r.kind, Kind::Execute | Kind::Query | Kind::FunctionCall)));
            prop_assert_eq!(count.any_unsent(), any(|r| matches!(r.fate, Fate::Insert(_)) || r.kind == Kind::CopyEnd));
            prop_assert_eq!(count.any_named(), any(Request::changes_named));
            prop_assert_eq!(count.any_unnamed(), any(Request::changes_unnamed));
            if pipeline.requests.is_empty() {
                prop_assert_eq!(count, Counts::default());
            }
            prop_assert!(pipeline.is_answered() || !pipeline.is_idle());
        }
    }
}
