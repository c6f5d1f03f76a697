//! Patterns in bytes that come in pieces. Pure.
//!
//! Of the bytes that were looked at the last ones are looked at again with those that follow,
//! so that what lies over the border of two pieces is found. Where a pattern blocks, they are
//! held back until then: of what may not leave, nothing leaves.

use std::sync::Arc;

use bytes::Bytes;

use crate::policy::{DataPattern, Inspect};

/// The longest match that is found wherever it lies.
pub(super) const WINDOW: usize = 8 * 1024;

/// How many new bytes are looked at together, unless they are the last or may not wait: each
/// byte is looked at twice at most, however small the pieces are.
const STEP: usize = 16 * 1024;

/// Patterns that were found, by their place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Looked {
    pub(super) found: Vec<usize>,
    blocking: Option<usize>,
}

impl Looked {
    /// Looks for patterns that were not found yet.
    pub(super) fn look(&mut self, patterns: &[DataPattern], bytes: &[u8]) {
        self.look_behind(patterns, bytes, 0);
    }

    /// The same behind the first bytes, which are only what stands before.
    fn look_behind(&mut self, patterns: &[DataPattern], bytes: &[u8], start: usize) {
        for (place, pattern) in patterns.iter().enumerate() {
            if !self.found.contains(&place) && pattern.regex.is_match_at(bytes, start) {
                self.found.push(place);
                if !pattern.report_only {
                    self.blocking.get_or_insert(place);
                }
            }
        }
    }

    /// The first that was found of those that must not leave.
    pub(super) fn blocking(&self) -> Option<usize> {
        self.blocking
    }
}

/// A body on its way.
pub(super) struct Scan {
    inspect: Arc<Inspect>,
    looked: Looked,
    /// Whether bytes wait here at all.
    holds: bool,
    window: Vec<u8>,
    /// Bytes of the window that have left.
    left: usize,
    /// Bytes at its end that were not looked at.
    fresh: usize,
    /// The first byte of the window is not the body's first.
    cut: bool,
}

impl Scan {
    pub(super) fn new(inspect: Arc<Inspect>) -> Self {
        Self {
            holds: inspect.patterns.iter().any(|it| !it.report_only),
            looked: Looked::default(),
            window: Vec::new(),
            left: 0,
            fresh: 0,
            cut: false,
            inspect,
        }
    }

    /// Takes a piece, and gives back what may leave: nothing, once something blocks.
    pub(super) fn take(&mut self, piece: Bytes) -> Bytes {
        if self.inspect.patterns.is_empty() {
            return piece;
        }
        self.window.extend_from_slice(&piece);
        self.fresh += piece.len();
        if self.holds {
            return match self.fresh >= STEP {
                true => self.release(false),
                false => Bytes::new(),
            };
        }
        self.left = self.window.len();
        if self.fresh >= STEP {
            self.release(false);
        }
        piece
    }

    /// Looks at what is there and gives back all that waits: because nothing more comes, or
    /// because it must not wait longer.
    pub(super) fn flush(&mut self) -> Bytes {
        self.release(true)
    }

    /// Whether bytes wait.
    pub(super) fn waits(&self) -> bool {
        self.left < self.window.len()
    }

    /// What was found so far.
    pub(super) fn looked(&self) -> &Looked {
        &self.looked
    }

