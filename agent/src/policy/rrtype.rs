//! Types of DNS records: their names and numbers.

use super::diagnostic::near;
use std::borrow::Cow;

/// What the gate answers for every name that it answers at all: A, CNAME, AAAA, SVCB and
/// HTTPS.
pub const BASE_TYPES: [u16; 5] = [1, 5, 28, 64, 65];

/// Every type with data that has a name (IANA's registry), in the order of the numbers.
const TYPES: &[(&str, u16)] = &[
    ("A", 1),
    ("NS", 2),
    ("MD", 3),
    ("MF", 4),
    ("CNAME", 5),
    ("SOA", 6),
    ("MB", 7),
    ("MG", 8),
    ("MR", 9),
    ("NULL", 10),
    ("WKS", 11),
    ("PTR", 12),
    ("HINFO", 13),
    ("MINFO", 14),
    ("MX", 15),
    ("TXT", 16),
    ("RP", 17),
    ("AFSDB", 18),
    ("X25", 19),
    ("ISDN", 20),
    ("RT", 21),
    ("NSAP", 22),
    ("NSAP-PTR", 23),
    ("SIG", 24),
    ("KEY", 25),
    ("PX", 26),
    ("GPOS", 27),
    ("AAAA", 28),
    ("LOC", 29),
    ("NXT", 30),
    ("EID", 31),
    ("NIMLOC", 32),
    ("SRV", 33),
    ("ATMA", 34),
    ("NAPTR", 35),
    ("KX", 36),
    ("CERT", 37),
    ("A6", 38),
    ("DNAME", 39),
    ("SINK", 40),
    ("APL", 42),
    ("DS", 43),
    ("SSHFP", 44),
    ("IPSECKEY", 45),
    ("RRSIG", 46),
    ("NSEC", 47),
    ("DNSKEY", 48),
    ("DHCID", 49),
    ("NSEC3", 50),
    ("NSEC3PARAM", 51),
    ("TLSA", 52),
    ("SMIMEA", 53),
    ("HIP", 55),
    ("NINFO", 56),
    ("RKEY", 57),
    ("TALINK", 58),
    ("CDS", 59),
    ("CDNSKEY", 60),
    ("OPENPGPKEY", 61),
    ("CSYNC", 62),
    ("ZONEMD", 63),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("DSYNC", 66),
    ("SPF", 99),
    ("NID", 104),
    ("L32", 105),
    ("L64", 106),
    ("LP", 107),
    ("EUI48", 108),
    ("EUI64", 109),
    ("URI", 256),
    ("CAA", 257),
    ("AVC", 258),
    ("DOA", 259),
    ("AMTRELAY", 260),
    ("RESINFO", 261),
    ("WALLET", 262),
    ("CLA", 263),
    ("IPN", 264),
    ("TA", 32768),
    ("DLV", 32769),
];

/// Names that ask for something else than records of a type, or are part of the message.
const META: &[(&str, u16)] = &[
    ("OPT", 41),
    ("NXNAME", 128),
    ("TKEY", 249),
    ("TSIG", 250),
    ("IXFR", 251),
    ("AXFR", 252),
    ("MAILB", 253),
    ("MAILA", 254),
    ("ANY", 255),
    ("*", 255),
];

/// What is no type that a rule can list.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum TypeError {
    #[error("`{0}` is no type of records with data")]
    Meta(String),
    #[error("record type {0} does not exist")]
    OutOfRange(String),
    #[error("`{0}` is not a record type that Exeat knows by name")]
    Unknown(String),
}

impl TypeError {
    pub(crate) fn help(&self) -> String {
        match self {
            Self::Meta(_) => {
                "list the types that are needed, as in `types: [TXT, MX]`; ANY, zone transfers and the types of the message itself are never answered".to_owned()
            }
            Self::OutOfRange(_) => "types go from 1 to 65534".to_owned(),
            Self::Unknown(text) => {
                let upper = text.to_ascii_uppercase();
                let bare = upper.strip_prefix("TYPE").unwrap_or_default();
                let names = TYPES.iter().map(|(name, _)| *name);
                match bare.parse::<u16>() {
                    Ok(number) => format!("write the number: `{number}`"),
                    Err(_) => match near(&upper, names) {
                        Some(name) => format!("did you mean `{name}`?"),
                        None => "write names and numbers, as in `types: [TXT, MX, 65400]`".to_owned(),
                    },
                }
            }
        }
    }
}

