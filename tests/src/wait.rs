//! Waiting for a condition instead of for a time.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Time after which a condition that should come true is held to have failed. Generous,
/// because the machine may be shared; a test that passes never waits for it.
pub fn patience() -> Duration {
    scaled(Duration::from_secs(60))
}

/// A limit as it is on this machine: `EXEAT_PATIENCE` times the usual one. An emulated
/// machine is about ten times slower than the one that it runs on. For limits only: a
/// number of rounds or a pause is what a test is about, and stays.
///
/// # Panics
/// When `EXEAT_PATIENCE` is no whole number above zero.
pub fn scaled(usual: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    usual * *FACTOR.get_or_init(|| factor(std::env::var("EXEAT_PATIENCE").ok().as_deref()))
}

/// [`scaled`] as the argument of a program that counts in seconds.
pub fn seconds(usual: u64) -> String {
    scaled(Duration::from_secs(usual)).as_secs().to_string()
}

fn factor(text: Option<&str>) -> u32 {
    text.map_or(1, |text| {
        text.parse()
            .ok()
            .filter(|&factor| factor > 0)
            .unwrap_or_else(|| panic!("EXEAT_PATIENCE={text}: it is a whole number above zero"))
    })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_one_unless_said_and_never_nothing() {
        assert_eq!(factor(None), 1);
        assert_eq!(factor(Some("6")), 6);
        for wrong in ["", "0", "-1", "1.5", "x"] {
            assert!(std::panic::catch_unwind(|| factor(Some(wrong))).is_err());
        }
    }
}
