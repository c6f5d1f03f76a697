//! Whether bytes are a host name, eight at a time: a loop over single bytes with a state
//! would cost the kernel's verifier twenty times as many instructions.
//!
//! A **lane** is one of the eight bytes of a word. A set of lanes is a word with the highest
//! bit of each of its lanes; lane 0 is the lowest byte and the first in the name.

use super::{Buffer, Fault, NAME_BYTES};

const ONES: u64 = 0x0101_0101_0101_0101;
const ALL: u64 = ONES << 7;
const LANES: u32 = 8;
const MAX_LABEL: u64 = 63;

/// Lanes whose byte is `low` or more. No byte of `word` may be above 0x7f: then no sum
/// reaches the next lane.
#[inline(always)]
const fn at_least(word: u64, low: u8) -> u64 {
    word.wrapping_add(ONES * (0x80 - low as u64)) & ALL
}

/// Lanes whose byte is `low` to `high`, both included.
#[inline(always)]
const fn within(word: u64, low: u8, high: u8) -> u64 {
    at_least(word, low) & !at_least(word, high + 1)
}

/// How many lanes are in a set.
#[inline(always)]
const fn count(set: u64) -> u64 {
    (set >> 7).wrapping_mul(ONES) >> 56
}

/// The lanes of a set and those above each.
#[inline(always)]
const fn upwards(set: u64) -> u64 {
    let set = set | set << 8;
    let set = set | set << 16;
    set | set << 32
}

/// The lanes of a set and those below each.
#[inline(always)]
const fn downwards(set: u64) -> u64 {
    let set = set | set >> 8;
    let set = set | set >> 16;
    set | set >> 32
}

/// What the words so far add up to.
#[derive(Clone, Copy)]
struct Sum {
    /// Lanes with a byte or at a place that no host name has.
    bad: u64,
    /// The same for a ':'.
    colon: u64,
    /// Bytes of the label that the last word ends in.
    label: u64,
    /// Whether a byte of it is no digit: zero or not.
    letters: u64,
    /// Whether the last byte was a dot: the highest bit.
    dot: u64,
    /// Whether the last byte was a hyphen: the highest bit.
    hyphen: u64,
}

impl Sum {
    /// Adds a word of which the lanes in `inside` belong to the name, and gives it in lower
    /// case. The first lane behind the name's end counts as a dot.
    #[inline(always)]
    fn add(&mut self, word: u64, inside: u64) -> u64 {
        let high = word & ALL;
        let seven = word & !ALL;
        // 0x20 is what upper and lower case differ in.
        let upper = within(seven, b'A', b'Z') & !high;
        let lower = seven | upper >> 2;
        let digits = within(lower, b'0', b'9') & !high;
        let letters = within(lower, b'a', b'z');
        let underscores = within(lower, b'_', b'_');
        let hyphens = within(lower, b'-', b'-') & !high & inside;
        let dots = within(lower, b'.', b'.') & !high & inside;
        let known = digits | (letters | underscores) & !high | hyphens | dots;
        self.bad |= inside & !known;
        self.colon |= within(lower, b':', b':') & !high & inside;

        // Lanes up to the first behind the end.
        let reach = inside << 8 | 0x80;
        let ends = dots | !inside & ALL;
        let after_dot = dots << 8 | self.dot >> 56;
        let after_hyphen = hyphens << 8 | self.hyphen >> 56;
        self.bad |= reach & ends & (after_dot | after_hyphen);
        self.bad |= hyphens & after_dot;

        // The label that was open, up to the first end here; and the one that stays open.
        // Labels that begin and end in this word are short.
        let first = self.label + count(!upwards(ends) & ALL);
        self.bad |= MAX_LABEL.wrapping_sub(first) & 1 << 63;
        let closed = downwards(dots);
        let open = !closed & ALL & inside;
        // All ones without a dot, otherwise zero: a branch here would have the verifier
        // follow every word's two ways with every other's.
        let carried = (closed >> 7 & 1).wrapping_sub(1);
        self.label = count(open) + (self.label & carried);
        self.letters = open & !digits | self.letters & carried;
        self.dot = dots & 1 << 63;
        self.hyphen = hyphens & 1 << 63;
        lower | high
    }
}

/// Whether the first `len` bytes are a host name (see [`Fault::NameBytes`]) and no address;
/// leaves them in lower case. `len` is less than [`NAME_BYTES`]; zero is no name.
#[inline(always)]
pub(super) fn check(bytes: &mut Buffer, len: u32) -> Result<(), Fault> {
    let mut sum = Sum {
        bad: 0,
        colon: 0,
        label: 0,
        letters: 0,
        // A name begins as if behind a dot.
        dot: 1 << 63,
        hyphen: 0,
    };
    let (words, _) = bytes.as_chunks_mut::<{ LANES as usize }>();
    let mut begin = 0;
    for bytes in words.iter_mut().take(NAME_BYTES / LANES as usize) {
        let rest = len.wrapping_sub(begin);
        let word = u64::from_le_bytes(*bytes);
        if rest < LANES {
            let inside = (1_u64 << (8 * rest)).wrapping_sub(1) & ALL;
            *bytes = sum.add(word, inside).to_le_bytes();
            break;
        }
        *bytes = sum.add(word, ALL).to_le_bytes();
        begin += LANES;
    }
    if sum.colon != 0 {
        return Err(Fault::Address);
    }
    if sum.bad != 0 {
        return Err(Fault::NameBytes);
    }
    if sum.letters == 0 || is_hexadecimal(bytes, len.wrapping_sub(sum.label as u32)) {
        return Err(Fault::Address);
    }
    Ok(())
}

/// Whether what begins there begins like a hexadecimal number. No top-level domain does,
/// so it is not worth its loop to look at the digits.
#[inline(always)]
fn is_hexadecimal(bytes: &Buffer, at: u32) -> bool {
    let byte = |at: u32| bytes[(at & 0xff) as usize];
    byte(at) == b'0' && byte(at.wrapping_add(1)) == b'x'
}
