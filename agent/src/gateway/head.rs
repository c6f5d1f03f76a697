//! What the head of an HTTP request says about where it goes. Pure.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Method, Version};

use super::Outcome;
use super::name::{Host, Target, shown};
use super::session::Ended;
use crate::leases::Name;

/// The only protocol that a connection may change to: what follows it is not HTTP, and
/// other changes (h2c) would carry requests that nobody judges.
const WEBSOCKET: &str = "websocket";

/// Headers of one connection that have no name in `http`.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// How requests are to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// As a server gets them, on a connection to this port; with a door's CONNECT, also to
    /// this name.
    Origin(u16, Option<Name>),
    /// As a proxy gets them.
    Proxy,
}

/// Where a request goes.
///
/// # Errors
/// When it does not say so once and clearly.
pub(super) fn target(parts: &Parts, form: &Form) -> Result<Target, Ended> {
    let bad = |outcome, why: &str| Err(Ended::new(outcome).because(why));
    if !matches!(parts.version, Version::HTTP_10 | Version::HTTP_11) {
        return bad(Outcome::Http2, "only HTTP/1 is served here");
    }
    if parts.method == Method::CONNECT {
        return match form {
            Form::Origin(..) => bad(Outcome::Connect, "this is no proxy"),
            Form::Proxy => match parts.uri.authority().map(host_port).transpose()? {
                Some((host, Some(port))) => Ok(at(host, port)),
                _ => bad(Outcome::BadRequest, "CONNECT wants host:port"),
            },
        };
    }
    framed(parts)?;
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (Some(value), None) = (hosts.next(), hosts.next()) else {
        return match parts.headers.contains_key(HOST) {
            true => bad(Outcome::HostMismatch, "it has two Host headers"),
            false => bad(Outcome::NoHost, "it has no Host header"),
        };
    };
    if value.is_empty() {
        return bad(Outcome::NoHost, "its Host header is empty");
    }
    let Ok(authority) = Authority::try_from(value.as_bytes()) else {
        return Err(Ended::new(Outcome::BadName).because(shown(value.as_bytes())));
    };
    let (host, port) = host_port(&authority)?;
    let Host::Name(name) = host else {
        return Err(Ended::new(Outcome::IpLiteral).because(shown(value.as_bytes())));
    };
    // Absolute form: where it names a host, it is the same one.
    if let Some(authority) = parts.uri.authority() {
        if parts.uri.scheme() != Some(&Scheme::HTTP) {
            return bad(
                Outcome::BadRequest,
                "only http:// can be asked for in clear",
            );
        }
        let (other, other_port) = host_port(authority)?;
        if other != Host::Name(name.clone()) || other_port.unwrap_or(80) != port.unwrap_or(80) {
            return bad(Outcome::HostMismatch, "its URI and its Host header differ");
        }
    }
    match form {
        Form::Proxy if parts.uri.authority().is_none() => {
            bad(Outcome::BadRequest, "a proxy is asked with a whole URL")
        }
        Form::Proxy => Ok(Target::Name(name, port.unwrap_or(80))),
        Form::Origin(own, _) if port.is_some_and(|port| port != *own) => bad(
            Outcome::HostMismatch,
            "its Host header has another port than its connection",
        ),
        Form::Origin(_, Some(asked)) if *asked != name => {
            Err(Ended::new(Outcome::NameMismatch).because(format!("{asked} was asked for")))
        }
        Form::Origin(own, _) => Ok(Target::Name(name, *own)),
    }
}

