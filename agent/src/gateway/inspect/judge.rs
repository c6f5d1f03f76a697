//! Whether a request may pass, by its head. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use globset::GlobMatcher;
use http::header::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, TE, TRAILER};
use http::request::Parts;
use http::{Uri, Version};

use super::super::Outcome;
use super::super::head;
use super::super::session::Ended;
use super::scan::Looked;
use crate::policy::{Inspect, path_glob};

/// What gRPC tells its compression with.
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Headers by which some servers take another method or path than the request's own.
const OVERRIDES: [&str; 5] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];

/// A rule's `inspect`, ready to be asked.
pub(super) struct Judge {
    pub(super) inspect: Arc<Inspect>,
    requests: Vec<(BTreeSet<String>, Option<GlobMatcher>)>,
}

impl Judge {
    pub(super) fn new(inspect: Arc<Inspect>) -> Result<Self, Ended> {
        let glob = |text: &String| {
            path_glob(text)
                .map(|glob| glob.compile_matcher())
                .map_err(|error| Ended::new(Outcome::RequestNotAllowed).because(error))
        };
        let requests = inspect.requests.iter().map(|rule| {
            let path = rule.path.as_ref().map(glob).transpose()?;
            Ok((rule.methods.clone(), path))
        });
        Ok(Self {
            requests: requests.collect::<Result<_, Ended>>()?,
            inspect,
        })
    }

    /// What its patterns find in a head: in what is to leave of it, and its path as it is and
    /// as servers read it.
    pub(super) fn look(&self, parts: &Parts) -> (Looked, Looked) {
        let patterns = &self.inspect.patterns;
        let mut path = Looked::default();
        let target = parts.uri.path_and_query().map_or("", |it| it.as_str());
        path.look(patterns, target.as_bytes());
        path.look(patterns, &decoded(target.as_bytes()));
        let mut rest = Looked::default();
        rest.look(patterns, parts.method.as_str().as_bytes());
        for (name, value) in &parts.headers {
            if !self.inspect.strip.contains(name.as_str()) {
                rest.look(patterns, value.as_bytes());
            }
        }
        (path, rest)
    }

    /// Whether the rule has a request.
    pub(super) fn allows(&self, parts: &Parts) -> Result<(), Ended> {
        let refused = |why: String| Err(Ended::new(Outcome::RequestNotAllowed).because(why));
        if head::is_websocket(&parts.headers) {
            return refused("what follows a change to WebSocket could not be inspected".to_owned());
        }
        if !self.requests.is_empty() {
            if let Some(name) = OVERRIDES.iter().find(|it| parts.headers.contains_key(**it)) {
                return refused(format!("its header {name} may mean another request"));
            }
            self.listed(parts)?;
        }
        self.fits(&parts.headers)
    }

    fn listed(&self, parts: &Parts) -> Result<(), Ended> {
        let method = parts.method.as_str();
        let path = plain(parts.uri.path());
        let mut odd = None;
        for (methods, glob) in &self.requests {
            if !methods.is_empty() && !methods.contains(method) {
                continue;
            }
            match (glob, &path) {
                (None, _) => return Ok(()),
                (Some(glob), Ok(path)) if glob.is_match(path) => return Ok(()),
                (Some(_), Ok(_)) => {}
                (Some(_), Err(why)) => odd = Some(*why),
            }
        }
        let why = odd.unwrap_or("its method and path are not in the rule's list");
        Err(Ended::new(Outcome::RequestNotAllowed).because(why))
    }

    /// Whether its body may come, as far as the head tells.
    fn fits(&self, headers: &HeaderMap) -> Result<(), Ended> {
        if let Some(most) = self.inspect.max_body
            && let Some(length) = headers.get(CONTENT_LENGTH)
        {
            let length = length.to_str().ok().and_then(|it| it.parse::<u64>().ok());
            if length.is_none_or(|length| length > most) {
                return Err(too_large(most));
            }
        }
        let plain = |value: &HeaderValue| {
            let value = value.as_bytes();
            value.is_empty() || value.eq_ignore_ascii_case(b"identity")
        };
        for name in [CONTENT_ENCODING, GRPC_ENCODING] {
            let encoded = headers.get_all(&name).iter().any(|value| !plain(value));
            if encoded && !self.inspect.patterns.is_empty() {
                return Err(Ended::new(Outcome::EncodedBody).because(format!(
                    "it has a {name}, and its rule's patterns are found only without"
                )));
            }
        }
        Ok(())
    }

