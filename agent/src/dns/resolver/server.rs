//! One upstream server: a question to it by whichever transport it takes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{
    DnsRequest, DnsRequestOptions, DnsResponse, MessageType, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::{Name as DnsName, RecordType};
use hickory_resolver::net::h2::HttpsClientStream;
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::tls::tls_exchange;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsExchange, DnsHandle, DnsRequestSender, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::timeout;

use super::health::Health;
use super::socket::Sockets;
use super::{ResolverConfig, Upstream};
use crate::dns::clock::Clock;
use crate::dns::stats::{DnsStats, Transport, UpstreamStats};
use crate::leases::FailKind;
use crate::throttle::Bucket;

/// Requests under way on one connection; beyond it a request fails. Ids are 16 bits, and
/// the more are in use the easier one is to hit.
const MAX_ON_CONNECTION: usize = 256;

/// Lines about whether a server answers: so many at once, then one in this time. A name whose
/// own servers are silent looks like a silent server, so an agent can make it come and go.
const LINES: (Duration, u32) = (Duration::from_secs(300), 6);

/// A failure, and what hickory says of it.
pub(super) struct Trouble {
    pub(super) kind: FailKind,
    why: String,
}

impl Trouble {
    fn new(kind: FailKind, why: impl ToString) -> Self {
        let why = why.to_string();
        Self { kind, why }
    }
}

impl From<NetError> for Trouble {
    fn from(error: NetError) -> Self {
        let kind = match &error {
            NetError::Timeout => FailKind::Timeout,
            NetError::Io(io) if io.kind() == std::io::ErrorKind::TimedOut => FailKind::Timeout,
            NetError::Io(_) | NetError::NoConnections | NetError::Busy | NetError::H2(_) => {
                FailKind::Network
            }
            NetError::RustlsError(_) => FailKind::Network,
            NetError::Dns(DnsError::ResponseCode(code)) => of_code(*code),
            // A connection that closed comes as text.
            NetError::Message(_) | NetError::Msg(_) => FailKind::Network,
            _ => FailKind::BadAnswer,
        };
        Self::new(kind, error)
    }
}

fn of_code(code: ResponseCode) -> FailKind {
    match code {
        ResponseCode::ServFail => FailKind::ServFail,
        ResponseCode::Refused => FailKind::Refused,
        _ => FailKind::BadAnswer,
    }
}

/// The connection that is kept to a server, with a number to know it by.
type Kept = Option<(u64, DnsExchange<Sockets>)>;

/// A server.
pub(super) struct Server {
    label: Arc<str>,
    way: Upstream,
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
    attempts: u8,
    mix_case: bool,
    sockets: Sockets,
    kept: tokio::sync::Mutex<Kept>,
    connections: std::sync::atomic::AtomicU64,
    health: Mutex<Health>,
    lines: Mutex<Bucket>,
    clock: Clock,
    counted_as: Arc<str>,
    stats: Arc<UpstreamStats>,
}

impl Server {
    pub(super) fn new(
        way: Upstream,
        config: &ResolverConfig,
        tls: Option<&Arc<ClientConfig>>,
        clock: Clock,
        stats: &DnsStats,
    ) -> Self {
        let label: Arc<str> = way.to_string().into();
        let (counted_as, stats) = stats.upstream(&way.without_path());
        Self {
            stats,
            counted_as,
            label,
            way,
            tls: tls.cloned(),
            timeout: config.timeout,
            attempts: u8::try_from(config.attempts).unwrap_or(u8::MAX),
            mix_case: config.case_randomization,
            sockets: Sockets::default(),
            kept: tokio::sync::Mutex::default(),
            connections: Default::default(),
            health: Mutex::default(),
            lines: Mutex::new(Bucket::slow(LINES.0, LINES.1)),
            clock,
        }
    }

    pub(super) fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Its label in metrics.
    pub(super) fn counted_as(&self) -> &Arc<str> {
        &self.counted_as
    }

