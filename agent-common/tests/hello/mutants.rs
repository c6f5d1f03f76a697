//! Real hellos, and what becomes of them by hands that know their structure.

use super::parts::{Parts, host, in_records, names};

/// The hellos of `corpus.txt`, with their titles.
pub(crate) fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<(&str, Vec<u8>)> = Vec::new();
    for line in include_str!("corpus.txt").lines() {
        if let Some(title) = line.strip_prefix("# ") {
            all.push((title, Vec::new()));
            continue;
        }
        let hello = &mut all.last_mut().expect("a title").1;
        let digits = (0..line.len()).step_by(2);
        hello.extend(digits.map(|at| u8::from_str_radix(&line[at..at + 2], 16).expect("hex")));
    }
    all.retain(|(_, hello)| !hello.is_empty());
    all
}

/// SplitMix64: a seed gives the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below the bound; zero if that is zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// How a stream of that many bytes is cut into 1 to 20 pieces: where each ends.
    pub(crate) fn cuts(&mut self, length: usize) -> Vec<usize> {
        let mut ends: Vec<usize> = (0..self.below(20)).map(|_| self.below(length)).collect();
        // Near the beginning is where the fields are.
        if self.chance(30) {
            ends.extend((0..self.below(5)).map(|_| self.below(length.min(60))));
        }
        ends.push(length);
        ends.sort_unstable();
        ends
    }
}

/// Names that nobody asks for by accident.
const NAMES: [&[u8]; 34] = [
    b"api.example.com",
    b"API.Example.COM",
    b"evil.example.net",
    b"a",
    b"localhost",
    b"under_score.example",
    b"xn--bcher-kva.example",
    b"1.example",
    b"3com.example",
    b"example.c0m",
    b"api.example.com.",
    b"api.example.com\0.evil.example.net",
    b"\0",
    b".",
    b".example",
    b"a..b",
    b"-a.example",
    b"a-.example",
    b"a.-",
    b"a-",
    b"*.example.com",
    b"b\xc3\xbccher.example",
    b"a b.example",
    b"192.0.2.1",
    b"1",
    b"1.2",
    b"a.1",
    b"a.0x1f",
    b"0xg",
    b"0x7f000001",
    b"2001:db8::1",
    b"::",
    b"[::1]",
    b"user@host.example:443",
];

/// A name: one of those, or one of a length that is on some edge.
pub(crate) fn name(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 | 1 => random.pick(&NAMES).to_vec(),
        2 => {
            let label = *random.pick(&[1, 2, 7, 8, 9, 31, 32, 62, 63, 64]);
            let length = *random.pick(&[
                1, 7, 8, 9, 15, 16, 31, 32, 33, 63, 64, 65, 128, 248, 252, 253, 254, 255, 256, 300,
            ]);
            (0..length)
                .map(|at| match at % (label + 1) == label {
                    true => b'.',
                    false => *random.pick(b"aZ"),
                })
                .collect()
        }
        _ => (0..random.below(40))
            .map(|_| *random.pick(b"aaaaabcxyzAZ0019--_...:\x00\x80\xff@[`{/ "))
            .collect(),
    }
}

fn server_name(random: &mut Random) -> (u16, Vec<u8>) {
    let (first, second) = (name(random), name(random));
    match random.below(10) {
        0 => names(&[(0, &first), (0, &second)]),
        1 => names(&[(1, &first)]),
        2 => names(&[(0, &first), (1, &second)]),
        3 => names(&[(7, &first), (0, &second)]),
        4 => names(&[]),
        5 => (0, random.bytes(3)),
        6 => (0, Vec::new()),
        7 => {
            let (kind, mut body) = host(&first);
            body.extend(random.bytes(3));
            (kind, body)
        }
        _ => host(&first),
    }
}

