//! SUSPEND: everything stands still. Buffers are flushed, and nothing more is read from clients or servers, nor are
//! connections accepted, until RESUME.

use std::sync::atomic::Ordering;
use std::time::Instant;

use tracing::{info, warn};

use super::Admin;
use super::operate::{LOOK, Look, Waited, already_paused};
use super::operator::Operator;
use crate::client::registry::{ClientKind, order};
use crate::error::{ClientError, SqlState};
use crate::net::timer;

impl Admin {
    /// Whether everything stands still.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.context.suspended.load(Ordering::SeqCst)
    }

    /// Has everything stand still. Clients whose buffers aren't flushed within `suspend_timeout` are ended.
    pub(super) async fn suspend(&self, by: &Operator<'_>) -> Result<(), ClientError> {
        if self.context.pools.all().iter().any(|pool| pool.is_paused()) {
            let text = "cannot suspend with paused databases";
            return Err(ClientError::error(SqlState::PROTOCOL_VIOLATION, text));
        }
        if self.context.suspended.swap(true, Ordering::SeqCst) {
            return Err(already_paused());
        }
        let (begun, limit) = (Instant::now(), self.context.config.load().pooler.suspend_timeout);
        let look = || {
            if !self.is_suspended() {
                return Look::Void;
            }
            let late = !limit.is_zero() && begun.elapsed() >= limit;
            match self.stand_still(late) {
                0 => Look::Done,
                _ => Look::NotYet,
            }
        };
        match self.wait(by, None, look).await {
            Waited::Done => Ok(()),
            _ => {
                self.unsuspend();
                let text = "canceling statement due to user request";
                Err(ClientError::error(SqlState::QUERY_CANCELED, text).detail("Everything goes on."))
            }
        }
    }

    /// Tells every client to stand still, or ends it if it is too late for that. Gives how many don't yet.
    fn stand_still(&self, late: bool) -> usize {
        let mut left = 0;
        self.context.registry.for_each(|client| {
            let orders = client.orders();
            if client.kind != ClientKind::Pooled || orders & order::STANDS != 0 {
                return;
            }
            left += 1;
            if late {
                warn!(client = %client.id, "closing because: suspend_timeout");
                let error = ClientError::fatal(SqlState::ADMIN_SHUTDOWN, "suspend_timeout");
                client.end(order::END_NOW, error.hint("See suspend_timeout."));
            } else if orders & order::SUSPEND == 0 {
                client.order(order::SUSPEND);
            }
        });
        left
    }

    /// Has everything go on. Says whether it stood still.
    pub fn unsuspend(&self) -> bool {
        let was = self.context.suspended.swap(false, Ordering::SeqCst);
        if was {
            self.context.registry.for_each(|client| {
                client.clear_order(order::SUSPEND | order::STANDS);
                client.wake();
            });
        }
        was
    }

    /// A console session has ended. Without any, nobody could say that things are to go on.
    pub(super) fn console_left(&self) {
        let mut consoles = 0;
        self.context.registry.for_each(|client| consoles += u32::from(client.kind == ClientKind::Console));
        if consoles == 0 && self.unsuspend() {
            info!("admin disappeared when suspended, doing RESUME");
        }
    }

    /// Returns when nothing stands still.
    pub async fn until_moving(&self) {
        while self.is_suspended() {
            timer::sleep(LOOK).await;
        }
    }
}
