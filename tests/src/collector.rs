//! A host that takes what is posted to it, or is asked of it, and answers as a test says.

use crate::ns::Ns;
use crate::service::Service;
use crate::sink::{accept_each, listen};
use crate::wait;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The largest body.
const MAX_BODY: usize = 16 << 20;

/// What was posted.
#[derive(Clone, Debug)]
pub struct Post {
    /// When it was whole.
    pub at: Instant,
    /// Path and query.
    pub path: String,
    /// Header lines, by lower-case names.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    /// The local port of the client: the same for posts over one connection.
    pub from: SocketAddr,
}

/// What is answered.
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header lines.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// With a body and no header lines of its own.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// With one more header line.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// An HTTP/1.1 host.
pub struct Collector {
    posts: Arc<Mutex<Vec<Post>>>,
    address: SocketAddr,
    _service: Service,
}

impl Collector {
    /// Listens in `ns`, with TLS or without. `answer` gets the number of the post, from 0;
    /// where it gives none, the connection ends without an answer.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(
        ns: &Ns,
        address: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(usize, &Post) -> Option<Reply> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = listen(ns, address)?;
        let address = listener.local_addr()?;
        let posts = Arc::new(Mutex::new(Vec::new()));
        let (theirs, answer) = (posts.clone(), Arc::new(answer));
        let service = Service::spawn("collector", move |stop| {
            accept_each(&stop, &listener, |stream, from, _| {
                let (posts, tls, answer) = (theirs.clone(), tls.clone(), answer.clone());
                std::thread::spawn(move || {
                    // A client that goes away in the middle is no fault of the host.
                    let _ = serve(stream, from, tls, &posts, &*answer);
                });
            });
        })?;
        Ok(Self {
            posts,
            address,
            _service: service,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Posts so far.
    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().expect("collector lock").clone()
    }
}

type Answer<'a> = &'a (dyn Fn(usize, &Post) -> Option<Reply> + Sync);

fn serve(
    mut stream: TcpStream,
    from: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    posts: &Mutex<Vec<Post>>,
    answer: Answer<'_>,
) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(wait::scaled(Duration::from_secs(60))))?;
    match tls {
        None => {
            let mut writer = stream.try_clone()?;
            each(
                &mut BufReader::new(&mut stream),
                from,
                posts,
                answer,
                |reply| Ok(writer.write_all(reply)?),
            )
        }
        Some(config) => {
            let connection = rustls::ServerConnection::new(config)?;
            let mut both = BufReader::new(rustls::StreamOwned::new(connection, stream));
            loop {
                let Some(post) = read(&mut both, from)? else {
                    return Ok(());
                };
                let Some(bytes) = reply(post, posts, answer) else {
                    return Ok(());
                };
                both.get_mut().write_all(&bytes)?;
                both.get_mut().flush()?;
            }
        }
    }
}

fn each(
    reader: &mut impl BufRead,
    from: SocketAddr,
    posts: &Mutex<Vec<Post>>,
    answer: Answer<'_>,
    mut write: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    while let Some(post) = read(reader, from)? {
        match reply(post, posts, answer) {
            Some(bytes) => write(&bytes)?,
            None => break,
        }
    }
    Ok(())
}

fn reply(post: Post, posts: &Mutex<Vec<Post>>, answer: Answer<'_>) -> Option<Vec<u8>> {
    let number = {
        let mut posts = posts.lock().expect("collector lock");
        posts.push(post.clone());
        posts.len() - 1
    };
    let reply = answer(number, &post)?;
    let mut bytes = format!(
        "HTTP/1.1 {} X\r\nContent-Length: {}\r\n",
        reply.status,
        reply.body.len()
    );
    for (name, value) in &reply.headers {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend(reply.body);
    Some(bytes)
}

/// The next request; none at the end of the connection.
fn read(reader: &mut impl BufRead, from: SocketAddr) -> anyhow::Result<Option<Post>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let asked = match words.next() {
        Some("POST") => false,
        Some("GET") => true,
        _ => bail!("neither POST nor GET: {line:?}"),
    };
    let path = words.next().context("no path")?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: usize = match headers.get("content-length") {
        Some(length) => length.parse()?,
        None if asked => 0,
        None => bail!("no length"),
    };
    if length > MAX_BODY {
        bail!("a body of {length} bytes");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Post {
        at: Instant::now(),
        path,
        headers,
        body,
        from,
    }))
}
