//! A pool's size, divided between two processes while one takes the other's place.
//!
//! The old one gives up slots as its clients leave, never takes one back, and says each time what it keeps; the new one
//! has the rest. What is kept is said only when the servers beyond it have hung up, so both together never have more
//! than the pool's size, a user's limits included.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Pool, background};
use crate::names::UserName;

/// What another process may have of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// In all.
    pub total: u32,
    /// Of the users that have any.
    pub users: Vec<(String, u32)>,
}

impl Kept {
    /// It may have them all.
    pub const ALL: Self = Self { total: u32::MAX, users: Vec::new() };
}

/// How a pool's size is divided.
#[derive(Clone, Debug)]
pub(super) struct Division {
    /// The most that is left here.
    left: u32,
    elsewhere: Kept,
}

impl Default for Division {
    fn default() -> Self {
        Self { left: u32::MAX, elsewhere: Kept::default() }
    }
}

impl Division {
    /// What is to be had here of a pool of `size`.
    pub(super) fn part_of(&self, size: u32) -> u32 {
        size.saturating_sub(self.elsewhere.total).min(self.left)
    }
}

impl super::control::Control {
    /// Whether this process gives the pool up, slot by slot.
    pub(super) fn is_ceding(&self) -> bool {
        self.division.lock().left != u32::MAX
    }

    /// What another process may have of a user's slots.
    pub(super) fn elsewhere_of(&self, name: &UserName) -> u32 {
        let division = self.division.lock();
        division.elsewhere.users.iter().find(|(user, _)| user == name.as_str()).map_or(0, |(_, slots)| *slots)
    }
}

impl Pool {
    /// Gives up what is idle, but for one server of each user that `needs` one beside those in use, and `spare` slots for
    /// users that have none. Gives what is kept, closing servers included.
    #[must_use]
    pub fn cede(self: &Arc<Self>, needs: impl Fn(&UserName) -> bool, spare: u32) -> Kept {
        let users = self.users.lock().list.clone();
        let mut queue = self.queue.lock();
        let spec = self.spec.load();
        // The new process must get on, too.
        let most = self.control.size(&spec).saturating_sub(1).max(1);
        let (mut going, mut kept, mut left) = (Vec::new(), Kept::default(), spare);
        for user in &users {
            going.extend(queue.cede(user.index, u32::from(needs(&user.name))));
            let (may_have, has) = queue.left_of(user.index);
            left = left.saturating_add(may_have);
            let slots = may_have.max(has);
            match kept.users.iter_mut().find(|(name, _)| name == user.name.as_str()) {
                _ if slots == 0 => {}
                Some((_, sum)) => *sum += slots,
                None => kept.users.push((user.name.as_str().to_owned(), slots)),
            }
        }
        let left = {
            let mut division = self.control.division.lock();
            division.left = division.left.min(left).min(most);
            division.left
        };
        queue.set_limits(self.control.limits(&spec));
        kept.total = left.max(queue.slots());
        drop(queue);
        for pooled in going {
            background::close(pooled, background::Slot::Closing);
        }
        self.pump();
        kept
    }

    /// Another process may have so many of this pool's slots from now on.
    pub fn set_elsewhere(self: &Arc<Self>, kept: Kept) {
        let users = self.users.lock();
        let mut queue = self.queue.lock();
        self.control.division.lock().elsewhere = kept;
        for user in users.by_name.values() {
            queue.set_elsewhere(user.index, self.control.elsewhere_of(&user.name));
        }
        queue.set_limits(self.control.limits(&self.spec.load()));
        drop((queue, users));
        self.pump();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_are_the_size() {
        let old = |left| Division { left, ..Division::default() };
        let new = |total| Division { elsewhere: Kept { total, users: Vec::new() }, ..Division::default() };
        for left in 0..=25 {
            assert_eq!(old(left).part_of(25) + new(left).part_of(25), 25);
        }
        assert_eq!(
            (old(u32::MAX).part_of(25), new(u32::MAX).part_of(25), Division::default().part_of(25)),
            (25, 0, 25)
        );
    }
}