    /// Makes of a request that may pass the one that leaves, to `authority`.
    pub(super) fn leaving(&self, parts: &mut Parts, authority: &str) -> Result<(), Ended> {
        let odd = || Ended::new(Outcome::Broken).because("no URL for the server");
        // HTTP/2 has it for trailers, and gRPC's servers ask for it.
        let trailers = parts.version == Version::HTTP_2
            && parts
                .headers
                .get(TE)
                .is_some_and(|value| value == "trailers");
        head::strip(&mut parts.headers, false)?;
        for name in &self.inspect.strip {
            parts.headers.remove(name.as_str());
        }
        // The body's trailers stay behind, and what it waits for was answered here.
        parts.headers.remove(TRAILER);
        parts.headers.remove(EXPECT);
        let path = parts.uri.path_and_query().cloned();
        let mut path = path.ok_or_else(odd)?;
        // A URI that ends with its host, but for a query.
        if !path.as_str().starts_with('/') {
            path = format!("/{}", path.as_str())
                .try_into()
                .map_err(|_| odd())?;
        }
        let host = HeaderValue::try_from(authority).map_err(|_| odd())?;
        match parts.version {
            Version::HTTP_2 => {
                if trailers {
                    parts
                        .headers
                        .insert(TE, HeaderValue::from_static("trailers"));
                }
                parts.headers.remove(http::header::HOST);
                let uri = Uri::builder().scheme("https").authority(authority);
                parts.uri = uri.path_and_query(path).build().map_err(|_| odd())?;
            }
            _ => {
                parts.headers.insert(http::header::HOST, host);
                parts.version = Version::HTTP_11;
                parts.uri = Uri::from(path);
            }
        }
        Ok(())
    }
}

pub(super) fn too_large(most: u64) -> Ended {
    Ended::new(Outcome::BodyTooLarge).because(format!("the rule has {most} bytes at most"))
}

/// A path as every server reads it. There is only one reading of those without percent signs
/// within percent signs, escaped separators, steps up, and segments of nothing.
fn plain(path: &str) -> Result<String, &'static str> {
    let bytes = path.as_bytes();
    if bytes.contains(&b'\\') {
        return Err("its path has a backslash");
    }
    let percent = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    for (at, _) in percent {
        match hex(bytes.get(at + 1..at + 3)) {
            None => return Err("its path has a percent sign that escapes nothing"),
            Some(b'/' | b'\\') => return Err("its path has an escaped separator"),
            Some(b'%') => return Err("its path is escaped twice"),
            Some(byte) if byte < 0x20 || byte == 0x7f => {
                return Err("its path has an escaped control character");
            }
            Some(_) => {}
        }
    }
    let Ok(plain) = String::from_utf8(decoded(bytes)) else {
        return Err("its path is no UTF-8");
    };
    let Some(segments) = plain.strip_prefix('/') else {
        return Err("its path does not begin with /");
    };
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        // Some servers cut a parameter off.
        let step = segment.split(';').next().unwrap_or_default();
        if step == "." || step == ".." {
            return Err("its path has a step to . or ..");
        }
        if step.is_empty() && (segments.peek().is_some() || !segment.is_empty()) {
            return Err("its path has an empty segment");
        }
    }
    Ok(plain)
}

