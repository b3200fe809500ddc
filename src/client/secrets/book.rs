//! What was asked, what was answered, and who waits for it. Pure: no I/O, no clock.
//!
//! Each question is asked once for all who wait for its answer at the same time, and answers are kept for a while.
//! Invariants: a question with waiters is either in line or being asked; at most [`MOST_KEPT`] answers are kept;
//! an answer that was asked for before everything was forgotten isn't kept.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Instant;

/// Answers kept at once.
pub const MOST_KEPT: usize = 10_000;

/// One who waits. It may be gone by the time that the answer comes.
pub trait Waiter {
    /// Whether it still waits.
    fn is_waiting(&self) -> bool;
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept<A> {
    /// The answer itself.
    pub answer: A,
    /// When it came.
    pub since: Instant,
    until: Instant,
}

/// A question that is to be asked now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked<Q> {
    /// The question.
    pub question: Q,
    age: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Book<Q, A, W> {
    kept: HashMap<Q, Kept<A>>,
    waiting: HashMap<Q, Vec<W>>,
    line: VecDeque<Q>,
    /// Somebody asks the questions.
    is_served: bool,
    /// Counts how often everything was forgotten.
    age: u64,
}

impl<Q, A, W> Default for Book<Q, A, W> {
    fn default() -> Self {
        let (kept, waiting, line) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self { kept, waiting, line, is_served: false, age: 0 }
    }
}

impl<Q: Clone + Eq + Hash, A: Clone, W: Waiter> Book<Q, A, W> {
    /// The answer, if one is kept that still holds.
    #[must_use]
    pub fn known(&self, question: &Q, now: Instant) -> Option<&Kept<A>> {
        self.kept.get(question).filter(|kept| now < kept.until)
    }

    /// Has one wait for an answer. When this gives true nobody asks the questions yet: the caller must see to it.
    #[must_use]
    pub fn wait(&mut self, question: Q, waiter: W) -> bool {
        let waiting = self.waiting.entry(question.clone()).or_default();
        if waiting.is_empty() {
            self.line.push_back(question);
        }
        waiting.push(waiter);
        !std::mem::replace(&mut self.is_served, true)
    }

    /// The next question that anybody still waits for. None: whoever asks them is dismissed.
    pub fn next_question(&mut self) -> Option<Asked<Q>> {
        while let Some(question) = self.line.pop_front() {
            let waits = self.waiting.get(&question).is_some_and(|all| all.iter().any(Waiter::is_waiting));
            if waits {
                return Some(Asked { question, age: self.age });
            }
            self.waiting.remove(&question);
        }
        self.is_served = false;
        None
    }

    /// Takes an answer at `now`, which holds up to `until`; gives those who waited for it, and what to tell them.
    pub fn answer(&mut self, asked: Asked<Q>, answer: A, now: Instant, until: Instant) -> (Vec<W>, Kept<A>) {
        let kept = Kept { answer, since: now, until };
        let waiting = self.waiting.remove(&asked.question).unwrap_or_default();
        if until > now && asked.age == self.age {
            self.make_room(now);
            self.kept.insert(asked.question, kept.clone());
        }
        (waiting, kept)
    }

    /// There is no answer; gives those who waited for it.
    pub fn fail(&mut self, asked: &Asked<Q>) -> Vec<W> {
        self.waiting.remove(&asked.question).unwrap_or_default()
    }

    /// There are no answers: gives all who wait, and whoever asks the questions is dismissed.
    pub fn fail_all(&mut self) -> Vec<W> {
        self.line.clear();
        self.is_served = false;
        self.waiting.drain().flat_map(|(_, waiting)| waiting).collect()
    }

    /// Forgets the answer to a question, unless it is a newer one than that of `since`.
    pub fn forget(&mut self, question: &Q, since: Instant) {
        if self.kept.get(question).is_some_and(|kept| kept.since <= since) {
            self.kept.remove(question);
        }
    }

    /// Forgets all answers.
    pub fn forget_all(&mut self) {
        self.kept.clear();
        self.age += 1;
    }

    /// Whether nothing is kept and nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.waiting.is_empty() && !self.is_served
    }

