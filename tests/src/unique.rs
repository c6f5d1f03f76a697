//! Names and payloads that no other test uses.

use std::sync::atomic::{AtomicU32, Ordering};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A number that is used once in this process.
pub fn number() -> u32 {
    COUNTER.fetch_add(1, Ordering::Relaxed)
}

/// `prefix-<pid>-<counter>`: unique among all processes that run now.
pub fn name(prefix: &str) -> String {
    format!("{prefix}-{}-{}", std::process::id(), number())
}

/// A payload to look for on the wire. Letters and digits only, so that it may also be a
/// DNS label; twelve bytes or more, so that it does not occur by chance.
pub fn token() -> String {
    format!("xt{:06x}n{:05x}z", std::process::id(), number())
}
