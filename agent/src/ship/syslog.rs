//! Syslog: RFC 5424 over TLS (RFC 5425), TCP with counted octets (RFC 6587), UDP (RFC 5426)
//! and Unix datagrams.
//!
//! The crates that write RFC 5424 stamp a line with the moment of writing; a record that
//! waited in the queue has a time of its own. What is written here is read back by a parser
//! that somebody else wrote, in the tests.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;

use super::config::{Destination, ReceiverConfig, Transport};
use super::outcome::{Delivery, Outcome, Trouble};
use super::parcel::Parcel;
use super::tls;

/// `authpriv`: security and authorization.
const FACILITY: u8 = 10;
/// The private enterprise number of the element: the one for examples (RFC 5612). A number of
/// its own would have to be given by IANA.
const ELEMENT: &str = "exeat@32473";
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection must stand after the other side's system has acknowledged every byte
/// of a batch before the batch counts as arrived. Syslog has no acknowledgement of its own.
const SETTLED: Duration = Duration::from_millis(250);
/// The most of a datagram over UDP that is sent: what every path carries in fragments.
const MAX_DATAGRAM: usize = 8192;

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

struct Link {
    stream: Box<dyn Duplex>,
    /// The TCP socket below; open as long as the stream.
    raw: RawFd,
}

enum Way {
    Stream {
        tls: Option<(TlsConnector, ServerName<'static>)>,
        at: (String, u16),
        link: Option<Link>,
    },
    Udp((String, u16)),
    Unix(PathBuf),
}

pub(super) struct Syslog {
    way: Way,
    host: String,
}

impl Syslog {
    /// Opens nothing yet. Errors are in words.
    pub(super) fn new(config: &ReceiverConfig, host: String) -> Result<Self, String> {
        let way = match &config.to {
            Destination::SyslogUnix(path) => Way::Unix(path.clone()),
            Destination::Syslog {
                transport,
                host,
                port,
            } => {
                let at = (host.clone(), *port);
                match transport {
                    Transport::Udp => Way::Udp(at),
                    Transport::Tcp => Way::Stream {
                        tls: None,
                        at,
                        link: None,
                    },
                    Transport::Tls => {
                        let connector = TlsConnector::from(Arc::new(tls::client(config)?));
                        let name = ServerName::try_from(host.clone());
                        let name = name.map_err(|_| format!("{host} is no name of a host"))?;
                        Way::Stream {
                            tls: Some((connector, name)),
                            at,
                            link: None,
                        }
                    }
                }
            }
            other => return Err(format!("{other} is no syslog")),
        };
        Ok(Self { way, host })
    }

