//! What clients are told while they wait for a server.

use crate::pool::Pool;
use crate::wire::backend::tag;
use crate::wire::frame;

/// A Terminate message.
pub(super) const GOODBYE: [u8; 5] = *b"X\0\0\0\x04";

/// Appends the notice of `query_wait_notify`, in PgBouncer's words.
pub(super) fn put_notice(out: &mut Vec<u8>, pool: &Pool) {
    let detail = format!("Database \"{}\" has no server connection free.", pool.name);
    let hint = "See query_wait_notify and pool_size.";
    frame::message(out, tag::NOTICE_RESPONSE, |b| {
        let text = "No server connection available in postgres backend, client being queued";
        for (code, value) in
            [(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', text), (b'D', &detail), (b'H', hint)]
        {
            b.push(code);
            frame::put_cstr(b, value.as_bytes());
        }
        b.push(0);
    });
}
