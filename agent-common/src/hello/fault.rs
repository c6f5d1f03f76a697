//! Why a ClientHello is refused.

use crate::reason::closed;

closed! {
    /// Why the reader refuses what a client sent.
    Fault {
        /// Not TLS: the first byte is not that of a handshake record, the version's major
        /// number is not 3, or the first message is not a ClientHello.
        NotTls = 0, "not_tls";
        /// No server name: no such extension, or no extensions at all.
        NoName = 1, "no_name";
        /// The server name is an IP address, or would be read as one (RFC 6066 section 3
        /// forbids it). It has a ':', or its last label is a number.
        Address = 2, "address";
        /// The server name is empty, or longer than any host name (253 bytes).
        NameLength = 3, "name_length";
        /// The server name is no host name: a byte that is no letter, digit, hyphen,
        /// underscore or dot; an empty label, as a dot at the end makes one; a label over 63
        /// bytes; a hyphen at an edge of a label.
        NameBytes = 4, "name_bytes";
        /// More than one name to choose from: two server_name extensions, two names in one,
        /// or a name of a type other than host_name.
        Names = 5, "names";
        /// Lengths that do not add up, or that the format forbids.
        Malformed = 6, "malformed";
        /// The ClientHello does not end in the record in which it begins.
        Split = 7, "split";
        /// The record holds more than the ClientHello.
        Trailing = 8, "trailing";
        /// More extensions than [`MAX_EXTENSIONS`](super::MAX_EXTENSIONS).
        Extensions = 9, "extensions";
        /// An extension other than server_name is there twice (RFC 8446 section 4.2).
        Repeated = 10, "repeated";
        /// The record is longer than 2^14 bytes (RFC 8446 section 5.1).
        RecordLength = 11, "record_length";
        /// Bytes that the piece should have could not be read.
        Unreadable = 12, "unreadable";
    }
}
