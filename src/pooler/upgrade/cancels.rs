//! Cancel requests that came to the one process for a client of the other.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::wire::Message;
use crate::client::exodus::{Asked, Neighbour};
use crate::client::{Context, cancel};
use crate::net::world;
use crate::wire::startup::CancelKey;

/// Both directions of them, of one process.
pub(super) struct Cancels {
    context: Arc<Context>,
    other: Neighbour,
    asked: mpsc::Receiver<Asked>,
    /// Those that the other one was asked.
    pending: HashMap<u64, oneshot::Sender<bool>>,
    next: u64,
    done: mpsc::UnboundedSender<Message>,
    /// What the other one has asked, done.
    answers: mpsc::UnboundedReceiver<Message>,
}

impl Cancels {
    pub(super) fn new(context: &Arc<Context>, other: Neighbour) -> Self {
        let (done, answers) = mpsc::unbounded_channel();
        let (asked, pending) = (context.exodus.open_cancels(other), HashMap::new());
        Self { context: Arc::clone(context), other, asked, pending, next: 0, done, answers }
    }

    /// The next thing to say. May be dropped half done.
    pub(super) async fn next(&mut self) -> Message {
        loop {
            tokio::select! {
                Some(answer) = self.answers.recv() => return answer,
                Some(Asked { key, done }) = self.asked.recv() => {
                    self.next += 1;
                    self.pending.insert(self.next, done);
                    return Message::Cancel(self.next, key.pid, key.secret.to_vec());
                }
                else => std::future::pending().await,
            }
        }
    }

    /// Takes what the other one says of this; other things are given back.
    pub(super) fn take(&mut self, message: Message) -> Option<Message> {
        match message {
            Message::Cancel(number, pid, secret) => {
                let (context, other, done) = (Arc::clone(&self.context), self.other, self.done.clone());
                world::spawn(async move {
                    let key = CancelKey { pid, secret: secret.as_slice().into() };
                    let found = cancel::request_from(&context, other, &key).await;
                    // The other one may be gone.
                    let _ = done.send(Message::Cancelled(number, found));
                });
                None
            }
            Message::Cancelled(number, found) => {
                if let Some(done) = self.pending.remove(&number) {
                    let _ = done.send(found);
                }
                None
            }
            other => Some(other),
        }
    }
}

impl Drop for Cancels {
    fn drop(&mut self) {
        self.context.exodus.close_cancels(self.other);
    }
}
