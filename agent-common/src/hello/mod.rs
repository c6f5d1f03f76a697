//! The server name of a TLS ClientHello, read from the pieces in which it comes.
//!
//! ```text
//!  record(5) handshake(6) random session ciphers compression length { type length body }*
//!            └──────────── one record holds it all, and nothing else ──────────────────┘
//! ```
//!
//! The same code runs in the BPF programs (over a packet) and on the host (over a slice).
//! It keeps no copy of the stream: a field that straddles two pieces is carried over in a
//! few bytes, the name is copied as it comes, and everything else is passed over by its
//! length. The outcome depends on the bytes alone and not on where they were cut.
//!
//! Whatever two servers could read in two ways is refused: the name that is found is the
//! only one that is there.

mod client;
mod fault;
mod fields;
mod name;

pub use client::{Client, Said};
pub use fault::Fault;

use fields::{END, NAME, RECORD, RECORD_BYTES};

/// Bytes for a server name, zero behind its end. A host name has at most [`MAX_NAME`].
pub const NAME_BYTES: usize = 256;

/// The longest host name: 255 bytes on the wire of DNS (RFC 1035 section 3.1) are 253 as
/// text without a dot at the end.
pub const MAX_NAME: u32 = 253;

/// Extensions that are read. Browsers send about 20; a hello with more is refused.
pub const MAX_EXTENSIONS: u8 = 64;

/// Most bytes that are copied at once. The kernel's verifier knows where a copy may begin
/// and how long it may be, but not that one limits the other, so behind the last place
/// where one may begin there is room for a whole one.
pub const CHUNK: u32 = 32;

/// Bytes of the longest field but the name.
const FIELD_BYTES: usize = 6;

/// Where a field is gathered.
const FIELD: usize = NAME_BYTES;

/// Past the last place where a copy may begin.
pub const COPY_END: u32 = (FIELD + FIELD_BYTES) as u32;

/// The name, then the field that is being read, then room (see [`CHUNK`]).
pub type Buffer = [u8; 296];

const _: () = assert!(COPY_END + CHUNK <= size_of::<Buffer>() as u32);
const _: () = assert!(size_of::<Buffer>().is_multiple_of(8), "cleared in words");

/// Fields, in whole or in part, that one piece can hold: six before the extensions; the
/// extensions' heads; the server name's; the name, 32 bytes a time; and one look at the end.
const STEPS: u32 = 6 + MAX_EXTENSIONS as u32 + 1 + MAX_NAME.div_ceil(CHUNK) + 1;

/// The client offers early data: bytes of the application may follow the hello at once.
pub const EARLY_DATA: u8 = 1;
/// The client sends an encrypted hello (or the grease of one, which cannot be told apart):
/// the name that was read is the outer one.
pub const ENCRYPTED: u8 = 1 << 1;
/// The client sends supported_versions, so it offers TLS 1.3 or later.
pub const VERSIONS: u8 = 1 << 2;

const OUTCOME_MORE: u8 = 0;
const OUTCOME_DONE: u8 = 1;
const OUTCOME_REFUSED: u8 = 2;

/// A piece of a stream.
pub trait Bytes {
    /// Copies the `count` bytes that lie `at` bytes into the piece to `to[from..]`, and
    /// answers whether they were there. `count` is 1 to [`CHUNK`], `from` less than
    /// [`COPY_END`].
    fn copy(&self, at: u32, to: &mut Buffer, from: u32, count: u32) -> bool;
}

impl Bytes for [u8] {
    fn copy(&self, at: u32, to: &mut Buffer, from: u32, count: u32) -> bool {
        let (at, from, count) = (at as usize, from as usize, count as usize);
        match (self.get(at..at + count), to.get_mut(from..from + count)) {
            (Some(source), Some(target)) => {
                target.copy_from_slice(source);
                true
            }
            _ => false,
        }
    }
}

/// How far the hello is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Everything so far could be the beginning of a good one.
    More,
    /// It is read to its end: [`Hello::name`] is its one name.
    Done,
    /// It is refused, and so is everything that follows.
    Refused(Fault),
}

