//! What a guest says on its serial port, a JSON object a line.

use anyhow::{Context, Result};
use serde::Deserialize;

/// One line, of whichever kind has its field set.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Boot {
        boot: Boot,
    },
    Start {
        start: String,
        seconds: u64,
    },
    Out {
        out: String,
    },
    End(End),
    File {
        file: String,
        text: String,
    },
    Done {
        done: bool,
    },
    /// After so many steps the machine boots anew.
    Reboot {
        reboot: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Boot {
    /// The release, `5.10.0-46-cloud-amd64`.
    pub(super) kernel: String,
    /// The active LSMs, with commas.
    pub(super) lsm: String,
    /// Since the kernel began.
    pub(super) ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct End {
    pub(super) end: String,
    /// None when a signal ended it or it did not start; `why` tells.
    pub(super) code: Option<i32>,
    pub(super) ms: u64,
    pub(super) why: Option<String>,
}

pub(super) fn read(line: &str) -> Result<Line> {
    serde_json::from_str(line)
        .with_context(|| format!("the guest said what is no line of its language: {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind() {
        let line = |text| read(text).expect("a line");
        assert!(matches!(
            line(r#"{"boot":{"kernel":"6.1","lsm":"yama","ms":1}}"#),
            Line::Boot { boot } if boot.kernel == "6.1"
        ));
        assert!(matches!(
            line(r#"{"start":"gate","seconds":9}"#),
            Line::Start { seconds: 9, .. }
        ));
        assert!(matches!(line(r#"{"out":"a \"b\""}"#), Line::Out { out } if out == "a \"b\""));
        assert!(matches!(
            line(r#"{"end":"gate","code":null,"ms":5,"why":"timed out"}"#),
            Line::End(End { code: None, why: Some(why), .. }) if why == "timed out"
        ));
        assert!(matches!(
            line(r#"{"end":"gate","code":101,"ms":5}"#),
            Line::End(End {
                code: Some(101),
                why: None,
                ..
            })
        ));
        assert!(matches!(
            line(r#"{"file":"doctor.json","text":"{}"}"#),
            Line::File { .. }
        ));
        assert_eq!(line(r#"{"reboot":3}"#), Line::Reboot { reboot: 3 });
        assert_eq!(line(r#"{"done":true}"#), Line::Done { done: true });
        assert!(read("[    1.0] panic").is_err());
    }
}
