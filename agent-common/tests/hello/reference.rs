//! What the reader makes of bytes, and what rustls makes of them.

use std::collections::BTreeMap;

use agent_common::Hello;
use agent_common::hello::{Fault, Progress};
use rustls::server::Acceptor;
use rustls::{Error, InvalidMessage, PeerIncompatible};

use super::parts::{Parts, plain};

/// All that must not depend on where a stream was cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) progress: Progress,
    pub(crate) name: Vec<u8>,
    pub(crate) flags: u8,
    pub(crate) extensions: u8,
    pub(crate) taken: u32,
}

impl Outcome {
    pub(crate) fn of(hello: &Hello) -> Self {
        Self {
            progress: hello.progress(),
            name: hello.name().to_vec(),
            flags: hello.flags(),
            extensions: hello.extensions(),
            taken: match hello.progress() {
                Progress::Refused(_) => 0,
                Progress::More | Progress::Done => hello.taken(),
            },
        }
    }

    /// The name, if it is a good hello.
    pub(crate) fn done(&self) -> Option<&str> {
        match self.progress {
            Progress::Done => Some(std::str::from_utf8(&self.name).expect("a host name")),
            _ => None,
        }
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        match self.progress {
            Progress::Refused(fault) => Some(fault),
            _ => None,
        }
    }
}

/// Reads pieces that end at these places.
pub(crate) fn read_cut(bytes: &[u8], ends: &[usize]) -> Outcome {
    let mut hello = Hello::new();
    let mut begin = 0;
    for &end in ends {
        // Not from the beginning of the slice, as a retransmission would have it.
        let back = begin.min(3);
        let piece = &bytes[begin - back..end];
        hello.read(piece, back as u32, piece.len() as u32);
        begin = end;
    }
    Outcome::of(&hello)
}

/// Reads all in one piece.
pub(crate) fn read(bytes: &[u8]) -> Outcome {
    read_cut(bytes, &[bytes.len()])
}

/// What rustls makes of them.
#[derive(Debug)]
pub(crate) enum Theirs {
    Name(String),
    NoName,
    More,
    Refused(Error),
}

pub(crate) fn ask_rustls(bytes: &[u8]) -> Theirs {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    loop {
        let taken = match acceptor.read_tls(&mut rest) {
            Ok(taken) => taken,
            Err(error) => return Theirs::Refused(Error::General(error.to_string())),
        };
        match acceptor.accept() {
            Err((error, _)) => return Theirs::Refused(error),
            Ok(Some(accepted)) => {
                return match accepted.client_hello().server_name() {
                    Some(name) => Theirs::Name(name.to_owned()),
                    None => Theirs::NoName,
                };
            }
            Ok(None) if taken == 0 => return Theirs::More,
            Ok(None) => {}
        }
    }
}

/// Why rustls may refuse a hello whose name the reader passes: what it says about is
/// passed over here by its length. That the name does not hang on it, `agree` shows.
fn beside_the_name(error: &Error) -> Option<&'static str> {
    Some(match error {
        // Lists and fields inside of an extension's body that are cut off, too long, empty
        // or otherwise not what the extension's own document says.
        Error::InvalidMessage(
            // rustls says so of the type of an encrypted hello too.
            InvalidMessage::InvalidContentType
            | InvalidMessage::MissingData(_)
            | InvalidMessage::MessageTooShort
            | InvalidMessage::TrailingData(_)
            | InvalidMessage::IllegalEmptyList(_)
            | InvalidMessage::IllegalEmptyValue
            | InvalidMessage::InvalidEmptyPayload
            | InvalidMessage::UnexpectedMessage(_),
        ) => "the body of an extension",
        // Types above 63, which are not remembered.
        Error::InvalidMessage(InvalidMessage::DuplicateExtension(kind)) if *kind > 63 => {
            "an extension that is there twice"
        }
        Error::PeerIncompatible(
            PeerIncompatible::NullCompressionRequired
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
        ) => "what the client can do",
        _ => return None,
    })
}

/// How often which two outcomes met.
#[derive(Default, Debug)]
pub(crate) struct Tally {
    pub(crate) both: usize,
    pub(crate) incomplete: usize,
    /// Refused here and read there, by fault.
    pub(crate) stricter: BTreeMap<Fault, usize>,
    /// Refused here and there, by fault.
    pub(crate) refused: BTreeMap<Fault, usize>,
    /// Read here and refused there, by class.
    pub(crate) looser: BTreeMap<&'static str, usize>,
}

impl Tally {
    pub(crate) fn all(&self) -> usize {
        let sum = |map: &BTreeMap<Fault, usize>| map.values().sum::<usize>();
        self.both
            + self.incomplete
            + sum(&self.stricter)
            + sum(&self.refused)
            + self.looser.values().sum::<usize>()
    }
}

/// Holds an outcome against rustls. What is wrong comes back as text.
pub(crate) fn agree(bytes: &[u8], ours: &Outcome, tally: &mut Tally) -> Result<(), String> {
    let theirs = ask_rustls(bytes);
    match (ours.progress, theirs) {
        (Progress::Done, Theirs::Name(name)) => {
            if ours.done() != Some(&name) {
                return Err(format!("{:?} here, {name:?} there", ours.done()));
            }
            tally.both += 1;
        }
        (Progress::Done, Theirs::Refused(error)) => {
            let class = beside_the_name(&error)
                .ok_or_else(|| format!("{:?} here, refused there: {error:?}", ours.done()))?;
            // The same server_name extension at the same place among others that are good.
            let mut parts = Parts::of(&bytes[..ours.taken as usize]);
            let named: Vec<_> = parts
                .extensions()
                .extract_if(.., |(kind, _)| *kind == 0)
                .collect();
            parts.extensions = Some(plain());
            parts.extensions().extend(named);
            parts.compression = vec![0];
            match ask_rustls(&parts.bytes()) {
                Theirs::Name(name) if Some(name.as_str()) == ours.done() => {}
                other => {
                    return Err(format!(
                        "{:?} here, {other:?} without the rest",
                        ours.done()
                    ));
                }
            }
            *tally.looser.entry(class).or_default() += 1;
        }
        (Progress::Done, other) => {
            return Err(format!("{:?} here, {other:?} there", ours.done()));
        }
        (Progress::More, Theirs::Name(name)) => {
            return Err(format!("not whole here, {name:?} there"));
        }
        (Progress::More, _) => tally.incomplete += 1,
        (Progress::Refused(fault), Theirs::Name(_) | Theirs::NoName) => {
            *tally.stricter.entry(fault).or_default() += 1;
        }
        (Progress::Refused(fault), _) => *tally.refused.entry(fault).or_default() += 1,
    }
    Ok(())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
