//! Port lists.

/// An inclusive range of ports, host order.
pub type PortRange = (u16, u16);

/// Every port: what `ports: all` means. Port 0 is in it because the kernel lets a
/// program connect there.
pub const ALL_PORTS: PortRange = (0, u16::MAX);

/// Text that is no port.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum PortError {
    #[error("port {0} does not exist")]
    OutOfRange(String),
    #[error("the range `{0}` runs backwards")]
    Backwards(String),
    #[error("`{0}` is not a port")]
    NotAPort(String),
}

impl PortError {
    pub(crate) fn help(&self) -> String {
        match self {
            Self::OutOfRange(_) => {
                "ports go from 1 to 65535; for every port write `ports: all`".to_owned()
            }
            Self::Backwards(text) => {
                let (low, high) = text.split_once('-').unwrap_or((text, ""));
                format!("write \"{}-{}\"", high.trim(), low.trim())
            }
            Self::NotAPort(_) => {
                "write numbers and ranges, as in `ports: [443, \"4000-4010\"]`, or `ports: all`"
                    .to_owned()
            }
        }
    }
}

/// A port as a number.
pub(crate) fn from_number(number: i128) -> Result<PortRange, PortError> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok((port, port)),
        _ => Err(PortError::OutOfRange(number.to_string())),
    }
}

/// A port or a range as text; `all` is not for here, because inside a list it would
/// make the rest of the list meaningless.
pub(crate) fn from_text(text: &str) -> Result<PortRange, PortError> {
    let word = || super::diagnostic::shown(text);
    let port = |part: &str| {
        let part = part.trim();
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return Err(PortError::NotAPort(word()));
        }
        match part.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(PortError::OutOfRange(super::diagnostic::shown(part))),
        }
    };
    let Some((low, high)) = text.split_once('-') else {
        let port = port(text)?;
        return Ok((port, port));
    };
    let (low, high) = (port(low)?, port(high)?);
    if low > high {
        return Err(PortError::Backwards(word()));
    }
    Ok((low, high))
}

/// Sorted, with ranges that overlap or touch made one.
pub(crate) fn merge(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for (low, high) in ranges {
        match merged.last_mut() {
            Some(last) if u32::from(low) <= u32::from(last.1) + 1 => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    merged
}

/// Whether every port of `inner` is in `outer`; both merged.
pub(crate) fn contains(outer: &[PortRange], inner: &[PortRange]) -> bool {
    inner
        .iter()
        .all(|i| outer.iter().any(|o| o.0 <= i.0 && i.1 <= o.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_sorted_and_made_one() {
        assert_eq!(
            merge(vec![(5, 6), (1, 2), (3, 4), (9, 9)]),
            [(1, 6), (9, 9)]
        );
        assert_eq!(merge(vec![(1, 65535), (7, 7)]), [(1, 65535)]);
        assert_eq!(
            merge(vec![(65535, 65535), (65534, 65534)]),
            [(65534, 65535)]
        );
        assert!(contains(&[(1, 6)], &[(2, 3), (6, 6)]));
        assert!(!contains(&[(1, 6)], &[(6, 7)]));
    }

    #[test]
    fn what_is_a_port_and_what_is_not() {
        assert_eq!(from_text("443"), Ok((443, 443)));
        assert_eq!(from_text("4000 - 4010"), Ok((4000, 4010)));
        assert_eq!(from_number(65535), Ok((65535, 65535)));
        for bad in ["0", "65536", "99999999999", "0-5", "1-70000"] {
            assert!(
                matches!(from_text(bad), Err(PortError::OutOfRange(_))),
                "{bad}"
            );
        }
        for bad in [
            "", "-", "https", "+1", "1-", "-1", "1-2-3", "1,2", "*", "all",
        ] {
            assert!(
                matches!(from_text(bad), Err(PortError::NotAPort(_))),
                "{bad}"
            );
        }
        let backwards = from_text("10-5").expect_err("backwards");
        assert!(backwards.help().contains("\"5-10\""));
        assert!(from_number(0).is_err() && from_number(-1).is_err() && from_number(65536).is_err());
    }
}
