//! Waiting for a condition instead of for a time.

use std::time::{Duration, Instant};

/// Time after which a condition that should come true is held to have failed. Generous,
/// because the machine may be shared; a test that passes never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks `condition` until it gives a value.
///
/// # Errors
/// When `patience` is over, with `what` in the text.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if start.elapsed() > patience {
            anyhow::bail!("waited {patience:?} in vain for {what}");
        }
        // The pause between two looks, not a guess at how long the thing takes.
        std::thread::sleep(Duration::from_millis(5));
    }
}