/// A type as a number. RFC 6895: 0 and 65535 are reserved, 128 to 255 are for questions
/// and the message itself, as is OPT.
pub(crate) fn from_number(number: i128) -> Result<u16, TypeError> {
    match u16::try_from(number) {
        Ok(0 | u16::MAX) | Err(_) => Err(TypeError::OutOfRange(number.to_string())),
        Ok(41 | 128..=255) => Err(TypeError::Meta(number.to_string())),
        Ok(number) => Ok(number),
    }
}

/// A type by its name, in capitals as everybody writes them.
pub(crate) fn from_text(text: &str) -> Result<u16, TypeError> {
    let named = |list: &[(&str, u16)], text: &str| {
        let found = list.iter().find(|(name, _)| *name == text);
        found.map(|(_, number)| *number)
    };
    if let Some(number) = named(TYPES, text) {
        return Ok(number);
    }
    let shown = super::diagnostic::shown(text);
    match named(META, &text.to_ascii_uppercase()) {
        Some(_) => Err(TypeError::Meta(shown)),
        None => Err(TypeError::Unknown(shown)),
    }
}

/// The names that a rule may list, for the schema.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|(name, _)| *name)
}

/// The name of a type, or its number where it has none.
pub fn type_name(number: u16) -> Cow<'static, str> {
    match TYPES.binary_search_by_key(&number, |(_, number)| *number) {
        Ok(index) => Cow::Borrowed(TYPES[index].0),
        Err(_) => Cow::Owned(number.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_each_others() {
        assert!(
            TYPES.is_sorted_by(|a, b| a.1 < b.1),
            "for the binary search"
        );
        for (name, number) in TYPES {
            assert_eq!(from_text(name), Ok(*number));
            assert_eq!(from_number((*number).into()), Ok(*number));
            assert_eq!(type_name(*number), *name);
        }
        assert_eq!(type_name(65400), "65400");
        assert_eq!(from_number(65400), Ok(65400));
        assert_eq!(
            BASE_TYPES.map(type_name).join(" "),
            "A CNAME AAAA SVCB HTTPS"
        );
    }

    #[test]
    fn the_names_are_those_of_hickory() {
        use hickory_proto::rr::RecordType;
        let mut known = 0;
        for (name, number) in TYPES {
            let theirs = RecordType::from(*number);
            if !matches!(theirs, RecordType::Unknown(_)) {
                known += 1;
                assert_eq!(theirs.to_string(), *name, "{number}");
            }
        }
        assert!(known > 20, "{known}");
    }

    #[test]
    fn what_cannot_be_listed_says_what_to_write() {
        for (name, number) in META {
            assert!(matches!(from_text(name), Err(TypeError::Meta(_))), "{name}");
            let error = from_number((*number).into()).expect_err(name);
            assert!(error.help().contains("never answered"), "{error}");
        }
        for (text, message, help) in [
            ("axfr", "no type of records", "zone transfers"),
            ("txt", "not a record type", "did you mean `TXT`?"),
            ("TTX", "not a record type", "did you mean `TXT`?"),
            (
                "TYPE65400",
                "not a record type",
                "write the number: `65400`",
            ),
            ("everything", "not a record type", "[TXT, MX, 65400]"),
        ] {
            let error = from_text(text).expect_err(text);
            assert!(error.to_string().contains(message), "{text}: {error}");
            assert!(error.help().contains(help), "{text}: {}", error.help());
        }
        for bad in [0, -1, 65535, 65536, i128::MAX] {
            let error = from_number(bad).expect_err("bad");
            assert!(matches!(error, TypeError::OutOfRange(_)), "{bad}");
        }
    }
}
