//! One of the kinds of receivers.

use super::config::{Destination, ReceiverConfig};
use super::elastic::Elastic;
use super::file::JsonFile;
use super::http::Http;
use super::journald::Journald;
use super::otlp::Otlp;
use super::outcome::Delivery;
use super::parcel::Parcel;
use super::splunk::Splunk;
use super::syslog::Syslog;

/// Size at which a file is put aside unless the configuration says another.
const FILE_BYTES: u64 = 64 << 20;

pub(super) enum Receiver {
    Journald(Journald),
    Syslog(Syslog),
    Otlp(Otlp),
    Splunk(Splunk),
    Elastic(Elastic),
    File(JsonFile),
}

impl Receiver {
    /// Opens nothing yet but certificates. Errors are in words.
    pub(super) fn new(config: &ReceiverConfig) -> Result<Self, String> {
        Ok(match &config.to {
            Destination::Journald(socket) => Self::Journald(Journald {
                socket: socket.clone(),
            }),
            Destination::Syslog { .. } | Destination::SyslogUnix(_) => {
                Self::Syslog(Syslog::new(config, host_name())?)
            }
            Destination::Otlp(url) => Self::Otlp(Otlp {
                http: Http::new(config)?,
                url: url.clone(),
                host: host_name(),
            }),
            Destination::Splunk(url) => {
                let http = Http::new(config)?;
                Self::Splunk(Splunk::new(http, url.clone(), host_name(), config.ack)?)
            }
            Destination::Elastic { url, index } => Self::Elastic(Elastic {
                http: Http::new(config)?,
                url: url.clone(),
                index: index.clone(),
            }),
            Destination::File(path) => {
                let max_bytes = config.max_bytes.unwrap_or(FILE_BYTES);
                Self::File(JsonFile::new(path.clone(), max_bytes))
            }
        })
    }

    pub(super) async fn deliver(&mut self, batch: &[&Parcel]) -> Delivery {
        match self {
            Self::Journald(journald) => journald.deliver(batch),
            Self::Syslog(syslog) => syslog.deliver(batch).await,
            Self::Otlp(otlp) => otlp.deliver(batch).await,
            Self::Splunk(splunk) => splunk.deliver(batch).await,
            Self::Elastic(elastic) => elastic.deliver(batch).await,
            Self::File(file) => file.deliver(batch),
        }
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
