//! `limits:` of an agent: how much of the machine it may take. They are of all its runs
//! together, but for `open_files` (each process) and `time` (each run).

use serde::{Deserialize, Serialize};

/// What an agent may take; what is not said has no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Bytes of swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<u64>,
    /// Time on CPUs, in percent of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Reading from disks and writing to them.
    pub io: IoLimits,
    /// Open files of a process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// Seconds that a run may take, by the clock on the wall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
}

/// What an agent may read and write in a second, of each disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoLimits {
    /// Bytes read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<u64>,
    /// Bytes written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<u64>,
    /// Read operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ops: Option<u64>,
    /// Write operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_ops: Option<u64>,
}

impl Limits {
    /// Those that are set: the key, and the value as people write it.
    pub fn each(&self) -> Vec<(&'static str, String)> {
        let io = &self.io;
        let rate = |n: u64| format!("{}/s", bytes_text(n));
        let all = [
            ("memory", self.memory.map(bytes_text)),
            ("swap", self.swap.map(bytes_text)),
            ("cpu", self.cpu.map(|n| format!("{n}%"))),
            ("pids", self.pids.map(|n| n.to_string())),
            ("io.read", io.read.map(rate)),
            ("io.write", io.write.map(rate)),
            ("io.read_ops", io.read_ops.map(|n| format!("{n}/s"))),
            ("io.write_ops", io.write_ops.map(|n| format!("{n}/s"))),
            ("open_files", self.open_files.map(|n| n.to_string())),
            ("time", self.time.map(time_text)),
        ];
        all.into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }
}

const BYTE_UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
];

const TIME_UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Bytes as people write them, exactly.
pub fn bytes_text(n: u64) -> String {
    let whole = BYTE_UNITS
        .iter()
        .filter(|(_, unit)| n >= *unit && n.is_multiple_of(*unit))
        .max_by_key(|(_, unit)| *unit);
    match whole {
        Some((word, unit)) => format!("{}{word}", n / unit),
        None => n.to_string(),
    }
}

/// Seconds as people write them: `1h30m`.
pub fn time_text(mut seconds: u64) -> String {
    if seconds == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (word, unit) in TIME_UNITS {
        if seconds >= unit {
            text.push_str(&format!("{}{word}", seconds / unit));
            seconds %= unit;
        }
    }
    text
}

fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// `2GiB`, `500 MB`, `4096`.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    if let Some(n) = digits(text) {
        return Some(n);
    }
    let (number, unit) = BYTE_UNITS
        .iter()
        .find_map(|(word, unit)| Some((text.strip_suffix(word)?, *unit)))?;
    digits(number.strip_suffix(' ').unwrap_or(number))?.checked_mul(unit)
}

/// `10MB/s`, `100/s`.
pub(crate) fn parse_rate(text: &str) -> Option<u64> {
    parse_bytes(text.strip_suffix("/s")?)
}

/// `150%`.
pub(crate) fn parse_percent(text: &str) -> Option<u64> {
    let number = text.strip_suffix('%')?;
    digits(number.strip_suffix(' ').unwrap_or(number))
}

/// `4h`, `1h30m`, `90s`: each unit once, the larger first.
pub(crate) fn parse_time(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0_u64;
    for (word, unit) in TIME_UNITS {
        let Some((number, after)) = rest.split_once(word) else {
            continue;
        };
        sum = sum.checked_add(digits(number)?.checked_mul(unit)?)?;
        rest = after;
    }
    (rest.is_empty() && !text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_come_back_as_they_were_written() {
        for text in ["2GiB", "512MiB", "10MB", "1025", "3TB", "1KiB"] {
            assert_eq!(bytes_text(parse_bytes(text).expect(text)), text);
        }
        for text in ["4h", "1h30m", "90d", "1d1s", "59s"] {
            assert_eq!(time_text(parse_time(text).expect(text)), text);
        }
        assert_eq!(parse_bytes("2 GiB"), Some(2 << 30));
        assert_eq!(parse_rate("10MB/s"), Some(10_000_000));
        assert_eq!(parse_rate("100/s"), Some(100));
        assert_eq!(parse_percent("150%"), Some(150));
        assert_eq!(parse_time("90m"), Some(5_400));
    }

    #[test]
    fn what_is_no_amount_is_none() {
        for text in [
            "",
            "2G",
            "GiB",
            "-1",
            "1.5GiB",
            "2GiBx",
            "99999999TiB",
            "٣MB",
        ] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
        for text in ["", "4", "h", "30m1h", "4 h", "1h1h", "1w"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
        assert_eq!(parse_rate("10MB"), None);
        assert_eq!(parse_percent("150"), None);
    }
}
