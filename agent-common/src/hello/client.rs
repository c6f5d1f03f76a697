//! What a TLS client sends until the name that its connection is for cannot change any more.
//!
//! A server may ask for a second hello (HelloRetryRequest, RFC 8446 section 4.1.4), and the
//! name in it counts as much as the first. So after a hello the heads of the records that
//! follow are read until one comes that only a client sends that is past that point.

use super::fields::{CLIENT_HELLO, HANDSHAKE_RECORD, MAJOR_VERSION};
use super::{Bytes, EARLY_DATA, FIELD, Fault, Hello, NAME_BYTES, Progress, VERSIONS, Zeroed, zero};

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;

/// A record's head and the first byte of its body: no record is shorter.
const HEAD_BYTES: u32 = 6;

/// Longest record: 2^14 bytes and what encryption may add (RFC 5246 section 6.2.3).
const MAX_RECORD: u32 = (1 << 14) + 2048;

/// Records that one piece may hold while a second hello may still come. A segment of 64 KiB
/// holds four of full size.
const RECORDS: u32 = 16;

/// Bytes of early data after which no second hello is waited for. A server that asks for one
/// passes over no more than it announced (`max_early_data_size`; servers use 16 KiB or less).
const MAX_EARLY: u32 = 1 << 20;

/// The highest byte of a length that no server takes for a hello's: the most that is known is
/// 128 KiB (GnuTLS, NSS, OpenSSL).
const LONG_HELLO: u8 = 4;

// The numbers live in kernel memory, and zero is where a stream begins.
const FIRST: u8 = 0;
const BETWEEN: u8 = 1;
const SECOND: u8 = 2;
const SETTLED: u8 = 3;
const REFUSED: u8 = 4;

/// How far a client has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// No name yet, and nothing that no hello begins with.
    More,
    /// [`Client::name_bytes`] is a name that the connection is for, and another may follow.
    Name,
    /// The same, and no other can follow.
    Settled,
    /// It is refused, and so is everything that follows.
    Refused(Fault),
}

/// The state of the reader. All zero is a stream of which nothing has been read.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client {
    hello: Hello,
    /// Bytes of a record to pass over.
    skip: u32,
    /// Bytes of records that came after the first hello.
    passed: u32,
    phase: u8,
    /// Bytes of a record's head that are here.
    filled: u8,
    /// 1 while a name is there.
    named: u8,
    /// [`Fault`], in the last phase.
    fault: u8,
    /// 1 behind a change of cipher.
    ciphered: u8,
    _zero: [u8; 3],
}

const _: () = assert!(size_of::<Client>() == 352, "no padding");

#[cfg(feature = "user")]
// SAFETY: repr(C), without padding, and integers all through.
unsafe impl aya::Pod for Client {}

// SAFETY: integers all through, and no padding (see the size's assertion).
unsafe impl Zeroed for Client {}

/// What follows a hello.
enum Between {
    More,
    Settled,
    /// Another hello, whose record begins there.
    Hello(u32),
    Fault(Fault),
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A stream of which nothing has been read.
    pub const fn new() -> Self {
        Self {
            hello: Hello::new(),
            skip: 0,
            passed: 0,
            phase: FIRST,
            filled: 0,
            named: 0,
            fault: 0,
            ciphered: 0,
            _zero: [0; 3],
        }
    }

    /// Makes this a stream of which nothing has been read.
    #[inline(always)]
    pub fn reset(&mut self) {
        zero(self);
    }

    /// Reads on in the bytes `at..end` of a piece, which must follow what was read before
    /// without a gap. Once it is settled or refused it stays so, and no more is read.
    #[inline(always)]
    pub fn read<B: Bytes + ?Sized>(&mut self, piece: &B, at: u32, end: u32) -> Said {
        if self.phase == SETTLED {
            return Said::Settled;
        }
        if let Some(fault) = self.fault() {
            return Said::Refused(fault);
        }
        let said = self.read_on(piece, at, end);
        match said {
            Said::More | Said::Name => {}
            Said::Settled => self.phase = SETTLED,
            Said::Refused(fault) => (self.phase, self.fault) = (REFUSED, fault.number()),
        }
        said
    }

    #[inline(always)]
    fn read_on<B: Bytes + ?Sized>(&mut self, piece: &B, at: u32, end: u32) -> Said {
        let mut at = at;
        if self.phase == BETWEEN {
            match self.between(piece, at, end) {
                Between::More => return Said::Name,
                Between::Settled => return Said::Settled,
                Between::Hello(begins) => at = begins,
                Between::Fault(fault) => return Said::Refused(fault),
            }
            self.hello.reset();
            (self.phase, self.named) = (SECOND, 0);
        }
        match self.hello.read(piece, at, end) {
            Progress::More => return Said::More,
            Progress::Refused(fault) => return Said::Refused(fault),
            Progress::Done => {}
        }
        self.named = 1;
        if self.phase == SECOND {
            return Said::Settled;
        }
        self.phase = BETWEEN;
        match self.between(piece, self.hello.at(), end) {
            Between::More => Said::Name,
            Between::Settled => Said::Settled,
            // A client that has not been told to retry sends one hello.
            Between::Hello(_) => Said::Refused(Fault::Trailing),
            Between::Fault(fault) => Said::Refused(fault),
        }
    }

