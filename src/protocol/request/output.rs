//! Bytes on their way out.

use std::ops::Range;

/// Bytes on their way out: a range of the input for as long as they stand there unchanged and in one piece,
/// else a copy.
#[derive(Debug, Default)]
pub struct Output {
    own: Vec<u8>,
    range: Range<usize>,
}

impl Output {
    /// Adds `range` of `input`. All calls until [`Output::clear`] must be about the same `input`.
    pub fn forward(&mut self, input: &[u8], range: Range<usize>) {
        if !self.own.is_empty() {
            self.own.extend_from_slice(&input[range]);
        } else if self.range.is_empty() {
            self.range = range;
        } else if self.range.end == range.start {
            self.range.end = range.end;
        } else {
            self.own(input).extend_from_slice(&input[range]);
        }
    }

    /// The buffer to append bytes to that aren't in `input`.
    pub fn own(&mut self, input: &[u8]) -> &mut Vec<u8> {
        if !self.range.is_empty() {
            self.own.extend_from_slice(&input[std::mem::take(&mut self.range)]);
        }
        &mut self.own
    }

    /// All bytes.
    #[must_use]
    pub fn bytes<'a>(&'a self, input: &'a [u8]) -> &'a [u8] {
        if self.own.is_empty() { &input[self.range.clone()] } else { &self.own }
    }

    /// Forgets the bytes and keeps the memory, unless it grew large.
    pub fn clear(&mut self) {
        self.own.clear();
        self.own.shrink_to(256 * 1024);
        self.range = 0..0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gives_what_was_put_in_in_order(pieces in prop::collection::vec((any::<bool>(), 0usize..40, 0usize..8), 0..12)) {
            let input: Vec<u8> = (0..64).collect();
            let (mut output, mut want) = (Output::default(), Vec::new());
            for (own, at, len) in pieces {
                if own {
                    let bytes = vec![200; len];
                    output.own(&input).extend_from_slice(&bytes);
                    want.extend_from_slice(&bytes);
                } else {
                    output.forward(&input, at..at + len);
                    want.extend_from_slice(&input[at..at + len]);
                }
                prop_assert_eq!(output.bytes(&input), &want[..]);
            }
            output.clear();
            prop_assert!(output.bytes(&input).is_empty());
        }
    }
}
