//! A program that tries to get a byte out. A fixture: each technique is one small
//! function, and what it reports of itself is never the proof; the sniffer outside is.
//!
//! ```text
//! hostile list
//! hostile list-confined
//! hostile TECHNIQUE --target IP --target6 IP --port N --payload TOKEN [...]
//! ```
//!
//! Prints one line of JSON and exits 0 if every call succeeded ("sent"), 1 if one was
//! refused, 2 if this kernel has no such thing, 64 on wrong usage.

mod bpf;
mod cmsg;
mod confine;
mod context;
mod dns;
mod escape;
mod families;
mod inherit;
mod listen;
mod multicast;
mod options;
mod packet;
mod packets;
mod process;
mod proto;
mod stream;
mod sys;
mod tcp;
mod traffic;
mod udp;
mod uring;

use context::{Context, Technique};
use serde_json::json;
use std::process::ExitCode;

/// Every technique, in the order of the files.
const ALL: &[&[Technique]] = &[
    tcp::TECHNIQUES,
    stream::TECHNIQUES,
    udp::TECHNIQUES,
    uring::TECHNIQUES,
    proto::TECHNIQUES,
    packet::TECHNIQUES,
    options::TECHNIQUES,
    multicast::TECHNIQUES,
    listen::TECHNIQUES,
    dns::TECHNIQUES,
    inherit::TECHNIQUES,
    process::TECHNIQUES,
    escape::TECHNIQUES,
    bpf::TECHNIQUES,
    families::TECHNIQUES,
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        eprintln!(
            "usage: hostile list | hostile traffic ... | hostile TECHNIQUE --target IP --port N --payload TOKEN"
        );
        return ExitCode::from(64);
    };
    let context = match Context::parse(arguments) {
        Ok(context) => context,
        Err(error) => {
            eprintln!("hostile: {error}");
            return ExitCode::from(64);
        }
    };
    let confined = [confine::TECHNIQUES];
    let list = match name.as_str() {
        "list" => Some(ALL),
        "list-confined" => Some(confined.as_slice()),
        _ => None,
    };
    if let Some(list) = list {
        let all: Vec<_> = list
            .iter()
            .flat_map(|group| group.iter())
            .map(Technique::describe)
            .collect();
        println!("{}", json!(all));
        return ExitCode::SUCCESS;
    }
    if name == "traffic" {
        return traffic::run(&context);
    }
    let Some(technique) = ALL
        .iter()
        .chain(&confined)
        .flat_map(|group| group.iter())
        .find(|t| t.name == name)
    else {
        eprintln!("hostile: there is no technique {name}; `hostile list` names them");
        return ExitCode::from(64);
    };
    let (outcome, errno, detail, code) = match (technique.run)(&context) {
        Ok(detail) => ("sent", None, detail, 0),
        Err(fault) if fault.is_unsupported() => {
            ("unsupported", Some(fault.errno), fault.call.to_owned(), 2)
        }
        Err(fault) => ("refused", Some(fault.errno), fault.call.to_owned(), 1),
    };
    println!(
        "{}",
        json!({ "technique": name, "outcome": outcome, "errno": errno, "detail": detail })
    );
    ExitCode::from(code)
}