    /// Why it is refused, if it is.
    #[inline(always)]
    pub const fn fault(&self) -> Option<Fault> {
        match self.phase {
            REFUSED => match Fault::from_number(self.fault) {
                Some(fault) => Some(fault),
                None => Some(Fault::Unreadable),
            },
            _ => None,
        }
    }

    /// Whether the name cannot change any more.
    #[inline(always)]
    pub const fn is_settled(&self) -> bool {
        self.phase == SETTLED
    }

    /// Whether there is a name.
    #[inline(always)]
    pub const fn is_named(&self) -> bool {
        self.named != 0
    }

    /// The name and zeroes behind it.
    #[inline(always)]
    pub fn name_bytes(&self) -> &[u8; NAME_BYTES] {
        self.hello.name_bytes()
    }

    /// [`EARLY_DATA`], [`super::ENCRYPTED`], [`super::VERSIONS`] of the last hello.
    #[inline(always)]
    pub const fn flags(&self) -> u8 {
        self.hello.flags()
    }

    /// Walks over records from `at` on.
    #[inline(always)]
    fn between<B: Bytes + ?Sized>(&mut self, piece: &B, at: u32, end: u32) -> Between {
        let mut at = at;
        let mut records = 0;
        loop {
            let room = end.saturating_sub(at);
            if self.skip >= room {
                self.skip -= room;
                return Between::More;
            }
            if records == RECORDS {
                return Between::Fault(Fault::Trailing);
            }
            records += 1;
            at += self.skip;
            let room = room - self.skip;
            self.skip = 0;
            let whole = self.filled == 0;
            let begins = at;
            let mut count = HEAD_BYTES.saturating_sub(self.filled.into());
            if count > room {
                count = room;
            }
            let from = FIELD as u32 + u32::from(self.filled);
            if count == 0 || !piece.copy(at, &mut self.hello.bytes, from, count) {
                return Between::Fault(Fault::Unreadable);
            }
            at += count;
            self.filled += count as u8;
            if u32::from(self.filled) < HEAD_BYTES {
                return Between::More;
            }
            self.filled = 0;
            let [kind, major, _, high, low, first] = self.hello.head();
            let len = u32::from(u16::from_be_bytes([high, low]));
            if major != MAJOR_VERSION {
                return Between::Fault(Fault::NotTls);
            }
            if len == 0 || len > MAX_RECORD {
                return Between::Fault(Fault::RecordLength);
            }
            self.skip = len - 1;
            self.passed = self.passed.saturating_add(len);
            match kind {
                CHANGE_CIPHER_SPEC => self.ciphered = 1,
                ALERT => {}
                HANDSHAKE_RECORD if self.is_encrypted(piece, at, whole && at < end) => {
                    return Between::Settled;
                }
                HANDSHAKE_RECORD if first == CLIENT_HELLO && whole => {
                    self.skip = 0;
                    return Between::Hello(begins);
                }
                // Its first bytes are in an earlier piece.
                HANDSHAKE_RECORD if first == CLIENT_HELLO => {
                    return Between::Fault(Fault::Split);
                }
                HANDSHAKE_RECORD => return Between::Settled,
                APPLICATION_DATA => {
                    if self.hello.flags() & EARLY_DATA == 0 || self.passed > MAX_EARLY {
                        return Between::Settled;
                    }
                }
                _ => return Between::Fault(Fault::NotTls),
            }
        }
    }

    /// Whether a handshake record is the encrypted one with which a resumed TLS 1.2 goes on,
    /// though it begin like a hello: one of 256 does. Behind a change of cipher a client that
    /// offers TLS 1.3 may send either of them; the length then tells all but one of 16,384,
    /// if it is there (`next`, at `at`).
    #[inline(always)]
    fn is_encrypted<B: Bytes + ?Sized>(&mut self, piece: &B, at: u32, next: bool) -> bool {
        if self.ciphered == 0 {
            return false;
        }
        if self.hello.flags() & VERSIONS == 0 {
            return true;
        }
        let [.., first] = self.hello.head();
        if first != CLIENT_HELLO || self.skip == 0 || !next {
            return false;
        }
        piece.copy(at, &mut self.hello.bytes, FIELD as u32, 1) && {
            let [high, ..] = self.hello.head();
            high >= LONG_HELLO
        }
    }
}
