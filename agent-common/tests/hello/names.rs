//! What a host name is.

use agent_common::hello::Fault;
use proptest::prelude::*;
use rustls::pki_types::DnsName;

use super::mutants::{Random, name};
use super::parts::Parts;
use super::reference::read;

/// The same judgement letter by letter.
fn judge(name: &[u8]) -> Option<Fault> {
    if name.is_empty() || name.len() > 253 {
        return Some(Fault::NameLength);
    }
    if name.contains(&b':') {
        return Some(Fault::Address);
    }
    let labels: Vec<&[u8]> = name.split(|byte| *byte == b'.').collect();
    let good = |label: &&[u8]| {
        (1..=63).contains(&label.len())
            && label
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
            && label[0] != b'-'
            && label[label.len() - 1] != b'-'
    };
    if !labels.iter().all(good) {
        return Some(Fault::NameBytes);
    }
    let last = labels[labels.len() - 1].to_ascii_lowercase();
    let number = last.iter().all(u8::is_ascii_digit) || last.starts_with(b"0x");
    number.then_some(Fault::Address)
}

fn check(name: &[u8]) -> Result<(), TestCaseError> {
    let outcome = read(&Parts::named(name).bytes());
    prop_assert_eq!(outcome.fault(), judge(name), "{}", name.escape_ascii());
    if let Some(read) = outcome.done() {
        prop_assert_eq!(read.as_bytes(), name.to_ascii_lowercase());
        // Nothing passes that is no name to rustls.
        prop_assert!(DnsName::try_from(read).is_ok(), "{}", read);
    }
    Ok(())
}

proptest! {
    #[test]
    fn names_are_judged_as_letter_by_letter(seed: u64) {
        check(&name(&mut Random(seed)))?;
    }

    #[test]
    fn any_bytes_are_judged_as_letter_by_letter(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes)?;
    }

    #[test]
    fn labels_are_judged_as_letter_by_letter(name in "([a-c0-1_]{1,70}[.-]){0,6}[a-cX0x1-]{1,66}") {
        check(name.as_bytes())?;
    }
}

#[test]
fn every_byte_at_every_place() {
    for length in [1, 7, 8, 9, 16, 17] {
        for at in 0..length {
            for byte in 0..=255 {
                let mut name = vec![b'q'; length];
                name[at] = byte;
                check(&name).unwrap_or_else(|what| panic!("{}: {what}", name.escape_ascii()));
            }
        }
    }
}

#[test]
fn every_length_of_a_label_behind_every_other() {
    for first in 1..=66 {
        for second in 1..=66 {
            let name = format!("{}.{}", "a".repeat(first), "b".repeat(second));
            check(name.as_bytes()).unwrap_or_else(|what| panic!("{name}: {what}"));
        }
    }
}
