//! What each field of a ClientHello must say, and what comes after it.

use super::{EARLY_DATA, ENCRYPTED, FIELD, Fault, Hello, MAX_EXTENSIONS, MAX_NAME, VERSIONS};

/// Longest fragment of a plaintext record (RFC 8446 section 5.1).
const MAX_RECORD: u32 = 1 << 14;

pub(super) const HANDSHAKE_RECORD: u8 = 22;
pub(super) const MAJOR_VERSION: u8 = 3;
pub(super) const CLIENT_HELLO: u8 = 1;
const RANDOM_BYTES: u32 = 32;
const MAX_SESSION_ID: u32 = 32;
const HOST_NAME: u8 = 0;

const SERVER_NAME_TYPE: u32 = 0;
const EARLY_DATA_TYPE: u32 = 42;
const SUPPORTED_VERSIONS_TYPE: u32 = 43;
const ECH_TYPE: u32 = 0xfe0d;

// What comes next. The numbers live in kernel memory, and zero is where a stream begins.
pub(super) const RECORD: u8 = 0;
const HANDSHAKE: u8 = 1;
const SESSION: u8 = 2;
const CIPHERS: u8 = 3;
const COMPRESSION: u8 = 4;
const EXTENSIONS: u8 = 5;
const EXTENSION: u8 = 6;
const SERVER_NAME: u8 = 7;
pub(super) const NAME: u8 = 8;
pub(super) const END: u8 = 9;

pub(super) const RECORD_BYTES: u16 = 5;
const HANDSHAKE_BYTES: u32 = 6;
const EXTENSION_BYTES: u32 = 4;
const SERVER_NAME_BYTES: u32 = 5;

