//! Requests as no browser sends them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Said {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut own = lines.filter(|(own, _)| own.eq_ignore_ascii_case(name));
        own.next().map(|(_, value)| value)
    }
}

/// Reads what is said until the connection ends.
pub(crate) fn read(mut stream: TcpStream) -> Said {
    let patience = exeat_tests::wait::patience();
    stream.set_read_timeout(Some(patience)).expect("time-out");
    let mut bytes = Vec::new();
    // Who is refused before all was read gets a reset behind the answer.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Said {
        status: status.unwrap_or(0),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// Sends lines (the first is the request's) and a body.
pub(crate) fn send(to: SocketAddr, lines: &[&str], body: &str) -> Said {
    let mut stream = TcpStream::connect(to).expect("connect");
    let mut text = lines.join("\r\n");
    if !body.is_empty() {
        text.push_str(&format!("\r\nContent-Length: {}", body.len()));
    }
    text.push_str("\r\n\r\n");
    text.push_str(body);
    let _ = stream.write_all(text.as_bytes());
    read(stream)
}
