//! Whether polkit lets somebody answer what administrators are asked.
//!
//! Every doubt is a no: no bus, no polkit, no such action, no answer in time.

use std::collections::HashMap;

use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use crate::control::Peer;

/// The action, as `dist/polkit/org.exeat.policy` describes it.
const ACTION: &str = "org.exeat.answer";

/// Asks polkit, which may ask the person for a password.
pub(super) async fn allows(peer: &Peer, agent: &str) -> bool {
    match ask(peer, agent).await {
        Ok(allowed) => allowed,
        Err(why) => {
            tracing::debug!(why, "polkit was not asked");
            false
        }
    }
}

async fn ask(peer: &Peer, agent: &str) -> Result<bool, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let subject = Subject::new_for_pid(peer.pid(), None, Some(peer.uid()));
    let subject = subject.map_err(|e| failed(&e))?;
    // The start time that was just read is this process's only if it still lives.
    if !peer.is_alive() {
        return Err("who asked has ended".to_owned());
    }
    let bus = zbus::Connection::system().await.map_err(|e| failed(&e))?;
    let authority = AuthorityProxy::new(&bus).await.map_err(|e| failed(&e))?;
    let details = HashMap::from([("agent", agent)]);
    let result = authority
        .check_authorization(
            &subject,
            ACTION,
            &details,
            CheckAuthorizationFlags::ALLOW_USER_INTERACTION,
            "",
        )
        .await
        .map_err(|e| failed(&e))?;
    Ok(result.is_authorized && peer.is_alive())
}
