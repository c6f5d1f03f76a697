//! A program that asks: `bench ask SERVER`, started inside or outside of an agent.

use crate::remote::{self, Remote};
use anyhow::{Context, bail, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

/// Names that are asked: the first `{}` of a pattern is a number, of so many in turn.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Names {
    pub(super) pattern: String,
    pub(super) first: u32,
    pub(super) count: u32,
}

impl Names {
    fn get(&self, turn: u32) -> String {
        let number = self.first + turn % self.count;
        self.pattern.replacen("{}", &number.to_string(), 1)
    }
}

/// What to do.
#[derive(Serialize, Deserialize)]
pub(super) enum Order {
    /// So many questions, one after the other.
    Ask { names: Names, questions: u32 },
    /// As many as there are answers to, some always under way, for a time, on one CPU.
    Flood {
        names: Names,
        window: u16,
        milliseconds: u64,
        cpu: usize,
    },
}

/// What came of it.
#[derive(Serialize, Deserialize)]
pub(super) enum Done {
    /// Nanoseconds of each question.
    Asked(Vec<u64>),
    /// Answers, and in how many seconds.
    Flooded { answers: u64, seconds: f64 },
}

/// `bench ask SERVER`.
pub(crate) fn main(server: &str) -> anyhow::Result<ExitCode> {
    let server: SocketAddr = server.parse().context("SERVER")?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server).context("connect")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    for order in remote::orders() {
        let done = match order? {
            Order::Ask { names, questions } => ask(&socket, &names, questions)?,
            Order::Flood {
                names,
                window,
                milliseconds,
                cpu,
            } => {
                let mut cpus = CpuSet::new();
                cpus.set(cpu)?;
                sched_setaffinity(Pid::from_raw(0), &cpus)?;
                flood(&socket, &names, window, Duration::from_millis(milliseconds))?
            }
        };
        remote::answer(&done)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(socket: &UdpSocket, names: &Names, questions: u32) -> anyhow::Result<Done> {
    let queries: Vec<Vec<u8>> = (0..questions)
        .map(|turn| query(turn as u16, &names.get(turn)))
        .collect();
    let mut buffer = [0; 2048];
    let mut took = Vec::with_capacity(queries.len());
    for query in &queries {
        let begun = Instant::now();
        socket.send(query).context("send")?;
        let length = socket.recv(&mut buffer).context("no answer")?;
        took.push(begun.elapsed().as_nanos() as u64);
        ensure!(buffer[..2] == query[..2], "an answer to another question");
        judge(&buffer[..length])?;
    }
    Ok(Done::Asked(took))
}

fn flood(socket: &UdpSocket, names: &Names, window: u16, time: Duration) -> anyhow::Result<Done> {
    let queries: Vec<Vec<u8>> = (0..names.count)
        .map(|turn| query(turn as u16, &names.get(turn)))
        .collect();
    let mut next = queries.iter().cycle();
    let mut send = || -> anyhow::Result<()> {
        let query = next.next().context("no names")?;
        socket.send(query).context("send").map(drop)
    };
    let mut buffer = [0; 2048];
    let begun = Instant::now();
    for _ in 0..window {
        send()?;
    }
    let mut answers = 0;
    while begun.elapsed() < time {
        let length = socket.recv(&mut buffer).context("an answer was lost")?;
        judge(&buffer[..length])?;
        answers += 1;
        send()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    for _ in 0..window {
        socket.recv(&mut buffer).context("an answer was lost")?;
    }
    Ok(Done::Flooded { answers, seconds })
}

/// A refusal would be measured as an answer, and a fast one.
fn judge(reply: &[u8]) -> anyhow::Result<()> {
    let code = reply.get(3).context("a short answer")? & 15;
    ensure!(
        code == 0 && reply.get(6..8) != Some(&[0, 0]),
        "rcode {code}, or no data"
    );
    Ok(())
}

/// A question for an address, as a C library asks it.
pub(super) fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

/// The program as it is seen from outside.
pub(super) struct Client(Remote);

impl Client {
    /// Starts a command that becomes it.
    pub(super) fn start(command: Command) -> anyhow::Result<Self> {
        Remote::start(command).map(Self)
    }

    /// Gives an order that is asked about later.
    pub(super) fn order(&mut self, order: &Order) -> anyhow::Result<()> {
        self.0.order(order)
    }

    /// Microseconds of each of so many questions.
    pub(super) fn ask(&mut self, names: &Names, questions: u32) -> anyhow::Result<Vec<f64>> {
        let names = names.clone();
        self.order(&Order::Ask { names, questions })?;
        match self.0.done()? {
            Done::Asked(took) => Ok(took.into_iter().map(|nanos| nanos as f64 / 1e3).collect()),
            Done::Flooded { .. } => bail!("a client did something else"),
        }
    }

    /// Answers of a flood that was ordered, and its seconds.
    pub(super) fn flooded(&mut self) -> anyhow::Result<(u64, f64)> {
        match self.0.done()? {
            Done::Flooded { answers, seconds } => Ok((answers, seconds)),
            Done::Asked(_) => bail!("a client did something else"),
        }
    }
}