impl Hello {
    /// Whether the first bytes of a record, as many as there are, can begin a ClientHello.
    #[inline(always)]
    pub(super) fn begins_like_tls(&self, bytes: u16) -> bool {
        self.byte(0) == HANDSHAKE_RECORD && (bytes < 2 || self.byte(1) == MAJOR_VERSION)
    }

    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        self.bytes[FIELD + at]
    }

    #[inline(always)]
    fn half(&self, at: usize) -> u32 {
        u32::from(self.byte(at)) << 8 | u32::from(self.byte(at + 1))
    }

    /// Judges the field that has been read, and says what comes next.
    #[inline(always)]
    pub(super) fn field(&mut self) -> Result<(), Fault> {
        match self.phase {
            RECORD => {
                if !self.begins_like_tls(RECORD_BYTES) {
                    return Err(Fault::NotTls);
                }
                let length = self.half(3);
                if length > MAX_RECORD {
                    return Err(Fault::RecordLength);
                }
                if length == 0 {
                    return Err(Fault::Malformed);
                }
                if length < HANDSHAKE_BYTES {
                    return Err(Fault::Split);
                }
                self.left = length;
                self.expect(HANDSHAKE, HANDSHAKE_BYTES)
            }
            HANDSHAKE => {
                if self.byte(0) != CLIENT_HELLO {
                    return Err(Fault::NotTls);
                }
                // The length leaves out its own three bytes and the type's one, but not the
                // version's two.
                let length = u32::from(self.byte(1)) << 16 | self.half(2);
                let held = self.left + 2;
                if length > held {
                    return Err(Fault::Split);
                }
                if length < held {
                    return Err(Fault::Trailing);
                }
                if self.byte(4) != MAJOR_VERSION {
                    return Err(Fault::Malformed);
                }
                self.pass(RANDOM_BYTES)?;
                self.expect(SESSION, 1)
            }
            SESSION => {
                let length = u32::from(self.byte(0));
                if length > MAX_SESSION_ID {
                    return Err(Fault::Malformed);
                }
                self.pass(length)?;
                self.expect(CIPHERS, 2)
            }
            CIPHERS => {
                let length = self.half(0);
                if length == 0 || length & 1 != 0 {
                    return Err(Fault::Malformed);
                }
                self.pass(length)?;
                self.expect(COMPRESSION, 1)
            }
            COMPRESSION => {
                let length = u32::from(self.byte(0));
                if length == 0 {
                    return Err(Fault::Malformed);
                }
                self.pass(length)?;
                if self.left == 0 {
                    return Err(Fault::NoName);
                }
                self.expect(EXTENSIONS, 2)
            }
            EXTENSIONS => {
                if self.half(0) != self.left {
                    return Err(Fault::Malformed);
                }
                self.extension()
            }
            EXTENSION => {
                let (kind, length) = (self.half(0), self.half(2));
                self.mark(kind)?;
                if kind != SERVER_NAME_TYPE {
                    self.pass(length)?;
                    return self.extension();
                }
                if length < SERVER_NAME_BYTES {
                    return Err(Fault::Malformed);
                }
                self.server_name = length as u16;
                self.expect(SERVER_NAME, SERVER_NAME_BYTES)
            }
            SERVER_NAME => {
                let (list, kind, length) = (self.half(0), self.byte(2), self.half(3));
                if list + 2 != u32::from(self.server_name) {
                    return Err(Fault::Malformed);
                }
                if kind != HOST_NAME {
                    return Err(Fault::Names);
                }
                if length + 3 > list {
                    return Err(Fault::Malformed);
                }
                if length + 3 < list {
                    return Err(Fault::Names);
                }
                if length == 0 || length > MAX_NAME {
                    return Err(Fault::NameLength);
                }
                self.expect(NAME, length)
            }
            NAME => {
                self.name_len = self.want as u8;
                self.extension()
            }
            // Memory that this code did not write.
            _ => Err(Fault::Unreadable),
        }
    }

    /// Notes an extension's type.
    #[inline(always)]
    fn mark(&mut self, kind: u32) -> Result<(), Fault> {
        if kind < 64 {
            let bit = 1 << kind;
            if self.seen & bit != 0 {
                return Err(match kind {
                    SERVER_NAME_TYPE => Fault::Names,
                    _ => Fault::Repeated,
                });
            }
            self.seen |= bit;
        }
        match kind {
            EARLY_DATA_TYPE => self.flags |= EARLY_DATA,
            SUPPORTED_VERSIONS_TYPE => self.flags |= VERSIONS,
            ECH_TYPE => {
                if self.flags & ENCRYPTED != 0 {
                    return Err(Fault::Repeated);
                }
                self.flags |= ENCRYPTED;
            }
            _ => {}
        }
        Ok(())
    }

    /// Next comes an extension, or the end.
    #[inline(always)]
    fn extension(&mut self) -> Result<(), Fault> {
        if self.left == 0 {
            if self.seen & (1 << SERVER_NAME_TYPE) == 0 {
                return Err(Fault::NoName);
            }
            self.phase = END;
            self.want = 0;
            return Ok(());
        }
        if self.extensions == MAX_EXTENSIONS {
            return Err(Fault::Extensions);
        }
        self.extensions += 1;
        self.expect(EXTENSION, EXTENSION_BYTES)
    }

    /// Next comes a field of that many bytes, which the record must have left.
    #[inline(always)]
    fn expect(&mut self, phase: u8, bytes: u32) -> Result<(), Fault> {
        self.promise(bytes)?;
        self.phase = phase;
        self.want = bytes as u16;
        Ok(())
    }

    /// That many bytes are to be passed over.
    #[inline(always)]
    fn pass(&mut self, bytes: u32) -> Result<(), Fault> {
        self.promise(bytes)?;
        self.skip = bytes;
        Ok(())
    }

    #[inline(always)]
    fn promise(&mut self, bytes: u32) -> Result<(), Fault> {
        if bytes > self.left {
            return Err(Fault::Malformed);
        }
        self.left -= bytes;
        Ok(())
    }
}
