//! Bytes both ways.

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use super::Outcome;
use super::flow::Flow;
use super::session::Ended;

/// Bytes of a direction's buffer: one record of TLS fits.
const BUFFER: usize = 16 * 1024 + 512;

/// Passes bytes on until both sides have ended; the end of one side is passed on, too. When
/// one breaks off, so is the other broken off.
pub(super) async fn relay(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut upstream: impl AsyncRead + AsyncWrite + Unpin,
    flow: &Flow,
) -> Result<(), Ended> {
    match copy_bidirectional_with_sizes(client, &mut upstream, BUFFER, BUFFER).await {
        Ok(_) => Ok(()),
        Err(error) => {
            flow.cut();
            Err(Ended::new(Outcome::Reset).because(error))
        }
    }
}
