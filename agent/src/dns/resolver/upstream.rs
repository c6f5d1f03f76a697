//! The names of the policies, kept warm through the resolver.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};

use super::ask::plain;
use super::{
    Answer, Failed, Found, Lookup, Resolution, Resolver, ResolverConfig, ResolverConfigError,
};
use crate::dns::stats::DnsStats;
use crate::leases::{FailKind, Name};

/// Looks names up at the servers, past what the resolver's cache holds, and leaves what
/// they said in it. Addresses are as the servers gave them: which of them a name may
/// stand for is for the leases to say.
pub struct Upstreams {
    resolver: Arc<Resolver>,
}

impl Upstreams {
    /// With a resolver of its own.
    ///
    /// # Errors
    /// As [`Resolver::new`].
    pub fn new(config: ResolverConfig, stats: Arc<DnsStats>) -> Result<Self, ResolverConfigError> {
        Resolver::new(config, stats).map(|resolver| Self::of(Arc::new(resolver)))
    }

    /// With the resolver that the gates use too.
    pub fn of(resolver: Arc<Resolver>) -> Self {
        Self { resolver }
    }

    /// The resolver.
    pub fn resolver(&self) -> &Arc<Resolver> {
        &self.resolver
    }

    /// The general servers in force, in the order they are asked.
    pub fn labels(&self) -> Vec<String> {
        self.resolver.labels()
    }

    async fn ask(&self, name: &Name, family: RecordType) -> (Found, Arc<str>) {
        match self.resolver.refresh(&plain(name, family)).await {
            Ok(answer) => (addresses(&answer), answer.upstream),
            Err(Failed { kind, upstream, .. }) => (Err(kind), upstream),
        }
    }
}

impl Lookup for Upstreams {
    async fn lookup(&self, name: Name) -> Resolution {
        let begun = Instant::now();
        let ((v4, first), (v6, second)) = tokio::join!(
            self.ask(&name, RecordType::A),
            self.ask(&name, RecordType::AAAA),
        );
        // The one that brought addresses, should they differ.
        let upstream = if v4.is_ok() || second.is_empty() {
            first
        } else {
            second
        };
        Resolution {
            result: merge(v4, v6),
            name,
            upstream: upstream.to_string(),
            elapsed: begun.elapsed(),
        }
    }
}

/// The addresses of an answer, each with the shortest TTL on its way.
pub fn addresses(answer: &Answer) -> Found {
    let is_alias = |data: &RData| match data {
        RData::CNAME(_) => true,
        RData::Unknown { code, .. } => *code == RecordType::DNAME,
        _ => false,
    };
    let aliases = answer.records.iter().filter(|r| is_alias(&r.data));
    let chain = aliases.map(|record| record.ttl).min().unwrap_or(u32::MAX);
    let addresses: Vec<_> = answer
        .records
        .iter()
        .filter_map(|record| {
            let addr = match &record.data {
                RData::A(a) => IpAddr::V4(a.0),
                RData::AAAA(a) => IpAddr::V6(a.0),
                _ => return None,
            };
            Some((addr, record.ttl.min(chain)))
        })
        .collect();
    match (addresses.is_empty(), answer.rcode) {
        (false, _) => Ok(addresses),
        (true, ResponseCode::NXDomain) => Err(FailKind::NxDomain),
        (true, _) => Err(FailKind::NoAddresses),
    }
}

/// Both families: addresses of either are a success. Otherwise what is certain comes
/// before what may pass, and what may pass before "no addresses".
pub fn merge(v4: Found, v6: Found) -> Found {
    match (v4, v6) {
        (Ok(mut v4), Ok(v6)) => {
            v4.extend(v6);
            Ok(v4)
        }
        (Ok(some), Err(_)) | (Err(_), Ok(some)) => Ok(some),
        (Err(FailKind::NxDomain), Err(_)) | (Err(_), Err(FailKind::NxDomain)) => {
            Err(FailKind::NxDomain)
        }
        (Err(FailKind::NoAddresses), Err(other)) => Err(other),
        (Err(kind), Err(_)) => Err(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_family_is_enough_and_certainty_comes_first() {
        use FailKind::{NoAddresses, NxDomain, ServFail, Timeout};
        let some = || Ok(vec![(IpAddr::from([192, 0, 2, 1]), 60)]);
        assert_eq!(merge(some(), Err(Timeout)), some());
        assert_eq!(merge(Err(NoAddresses), some()), some());
        assert_eq!(merge(Err(Timeout), Err(NxDomain)), Err(NxDomain));
        assert_eq!(merge(Err(NoAddresses), Err(ServFail)), Err(ServFail));
        assert_eq!(merge(Err(ServFail), Err(NoAddresses)), Err(ServFail));
        assert_eq!(merge(Err(NoAddresses), Err(NoAddresses)), Err(NoAddresses));
    }
}
