//! Flows: Network Activity, questions at the gate: DNS Activity, and what the walls of BPF LSM
//! refused and is no flow: Kernel Activity.

use std::net::IpAddr;

use agent_common::{Hook, Reason};
use serde_json::{Value, json};

use super::{Activity, Base, Class, Device, Done, Fields, Severity, id_text, object};
use crate::flow::{
    ConnectionRecord, DnsQuestion, Endpoint, FlowRecord, FlowVerdict, ProcessRecord,
};

/// What OCSF has a word for of HTTP's methods.
const METHODS: [&str; 9] = [
    "OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT", "PATCH",
];

pub(super) fn fields(flow: &FlowRecord, device: &Device) -> Fields {
    let code = flow
        .reason
        .map_or_else(|| flow.verdict.as_str(), Reason::as_str);
    let (class, activity) = class(flow);
    let message = flow.line(&jiff::tz::TimeZone::UTC);
    let (severity, done) = match flow.verdict {
        FlowVerdict::Deny => (Severity::Medium, Done::Blocked),
        FlowVerdict::WouldDeny => (Severity::Low, Done::Logged),
        FlowVerdict::Allow => (Severity::Informational, Done::Allowed),
    };
    let base = Base {
        class,
        activity,
        severity,
        seq: flow.seq,
        time: flow.time,
        code,
        // Without the time in front, which the event has.
        message: message.split_once(' ').map_or("", |(_, rest)| rest),
        done: Some(done),
    };
    let mut event = base.fields(device);
    event.insert("actor".into(), actor(flow));
    let version = flow.generation.to_string();
    event.insert(
        "policy".into(),
        json!({
            "name": flow.agent,
            "version": version,
            "is_applied": flow.verdict != FlowVerdict::WouldDeny,
        }),
    );
    if let Some(rule) = &flow.rule {
        let mut said = json!({"uid": rule.number.to_string(), "name": rule.text});
        if let Some(reason) = &rule.reason {
            said["desc"] = reason.as_str().into();
        }
        event.insert("firewall_rule".into(), said);
    }
    status(&mut event, flow);
    match class {
        Class::Kernel => {
            event.insert(
                "kernel".into(),
                json!({"name": flow.hook.as_str(), "type": "System Call", "type_id": 2}),
            );
        }
        Class::Dns => dns(&mut event, flow, device),
        _ => network(&mut event, flow, device),
    }
    event.insert("unmapped".into(), unmapped(flow));
    event
}

fn class(flow: &FlowRecord) -> (Class, Activity) {
    let activity = match flow.hook {
        Hook::Dns => return (Class::Dns, Activity::new(6, "Traffic")),
        Hook::Gateway => flow
            .connection
            .as_ref()
            .map_or(Activity::new(1, "Open"), |c| ended(flow.verdict, c)),
        Hook::Bind4 | Hook::Bind6 => Activity::new(7, "Listen"),
        Hook::Connect4 | Hook::Connect6 | Hook::Ingress | Hook::UnixConnect => {
            Activity::new(1, "Open")
        }
        Hook::Sendmsg4 | Hook::Sendmsg6 | Hook::Egress | Hook::UnixSend => {
            Activity::new(6, "Traffic")
        }
        Hook::SockCreate | Hook::SocketCreate => Activity::other("Socket Create"),
        Hook::Setsockopt => Activity::other("Socket Option"),
        Hook::FileReceive => Activity::other("Socket Pass"),
        // The end of a flow, which is no system call.
        _ if flow.traffic.is_some() => Activity::new(2, "Close"),
        _ => return (Class::Kernel, Activity::new(4, "Invoke")),
    };
    (Class::Network, activity)
}

/// How a connection at the gateway ended.
fn ended(verdict: FlowVerdict, connection: &ConnectionRecord) -> Activity {
    match connection.outcome.as_str() {
        _ if verdict == FlowVerdict::Deny => Activity::new(1, "Open"),
        _ if connection.request.is_some() => Activity::new(6, "Traffic"),
        "closed" => Activity::new(2, "Close"),
        "reset" => Activity::new(3, "Reset"),
        _ => Activity::new(4, "Fail"),
    }
}