    fn make_room(&mut self, now: Instant) {
        if self.kept.len() < MOST_KEPT {
            return;
        }
        self.kept.retain(|_, kept| now < kept.until);
        if self.kept.len() >= MOST_KEPT {
            // Any will do: what is missing is asked for again.
            if let Some(victim) = self.kept.keys().next().cloned() {
                self.kept.remove(&victim);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    /// Waits for a question until it is told to go.
    #[derive(Clone, Debug)]
    struct Client {
        question: u8,
        here: Rc<Cell<bool>>,
    }

    impl Waiter for Client {
        fn is_waiting(&self) -> bool {
            self.here.get()
        }
    }

    fn client(question: u8) -> Client {
        Client { question, here: Rc::new(Cell::new(true)) }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn those_who_ask_the_same_share_one_answer() {
        let (mut book, now) = (Book::default(), Instant::now());
        assert!(book.wait(1, client(1)));
        assert!(!book.wait(1, client(1)));
        assert!(!book.wait(2, client(2)));
        let asked = book.next_question().unwrap();
        assert_eq!(asked.question, 1);
        // One who comes while it is being asked waits along.
        assert!(!book.wait(1, client(1)));
        assert_eq!(book.answer(asked, "one", now, now + seconds(5)).0.len(), 3);
        assert_eq!(book.next_question().map(|asked| asked.question), Some(2));
        assert_eq!(book.known(&1, now + seconds(4)).map(|kept| kept.answer), Some("one"));
        assert_eq!(book.known(&1, now + seconds(5)), None);
        assert_eq!(book.known(&2, now), None);
    }

    #[test]
    fn what_was_forgotten_meanwhile_is_not_kept() {
        let (mut book, now) = (Book::default(), Instant::now());
        assert!(book.wait(1, client(1)));
        let asked = book.next_question().unwrap();
        book.forget_all();
        assert_eq!(book.answer(asked, "old", now, now + seconds(5)).0.len(), 1);
        assert_eq!(book.known(&1, now), None);
        assert!(!book.wait(1, client(1)));
        let asked = book.next_question().unwrap();
        book.answer(asked, "new", now, now + seconds(5));
        book.forget(&1, now.checked_sub(seconds(1)).unwrap());
        assert!(book.known(&1, now).is_some(), "what came after the doubt stays");
        book.forget(&1, now);
        assert_eq!(book.known(&1, now), None);
        assert_eq!(book.next_question(), None);
        assert!(book.is_empty());
    }

    #[test]
    fn an_answer_without_time_to_live_is_given_and_not_kept() {
        let (mut book, now) = (Book::default(), Instant::now());
        assert!(book.wait(1, client(1)));
        let asked = book.next_question().unwrap();
        assert_eq!(book.answer(asked, "one", now, now).0.len(), 1);
        assert_eq!(book.next_question(), None);
        assert!(book.is_empty());
    }

    #[test]
    fn it_is_bounded() {
        let (mut book, now) = (Book::<u32, u32, Client>::default(), Instant::now());
        for question in 0..u32::try_from(MOST_KEPT).unwrap() + 50 {
            let _ = book.wait(question, client(0));
            let asked = book.next_question().unwrap();
            book.answer(asked, question, now, now + seconds(5));
            assert_eq!(book.known(&question, now).map(|kept| kept.answer), Some(question));
        }
        assert_eq!(book.kept.len(), MOST_KEPT);
    }

    proptest! {
        /// Whatever happens in whatever order: nobody is forgotten, nobody is told twice, and whenever there is a
        /// question that somebody waits for, somebody serves the book.
        #[test]
        fn everybody_is_told(steps in proptest::collection::vec((0u8..7, 0u8..4), 0..200)) {
            let (mut book, now) = (Book::<u8, u8, Client>::default(), Instant::now());
            let (mut clients, mut told, mut gone, mut served) = (0, 0, 0, false);
            let mut asked = None;
            let mut here: Vec<Client> = Vec::new();
            for (step, question) in steps {
                match step {
                    0 | 1 => {
                        let new = client(question);
                        clients += 1;
                        here.push(new.clone());
                        prop_assert_eq!(book.wait(question, new), !served);
                        served = true;
                    }
                    2 if served && asked.is_none() => {
                        let before: usize = book.waiting.values().map(Vec::len).sum();
                        asked = book.next_question();
                        served = asked.is_some();
                        let after: usize = book.waiting.values().map(Vec::len).sum();
                        gone += before - after;
                    }
                    3 => if let Some(asked) = asked.take() {
                        let question = asked.question;
                        for client in book.answer(asked, question, now, now + seconds(1)).0 {
                            prop_assert_eq!(client.question, question);
                            told += 1;
                        }
                    }
                    4 => if let Some(asked) = asked.take() {
                        told += book.fail(&asked).len();
                    }
                    5 if served && asked.is_none() && question == 0 => {
                        told += book.fail_all().len();
                        served = false;
                    }
                    6 => if let Some(client) = here.pop() { client.here.set(false); },
                    _ => {}
                }
                let waiting: usize = book.waiting.values().map(Vec::len).sum();
                prop_assert_eq!(clients, told + gone + waiting);
                prop_assert!(served || waiting == 0);
                let in_line = book.waiting.keys().filter(|q| !book.line.contains(q)).count();
                prop_assert!(in_line <= usize::from(asked.is_some()));
            }
        }
    }
}
