//! The control run: without any enforcement every technique gets its byte out. A
//! technique that cannot get out here proves nothing when it does not get out under a
//! policy, so each exception stands in a table with its reason.

use exeat_tests::attack::{Attack, Effect, Free, allowed_by_decoy_policy};
use exeat_tests::record;
use exeat_tests::technique::list;
use exeat_tests::world::World;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use Effect::{Out, Refused, Unsupported};

/// Techniques that do not get out even here. Those that a kernel may lack by its
/// configuration may also get out, on one that has them.
const EXCEPTIONS: &[(&str, &[Effect], &str)] = &[
    (
        "alg",
        &[Unsupported(libc::EAFNOSUPPORT), Out],
        "CONFIG_CRYPTO_USER_API",
    ),
    (
        "bluetooth",
        &[Unsupported(libc::EAFNOSUPPORT), Out],
        "CONFIG_BT",
    ),
    ("can", &[Unsupported(libc::EAFNOSUPPORT), Out], "CONFIG_CAN"),
    (
        "kcm",
        &[Unsupported(libc::EAFNOSUPPORT), Out],
        "CONFIG_AF_KCM",
    ),
    ("nfc", &[Unsupported(libc::EAFNOSUPPORT), Out], "CONFIG_NFC"),
    (
        "pppox",
        &[Unsupported(libc::EAFNOSUPPORT), Out],
        "CONFIG_PPPOE",
    ),
    (
        "qipcrtr",
        &[Unsupported(libc::EAFNOSUPPORT), Out],
        "CONFIG_QRTR",
    ),
    ("rds", &[Unsupported(libc::EAFNOSUPPORT), Out], "CONFIG_RDS"),
    ("smc", &[Unsupported(libc::EAFNOSUPPORT), Out], "CONFIG_SMC"),
    (
        "tipc",
        &[Unsupported(libc::EAFNOSUPPORT), Out],
        "CONFIG_TIPC",
    ),
    ("x25", &[Unsupported(libc::EAFNOSUPPORT), Out], "CONFIG_X25"),
    (
        "sctp",
        &[Unsupported(libc::EPROTONOSUPPORT), Out],
        "CONFIG_IP_SCTP",
    ),
    (
        "dccp",
        &[
            Unsupported(libc::ESOCKTNOSUPPORT),
            Unsupported(libc::EPROTONOSUPPORT),
            Out,
        ],
        "removed in 6.16",
    ),
    (
        "udplite-connect-send",
        &[Unsupported(libc::EPROTONOSUPPORT), Out],
        "no longer in 7.3",
    ),
    (
        "udplite6-sendto",
        &[Unsupported(libc::EPROTONOSUPPORT), Out],
        "no longer in 7.3",
    ),
    (
        "udplite4-sendto",
        &[Unsupported(libc::EPROTONOSUPPORT), Out],
        "no longer in 7.3",
    ),
    (
        "tun-forward",
        &[Unsupported(libc::ENOENT), Out],
        "CONFIG_TUN; a module makes its device only when it is loaded",
    ),
    (
        "accept-mptcp",
        &[Unsupported(libc::EPROTONOSUPPORT), Out],
        "CONFIG_MPTCP",
    ),
    (
        "mptcp4",
        &[Unsupported(libc::EPROTONOSUPPORT), Out],
        "CONFIG_MPTCP",
    ),
    (
        "mptcp6",
        &[Unsupported(libc::EPROTONOSUPPORT), Out],
        "CONFIG_MPTCP",
    ),
    (
        "uring-socket",
        &[Unsupported(libc::EOPNOTSUPP), Out],
        "since 5.19",
    ),
    (
        "uring-udp-send-zc",
        &[Unsupported(libc::EOPNOTSUPP), Out],
        "since 6.0",
    ),
    (
        "bpf-links",
        &[Unsupported(libc::ENOENT), Out],
        "whether the machine has a BPF link is not ours to say",
    ),
    (
        "segment-routing-cmsg",
        &[Refused(libc::EINVAL)],
        "the kernel takes type 4 by setsockopt only",
    ),
    (
        "segment-routing-2292",
        &[Refused(libc::EINVAL)],
        "the kernel takes type 4 by setsockopt only",
    ),
    (
        "dns-foreign-gate",
        &[Refused(libc::ECONNREFUSED)],
        "without a daemon there is no gate",
    ),
    (
        "kill-daemon",
        &[Refused(libc::EPERM)],
        "a user may not harm root's process; see kill-daemon-root",
    ),
    (
        "ptrace-daemon",
        &[Refused(libc::EPERM)],
        "see ptrace-daemon-root",
    ),
    (
        "pidfd-getfd-daemon",
        &[Refused(libc::EPERM)],
        "see pidfd-getfd-daemon-root",
    ),
    (
        "proc-mem-daemon",
        &[Refused(libc::EACCES)],
        "see proc-mem-daemon-root",
    ),
];

/// Answers whoever asks, as the control socket of a careless daemon would.
fn careless_socket(world: &World) -> std::path::PathBuf {
    use std::io::{Read, Write};
    let path = world.folder().join("careless.sock");
    let listener = UnixListener::bind(&path).expect("bind the careless socket");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("chmod");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"{}\n");
        }
    });
    path
}

#[test]
fn without_enforcement_every_technique_gets_out() {
    let world = World::new().expect("world");
    let sniffer = world.sniffer().expect("sniffer");
    let _dns = world.dns().expect("dns");
    // What goes to the decoy as a policy would allow is passed over here too, so that a
    // technique which only ever reaches the decoy does not pass for one that gets out.
    let attack = Attack {
        socket: &careless_socket(&world),
        folder: world.folder(),
        ..Attack::typical(&world, &sniffer, &allowed_by_decoy_policy)
    };
    std::fs::set_permissions(world.folder(), std::fs::Permissions::from_mode(0o777))
        .expect("chmod");
    let sinks = attack.sinks().expect("sinks");
    let mut victim = Command::new("/usr/bin/sleep")
        .arg("1000")
        .spawn()
        .expect("victim");
    let attack = Attack {
        victim: victim.id(),
        ..attack
    };
    let all = list().expect("list");
    let reports = attack.run_all(&all, &Free(&world));
    victim.kill().expect("kill the victim");
    victim.wait().expect("wait for the victim");

    let reports = reports.expect("run every technique");
    record::effects("free", &all, &reports).expect("record");
    let mut surprises = Vec::new();
    for (name, report) in &reports {
        let exception = EXCEPTIONS.iter().find(|(of, ..)| of == name);
        let expected = exception.map_or([Out].as_slice(), |(_, effects, _)| effects);
        if !expected.contains(&report.effect) {
            surprises.push(format!(
                "{name}: expected {expected:?}, got {:?}: {}",
                report.effect, report.said
            ));
        }
    }
    for (name, ..) in EXCEPTIONS {
        if !reports.contains_key(*name) {
            surprises.push(format!(
                "{name}: in the table of exceptions, but no such technique"
            ));
        }
    }
    let count = surprises.len();
    assert!(
        surprises.is_empty(),
        "{count} of {}:\n{}",
        reports.len(),
        surprises.join("\n")
    );
    assert_eq!(sniffer.lost().expect("counters"), 0);
    assert!(sinks.accepted() > 0, "no TCP connection reached a sink");
}
