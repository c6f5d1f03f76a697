//! The detection rules at work: what they find is told, and done.

use std::{io, sync::Arc};

use tokio::sync::mpsc::{self, Receiver};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{Shared, cut, hold};
use crate::{
    asking::Who,
    config::Config,
    detect::{Action, DetectSink, Detection, Engine, Found, LoadError, Seen, load},
    error::chain,
};

/// Findings that may wait for the daemon.
const QUEUE: usize = 256;

/// The sink of the rules, and what comes out of it; or why there is none.
pub(super) fn start(config: &Config) -> Result<(DetectSink, Receiver<Found>), String> {
    let settings = &config.detect;
    // Only the folder that nobody asked for may be missing.
    let named = settings.rules != crate::config::Detect::default().rules;
    let rules = load(settings.starter, &settings.rules, !named)
        .map_err(|error: LoadError| error.to_string())?;
    let memory = config.state_dir.join("detect").join("seen.json");
    let seen = Seen::load(&memory).unwrap_or_else(|error| {
        let path = memory.display();
        error!(%error, %path, "what detection rules saw before is lost");
        Seen::default()
    });
    let (found, findings) = mpsc::channel(QUEUE);
    let sink = DetectSink::start(Engine::new(rules, seen), found, memory)
        .map_err(|error: io::Error| format!("cannot start a thread: {error}"))?;
    Ok((sink, findings))
}

/// Tells and does what the rules found, until the daemon ends.
pub(super) async fn act(
    shared: Arc<Shared>,
    mut findings: Receiver<Found>,
    cancel: CancellationToken,
) {
    loop {
        let detection = tokio::select! {
            () = cancel.cancelled() => return,
            detection = findings.recv() => match detection {
                Some(detection) => detection,
                None => return,
            },
        };
        shared.hub.incident(detection.incident());
        if shared.config.detect.act {
            contain(&shared, &detection).await;
        }
    }
}

/// The gravest action that the rule wants.
async fn contain(shared: &Shared, detection: &Detection) {
    let agent = detection.agent.as_str();
    let wants = |action| detection.actions.contains(&action);
    let done = match (wants(Action::Freeze), wants(Action::Isolate)) {
        (true, _) => hold::freeze(shared, agent).await.map(drop),
        (false, true) => tokio::task::block_in_place(|| {
            let rules = Who {
                uid: 0,
                name: None,
                via: format!("detect:{}", detection.rule),
            };
            cut::isolate(shared, &rules, agent).map(drop)
        }),
        (false, false) => return,
    };
    if let Err(problem) = done {
        let rule = detection.rule.as_str();
        error!(
            agent,
            rule,
            error = chain(&problem),
            "what the rule wants could not be done"
        );
    }
}