/// Whether a request inside TLS is for the server that its connection is for, and for no
/// other: HTTP/1 in `Host` and, if it is there, the URI; HTTP/2 in `:authority`, in `Host` or
/// in both.
///
/// # Errors
/// When it is not, or does not say so clearly.
pub(super) fn inside(parts: &Parts, own: &Name, own_port: u16) -> Result<(), Ended> {
    let bad = |outcome, why: &str| Err(Ended::new(outcome).because(why));
    if !matches!(
        parts.version,
        Version::HTTP_10 | Version::HTTP_11 | Version::HTTP_2
    ) {
        return bad(
            Outcome::BadRequest,
            "only HTTP/1 and HTTP/2 are served here",
        );
    }
    if parts.method == Method::CONNECT {
        return bad(Outcome::Connect, "this is no proxy");
    }
    framed(parts)?;
    if !parts.uri.path().starts_with('/') {
        return bad(Outcome::BadRequest, "its path does not begin with /");
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, None) = (hosts.next(), hosts.next()) else {
        return bad(Outcome::HostMismatch, "it has two Host headers");
    };
    if host.is_none() && (parts.version != Version::HTTP_2 || parts.uri.authority().is_none()) {
        return bad(Outcome::NoHost, "it names no host");
    }
    if parts.uri.scheme().is_some_and(|it| *it != Scheme::HTTPS) {
        return bad(Outcome::BadRequest, "only https:// can be asked for here");
    }
    // What is no name may be anything, and headers are not told.
    let no_name = || Ended::new(Outcome::BadName).because("its host is no name");
    let host = host.map(|value| Authority::try_from(value.as_bytes()));
    let host = host.transpose().map_err(|_| no_name())?;
    for authority in host.iter().chain(parts.uri.authority()) {
        let (host, port) = host_port(authority).map_err(|_| no_name())?;
        match host {
            Host::Addr(_) => {
                return bad(Outcome::IpLiteral, "it is for an address");
            }
            Host::Name(name) if name != *own => {
                return Err(Ended::new(Outcome::NameMismatch)
                    .because(format!("its connection is for {own}, and it is for {name}")));
            }
            Host::Name(_) if port.is_some_and(|port| port != own_port) => {
                return bad(
                    Outcome::HostMismatch,
                    "it is for another port than its connection",
                );
            }
            Host::Name(_) => {}
        }
    }
    Ok(())
}

/// Whether a request has one length, told in one way.
fn framed(parts: &Parts) -> Result<(), Ended> {
    let bad = |why| Err(Ended::new(Outcome::BadRequest).because(why));
    if parts.headers.contains_key(TRANSFER_ENCODING) && parts.headers.contains_key(CONTENT_LENGTH) {
        return bad("it has two lengths");
    }
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (!coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some())
    {
        return bad("its transfer coding is not chunked");
    }
    Ok(())
}

fn at(host: Host, port: u16) -> Target {
    match host {
        Host::Name(name) => Target::Name(name, port),
        Host::Addr(addr) => Target::Addr(super::Destination { addr, port }),
    }
}

/// Host and port of an authority that has nothing else.
fn host_port(authority: &Authority) -> Result<(Host, Option<u16>), Ended> {
    let text = authority.as_str();
    let odd = || Ended::new(Outcome::BadName).because(shown(text.as_bytes()));
    let host = authority.host();
    // A user in front of the host would shift it.
    let port = match text.strip_prefix(host).ok_or_else(odd)? {
        "" => None,
        rest => {
            let digits = rest.strip_prefix(':').ok_or_else(odd)?;
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            let port = digits.parse::<u16>().ok().filter(|port| *port != 0);
            Some(port.filter(|_| plain).ok_or_else(odd)?)
        }
    };
    Ok((Host::read(host).ok_or_else(odd)?, port))
}

