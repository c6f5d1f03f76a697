//! rustls: see tests/tests/clients/tls.rs for what it is asked and says.

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, authority, seconds, names] = words.as_slice() else {
        anyhow::bail!("usage: tls_client ADDRESS AUTHORITY SECONDS NAMES");
    };
    let address = SocketAddr::new(address.parse::<IpAddr>()?, 443);
    let patience = Duration::from_secs(seconds.parse()?);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let names = std::fs::read_to_string(names).context("the names")?;
    std::thread::scope(|scope| {
        for name in names.lines() {
            let config = config.clone();
            scope.spawn(move || match ask(config, address, patience, name) {
                Ok(()) => println!("served {name}"),
                Err(error) => println!("refused {name} {error:#}"),
            });
        }
    });
    Ok(())
}

fn ask(
    config: Arc<ClientConfig>,
    address: SocketAddr,
    patience: Duration,
    name: &str,
) -> anyhow::Result<()> {
    let mut plain = TcpStream::connect_timeout(&address, patience)?;
    plain.set_read_timeout(Some(patience))?;
    let server = ServerName::try_from(name.to_owned())?;
    let mut connection = ClientConnection::new(config, server)?;
    let mut stream = Stream::new(&mut connection, &mut plain);
    write!(stream, "GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")?;
    let mut got = String::new();
    stream.read_to_string(&mut got)?;
    ensure!(got.ends_with("reached\n"), "{got:?}");
    Ok(())
}
