//! How much of the machine an agent may take.

use super::super::file::{At, IoFile, LimitsFile};
use super::super::limits::{parse_bytes, parse_percent, parse_rate, parse_time};
use super::super::tree::{Node, Value};
use super::{Fields, IO_KEYS, LIMITS_KEYS, Reader, shown};

/// How an amount is written.
#[derive(Clone, Copy)]
enum Form {
    Bytes,
    Percent,
    Count,
    Rate,
    Time,
}

impl Form {
    const fn help(self) -> &'static str {
        match self {
            Self::Bytes => "write an amount with its unit, as in `2GiB` (1024) or `500MB` (1000)",
            Self::Percent => "write percent of one CPU, as in `150%`",
            Self::Count => "write a whole number",
            Self::Rate => "write an amount a second, as in `10MB/s`, or `100/s` of operations",
            Self::Time => "write a time with its unit, as in `4h`, `90m` or `1h30m`",
        }
    }

    fn read(self, value: &Value) -> Option<u64> {
        match (self, value) {
            (Self::Bytes | Self::Count, Value::Int(n)) => u64::try_from(*n).ok(),
            (Self::Bytes, Value::Text(text)) => parse_bytes(text),
            (Self::Percent, Value::Text(text)) => parse_percent(text),
            (Self::Rate, Value::Text(text)) => parse_rate(text),
            (Self::Time, Value::Text(text)) => parse_time(text),
            _ => None,
        }
    }
}

/// The least and the most of each limit, as far as the kernel or good sense has them.
const fn bounds(key: &str) -> (u64, u64) {
    match key.as_bytes() {
        b"memory" => (1 << 20, 1 << 60),
        b"swap" => (0, 1 << 60),
        b"cpu" => (1, 1_000_000),
        // `PID_MAX_LIMIT` of the kernel.
        b"pids" => (1, 4 << 20),
        // What programs begin with, and `NR_OPEN_MAX`-like bounds of the kernel.
        b"open_files" => (16, 1 << 30),
        b"time" => (1, 366 * 86_400),
        _ => (1, 1 << 60),
    }
}

impl Reader<'_> {
    pub(super) fn limits(&mut self, node: Node, what: &str) -> Option<LimitsFile> {
        if matches!(node.value, Value::Null) {
            return Some(LimitsFile::default());
        }
        let help = "write keys and amounts, as in `limits: {memory: 2GiB, pids: 512, time: 4h}`";
        let mut fields = self.fields(node, &format!("`limits` of {what}"), LIMITS_KEYS, help)?;
        Some(LimitsFile {
            memory: self.limit(&mut fields, "memory", Form::Bytes),
            swap: self.limit(&mut fields, "swap", Form::Bytes),
            cpu: self.limit(&mut fields, "cpu", Form::Percent),
            pids: self.limit(&mut fields, "pids", Form::Count),
            io: fields.take("io").and_then(|node| {
                let at = node.at;
                let value = self.io(node, what)?;
                Some(At { value, at })
            }),
            open_files: self.limit(&mut fields, "open_files", Form::Count),
            time: self.limit(&mut fields, "time", Form::Time),
        })
    }

    fn io(&mut self, node: Node, what: &str) -> Option<IoFile> {
        let help = "write keys and amounts, as in `io: {read: 50MB/s, write: 10MB/s}`";
        let mut fields = self.fields(node, &format!("`io` of {what}"), IO_KEYS, help)?;
        Some(IoFile {
            read: self.limit(&mut fields, "read", Form::Rate),
            write: self.limit(&mut fields, "write", Form::Rate),
            read_ops: self.limit(&mut fields, "read_ops", Form::Rate),
            write_ops: self.limit(&mut fields, "write_ops", Form::Rate),
        })
    }

    fn limit(&mut self, fields: &mut Fields, key: &'static str, form: Form) -> Option<At<u64>> {
        let node = fields.take(key)?;
        let at = node.at;
        let Some(value) = form.read(&node.value) else {
            let message = match &node.value {
                Value::Text(text) => format!("`{}` is no amount for `{key}`", shown(text)),
                Value::Int(n) if *n < 0 => format!("`{key}` is {n}"),
                Value::Int(n) => format!("`{key}` is the number {n}, without a unit"),
                other => format!("`{key}` is {}", other.kind()),
            };
            self.error(at, message, form.help());
            return None;
        };
        let (least, most) = bounds(key);
        if value < least || value > most {
            let message = match value < least {
                true => format!("`{key}` is too small for a program to run in"),
                false => format!("`{key}` is larger than any machine has"),
            };
            let help = match value < least {
                true => format!("write at least {least}, or leave `{key}` out for no limit"),
                false => format!("write at most {most}, or leave `{key}` out for no limit"),
            };
            self.error(at, message, help);
            return None;
        }
        Some(At { value, at })
    }
}