/// Whether a request or an answer changes to WebSocket, and to nothing else.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let mut asked = headers.get_all(UPGRADE).iter();
    let one = matches!((asked.next(), asked.next()), (Some(value), None)
        if value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
    one && tokens(headers).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

/// Takes out what concerns one connection only (RFC 9110 section 7.6.1), and the proxy's
/// secrets; puts in what a change to WebSocket needs.
///
/// # Errors
/// When `Connection` names a header that says where a message goes or ends.
pub(super) fn strip(headers: &mut HeaderMap, websocket: bool) -> Result<(), Ended> {
    let mut named = Vec::new();
    for token in tokens(headers) {
        let Ok(name) = HeaderName::try_from(token) else {
            return Err(Ended::new(Outcome::BadRequest).because("its Connection header is odd"));
        };
        if [HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(&name) {
            return Err(Ended::new(Outcome::BadRequest)
                .because(format!("its Connection header names {name}")));
        }
        named.push(name);
    }
    let always = [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        // hyper frames the body anew.
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in named.iter().chain(&always) {
        headers.remove(name);
    }
    if websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    }
    Ok(())
}

/// Whether a message is the last of its connection.
pub(super) fn closes(headers: &HeaderMap) -> bool {
    tokens(headers).any(|token| token.eq_ignore_ascii_case("close"))
}

fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter();
    values
        // One that is no text is odd: no name of a header.
        .flat_map(|value| value.to_str().unwrap_or("\0").split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("request").into_parts().0
    }

    #[test]
    fn a_request_goes_to_its_one_host() {
        let origin = Form::Origin(8080, None);
        let inner = Form::Origin(8080, Some("a.example".into()));
        let good = Target::Name("a.example".into(), 8080);
        for form in [&origin, &inner] {
            for host in ["a.example", "A.EXAMPLE.", "a.example:8080"] {
                let parts = parts("/", &[("host", host)]);
                assert_eq!(target(&parts, form), Ok(good.clone()), "{host}");
            }
        }
        let cases = [
            ("/", vec![], Outcome::NoHost),
            ("/", vec![""], Outcome::NoHost),
            ("/", vec!["a.example", "a.example"], Outcome::HostMismatch),
            (
                "/",
                vec!["a.example", "evil.example"],
                Outcome::HostMismatch,
            ),
            ("/", vec!["a.example:80"], Outcome::HostMismatch),
            ("/", vec!["a.example:"], Outcome::BadName),
            ("/", vec!["a.example:99999"], Outcome::BadName),
            ("/", vec!["a.example:+8080"], Outcome::BadName),
            ("/", vec!["a.example:8080@evil.example"], Outcome::BadName),
            ("/", vec!["evil.example@a.example"], Outcome::BadName),
            ("/", vec!["a.example/evil.example"], Outcome::BadName),
            ("/", vec!["a.example, evil.example"], Outcome::BadName),
            ("/", vec!["192.0.2.1"], Outcome::IpLiteral),
            ("/", vec!["[2001:db8::1]:8080"], Outcome::IpLiteral),
            ("/", vec!["127.1"], Outcome::BadName),
            ("/", vec!["localhost"], Outcome::BadName),
            (
                "http://evil.example:8080/",
                vec!["a.example:8080"],
                Outcome::HostMismatch,
            ),
            (
                "http://a.example:81/",
                vec!["a.example:8080"],
                Outcome::HostMismatch,
            ),
            (
                "https://a.example:8080/",
                vec!["a.example:8080"],
                Outcome::BadRequest,
            ),
        ];
        for (uri, hosts, outcome) in cases {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let ended = target(&parts(uri, &headers), &origin).expect_err("refused");
            assert_eq!(ended.outcome, outcome, "{uri} {hosts:?}");
        }
        let other = parts("/", &[("host", "b.example")]);
        let ended = target(&other, &inner).expect_err("refused");
        assert_eq!(ended.outcome, Outcome::NameMismatch);
    }

    #[test]
    fn a_proxy_is_asked_with_a_url_or_connect() {
        let own = parts("http://a.example:81/x", &[("host", "a.example:81")]);
        let there = Target::Name("a.example".into(), 81);
        assert_eq!(target(&own, &Form::Proxy), Ok(there.clone()));
        let ended = target(&parts("/x", &[("host", "a.example")]), &Form::Proxy);
        assert_eq!(ended.expect_err("origin").outcome, Outcome::BadRequest);
        let connect = |to: &str| {
            let request = Request::connect(to).body(()).expect("request");
            request.into_parts().0
        };
        assert_eq!(target(&connect("a.example:81"), &Form::Proxy), Ok(there));
        let addr = Target::Addr(super::super::Destination {
            addr: "2001:db8::1".parse().expect("address"),
            port: 443,
        });
        let to = connect("[2001:db8::1]:443");
        assert_eq!(target(&to, &Form::Proxy), Ok(addr));
        let ended = target(&connect("a.example:81"), &Form::Origin(80, None));
        assert_eq!(ended.expect_err("no proxy").outcome, Outcome::Connect);
    }

    #[test]
    fn headers_of_one_connection_stay_behind() {
        let mut headers = parts(
            "/",
            &[
                ("host", "a.example"),
                ("connection", "close, X-Secret"),
                ("x-secret", "1"),
                ("keep-alive", "5"),
                ("te", "trailers"),
                ("proxy-authorization", "Basic eA=="),
                ("proxy-connection", "keep-alive"),
                ("upgrade", "h2c"),
                ("x-kept", "2"),
            ],
        )
        .headers;
        assert!(!is_websocket(&headers));
        strip(&mut headers, false).expect("strips");
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "x-kept"]);
        for odd in ["host", "Content-Length", "x, transfer-encoding", "a b"] {
            let mut headers = parts("/", &[("connection", odd)]).headers;
            assert!(strip(&mut headers, false).is_err(), "{odd}");
        }
        let upgrade = parts(
            "/",
            &[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "WebSocket"),
            ],
        );
        assert!(is_websocket(&upgrade.headers));
        for odd in [
            vec![("upgrade", "websocket")],
            vec![("connection", "upgrade"), ("upgrade", "h2c")],
            vec![("connection", "upgrade"), ("upgrade", "h2c, websocket")],
            vec![
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("upgrade", "h2c"),
            ],
        ] {
            assert!(!is_websocket(&parts("/", &odd).headers), "{odd:?}");
        }
    }
}