    pub(super) async fn deliver(&mut self, batch: &[&Parcel]) -> Delivery {
        let lines: Vec<String> = batch.iter().map(|p| line(p, &self.host)).collect();
        let sent = match &mut self.way {
            Way::Stream { tls, at, link } => {
                let sent = stream(tls.as_ref(), at, link, &lines).await;
                if sent.is_err() {
                    *link = None;
                }
                sent
            }
            Way::Udp(at) => udp(at, &lines).await,
            Way::Unix(path) => unix(path, &lines),
        };
        sent.map_err(|error| Trouble::later(crate::error::chain(&error)))
    }
}

async fn stream(
    tls: Option<&(TlsConnector, ServerName<'static>)>,
    at: &(String, u16),
    link: &mut Option<Link>,
    lines: &[String],
) -> io::Result<Outcome> {
    let link = match link {
        Some(link) => link,
        None => link.insert(within(CONNECT_LIMIT, connect(tls, at)).await?),
    };
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend(format!("{} ", line.len()).as_bytes());
        bytes.extend(line.as_bytes());
    }
    within(WRITE_LIMIT, async {
        let Link { stream, raw } = link;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut heard = [0; 256];
        {
            // What the other side says is of no account, but that it hung up is.
            let write = async {
                writer.write_all(&bytes).await?;
                writer.flush().await?;
                taken(*raw).await
            };
            tokio::pin!(write);
            loop {
                tokio::select! {
                    done = &mut write => break done?,
                    read = reader.read(&mut heard) => still_there(read)?,
                }
            }
        }
        let until = Instant::now() + SETTLED;
        while let Ok(read) = tokio::time::timeout(
            until.saturating_duration_since(Instant::now()),
            reader.read(&mut heard),
        )
        .await
        {
            still_there(read)?;
        }
        Ok(())
    })
    .await?;
    Ok(Outcome::default())
}

fn still_there(read: io::Result<usize>) -> io::Result<()> {
    match read? {
        0 => Err(io::Error::other("it hung up")),
        _ => Ok(()),
    }
}

/// Waits until the other side's system has acknowledged every byte.
async fn taken(raw: RawFd) -> io::Result<()> {
    loop {
        let mut waiting: libc::c_int = 0;
        // SAFETY: the socket is open as long as its link, and the kernel writes one int.
        if unsafe { libc::ioctl(raw, libc::TIOCOUTQ, &raw mut waiting) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if waiting == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn connect(
    tls: Option<&(TlsConnector, ServerName<'static>)>,
    at: &(String, u16),
) -> io::Result<Link> {
    let tcp = TcpStream::connect((at.0.as_str(), at.1)).await?;
    tcp.set_nodelay(true)?;
    let raw = tcp.as_raw_fd();
    let stream: Box<dyn Duplex> = match tls {
        None => Box::new(tcp),
        Some((connector, name)) => Box::new(connector.connect(name.clone(), tcp).await?),
    };
    Ok(Link { stream, raw })
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing moved for {} s", limit.as_secs()),
        )),
    }
}

async fn udp(at: &(String, u16), lines: &[String]) -> io::Result<Outcome> {
    let to = tokio::net::lookup_host((at.0.as_str(), at.1)).await?.next();
    let to = to.ok_or_else(|| io::Error::other("the name has no address"))?;
    let from: std::net::SocketAddr = match to.is_ipv4() {
        true => ([0, 0, 0, 0], 0).into(),
        false => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(from).await?;
    socket.connect(to).await?;
    let mut outcome = Outcome::default();
    for (n, line) in lines.iter().enumerate() {
        if line.len() > MAX_DATAGRAM {
            let why = format!("{} bytes are too many for UDP; use syslog+tls", line.len());
            outcome.dead.push((n, why));
            continue;
        }
        socket.send(line.as_bytes()).await?;
    }
    Ok(outcome)
}

fn unix(path: &PathBuf, lines: &[String]) -> io::Result<Outcome> {
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    let mut outcome = Outcome::default();
    for (n, line) in lines.iter().enumerate() {
        match socket.send(line.as_bytes()) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                outcome
                    .dead
                    .push((n, "too large for a datagram".to_owned()));
            }
            Err(error) if n == 0 => return Err(error),
            Err(error) => {
                // Those before are with the other side.
                outcome.again = (n..lines.len()).collect();
                outcome.why = Some(error.to_string());
                break;
            }
        }
    }
    Ok(outcome)
}

/// `<84>1 2026-03-04T12:00:00.000Z laptop exeat 42 deny [exeat@32473 id="…" …] {…}`
fn line(parcel: &Parcel, host: &str) -> String {
    let head = &parcel.head;
    let mut line = String::with_capacity(1024);
    // Writing to a String cannot fail.
    let _ = write!(
        line,
        "<{}>1 {} {} exeat {} {} [{ELEMENT}",
        FACILITY * 8 + head.severity.number(),
        head.time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        word(host, 255),
        std::process::id(),
        word(&head.event, 32),
    );
    parameter(&mut line, "id", &head.id.to_string());
    parameter(&mut line, "message", &head.message);
    for (name, value) in &head.fields {
        parameter(&mut line, &word(name, 32), value);
    }
    // Without the byte order mark that marks UTF-8: what reads JSON out of it trips over one.
    let _ = write!(line, "] {}", parcel.body);
    line
}

/// Printable ASCII without what ends a name; `-` is nothing.
fn word(text: &str, most: usize) -> String {
    let fits = |c: char| match c {
        '=' | ']' | '"' => '_',
        c if c.is_ascii_graphic() => c,
        _ => '_',
    };
    match text.is_empty() {
        true => "-".to_owned(),
        false => text.chars().map(fits).take(most).collect(),
    }
}

fn parameter(line: &mut String, name: &str, value: &str) {
    let _ = write!(line, " {name}=\"");
    for c in value.chars() {
        match c {
            '"' | '\\' | ']' => line.extend(['\\', c]),
            // Receivers cut lines at them, whatever the octets were counted to be.
            c if c.is_control() => line.push('?'),
            c => line.push(c),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::parcel::tests::parcel;

    #[test]
    fn a_line_is_read_back_by_another_parser() {
        let mut parcel = parcel();
        let hostile = "a\" b=\"c] \\ <13>1 -\nnext";
        parcel.head.fields.insert("exe".into(), hostile.into());
        let text = line(&parcel, "my laptop");
        assert!(!text.contains('\n'));
        let read = syslog_rfc5424::parse_message(&text).expect("RFC 5424");
        assert_eq!(read.hostname.as_deref(), Some("my_laptop"));
        assert_eq!(read.appname.as_deref(), Some("exeat"));
        assert_eq!(read.msgid.as_deref(), Some("deny"));
        assert_eq!(read.msg.trim(), parcel.body);
        assert_eq!(read.timestamp, Some(parcel.head.time.as_second()));
        let element = read.sd.find_sdid(ELEMENT).expect("element");
        assert_eq!(element["id"], parcel.head.id.to_string());
        assert_eq!(element["exe"], hostile.replace('\n', "?"));
        assert_eq!(element["agent"], parcel.head.fields["agent"]);
    }
}
