//! The asking side, blocking and without a runtime: the command line and the launcher,
//! which must stay single-threaded, use the same.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::protocol::{MAX_ANSWER, Problem, Request, Response};

/// How long a connect or a write may take: the daemon accepts at once unless it hangs.
const CONNECT_SECONDS: i64 = 5;
/// How long one answer may take. Longer than the daemon gives itself.
const ANSWER: Duration = Duration::from_secs(75);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket, or nobody listens.
    #[error(
        "the daemon is not running (nobody answers at {path}): start it with `sudo exeat daemon`",
        path = .0.display()
    )]
    NotRunning(PathBuf),
    /// The socket may not be opened.
    #[error(
        "this user may not talk to the daemon at {path}: every local user should; check the \
         modes of the socket (0666) and of its folder (0755)",
        path = .0.display()
    )]
    Forbidden(PathBuf),
    /// It listens but does not answer.
    #[error(
        "the daemon at {path} does not answer in time: look at its log, or restart it \
         (enforcement goes on meanwhile)",
        path = .0.display()
    )]
    TimedOut(PathBuf),
    /// It ended in the middle.
    #[error(
        "the daemon at {path} closed the connection without an answer: see `exeat status` \
         and the daemon's log",
        path = .0.display()
    )]
    Closed(PathBuf),
    /// Another failure of the socket.
    #[error("cannot talk to the daemon at {path}: {source}", path = path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An answer that this version cannot read.
    #[error("the daemon's answer cannot be read ({0}): are both of the same version?")]
    Protocol(String),
    /// The daemon said no.
    #[error("{0}")]
    Refused(Problem),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    buffer: Vec<u8>,
    /// How far `buffer` has been searched for a line's end.
    searched: usize,
}

impl Client {
    /// Connects to the socket.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = open(path).map_err(|e| failure(path, e))?;
        Ok(Self {
            stream,
            path: path.to_owned(),
            buffer: Vec::new(),
            searched: 0,
        })
    }

    /// Asks and waits for the one answer.
    pub fn ask(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.send(request)?;
        match self.next()? {
            Some(answer) => Ok(answer),
            None => Err(ClientError::Closed(self.path.clone())),
        }
    }

    /// Sends a request; its answers come from [`Client::next`].
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let line = request
            .to_line()
            .map_err(|e| ClientError::Protocol(e.to_string()))?;
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            // The command line lets SIGPIPE end it, as pipes need; here it must not.
            match send(self.stream.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
                Ok(n) => rest = &rest[n..],
                Err(Errno::EINTR) => {}
                // Refused at once: why is waiting to be read.
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(()),
                Err(e) => return Err(failure(&self.path, e)),
            }
        }
        Ok(())
    }

    /// The next line; `None` after the last. An [`Response::Error`] is an error.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Response>, ClientError> {
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        match serde_json::from_slice(&line) {
            Ok(Response::Error(problem)) => Err(ClientError::Refused(problem)),
            Ok(answer) => Ok(Some(answer)),
            Err(e) => Err(ClientError::Protocol(e.to_string())),
        }
    }

    /// Lets [`Client::next`] wait without end: for `events --follow`.
    pub fn wait_forever(&self) -> Result<(), ClientError> {
        self.stream
            .set_read_timeout(None)
            .map_err(|source| self.io(source))
    }

    fn line(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        use io::Read as _;
        loop {
            let new = &self.buffer[self.searched..];
            if let Some(at) = new.iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(self.searched + at + 1);
                self.searched = 0;
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_ANSWER {
                return Err(ClientError::Protocol("a line without end".into()));
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(ClientError::Closed(self.path.clone())),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(match e.raw_os_error().map(Errno::from_raw) {
                        Some(errno) => failure(&self.path, errno),
                        None => self.io(e),
                    });
                }
            }
        }
    }

    fn io(&self, source: io::Error) -> ClientError {
        ClientError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// `std` can give a Unix connect no time limit: with a full backlog it would wait for ever.
fn open(path: &Path) -> Result<UnixStream, Errno> {
    let kind = SockFlag::SOCK_CLOEXEC;
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, kind, None)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(CONNECT_SECONDS, 0))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(fd);
    match stream.set_read_timeout(Some(ANSWER)) {
        Ok(()) => Ok(stream),
        Err(e) => Err(Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))),
    }
}

fn failure(path: &Path, errno: Errno) -> ClientError {
    let path = path.to_owned();
    match errno {
        Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR => ClientError::NotRunning(path),
        Errno::EACCES | Errno::EPERM => ClientError::Forbidden(path),
        Errno::EAGAIN | Errno::ETIMEDOUT => ClientError::TimedOut(path),
        Errno::ECONNRESET => ClientError::Closed(path),
        errno => ClientError::Io {
            path,
            source: errno.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    #[test]
    fn no_daemon_is_said_with_the_way_out() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("control.sock");
        let missing = Client::connect(&path).expect_err("missing").to_string();
        assert_eq!(
            missing,
            format!(
                "the daemon is not running (nobody answers at {}): start it with `sudo exeat \
                 daemon`",
                path.display()
            )
        );
        let listener = UnixListener::bind(&path).expect("bind");
        // Not dropped: a child that another test is just starting may hold a copy.
        let both = nix::sys::socket::Shutdown::Both;
        nix::sys::socket::shutdown(listener.as_raw_fd(), both).expect("shutdown");
        let stale = Client::connect(&path).expect_err("stale");
        assert!(matches!(stale, ClientError::NotRunning(_)));
        let forbidden = failure(&path, Errno::EACCES).to_string();
        assert!(forbidden.contains("0666"), "{forbidden}");
    }

    fn against(answer: &'static [u8]) -> Result<Option<Response>, ClientError> {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).expect("bind");
        let mut client = Client::connect(&path).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        client.send(&Request::Status {}).expect("send");
        let mut asked = vec![0; Request::Status {}.to_line().expect("line").len()];
        server.read_exact(&mut asked).expect("read");
        server.write_all(answer).expect("write");
        drop(server);
        client.next()
    }

    #[test]
    fn answers_cut_short_or_unreadable_are_errors() {
        assert!(matches!(against(b""), Ok(None)));
        assert!(matches!(against(b"{\"type\""), Err(ClientError::Closed(_))));
        assert!(matches!(against(b"{}\n"), Err(ClientError::Protocol(_))));
        let end = against(b"{\"type\":\"end\",\"last_seq\":4}\n");
        assert!(
            matches!(end, Ok(Some(Response::End { last_seq: 4 }))),
            "{end:?}"
        );
    }
}
