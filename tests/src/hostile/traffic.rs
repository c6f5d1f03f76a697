//! Steady traffic for the fault tests: an allowed and a forbidden flow, again and again.

use crate::context::Context;
use crate::sys::{self, Address};
use serde_json::json;
use std::io::Write;
use std::process::ExitCode;

/// Until standard input ends: opens a TCP connection to the decoy (allowed) and waits for
/// one byte of answer or the end, then tries TCP and UDP to the target (forbidden). Prints
/// a line when the first round is over, so that the caller knows that it runs, and the
/// counts at the end.
pub(crate) fn run(c: &Context) -> ExitCode {
    let (mut allowed, mut failed, mut leaked, mut refused) = (0u64, 0u64, 0u64, 0u64);
    let mut errors = std::collections::BTreeMap::<String, u64>::new();
    loop {
        match allowed_round(c) {
            Ok(()) => allowed += 1,
            Err(fault) => {
                failed += 1;
                *errors
                    .entry(format!("{} errno {}", fault.call, fault.errno))
                    .or_default() += 1;
            }
        }
        for outcome in [forbidden_tcp(c), forbidden_udp(c)] {
            match outcome {
                Ok(()) => leaked += 1,
                Err(_) => refused += 1,
            }
        }
        if allowed + failed == 1 {
            println!("{}", json!({ "ready": std::process::id() }));
            let _ = std::io::stdout().flush();
        }
        if input_ended() {
            break;
        }
    }
    println!(
        "{}",
        json!({ "allowed": allowed, "failed": failed, "leaked": leaked, "refused": refused, "errors": errors })
    );
    ExitCode::SUCCESS
}

fn allowed_round(c: &Context) -> Result<(), crate::context::Fault> {
    let fd = sys::tcp(libc::AF_INET)?;
    sys::be_patient(&fd)?;
    sys::connect(&fd, &Address::new(c.decoy, c.port))?;
    sys::send(&fd, b"GET / HTTP/1.0\r\n\r\n")?;
    sys::recv(&fd, &mut [0; 64])?;
    Ok(())
}

fn forbidden_tcp(c: &Context) -> Result<(), crate::context::Fault> {
    let fd = sys::tcp(libc::AF_INET)?;
    sys::connect(&fd, &Address::new(c.target, c.port))?;
    sys::send(&fd, c.bytes())
}

fn forbidden_udp(c: &Context) -> Result<(), crate::context::Fault> {
    let fd = sys::udp(libc::AF_INET)?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.target, c.port))
}

fn input_ended() -> bool {
    use nix::poll::{PollFd, PollFlags, poll};
    use std::os::fd::AsFd;
    let stdin = std::io::stdin();
    let mut polled = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, 0u8).is_ok_and(|ready| ready > 0)
}