impl Progress {
    /// The number that crosses the kernel boundary.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        match self {
            Self::More => OUTCOME_MORE,
            Self::Done => OUTCOME_DONE,
            Self::Refused(fault) => OUTCOME_REFUSED + fault.number(),
        }
    }

    /// From that number; one that stands for nothing refuses.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            OUTCOME_MORE => Self::More,
            OUTCOME_DONE => Self::Done,
            other => match Fault::from_number(other.wrapping_sub(OUTCOME_REFUSED)) {
                Some(fault) => Self::Refused(fault),
                None => Self::Refused(Fault::Unreadable),
            },
        }
    }
}

/// The state of the reader. All zero is a stream of which nothing has been read.
///
/// No padding, plain integers: the bytes in a BPF map are the bytes here.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    bytes: Buffer,
    /// Extension types below 64 that were there.
    seen: u64,
    /// In the piece at hand: the next byte.
    at: u32,
    /// Bytes of the stream to pass over before the next field.
    skip: u32,
    /// Bytes of the record that no field and no body has been promised.
    left: u32,
    /// Bytes of the stream that were read or passed over.
    taken: u32,
    /// Bytes of the field that is being read.
    want: u16,
    /// How many of them are here.
    filled: u16,
    /// Length of the server_name extension.
    server_name: u16,
    name_len: u8,
    phase: u8,
    extensions: u8,
    flags: u8,
    outcome: u8,
    _zero: [u8; 5],
}

const _: () = assert!(size_of::<Hello>() == 336, "no padding, and small");

#[cfg(feature = "user")]
// SAFETY: repr(C), without padding, and integers all through.
unsafe impl aya::Pod for Hello {}

/// A field as it is in memory. Left to itself LLVM carries the fields from one step of the
/// reader to the next in registers, where the verifier knows too much of them: it follows
/// each step once for every one that may have come before (6.18: three times the instructions).
#[inline(always)]
fn anew<T: Copy>(field: &T) -> T {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::read_volatile(field) }
}

/// What a step of the reader leads to.
enum Step {
    /// To the next one.
    Next,
    /// Nowhere, until more bytes come.
    Wait,
    /// To the end of the hello.
    End,
    Fault(Fault),
}

impl Default for Hello {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes zeroes to a state. Volatile, because LLVM makes a call to `memset` of anything else:
/// for BPF a loop over bytes, and a function, which takes 32 bytes of the stack of all that
/// calls it (5.10).
#[inline(always)]
fn zero<T: Zeroed>(state: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8) };
    let words: *mut u64 = core::ptr::from_mut(state).cast();
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: inside of the state, which is aligned and made of whole words; zeroes are a
        // value of it.
        unsafe { words.add(word).write_volatile(0) };
    }
}

/// # Safety
/// Zeroes are a value of it, and it has no padding.
unsafe trait Zeroed {}

// SAFETY: integers all through, and no padding (see the size's assertion).
unsafe impl Zeroed for Hello {}

impl Hello {
    /// A stream of which nothing has been read.
    pub const fn new() -> Self {
        Self {
            bytes: [0; size_of::<Buffer>()],
            seen: 0,
            at: 0,
            skip: 0,
            left: 0,
            taken: 0,
            want: 0,
            filled: 0,
            server_name: 0,
            name_len: 0,
            phase: RECORD,
            extensions: 0,
            flags: 0,
            outcome: OUTCOME_MORE,
            _zero: [0; 5],
        }
    }

    /// Makes this a stream of which nothing has been read, for the second hello of a client
    /// that was told to retry.
    #[inline(always)]
    pub fn reset(&mut self) {
        zero(self);
    }

    /// Reads on in the bytes `at..end` of a piece, which must follow what was read before
    /// without a gap. After [`Progress::More`] all of them were read. Once it is anything
    /// else it stays so, and no more is read.
    #[inline(always)]
    pub fn read<B: Bytes + ?Sized>(&mut self, piece: &B, at: u32, end: u32) -> Progress {
        self.at = at;
        if self.outcome != OUTCOME_MORE {
            return self.progress();
        }
        if self.want == 0 && self.phase == RECORD {
            self.want = RECORD_BYTES;
        }
        let mut steps = 0;
        loop {
            if steps == STEPS {
                // No hello within the bounds above takes as many.
                self.refuse(Fault::Extensions);
                break;
            }
            steps += 1;
            match self.step(piece, end) {
                Step::Next => {}
                Step::Wait => break,
                Step::End => {
                    self.outcome = OUTCOME_DONE;
                    break;
                }
                Step::Fault(fault) => {
                    self.refuse(fault);
                    break;
                }
            }
        }
        // Here the steps' ways meet again for the verifier; only one goes on to the name.
        if anew(&self.outcome) == OUTCOME_DONE
            && let Err(fault) = name::check(&mut self.bytes, u32::from(anew(&self.name_len)))
        {
            self.refuse(fault);
        }
        self.taken = self.taken.wrapping_add(self.at.wrapping_sub(at));
        self.progress()
    }

