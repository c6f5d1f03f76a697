//! How much of the machine an agent may take.

use super::super::diagnostic::Pos;
use super::super::file::{At, LimitsFile};
use super::super::limits::{IoLimits, Limits};
use agent_common::layout::Mode;

/// What is not said has no limit.
pub(super) fn limits(file: Option<&At<LimitsFile>>) -> Limits {
    let Some(At { value: file, .. }) = file else {
        return Limits::default();
    };
    let said = |limit: &Option<At<u64>>| limit.as_ref().map(|limit| limit.value);
    Limits {
        memory: said(&file.memory),
        swap: said(&file.swap),
        cpu: said(&file.cpu),
        pids: said(&file.pids),
        io: file
            .io
            .as_ref()
            .map_or_else(IoLimits::default, |io| IoLimits {
                read: said(&io.value.read),
                write: said(&io.value.write),
                read_ops: said(&io.value.read_ops),
                write_ops: said(&io.value.write_ops),
            }),
        open_files: said(&file.open_files),
        time: said(&file.time),
    }
}

/// Place, message and help of every warning about limits.
pub(super) fn lint(name: &str, mode: Mode, file: &At<LimitsFile>) -> Vec<(Pos, String, String)> {
    let mut warnings = Vec::new();
    if mode == Mode::Monitor {
        warnings.push((
            file.at,
            format!("agent `{name}` is only monitored, so its limits do not hold"),
            "remove `mode: monitor` to have them hold".to_owned(),
        ));
    }
    if let (Some(memory), None) = (&file.value.memory, &file.value.swap) {
        warnings.push((
            memory.at,
            format!("what agent `{name}` may not keep in memory it may swap out without a limit"),
            "write `swap: 0`, or how much it may have".to_owned(),
        ));
    }
    warnings
}
