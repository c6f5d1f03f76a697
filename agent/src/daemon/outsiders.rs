//! Who is told of questions outside of the machine's own ways: a program, a service.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    asking::{Desk, hook::Hook, outside, webhook::Webhook},
    config::Asking,
};

/// Starts what the configuration names. What cannot be is said and left out: questions are
/// answered in other ways, and enforcement depends on none of them.
pub(super) fn start(
    config: &Asking,
    desk: &Desk,
    tasks: &mut JoinSet<()>,
    cancel: &CancellationToken,
) {
    match config.hook.as_ref().map(Hook::new) {
        Some(Ok(hook)) => {
            info!("questions go to the hook");
            tasks.spawn(outside::serve(hook, desk.clone(), cancel.clone()));
        }
        Some(Err(error)) => error!(error, "there is no hook"),
        None => {}
    }
    match config.webhook.as_ref().map(Webhook::new) {
        Some(Ok(webhook)) => {
            info!("questions go to the webhook");
            tasks.spawn(outside::serve(webhook, desk.clone(), cancel.clone()));
        }
        Some(Err(error)) => error!(error, "there is no webhook"),
        None => {}
    }
}
