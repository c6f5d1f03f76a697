//! What is said about requests inside TLS.

use super::super::diagnostic::shown;
use super::super::file::{
    At, InspectFile, PatternActionFile, PatternFile, PortsFile, RequestFile, RuleFile, TlsFile,
};
use super::super::inspect::{DataPattern, Inspect, RequestRule, path_wrong, regex};
use super::super::name::{MAX_NAME, is_name, nearest_name};
use super::super::tls::HTTPS;
use super::{HttpFile, Place, Validator, ranges};
use data_encoding::BASE64;
use http::{HeaderName, Method};
use std::collections::HashSet;
use std::sync::Arc;

/// Headers without which a request is none, or another.
const NEEDED: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
];

impl Validator<'_> {
    /// What is asked of requests inside TLS; `None` where it is not sound, and then there is an
    /// error.
    pub(super) fn inspect(
        &mut self,
        file: usize,
        rule: &RuleFile,
        inspect: &At<InspectFile>,
    ) -> Option<Arc<Inspect>> {
        let before = self.report.count();
        self.reads_requests(file, rule, inspect);
        let InspectFile {
            requests,
            strip,
            max_body,
            patterns,
            pins,
        } = &inspect.value;
        let inspect = Inspect {
            requests: requests
                .iter()
                .map(|request| self.request(file, &request.value))
                .collect(),
            strip: strip
                .iter()
                .filter_map(|header| self.header(file, header))
                .collect(),
            max_body: max_body.as_ref().map(|most| most.value),
            patterns: self.patterns(file, patterns),
            pins: pins.iter().filter_map(|pin| self.pin(file, pin)).collect(),
        };
        (self.report.count() == before).then(|| Arc::new(inspect))
    }

    /// Everything that leaves by the rule must be TLS that can be read.
    fn reads_requests(&mut self, file: usize, rule: &RuleFile, inspect: &At<InspectFile>) {
        let place = |at| Place { file, at };
        if let Some(ech) = &rule.ech {
            self.error(
                place(ech.at),
                "the rule has `inspect` and `ech: keep`",
                "remove one of them: what an encrypted hello begins only the server can read",
            );
        }
        if let Some(http) = &rule.http
            && http.value == HttpFile::Host
        {
            self.error(
                place(http.at),
                "the rule has `inspect` and `http: host`",
                "remove one of them: with `inspect` only TLS leaves, and plain HTTP needs a rule of its own",
            );
        }
        match (&rule.tls, &rule.ports) {
            (Some(tls), _) if tls.value == TlsFile::None => self.error(
                place(tls.at),
                "the rule has `inspect` and `tls: none`",
                "remove one of them: requests are read inside TLS",
            ),
            (None, Some(ports)) if !only_https(&ports.value) => self.error(
                place(inspect.at),
                "the rule has `inspect`, and ports where not only TLS leaves",
                "write `tls: sni`, or keep `ports: [443]` and make another rule for the others",
            ),
            _ => {}
        }
    }

    fn request(&mut self, file: usize, request: &RequestFile) -> RequestRule {
        if let Some(path) = &request.path
            && let Some((wrong, help)) = path_wrong(&path.value)
        {
            let place = Place { file, at: path.at };
            self.error(place, format!("`{}` {wrong}", shown(&path.value)), help);
        }
        let methods = request.methods.iter();
        RequestRule {
            methods: methods
                .filter_map(|method| self.method(file, method))
                .collect(),
            path: request.path.as_ref().map(|path| path.value.clone()),
        }
    }

    fn method(&mut self, file: usize, method: &At<String>) -> Option<String> {
        let text = method.value.as_str();
        let upper = text.to_ascii_uppercase();
        let known = Method::from_bytes(text.as_bytes()).is_ok() && !text.is_empty();
        let (wrong, help) = if !known {
            (
                "is no method",
                "write methods as in `methods: [GET, POST]`".to_owned(),
            )
        } else if text != upper {
            (
                "is a method of its own to servers, which tell capitals apart",
                format!("write `{}`", shown(&upper)),
            )
        } else if text == "CONNECT" {
            (
                "would open a tunnel that nobody reads",
                "remove it: such a request is always refused".to_owned(),
            )
        } else {
            return Some(upper);
        };
        let place = Place {
            file,
            at: method.at,
        };
        self.error(place, format!("`{}` {wrong}", shown(text)), help);
        None
    }

    fn header(&mut self, file: usize, header: &At<String>) -> Option<String> {
        let text = header.value.as_str();
        let (wrong, help) = match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) if NEEDED.contains(&name.as_str()) => (
                "cannot be taken out: no server would understand the request",
                "remove it",
            ),
            Ok(name) => return Some(name.as_str().to_owned()),
            Err(_) => (
                "is no name of a header",
                "write names alone, as in `strip: [cookie, x-trace-id]`",
            ),
        };
        let place = Place {
            file,
            at: header.at,
        };
        self.error(place, format!("`{}` {wrong}", shown(text)), help);
        None
    }

    fn patterns(&mut self, file: usize, written: &[At<PatternFile>]) -> Vec<DataPattern> {
        let mut names = HashSet::new();
        let mut patterns = Vec::with_capacity(written.len());
        for pattern in written {
            let PatternFile {
                name,
                regex,
                action,
            } = &pattern.value;
            let place = |at| Place { file, at };
            if !is_name(&name.value) {
                let help = format!(
                    "a name is 1 to {MAX_NAME} of `a-z 0-9 . _ -` and begins with a letter or digit, as in `{}`",
                    nearest_name(&name.value)
                );
                let message = format!("`{}` is no name for a pattern", shown(&name.value));
                self.error(place(name.at), message, help);
            } else if !names.insert(name.value.as_str()) {
                let message = format!("two patterns are named `{}`", shown(&name.value));
                let help = "give one of them another name: events tell them apart by it";
                self.error(place(name.at), message, help);
            }
            let regex = self.regex(file, regex);
            patterns.extend(regex.map(|regex| DataPattern {
                name: name.value.clone(),
                regex,
                report_only: matches!(action, Some(action) if action.value == PatternActionFile::Report),
            }));
        }
        patterns
    }

    fn regex(&mut self, file: usize, written: &At<String>) -> Option<regex::bytes::Regex> {
        let (message, help) = match regex(&written.value) {
            Ok(regex) if regex.is_match(b"") => (
                "the regex matches where nothing is, so it would be found in every request"
                    .to_owned(),
                "write what must be there, with `+` or `{1,}` in place of `*`",
            ),
            Ok(regex) => return Some(regex),
            Err(regex::Error::CompiledTooBig(_)) => (
                "the regex is too large".to_owned(),
                "write smaller counts, or make several patterns of it",
            ),
            Err(error) => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                let why = last.strip_prefix("error: ").unwrap_or(last);
                (
                    format!("the regex cannot be used: {}", shown(why)),
                    "the syntax is that of https://docs.rs/regex, which knows neither look-around nor back-references",
                )
            }
        };
        let place = Place {
            file,
            at: written.at,
        };
        self.error(place, message, help);
        None
    }

    fn pin(&mut self, file: usize, pin: &At<String>) -> Option<[u8; 32]> {
        let hash = pin.value.strip_prefix("sha256/");
        let hash = hash.and_then(|text| BASE64.decode(text.as_bytes()).ok());
        let hash = hash.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        if hash.is_none() {
            self.error(
                Place { file, at: pin.at },
                format!("`{}` is no pin", shown(&pin.value)),
                "write `sha256/` and the SHA-256 of the public key (SubjectPublicKeyInfo) in Base64, 44 characters",
            );
        }
        hash
    }
}

fn only_https(ports: &PortsFile) -> bool {
    ranges(ports) == [(HTTPS, HTTPS)]
}
