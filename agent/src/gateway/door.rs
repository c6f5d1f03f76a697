//! The explicit doors, for programs that cannot be steered.

use super::flow::Socket;
use super::head::Form;
use super::name::Target;
use super::session::{Ended, Session};
use super::{Backend, Kind};

impl<B: Backend> Session<B> {
    /// The HTTP proxy: CONNECT, and requests with whole URLs.
    pub(super) async fn http_door(&self, mut socket: Socket) -> Result<(), Ended> {
        self.first_byte(&mut socket).await?;
        match self.exchange(socket, Form::Proxy).await? {
            Some((socket, target)) => self.pass(socket, &target).await,
            None => Ok(()),
        }
    }

    /// Whether a tunnel to somewhere may begin at all. What shows itself in it is judged
    /// when it does; to an address, every name may still come.
    pub(super) fn opens(&self, target: &Target) -> Result<(), Ended> {
        self.note(|record| {
            record.port = target.port();
            record.name = target.name().cloned();
            record.kind = Some(Kind::Tunnel);
        });
        match target {
            Target::Name(..) => {
                let kinds = [Kind::Tunnel, Kind::Http, Kind::Tls];
                match kinds.iter().any(|kind| self.allows(&target.ask(*kind))) {
                    true => Ok(()),
                    false => self.judge(target.ask(Kind::Tls)).map(drop),
                }
            }
            Target::Addr(to) => {
                self.note(|record| record.destination = Some(*to));
                Ok(())
            }
        }
    }
}