fn status(event: &mut Fields, flow: &FlowRecord) {
    let outcome = flow.connection.as_ref().map(|c| c.outcome.as_str());
    let dns = flow.dns.as_ref().map(|dns| dns.outcome.as_str());
    let failed = flow.verdict == FlowVerdict::Deny
        || outcome.is_some_and(|outcome| outcome != "closed")
        || dns.is_some_and(|outcome| !matches!(outcome, "" | "answered" | "no_data"));
    let (id, word) = match failed {
        true => (2, "Failure"),
        false => (1, "Success"),
    };
    event.insert("status_id".into(), id.into());
    event.insert("status".into(), word.into());
    let code = flow.reason.map(Reason::as_str).or(outcome).or(dns);
    if let Some(code) = code.filter(|code| !code.is_empty()) {
        event.insert("status_code".into(), code.into());
    }
    let detail = flow.connection.as_ref().and_then(|c| c.detail.as_deref());
    let detail = detail.or_else(|| flow.dns.as_ref()?.detail.as_deref());
    if let Some(detail) = detail {
        event.insert("status_detail".into(), detail.into());
    }
}

/// The agent, and the process where one is known.
fn actor(flow: &FlowRecord) -> Value {
    let mut actor = json!({"app_name": flow.agent});
    if let Some(process) = &flow.process {
        actor["process"] = self::process(process);
        actor["user"] = json!({"uid": process.uid.to_string()});
    }
    actor
}

/// A process as OCSF has it.
pub(super) fn process(process: &ProcessRecord) -> Value {
    let mut said = json!({
        "pid": process.pid,
        "ptid": process.tid,
        "name": process.comm,
        "user": {"uid": process.uid.to_string()},
    });
    if let Some(exe) = &process.exe {
        said["file"] = file(exe);
    }
    if process.ppid != 0 {
        said["parent_process"] = json!({"pid": process.ppid});
        if let Some(exe) = &process.parent_exe {
            said["parent_process"]["file"] = file(exe);
        }
    }
    said
}

fn file(path: &std::path::Path) -> Value {
    let name = path.file_name().unwrap_or(path.as_os_str());
    json!({
        "name": name.to_string_lossy(),
        "path": path.to_string_lossy(),
        "type_id": 1,
        "type": "Regular File",
    })
}

fn endpoint(end: Option<Endpoint>) -> Value {
    let Some(end) = end else { return json!({}) };
    let mut said = json!({"ip": end.ip});
    if end.port != 0 {
        said["port"] = end.port.into();
    }
    said
}

fn network(event: &mut Fields, flow: &FlowRecord, device: &Device) {
    let connection = flow.connection.as_ref();
    let inbound = matches!(flow.hook, Hook::Ingress | Hook::Bind4 | Hook::Bind6);
    let mut here = endpoint(flow.source);
    here["hostname"] = device.hostname.as_str().into();
    let far = flow.dest.or(connection.and_then(|c| c.connected));
    let mut there = endpoint(far);
    if let Some(connection) = connection {
        there["port"] = connection.port.into();
    }
    if let Some(name) = flow.names.first() {
        there["hostname"] = name.as_str().into();
    }
    let known = ["ip", "hostname"]
        .iter()
        .any(|key| there.get(key).is_some());
    match flow.hook {
        Hook::Ingress => {
            event.insert("dst_endpoint".into(), here);
            if known {
                event.insert("src_endpoint".into(), there);
            }
        }
        // What a bind asks for is an address of this machine.
        Hook::Bind4 | Hook::Bind6 => {
            there["hostname"] = device.hostname.as_str().into();
            event.insert("dst_endpoint".into(), there);
        }
        _ => {
            event.insert("src_endpoint".into(), here);
            if known
                && ["ip", "hostname"]
                    .iter()
                    .any(|key| there.get(key).is_some())
            {
                event.insert("dst_endpoint".into(), there);
            }
        }
    }
    event.insert(
        "connection_info".into(),
        connection_info(flow, far.map(|end| end.ip), inbound),
    );
    if let Some(traffic) = traffic(flow) {
        event.insert("traffic".into(), traffic);
    }
    let lasted = flow.traffic.map(|t| t.lasted_ms);
    if let Some(lasted) = lasted.or(connection.map(|c| c.took_ms)) {
        event.insert("duration".into(), lasted.into());
        let end = flow.time.as_millisecond();
        event.insert("end_time".into(), end.into());
        let start = end.saturating_sub(i64::try_from(lasted).unwrap_or(i64::MAX));
        event.insert("start_time".into(), start.into());
    }
    if let Some(name) = &flow.server_name {
        // Which version of TLS was agreed on is not seen.
        event.insert("tls".into(), json!({"sni": name, "version": "Unknown"}));
    }
    if let Some(connection) = connection {
        proxy(event, flow, connection, device);
    }
}

