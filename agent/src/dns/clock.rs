//! Time since boot.

use std::sync::Arc;
use std::time::Duration;

/// Where time since boot comes from; tests bring their own.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// `CLOCK_BOOTTIME`: it counts the time that a laptop sleeps, which TTLs do too, and is
/// the clock of the kernel's events.
pub fn boottime() -> Clock {
    Arc::new(now)
}

/// Time since boot, suspend included.
pub fn now() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec that outlives the call, which writes nothing else.
    // CLOCK_BOOTTIME is there since Linux 2.6.39 and cannot fail then; had it failed,
    // `time` is still a value, zero.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn boot_time_is_that_of_the_kernel() {
        let before = super::now();
        let text = std::fs::read_to_string("/proc/uptime").expect("/proc/uptime");
        let uptime: f64 = text
            .split(' ')
            .next()
            .and_then(|s| s.parse().ok())
            .expect("seconds");
        let after = super::now();
        // /proc/uptime is cut to hundredths of a second.
        assert!(before.as_secs_f64() - 0.011 <= uptime && uptime <= after.as_secs_f64());
    }
}
