//! Tells systemd that the daemon lives (`WatchdogSec=`), by what would be missing if it did not:
//! the engine's lock was had, and the runtime ran the task.

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use super::Shared;

/// Says it in time, twice in each period; does nothing where nobody asks.
pub(super) async fn feed(shared: Arc<Shared>, cancel: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval(period / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        shared.with(|_| ());
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }
}