    /// The way to it.
    pub(super) fn way(&self) -> &Upstream {
        &self.way
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines that were kept back before this one; none if this one is too.
    fn line(&self) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.pass((self.clock)())
    }

    /// Asks; counts what comes of it. The answer is one to the question, NOERROR or
    /// NXDOMAIN, and whole.
    pub(super) async fn ask(
        &self,
        query: &Query,
        options: DnsRequestOptions,
    ) -> Result<DnsResponse, FailKind> {
        let result = match self.exchange(query, options).await {
            Ok(response) => match response.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => Ok(response),
                code => Err(Trouble::new(of_code(code), code)),
            },
            Err(trouble) => Err(trouble),
        };
        self.note(query, &result);
        result.map_err(|trouble| trouble.kind)
    }

    /// Finds out whether it answers at all, whatever it says.
    pub(super) async fn probe(&self) {
        let query = Query::query(DnsName::root(), RecordType::NS);
        let alive = self.ask(&query, DnsRequestOptions::default()).await;
        tracing::debug!(upstream = %self.label, ?alive, "probed a DNS server");
    }

    fn note(&self, query: &Query, result: &Result<DnsResponse, Trouble>) {
        let trouble = match result {
            Ok(_) => None,
            Err(trouble) => {
                self.stats.failure(trouble.kind);
                tracing::debug!(name = %query.name(), rtype = %query.query_type(), upstream = %self.label, error = trouble.why, "a question failed");
                Some(trouble)
            }
        };
        match trouble {
            // What it says of one name says nothing of the next.
            None
            | Some(Trouble {
                kind: FailKind::ServFail | FailKind::Refused,
                ..
            }) => {
                if self.health().answered()
                    && let Some(kept_back) = self.line()
                {
                    tracing::info!(upstream = %self.label, kept_back, "this DNS server answers again");
                }
            }
            Some(trouble) => {
                if self.health().failed((self.clock)())
                    && let Some(kept_back) = self.line()
                {
                    tracing::warn!(upstream = %self.label, error = trouble.why, kept_back, "this DNS server gives no usable answer; others are asked first until it does");
                }
            }
        }
    }

    async fn exchange(
        &self,
        query: &Query,
        options: DnsRequestOptions,
    ) -> Result<DnsResponse, Trouble> {
        let response = self.exchange_by_way(query, options).await?;
        // A server from before EDNS; one that knows it says so in its error (RFC 6891).
        let knows_no_edns = response.metadata.response_code == ResponseCode::FormErr
            && response.edns.is_none()
            && options.use_edns
            && !options.edns_set_dnssec_ok;
        if !knows_no_edns {
            return Ok(response);
        }
        let mut plain = options;
        plain.use_edns = false;
        self.exchange_by_way(query, plain).await
    }

    async fn exchange_by_way(
        &self,
        query: &Query,
        options: DnsRequestOptions,
    ) -> Result<DnsResponse, Trouble> {
        let transport = match &self.way {
            Upstream::Plain(_) => match self.by_udp(query, options).await {
                Ok(Some(response)) => return Ok(response),
                Ok(None) => Transport::Tcp,
                Err(trouble) => return Err(trouble),
            },
            Upstream::Tls { .. } => Transport::Tls,
            Upstream::Https { .. } => Transport::Https,
        };
        let begun = Instant::now();
        let result = self.by_connection(query, options, transport).await;
        self.stats.request(transport, begun.elapsed());
        result
    }

    /// `None` when TCP must tell: the answer is too long, or one came that looks forged.
    async fn by_udp(
        &self,
        query: &Query,
        mut options: DnsRequestOptions,
    ) -> Result<Option<DnsResponse>, Trouble> {
        options.case_randomization = self.mix_case;
        options.retry_interval = self.timeout;
        let limit = self.timeout.saturating_mul(self.attempts.into());
        let mut stream = UdpClientStream::builder(self.way.addr(), self.sockets.clone())
            .with_timeout(Some(limit))
            .with_max_retries(self.attempts)
            // The pause between attempts is `retry_interval` as it is.
            .with_retry_interval_floor(1)
            .build();
        let begun = Instant::now();
        let request = DnsRequest::from_query(query.clone(), options);
        let result = stream.send_message(request).first_answer().await;
        self.stats.request(Transport::Udp, begun.elapsed());
        match result {
            Ok(response) if response.metadata.truncation => Ok(None),
            Ok(response) => fitting(query, response).map(Some),
            Err(NetError::QueryCaseMismatch) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn by_connection(
        &self,
        query: &Query,
        options: DnsRequestOptions,
        transport: Transport,
    ) -> Result<DnsResponse, Trouble> {
        loop {
            let (number, exchange, reused) = self.connected(transport).await?;
            let request = DnsRequest::from_query(query.clone(), options);
            let answer = exchange.send(request).first_answer();
            let error = match timeout(self.timeout, answer).await {
                Ok(Ok(response)) if response.metadata.truncation => {
                    return Err(Trouble::new(FailKind::BadAnswer, "truncated"));
                }
                Ok(Ok(response)) => return fitting(query, response),
                Ok(Err(NetError::Busy)) => return Err(NetError::Busy.into()),
                Ok(Err(error)) => error,
                Err(_) => NetError::Timeout,
            };
            // It may be dead in ways that only time tells; nobody else shall wait for it.
            let mut kept = self.kept.lock().await;
            if kept.as_ref().is_some_and(|(n, _)| *n == number) {
                *kept = None;
            }
            drop(kept);
            // A server may close what is idle: that is no failure. What was made for this
            // question is not made again, so the loop ends.
            if !reused || matches!(error, NetError::Timeout) {
                return Err(error.into());
            }
        }
    }

    /// The connection that is there, or a new one. Others wait while it is made.
    async fn connected(
        &self,
        transport: Transport,
    ) -> Result<(u64, DnsExchange<Sockets>, bool), Trouble> {
        let mut kept = self.kept.lock().await;
        if let Some((number, exchange)) = &*kept {
            return Ok((*number, exchange.clone(), true));
        }
        let exchange = match timeout(self.timeout, self.connect(transport)).await {
            Ok(connected) => connected?,
            Err(_) => return Err(NetError::Timeout.into()),
        };
        let number = self
            .connections
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        *kept = Some((number, exchange.clone()));
        Ok((number, exchange, false))
    }

    async fn connect(&self, transport: Transport) -> Result<DnsExchange<Sockets>, Trouble> {
        let addr = self.way.addr();
        let sockets = self.sockets.clone();
        let limit = Some(MAX_ON_CONNECTION);
        let tls = || {
            self.tls
                .clone()
                .ok_or_else(|| Trouble::new(FailKind::NoUpstream, "no settings of TLS"))
        };
        let connected = match &self.way {
            Upstream::Tls { name, .. } if transport == Transport::Tls => {
                let name = ServerName::try_from(name.to_string())
                    .map_err(|error| Trouble::new(FailKind::NoUpstream, error))?;
                let tls = (*tls()?).clone();
                tls_exchange(addr, name, tls, self.timeout, limit, sockets).await
            }
            Upstream::Https { name, path, .. } if transport == Transport::Https => {
                let mut builder = HttpsClientStream::builder(tls()?, sockets);
                builder.request_timeout(self.timeout);
                builder.exchange(addr, name.clone(), path.clone()).await
            }
            Upstream::Plain(_) | Upstream::Tls { .. } | Upstream::Https { .. } => {
                TcpClientStream::exchange(addr, None, self.timeout, limit, sockets).await
            }
        };
        Ok(connected?)
    }
}

/// Whether it answers this question. hickory looks at this over UDP only.
fn fitting(query: &Query, response: DnsResponse) -> Result<DnsResponse, Trouble> {
    let fits = response.metadata.message_type == MessageType::Response
        && response.metadata.op_code == OpCode::Query
        && response.queries.len() == 1
        && response.queries[0] == *query;
    if fits {
        return Ok(response);
    }
    Err(Trouble::new(
        FailKind::BadAnswer,
        "it answers another question",
    ))
}
