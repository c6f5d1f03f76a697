//! Has the kernel check every program without attaching any.

use aya::{Ebpf, VerifierLogLevel};
use serde::Serialize;

use super::{
    KernelError,
    fields::Fields,
    helpers::Helpers,
    links::{self, ATTACHMENTS, Place},
    object::{self, Constants, Throttle},
    walls::{LsmWall, Standing, Walls},
};

/// What the kernel says of one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trial {
    /// Name of the function in `agent-ebpf`.
    pub program: &'static str,
    /// The hook's name, as in events, status and metrics.
    pub hook: &'static str,
    /// Where it is attached.
    pub place: Place,
    /// Whether the kernel takes it.
    pub loads: bool,
    /// Instructions that the verifier walked through; kernels before 5.16 do not tell.
    pub verified: Option<u32>,
    /// Why it is refused, in one line.
    pub error: Option<String>,
    /// What the verifier wrote about a refused program.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub log: String,
    /// What it does elsewhere and not on this kernel.
    pub leaves_out: Vec<&'static str>,
}

/// Tries every program. Nothing is pinned, and all is gone when this returns.
///
/// # Errors
/// When no program can be tried: without privilege, or where a map cannot be made.
pub fn programs() -> Result<Vec<Trial>, KernelError> {
    let helpers = Helpers::probe()?;
    let fields = Fields::look_up()?;
    let mut ebpf = object(helpers, &fields, VerifierLogLevel::STATS)?;
    // Asked for only where a program is refused: every step of the verifier is a line.
    let mut telling = None;
    let mut trials = Vec::new();
    for attachment in ATTACHMENTS {
        let mut trial = Trial {
            program: attachment.program,
            hook: attachment.hook,
            place: attachment.place,
            loads: true,
            verified: None,
            error: None,
            log: String::new(),
            leaves_out: helpers.leaves_out(attachment.hook),
        };
        match links::load(&mut ebpf, attachment) {
            Ok(()) => trial.verified = verified(&ebpf, attachment.program),
            Err(error) => {
                trial.loads = false;
                trial.error = Some(match &error {
                    KernelError::Program { source, .. } => source.to_string(),
                    other => other.to_string(),
                });
                let telling = match &mut telling {
                    Some(telling) => telling,
                    none => none.insert(object(helpers, &fields, VerifierLogLevel::default())?),
                };
                if let Err(KernelError::Program { source, .. }) = links::load(telling, attachment) {
                    trial.log = source.log().to_owned();
                }
            }
        }
        trials.push(trial);
    }
    Ok(trials)
}

/// Tries every wall of BPF LSM in the same way: how each would stand.
///
/// # Errors
/// As [`programs`].
pub fn walls() -> Result<Vec<(&'static LsmWall, Standing)>, KernelError> {
    let fields = Fields::look_up()?;
    let mut ebpf = object(Helpers::probe()?, &fields, VerifierLogLevel::STATS)?;
    Ok(Walls::load(&mut ebpf, &fields).prospects())
}

/// The object with maps of its own.
fn object(helpers: Helpers, fields: &Fields, level: VerifierLogLevel) -> Result<Ebpf, KernelError> {
    let quiet = Throttle {
        per_second: 0,
        burst: 0,
    };
    Constants::new(quiet, helpers, fields)
        .loader(level)
        .load(object::OBJECT)
        .map_err(|e| KernelError::Object(Box::new(e)))
}

fn verified(ebpf: &Ebpf, program: &str) -> Option<u32> {
    let info = ebpf.program(program)?.info().ok()?;
    info.verified_instruction_count()
}