    fn release(&mut self, all: bool) -> Bytes {
        if self.fresh > 0 {
            let start = usize::from(self.cut).min(self.window.len());
            self.looked
                .look_behind(&self.inspect.patterns, &self.window, start);
            self.fresh = 0;
        }
        if self.looked.blocking().is_some() {
            self.window = Vec::new();
            self.left = 0;
            return Bytes::new();
        }
        let kept = if all { 0 } else { WINDOW };
        let end = self.window.len().saturating_sub(kept).max(self.left);
        let out = Bytes::copy_from_slice(&self.window[self.left..end]);
        self.left = end;
        // One byte more, for patterns that look at what stands before them.
        let old = end.min(self.window.len().saturating_sub(WINDOW + 1));
        self.window.drain(..old);
        self.left -= old;
        self.cut |= old > 0;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use regex::bytes::Regex;
    use std::collections::BTreeSet;

    fn inspect(patterns: &[(&str, bool)]) -> Arc<Inspect> {
        let pattern = |(regex, report_only): &(&str, bool)| DataPattern {
            name: (*regex).to_owned(),
            regex: Regex::new(regex).expect("regex"),
            report_only: *report_only,
        };
        Arc::new(Inspect {
            requests: Vec::new(),
            strip: BTreeSet::new(),
            max_body: None,
            patterns: patterns.iter().map(pattern).collect(),
            pins: BTreeSet::new(),
        })
    }

    /// What leaves of a body in pieces, and what was found.
    fn scanned(
        inspect: &Arc<Inspect>,
        body: &[u8],
        size: &mut dyn FnMut() -> usize,
        hurry: &mut dyn FnMut() -> bool,
    ) -> (Vec<u8>, Looked) {
        let mut scan = Scan::new(Arc::clone(inspect));
        let (mut out, mut rest) = (Vec::new(), body);
        while !rest.is_empty() && scan.looked().blocking().is_none() {
            let (piece, after) = rest.split_at(size().clamp(1, rest.len()));
            rest = after;
            out.extend_from_slice(&scan.take(Bytes::copy_from_slice(piece)));
            if hurry() {
                out.extend_from_slice(&scan.flush());
            }
            assert!(
                scan.window.len() <= 2 * WINDOW + STEP + piece.len(),
                "bounded"
            );
        }
        out.extend_from_slice(&scan.flush());
        (out, scan.looked().clone())
    }

    #[test]
    fn bodies_pass_as_they_are_however_they_come() {
        let mut random = StdRng::seed_from_u64(7);
        for patterns in [vec![], vec![("KEY[0-9]{16}", false)], vec![("KEY", true)]] {
            let inspect = inspect(&patterns);
            for _ in 0..12 {
                let len = random.random_range(0..80_000);
                let mut body: Vec<u8> = (0..len).map(|_| random.random_range(0..64)).collect();
                body.iter_mut().for_each(|byte| *byte += 1);
                let most = [100, 5000, 40_000][random.random_range(0..3)];
                let (mut sizes, mut hurries) = (random.clone(), random.clone());
                let (out, looked) = scanned(
                    &inspect,
                    &body,
                    &mut || sizes.random_range(1..=most),
                    &mut || hurries.random_range(0..10) == 0,
                );
                assert!(out == body);
                assert_eq!(looked.found.len(), usize::from(looked.found == [0]));
            }
        }
    }

    #[test]
    fn a_match_is_found_over_every_border_and_nothing_of_it_leaves() {
        let inspect = inspect(&[("KEY[0-9]{16}", false)]);
        let secret = b"KEY0123456789012345";
        for before in [0, 1, 10, STEP - 10, STEP - 1, STEP, 3 * STEP - 5] {
            let body = [&vec![b'x'; before][..], secret, &[b'y'; 500]].concat();
            for size in [1, 7, 19, 4096, 100_000] {
                let (out, looked) = scanned(&inspect, &body, &mut || size, &mut || false);
                assert_eq!(looked.blocking(), Some(0), "{before} {size}");
                assert!(out.len() <= before && out.iter().all(|byte| *byte == b'x'));
                if size < 19 {
                    continue;
                }
                // In a hurry its beginning may have left, and it is found all the same.
                let (_, looked) = scanned(&inspect, &body, &mut || size, &mut || true);
                assert_eq!(looked.blocking(), Some(0), "{before} {size} in a hurry");
            }
        }
        let long = [&b"KEY"[..], &[b'x'; STEP]].concat();
        let (out, looked) = scanned(&inspect, &long, &mut || 999, &mut || false);
        assert!(looked.found.is_empty() && out == long);
    }

    #[test]
    fn what_is_only_reported_waits_for_nothing() {
        let inspect = inspect(&[("KEY[0-9]{4}", true), ("\\bTOKEN", true)]);
        let mut scan = Scan::new(Arc::clone(&inspect));
        assert_eq!(scan.take(Bytes::from_static(b"a KEY1")), &b"a KEY1"[..]);
        assert!(!scan.waits());
        assert_eq!(scan.take(Bytes::from_static(b"234 xTOKEN")).len(), 10);
        assert!(scan.flush().is_empty());
        assert_eq!(scan.looked().found, [0]);
        assert_eq!(scan.looked().blocking(), None);
    }

    #[test]
    fn the_beginning_of_a_window_is_not_the_beginning_of_the_body() {
        let inspect = inspect(&[("^x{5}", false)]);
        let body = [&b"y"[..], &[b'x'; 5 * STEP]].concat();
        let (out, looked) = scanned(&inspect, &body, &mut || 1000, &mut || true);
        assert_eq!(looked.blocking(), None);
        assert!(out == body);
    }
}