/// What two hexadecimal digits mean.
fn hex(digits: Option<&[u8]>) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let &[high, low] = digits? else {
        return None;
    };
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Bytes with their escapes undone, once; what escapes nothing stays.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        match hex(after.get(..2)).filter(|_| byte == b'%') {
            Some(escaped) => {
                plain.push(escaped);
                rest = &after[2..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{DataPattern, RequestRule};
    use http::Request;
    use regex::bytes::Regex;

    fn rule(methods: &[&str], path: Option<&str>) -> RequestRule {
        RequestRule {
            methods: methods.iter().map(ToString::to_string).collect(),
            path: path.map(str::to_owned),
        }
    }

    fn inspect(requests: Vec<RequestRule>) -> Inspect {
        Inspect {
            requests,
            strip: BTreeSet::new(),
            max_body: None,
            patterns: Vec::new(),
            pins: BTreeSet::new(),
        }
    }

    fn judge(inspect: Inspect) -> Judge {
        Judge::new(Arc::new(inspect)).expect("a rule")
    }

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("request").into_parts().0
    }

    #[test]
    fn a_request_passes_that_one_line_has_whole() {
        let judge = judge(inspect(vec![
            rule(&["GET", "HEAD"], Some("/v1/**")),
            rule(&["POST"], Some("/v1/*/messages")),
            rule(&["OPTIONS"], None),
        ]));
        for (method, uri, allowed) in [
            ("GET", "/v1/a/b?x=/etc/..", true),
            ("HEAD", "/v1/a%20b", true),
            ("GET", "/v1/", true),
            ("GET", "/v1", false),
            ("GET", "/v2/a", false),
            ("GET", "/V1/a", false),
            ("GET", "/x/v1/a", false),
            ("get", "/v1/a", false),
            ("PUT", "/v1/a", false),
            ("POST", "/v1/threads/messages", true),
            ("POST", "/v1/a/b/messages", false),
            ("POST", "/v1/messages", false),
            ("POST", "/v1/threads/messages/1", false),
            ("OPTIONS", "/anything/..%2f", true),
        ] {
            let allows = judge.allows(&parts(method, uri, &[]));
            assert_eq!(allows.is_ok(), allowed, "{method} {uri}: {allows:?}");
        }
        let everything = super::tests::judge(inspect(vec![]));
        assert!(everything.allows(&parts("BREW", "/..%2f//%", &[])).is_ok());
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_is_none() {
        let judge = judge(inspect(vec![rule(&[], Some("/v1/**"))]));
        for path in [
            "/v1/../admin",
            "/v1/./a",
            "/v1/..",
            "/v1/%2e%2e/admin",
            "/v1/.%2E/admin",
            "/v1/..;x=1/admin",
            "/v1/..%3bx/admin",
            "/v1/;x/a",
            "/v1/a%2f..%2fadmin",
            "/v1/a%2Fb",
            "/v1/a%5cb",
            "/v1/a%00",
            "/v1/a%0d%0a",
            "/v1/a%252e",
            "/v1/a%25",
            "/v1/a%2",
            "/v1/a%zz",
            "/v1/a%+1",
            "/v1/%c0%ae%c0%ae/admin",
            "/v1//admin",
            "//v1/a",
            "/v1/a//",
        ] {
            let refused = judge.allows(&parts("GET", path, &[])).expect_err(path);
            assert_eq!(refused.outcome, Outcome::RequestNotAllowed);
            let why = refused.detail.expect("why");
            assert!(why.starts_with("its path"), "{path}: {why}");
            assert!(!why.contains("admin"), "{why}");
        }
        for path in [
            "/v1/a/",
            "/v1/...",
            "/v1/a%3Fb",
            "/v1/a;x=1/b",
            "/v1/%C3%BC",
        ] {
            assert_eq!(judge.allows(&parts("GET", path, &[])), Ok(()), "{path}");
        }
    }

    proptest::proptest! {
        /// However a server cleans a path that passes, it is the one that was judged.
        #[test]
        fn a_plain_path_has_one_reading(
            path in "/([a-c.;/\\\\?]|%2[eEfF5]|%5c|%00|%3b|%[0-9a-f]{2}|\\.\\.){0,12}"
        ) {
            let path = path.split('?').next().unwrap_or_default();
            if let Ok(read) = plain(path) {
                let once = decoded(path.as_bytes());
                proptest::prop_assert_eq!(read.as_bytes(), &once);
                proptest::prop_assert_eq!(&decoded(&once), &once);
                let mut cleaned = Vec::new();
                let slashed = read.replace('\\', "/");
                for segment in slashed.split('/') {
                    match segment.split(';').next().unwrap_or_default() {
                        "" | "." => {}
                        ".." => drop(cleaned.pop()),
                        _ => cleaned.push(segment),
                    }
                }
                let cleaned = format!("/{}", cleaned.join("/"));
                proptest::prop_assert_eq!(cleaned, format!("/{}", read.trim_matches('/')));
            }
        }
    }

    #[test]
    fn a_head_that_promises_what_may_not_come_is_refused() {
        let key = DataPattern {
            name: "key".to_owned(),
            regex: Regex::new("KEY[0-9]{4}").expect("regex"),
            report_only: false,
        };
        let judge = judge(Inspect {
            max_body: Some(10),
            patterns: vec![key],
            ..inspect(vec![rule(&["POST"], None)])
        });
        for (headers, expected) in [
            (vec![("content-length", "10")], None),
            (vec![("content-length", "11")], Some(Outcome::BodyTooLarge)),
            (vec![("content-encoding", "identity")], None),
            (
                vec![("content-encoding", "gzip")],
                Some(Outcome::EncodedBody),
            ),
            (
                vec![("content-encoding", "identity"), ("content-encoding", "br")],
                Some(Outcome::EncodedBody),
            ),
            (vec![("grpc-encoding", "gzip")], Some(Outcome::EncodedBody)),
            (
                vec![("x-http-method-override", "DELETE")],
                Some(Outcome::RequestNotAllowed),
            ),
            (
                vec![("connection", "upgrade"), ("upgrade", "websocket")],
                Some(Outcome::RequestNotAllowed),
            ),
        ] {
            let judged = judge.allows(&parts("POST", "/", &headers));
            let outcome = judged.err().map(|it| it.outcome);
            assert_eq!(outcome, expected, "{headers:?}");
        }
        let lax = super::tests::judge(inspect(vec![]));
        let encoded = parts("POST", "/", &[("content-encoding", "gzip")]);
        assert_eq!(lax.allows(&encoded), Ok(()));
    }

    #[test]
    fn patterns_are_found_where_they_leave_and_only_there() {
        let key = DataPattern {
            name: "key".to_owned(),
            regex: Regex::new("KEY[0-9]{4}").expect("regex"),
            report_only: false,
        };
        let judge = judge(Inspect {
            strip: BTreeSet::from(["cookie".to_owned()]),
            patterns: vec![key],
            ..inspect(vec![])
        });
        for (uri, header, in_path, in_rest) in [
            ("/KEY1234", ("x", "y"), true, false),
            ("/?k=KEY1234", ("x", "y"), true, false),
            ("/%4bEY%31234", ("x", "y"), true, false),
            ("/KEY123", ("x", "KEY1234"), false, true),
            ("/", ("cookie", "KEY1234"), false, false),
        ] {
            let (path, rest) = judge.look(&parts("GET", uri, &[header]));
            assert_eq!(path.blocking().is_some(), in_path, "{uri}");
            assert_eq!(rest.blocking().is_some(), in_rest, "{header:?}");
        }
    }

    #[test]
    fn what_leaves_is_for_its_server_and_without_what_stays() {
        let judge = judge(Inspect {
            strip: BTreeSet::from(["cookie".to_owned()]),
            ..inspect(vec![])
        });
        let headers = [
            ("host", "A.Example."),
            ("cookie", "a=1"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("expect", "100-continue"),
            ("x-kept", "1"),
        ];
        let mut one = parts("GET", "https://a.example/x?y=1", &headers);
        judge.leaving(&mut one, "a.example:8443").expect("leaves");
        assert_eq!(one.uri, "/x?y=1");
        let left: Vec<_> = one.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "x-kept"]);
        assert_eq!(one.headers["host"], "a.example:8443");
        let mut two = parts("GET", "https://A.Example/x?y=1", &headers);
        two.version = Version::HTTP_2;
        judge.leaving(&mut two, "a.example").expect("leaves");
        assert_eq!(two.uri, "https://a.example/x?y=1");
        let mut short = parts("GET", "https://a.example?y=1", &[]);
        judge.leaving(&mut short, "a.example").expect("leaves");
        assert_eq!(short.uri, "/?y=1");
        assert_eq!(
            short.uri.path_and_query().map(|it| it.as_str()),
            Some("/?y=1")
        );
        let mut left: Vec<_> = two.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-kept"]);
    }
}
