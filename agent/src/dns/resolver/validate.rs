//! DNSSEC: hickory's validator over our servers.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{Stream, once};
use hickory_proto::dnssec::{Proof, TrustAnchors};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query};
use hickory_proto::rr::RecordType;
use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use moka::sync::Cache;

use super::Fault;
use super::route::Servers;
use super::socket::Sockets;
use crate::dns::clock::Clock;
use crate::leases::FailKind;
use crate::throttle::Bucket;

/// Answers on the way to keys (DNSKEY, DS, NS) that are remembered; the chain of a name is
/// three or four zones long, and the upper ones are the same for most names. About 2 KB
/// each.
const MAX_KEYS: u64 = 256;
/// The longest that they are.
const MAX_KEY_LIFE: Duration = Duration::from_secs(3600);

/// Lines about answers that do not validate: so many at once, then one in this time. An agent
/// can ask for as many of them as it likes.
const LINES: (Duration, u32) = (Duration::from_secs(60), 5);

tokio::task_local! {
    /// hickory's validator hands back neither the server that answered nor what went
    /// wrong on the way to a key. It polls everything within the asker's own task.
    static TRACE: RefCell<Trace>;
}

#[derive(Default)]
struct Trace {
    asked: Option<Query>,
    label: Option<Arc<str>>,
    fault: Option<Fault>,
}

/// Checks the answers of a route's servers.
pub(super) struct Validator {
    anchors: Arc<TrustAnchors>,
    keys: Keys,
    handle: std::sync::OnceLock<DnssecDnsHandle<Handle>>,
    lines: Mutex<Bucket>,
}

impl Validator {
    pub(super) fn new(anchors: Arc<TrustAnchors>, clock: Clock) -> Self {
        Self {
            anchors,
            keys: Keys {
                cache: Cache::new(MAX_KEYS),
                clock,
            },
            handle: std::sync::OnceLock::new(),
            lines: Mutex::new(Bucket::slow(LINES.0, LINES.1)),
        }
    }

    /// The answer, each record with its proof, and the server that gave it.
    pub(super) async fn ask(
        &self,
        servers: &Arc<Servers>,
        query: &Query,
    ) -> Result<(DnsResponse, Arc<str>), Fault> {
        let handle = self.handle.get_or_init(|| {
            let handle = Handle {
                servers: servers.clone(),
                keys: self.keys.clone(),
            };
            DnssecDnsHandle::with_trust_anchor(handle, self.anchors.clone())
        });
        let mut options = DnsRequestOptions::default();
        options.edns_set_dnssec_ok = true;
        let trace = RefCell::new(Trace {
            asked: Some(query.clone()),
            ..Trace::default()
        });
        let (result, trace) = TRACE
            .scope(trace, async {
                let request = DnsRequest::from_query(query.clone(), options);
                let result = handle.send(request).first_answer().await;
                (result, TRACE.with(RefCell::take))
            })
            .await;
        let label = trace.label.unwrap_or_else(|| Arc::from(""));
        let response = match result {
            Ok(response) => Some(response),
            Err(NetError::Dns(DnsError::Nsec {
                response,
                proof: Proof::Insecure,
                ..
            })) => Some(*response),
            Err(error) => {
                tracing::debug!(name = %query.name(), %error, "an answer did not validate");
                None
            }
        };
        let sound = response.filter(|response| {
            let records = response.answers.iter().chain(&response.authorities);
            records
                .filter(|record| record.record_type() != RecordType::RRSIG)
                .all(|record| matches!(record.proof, Proof::Secure | Proof::Insecure))
        });
        match (sound, trace.fault) {
            (Some(response), _) => Ok((response, label)),
            // A key that could not be fetched is no forgery.
            (None, Some(fault)) => Err(fault),
            (None, None) => {
                // Should a forged key have caused this it shall not stay.
                self.keys.cache.invalidate_all();
                let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(kept_back) = lines.pass((self.keys.clock)()) {
                    tracing::warn!(name = %query.name(), rtype = %query.query_type(), upstream = %label, kept_back, "an answer is not signed as it must be; it is not used");
                }
                drop(lines);
                Err(Fault {
                    kind: FailKind::ServFail,
                    bogus: true,
                    upstream: label,
                })
            }
        }
    }
}

#[derive(Clone)]
struct Keys {
    cache: Cache<Query, (Duration, DnsResponse)>,
    clock: Clock,
}

impl Keys {
    fn get(&self, query: &Query) -> Option<DnsResponse> {
        let (until, response) = self.cache.get(query)?;
        ((self.clock)() < until).then_some(response)
    }

    fn keep(&self, query: Query, response: &DnsResponse) {
        let records = response.answers.iter().chain(&response.authorities);
        let Some(ttl) = records.map(|record| record.ttl).min() else {
            return;
        };
        let life = Duration::from_secs(ttl.into()).min(MAX_KEY_LIFE);
        let until = (self.clock)() + life;
        self.cache.insert(query, (until, response.clone()));
    }
}

#[derive(Clone)]
struct Handle {
    servers: Arc<Servers>,
    keys: Keys,
}

impl DnsHandle for Handle {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = Sockets;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let this = self.clone();
        Box::pin(once(async move { this.ask(&request).await }))
    }
}

impl Handle {
    async fn ask(&self, request: &DnsRequest) -> Result<DnsResponse, NetError> {
        let Some(query) = request.queries.first() else {
            return Err(NetError::Message("a request without a question"));
        };
        let on_the_way = matches!(
            query.query_type(),
            RecordType::DNSKEY | RecordType::DS | RecordType::NS
        );
        let is_asked = TRACE.try_with(|trace| trace.borrow().asked.as_ref() == Some(query));
        let is_key = on_the_way && is_asked == Ok(false);
        if is_key && let Some(response) = self.keys.get(query) {
            return Ok(response);
        }
        let result = self.servers.ask(query, *request.options()).await;
        let noted = |note: &mut dyn FnMut(&mut Trace)| {
            // Outside of a scope there is nobody to tell.
            let _ = TRACE.try_with(|trace| note(&mut trace.borrow_mut()));
        };
        match result {
            Ok((response, label)) => {
                noted(&mut |trace| {
                    if trace.asked.as_ref() == Some(query) {
                        trace.label = Some(label.clone());
                    }
                });
                if is_key {
                    self.keys.keep(query.clone(), &response);
                }
                Ok(response)
            }
            Err(fault) => {
                noted(&mut |trace| trace.fault = Some(fault.clone()));
                Err(NetError::NoConnections)
            }
        }
    }
}