    /// How far it is read.
    #[inline(always)]
    pub const fn progress(&self) -> Progress {
        Progress::from_number(self.outcome)
    }

    /// In the piece that was given last: the first byte that was not read. At
    /// [`Progress::Done`], what follows the hello's record.
    #[inline(always)]
    pub const fn at(&self) -> u32 {
        self.at
    }

    /// Bytes of the stream that were read: the place that the next piece must begin at.
    /// Means nothing after a refusal.
    #[inline(always)]
    pub const fn taken(&self) -> u32 {
        self.taken
    }

    /// The server name. At [`Progress::Done`] it is a host name in lower case without a dot
    /// at the end. After a refusal, the bytes that came, A to Z perhaps as a to z, for the
    /// record only; empty if the refusal came before the name was whole.
    pub fn name(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.name_len)).unwrap_or(&[])
    }

    /// Length of [`Hello::name`], bytes.
    #[inline(always)]
    pub const fn name_len(&self) -> u8 {
        self.name_len
    }

    /// [`Hello::name`] and zeroes behind it, once the name is whole.
    #[inline(always)]
    pub fn name_bytes(&self) -> &[u8; NAME_BYTES] {
        const { assert!(FIELD == NAME_BYTES) };
        match self.bytes.first_chunk() {
            Some(bytes) => bytes,
            None => &[0; NAME_BYTES],
        }
    }

    /// [`EARLY_DATA`], [`ENCRYPTED`], [`VERSIONS`]: what was seen so far.
    #[inline(always)]
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    /// How many extensions were seen so far.
    #[inline(always)]
    pub const fn extensions(&self) -> u8 {
        self.extensions
    }

    /// The head of a record, where [`Client`] has put it.
    #[inline(always)]
    fn head(&self) -> [u8; FIELD_BYTES] {
        match self.bytes.get(FIELD..).and_then(<[u8]>::first_chunk) {
            Some(head) => *head,
            None => [0; FIELD_BYTES],
        }
    }

    #[inline(always)]
    const fn refuse(&mut self, fault: Fault) {
        self.outcome = Progress::Refused(fault).number();
    }

    /// Passes over what is to be passed over, then reads one field or as much of it as is
    /// there.
    #[inline(always)]
    fn step<B: Bytes + ?Sized>(&mut self, piece: &B, end: u32) -> Step {
        let (phase, want, filled) = (anew(&self.phase), anew(&self.want), anew(&self.filled));
        let (at, skip) = (anew(&self.at), anew(&self.skip));
        let room = end.saturating_sub(at);
        if skip > room {
            self.skip = skip - room;
            self.at = at + room;
            return Step::Wait;
        }
        self.skip = 0;
        let at = at + skip;
        let room = room - skip;
        let mut count = u32::from(want.wrapping_sub(filled));
        if count > room {
            count = room;
        }
        if count > CHUNK {
            count = CHUNK;
        }
        self.at = at + count;
        if count == 0 {
            return if phase == END { Step::End } else { Step::Wait };
        }
        let base = if phase == NAME { 0 } else { FIELD as u32 };
        if !piece.copy(at, &mut self.bytes, base + u32::from(filled), count) {
            return Step::Fault(Fault::Unreadable);
        }
        let filled = filled + count as u16;
        self.filled = filled;
        if filled < want {
            // What is no TLS is told by its first bytes, however few they are.
            if phase == RECORD && !self.begins_like_tls(filled) {
                return Step::Fault(Fault::NotTls);
            }
            return Step::Next;
        }
        self.filled = 0;
        match self.field() {
            Ok(()) => Step::Next,
            Err(fault) => Step::Fault(fault),
        }
    }
}