fn connection_info(flow: &FlowRecord, far: Option<IpAddr>, inbound: bool) -> Value {
    let (direction_id, direction) = match far {
        Some(ip) if ip.is_loopback() => (4, "Local"),
        _ if inbound => (1, "Inbound"),
        _ if flow.hook.is_of_lsm() && flow.traffic.is_none() => (4, "Local"),
        _ => (2, "Outbound"),
    };
    let mut info = json!({
        "direction_id": direction_id,
        "direction": direction,
        "protocol_name": flow.protocol.as_str(),
        "protocol_num": flow.protocol_number,
    });
    if let Some(ip) = far {
        info["protocol_ver_id"] = if ip.is_ipv4() { 4 } else { 6 }.into();
    }
    if flow.socket_cookie != 0 {
        info["uid"] = id_text(flow.socket_cookie);
    }
    info
}

fn traffic(flow: &FlowRecord) -> Option<Value> {
    if let Some(t) = &flow.traffic {
        return Some(json!({
            "bytes": t.sent_bytes.saturating_add(t.received_bytes),
            "bytes_out": t.sent_bytes,
            "bytes_in": t.received_bytes,
            "packets": t.sent_packets.saturating_add(t.received_packets),
            "packets_out": t.sent_packets,
            "packets_in": t.received_packets,
        }));
    }
    let connection = flow.connection.as_ref()?;
    let (sent, received) = match &connection.request {
        Some(request) => (request.sent_bytes, request.received_bytes),
        None => (connection.sent_bytes, connection.received_bytes),
    };
    Some(json!({
        "bytes": sent.saturating_add(received),
        "bytes_out": sent,
        "bytes_in": received,
    }))
}

/// The gateway is a proxy between program and server, and there may be another behind it.
fn proxy(event: &mut Fields, flow: &FlowRecord, connection: &ConnectionRecord, device: &Device) {
    if let Some(profiles) = event["metadata"]["profiles"].as_array_mut() {
        profiles.push("network_proxy".into());
    }
    let mut gateway = json!({
        "svc_name": "exeat-gateway",
        "hostname": device.hostname,
        "type_id": 99,
        "type": connection.door,
    });
    if let Some(behind) = &connection.proxy {
        let (host, port) = behind.rsplit_once(':').unwrap_or((behind, ""));
        gateway["proxy_endpoint"] = json!({"hostname": host.trim_matches(['[', ']'])});
        if let Ok(port) = port.parse::<u16>() {
            gateway["proxy_endpoint"]["port"] = port.into();
        }
    }
    event.insert("proxy_endpoint".into(), gateway);
    if let Some(alpn) = &connection.alpn_chosen {
        event.insert("app_protocol_name".into(), alpn.as_str().into());
    } else if let Some(kind) = &connection.kind {
        event.insert("app_protocol_name".into(), kind.as_str().into());
    }
    if let Some(request) = &connection.request {
        let mut said = json!({});
        if METHODS.contains(&request.method.as_str()) {
            said["http_method"] = request.method.as_str().into();
        }
        if let Some(path) = &request.path {
            said["url"] = json!({"path": path, "port": connection.port});
            if let Some(name) = flow.names.first() {
                said["url"]["hostname"] = name.as_str().into();
            }
        }
        event.insert("proxy_http_request".into(), said);
        if let Some(status) = request.status {
            event.insert("proxy_http_response".into(), json!({"code": status}));
        }
    }
}