/// Changes what the hello says, in good form.
fn change(random: &mut Random, parts: &mut Parts, corpus: &[Parts]) {
    let count = parts.extensions().len();
    let at = random.below(count);
    match random.below(17) {
        0..=3 => {
            let new = server_name(random);
            let old = parts.extensions().iter().position(|(kind, _)| *kind == 0);
            match old {
                Some(old) if random.chance(85) => parts.extensions()[old] = new,
                _ => parts.extensions().insert(at, new),
            }
        }
        4 if count > 0 => {
            parts.extensions().remove(at);
        }
        5 if count > 0 => {
            let again = parts.extensions()[at].clone();
            parts.extensions().insert(random.below(count), again);
        }
        6 if count > 0 => {
            let other = random.below(count);
            parts.extensions().swap(at, other);
        }
        7 => {
            let kind = *random.pick(&[0, 10, 16, 21, 41, 42, 43, 63, 64, 0x0a0a, 0xfe0d, 0xff01]);
            let body = random.below(40);
            parts.extensions().insert(at, (kind, random.bytes(body)));
        }
        8 if count > 0 => parts.extensions()[at].0 = *random.pick(&[0, 1, 42, 255, 256]),
        9 if count > 0 => {
            let body = random.below(200);
            parts.extensions()[at].1 = random.bytes(body);
        }
        10 => {
            for kind in 0..random.below(70) {
                parts.extensions().push((0x5500 + kind as u16, vec![]));
            }
        }
        11 => parts.session = vec![9; *random.pick(&[0, 1, 31, 32, 33, 255])],
        12 => {
            let ciphers = *random.pick(&[0, 1, 2, 3, 400]);
            parts.ciphers = random.bytes(ciphers);
        }
        13 => parts.compression = vec![*random.pick(&[0, 1]); *random.pick(&[0, 1, 2, 255])],
        14 => match random.below(4) {
            0 => parts.record_version = [*random.pick(&[0, 2, 3, 4, 0xfe]), random.next() as u8],
            1 => parts.version = [*random.pick(&[0, 2, 3, 4, 0xfe]), random.next() as u8],
            2 => parts.message = *random.pick(&[0, 2, 11, 16]),
            _ => parts.extensions = None,
        },
        15 if at + 1 < count => {
            // A body that swallows its neighbour: lies that agree with each other.
            let (kind, body) = parts.extensions().remove(at + 1);
            let swallows = &mut parts.extensions()[at].1;
            swallows.extend(kind.to_be_bytes());
            swallows.extend((body.len() as u16).to_be_bytes());
            swallows.extend(body);
        }
        _ => {
            // Another client's extensions from here on.
            let other = random.pick(corpus).extensions.clone().unwrap_or_default();
            let from = random.below(other.len());
            parts.extensions().truncate(at);
            parts.extensions().extend_from_slice(&other[from..]);
        }
    }
}

/// Damages the bytes.
fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len());
    match random.below(8) {
        0 => bytes.truncate(at),
        1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
        2 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        3 => {
            let noise = random.below(10);
            bytes.splice(at..at, random.bytes(noise));
        }
        4 => {
            let end = (at + random.below(10)).min(bytes.len());
            bytes.drain(at..end);
        }
        5 => {
            let again = bytes.clone();
            bytes.extend(again);
        }
        6 => bytes.extend([20, 3, 3, 0, 1, 1]),
        _ => {
            let tail = random.below(50);
            bytes.extend(random.bytes(tail));
        }
    }
}

/// One mutant. Of ten, about three are as good as before.
pub(crate) fn mutant(random: &mut Random, corpus: &[Parts]) -> Vec<u8> {
    let mut parts = random.pick(corpus).clone();
    if random.chance(80) {
        for _ in 0..1 + random.below(3) {
            change(random, &mut parts, corpus);
        }
    }
    let mut encoded = parts.encode();
    if random.chance(25) {
        for _ in 0..1 + random.below(2) {
            let which = random.below(encoded.lengths.len());
            let by = *random.pick(&[
                1, -1, 2, -2, 3, 4, -4, 5, -5, 9, 255, 256, -256, 0x8000, 0x1_0000,
            ]);
            encoded.lie(which, by);
        }
    }
    let mut bytes = encoded.bytes;
    if random.chance(12) && bytes.len() > 5 {
        let message = bytes.len() - 5;
        let lengths: Vec<usize> = (0..1 + random.below(3))
            .map(|_| *random.pick(&[0, 1, 3, 4, 5, 6, 40, 100, message - 1, message]))
            .collect();
        bytes = in_records(&bytes, &lengths);
    }
    if random.chance(25) {
        for _ in 0..1 + random.below(2) {
            damage(random, &mut bytes);
        }
    }
    bytes
}
