//! An HTTPS host of files: package indexes and repositories are nothing else to those who ask.

use crate::http::Authority;
use crate::ns::Ns;
use crate::service::Service;
use crate::sink::{accept_each, listen};
use crate::wait;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct Held {
    files: BTreeMap<String, Vec<u8>>,
    asked: Vec<String>,
}

/// Answers GET of a path that it holds with the file, and any other with 404.
pub struct FileHost {
    held: Arc<Mutex<Held>>,
    _service: Service,
}

impl FileHost {
    /// An empty one, with a certificate of `authority` for `name`.
    ///
    /// # Errors
    /// When the address is taken or the certificate cannot be made.
    pub fn start(
        ns: &Ns,
        address: SocketAddr,
        authority: &Authority,
        name: &str,
    ) -> anyhow::Result<Self> {
        let config = authority.server(&[name])?;
        let listener = listen(ns, address)?;
        let held = Arc::new(Mutex::new(Held::default()));
        let theirs = held.clone();
        let service = Service::spawn("files", move |stop| {
            accept_each(&stop, &listener, |stream, _, _| {
                let (held, config) = (theirs.clone(), config.clone());
                std::thread::spawn(move || {
                    // A client that goes away in the middle is no fault of the host.
                    let _ = serve(stream, config, &held);
                });
            });
        })?;
        Ok(Self {
            held,
            _service: service,
        })
    }

    /// Puts a file at a path, which begins with `/`.
    pub fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        let mut held = self.held.lock().expect("files lock");
        held.files.insert(path.to_owned(), bytes.into());
    }

    /// Puts every file of a folder below `at`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn put_folder(&self, at: &str, folder: &Path) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let at = format!("{at}/{name}");
            match path.is_dir() {
                true => self.put_folder(&at, &path)?,
                false => self.put(&at, std::fs::read(&path)?),
            }
        }
        Ok(())
    }

    /// The paths that were asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.held.lock().expect("files lock").asked.clone()
    }
}

fn serve(
    mut stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
    held: &Mutex<Held>,
) -> anyhow::Result<()> {
    // Bounds the life of a thread whose client keeps silent.
    stream.set_read_timeout(Some(wait::scaled(Duration::from_secs(10))))?;
    let mut connection = rustls::ServerConnection::new(config)?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    let mut head = Vec::new();
    let mut byte = [0u8; 1];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16384 {
        if tls.read(&mut byte)? == 0 {
            anyhow::bail!("the client closed before the end of its request");
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let found = {
        let mut held = held.lock().expect("files lock");
        held.asked.push(path.to_owned());
        held.files.get(path).cloned()
    };
    let (status, body) = match found {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", Vec::new()),
    };
    let kind = match path.ends_with('/') {
        true => "text/html",
        false => "application/octet-stream",
    };
    let length = body.len();
    write!(
        tls,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if !head.starts_with("HEAD ") {
        tls.write_all(&body)?;
    }
    tls.flush()?;
    connection.send_close_notify();
    connection.write_tls(&mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    std::io::copy(&mut stream, &mut std::io::sink())?;
    Ok(())
}