fn dns(event: &mut Fields, flow: &FlowRecord, device: &Device) {
    let mut here = endpoint(flow.source);
    here["hostname"] = device.hostname.as_str().into();
    event.insert("src_endpoint".into(), here);
    event.insert(
        "dst_endpoint".into(),
        json!({"svc_name": "exeat-gate", "hostname": device.hostname}),
    );
    event.insert("connection_info".into(), connection_info(flow, None, false));
    let Some(dns) = &flow.dns else { return };
    event.insert(
        "query".into(),
        json!({
            "hostname": dns.name,
            "type": dns.qtype,
            "class": "IN",
            "opcode": "Query",
            "opcode_id": 0,
        }),
    );
    let rcode = match dns.rcode.as_str() {
        "noerror" => Some((0, "NoError")),
        "servfail" => Some((2, "ServError")),
        "nxdomain" => Some((3, "NXDomain")),
        "refused" => Some((5, "Refused")),
        _ => None,
    };
    if let Some((id, word)) = rcode {
        event.insert("rcode_id".into(), id.into());
        event.insert("rcode".into(), word.into());
    }
    let answers = answers(dns);
    if !answers.is_empty() {
        event.insert("answers".into(), answers.into());
    }
    let took = dns.took_us.map(|us| i64::try_from(us / 1000).unwrap_or(0));
    let end = flow.time.as_millisecond();
    event.insert("response_time".into(), end.into());
    event.insert("query_time".into(), (end - took.unwrap_or(0)).into());
    if let Some(took) = took {
        event.insert("duration".into(), took.into());
    }
}

fn answers(dns: &DnsQuestion) -> Vec<Value> {
    let aliases = dns
        .chain
        .iter()
        .map(|name| json!({"rdata": name, "type": "CNAME", "class": "IN"}));
    let addresses = dns.addresses.iter().map(|address| {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        let mut answer = json!({"rdata": address, "type": kind, "class": "IN"});
        if let Some(ttl) = dns.ttl {
            answer["ttl"] = ttl.into();
        }
        answer
    });
    aliases.chain(addresses).collect()
}

fn unmapped(flow: &FlowRecord) -> Value {
    let mut rest = object(json!({
        "verdict": flow.verdict.as_str(),
        "hook": flow.hook.as_str(),
        "suppressed": flow.suppressed,
    }));
    let mut put = |key: &str, value: Value| {
        rest.insert(key.to_owned(), value);
    };
    if let Some(reason) = flow.reason {
        put("reason", reason.as_str().into());
    }
    if let Some(process) = &flow.process {
        put("gid", process.gid.into());
    }
    if flow.cgroup != 0 {
        put("cgroup", id_text(flow.cgroup));
    }
    if flow.names.len() > 1 {
        put("names", json!(flow.names));
    }
    if let Some(detail) = flow.detail {
        put("detail", json!(detail));
    }
    if let Some(dns) = &flow.dns {
        put("outcome", dns.outcome.as_str().into());
        for (key, value) in [("upstream", &dns.upstream), ("source", &dns.source)] {
            if let Some(value) = value {
                put(key, value.as_str().into());
            }
        }
        if !dns.left_out.is_empty() {
            put("left_out", json!(dns.left_out));
        }
    }
    if let Some(connection) = &flow.connection {
        put("outcome", connection.outcome.as_str().into());
        put("requests", connection.requests.into());
        if let Some(kind) = &connection.kind {
            put("kind", kind.as_str().into());
        }
        if !connection.alpn.is_empty() {
            put("alpn", json!(connection.alpn));
        }
        // OCSF's certificate must have a serial number, which is not kept.
        if let Some(certificate) = &connection.certificate {
            put("certificate", json!(certificate));
        }
        if let Some(connected) = connection.connected {
            put("connected", json!(connected));
        }
        if let Some(status) = connection.proxy_status {
            put("proxy_status", status.into());
        }
        if let Some(request) = &connection.request {
            put("method", request.method.as_str().into());
            if !request.patterns.is_empty() {
                put("patterns", json!(request.patterns));
            }
        }
    }
    rest.into()
}
