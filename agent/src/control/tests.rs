//! The server against real sockets, with an engine that only answers.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use tokio_util::sync::CancellationToken;

use super::protocol::{
    Code, HoldReport, Holding, LEASES_A_LINE, Lease, LossCause, MAX_LINE, Problem, RevokeReport,
};
use super::server::{Ahead, Answer, CountsReader, Limits, Rules};
use super::session::Session;
use super::status::tests::status;
use super::*;
use crate::asking::{
    Asked, Asks, Bounds, Breadth, Choice, Desk, Grant, Lasts, Outcome, Ruling, Subject, Who,
};
use crate::flow::FlowRecord;
use crate::flow::tests::record;
use crate::sink::Hub;

/// A desk whose grants come into force by nothing.
fn desk() -> Desk {
    let desk = Desk::new(
        Bounds::default(),
        crate::dns::clock::boottime(),
        Box::new(|_| {}),
    );
    desk.put_in_force_by(Box::new(|_| Ok(())));
    desk
}

fn put(desk: &Desk, name: &str, asks: Asks, uid: u32) -> String {
    let name = name.to_owned();
    drop(desk.ask(Asked {
        agent: "a".to_owned(),
        run: None,
        subject: Subject::Name { name: name.clone() },
        port: None,
        protocol: None,
        process: None,
        asks,
        uid: Some(uid),
        timeout: 120,
    }));
    let standing = desk.subscribe().0;
    let subject = Subject::Name { name };
    let question = standing.into_iter().find(|q| q.subject == subject);
    question.expect("it stands").id
}

struct Fake {
    hub: Hub,
    desk: Desk,
    reloads: AtomicU64,
}

impl Fake {
    fn isolate_report(&self, agent: &str, on: bool) -> Result<RevokeReport, Problem> {
        Ok(RevokeReport {
            agent: agent.into(),
            grants: vec![],
            connections: 0,
            isolated: on,
            took_us: 1,
            message: "done".into(),
            warnings: vec![],
        })
    }

    fn new(follow_buffer: usize) -> Arc<Self> {
        Arc::new(Self {
            hub: Hub::with_follow_buffer(10_000, None, follow_buffer),
            desk: desk(),
            reloads: AtomicU64::new(0),
        })
    }
}

impl Handler for Fake {
    async fn status(&self) -> Status {
        status()
    }

    async fn dns(&self, agent: &str, name: &str, qtype: &str) -> Result<DnsReport, Problem> {
        Ok(DnsReport {
            agent: agent.to_owned(),
            name: name.to_owned(),
            qtype: qtype.to_owned(),
            ..DnsReport::default()
        })
    }

    async fn leases(&self, agent: Option<&str>) -> Result<Vec<Lease>, Problem> {
        if agent == Some("nobody") {
            return Err(Problem::new(
                Code::NoAgent,
                "there is no agent `nobody`",
                "",
            ));
        }
        let lease = Lease {
            agent: "a".into(),
            name: "n.example".into(),
            address: "192.0.2.1".parse().expect("address"),
            expires: "2026-03-04T12:00:00Z".parse().expect("time"),
            grace: false,
            in_use: false,
        };
        Ok(vec![lease; LEASES_A_LINE + 1])
    }

    async fn reload(&self, _: &Peer) -> Result<ReloadReport, Problem> {
        self.reloads.fetch_add(1, Ordering::SeqCst);
        Ok(ReloadReport {
            generation: 2,
            digest: "d".into(),
            agents: 1,
            rules: 2,
            sources: vec![],
            changes: vec![],
            warnings: vec![],
        })
    }

    async fn run(
        &self,
        peer: &Peer,
        agent: &str,
        _: &[protocol::ProgramFile],
    ) -> Result<RunTicket, Problem> {
        if agent == "slow" {
            std::future::pending::<()>().await;
        }
        Ok(RunTicket {
            agent: agent.into(),
            run: format!("run-{}", peer.pid()),
            cgroup: "/x".into(),
            mode: "enforce".into(),
            generation: 1,
            services: crate::policy::Services::default(),
            sandbox: crate::policy::Sandbox::None,
            warnings: vec![],
            open_files: None,
            authorities: None,
            proxies: Vec::new(),
        })
    }

    async fn hold(&self, agent: &str, how: Holding) -> Result<HoldReport, Problem> {
        Ok(HoldReport {
            agent: agent.into(),
            did: how,
            changed: true,
            confirmed: true,
            frozen: how == Holding::Frozen,
            processes: 1,
            message: "done".into(),
            next: String::new(),
            warnings: vec![],
        })
    }

    fn desk(&self) -> &Desk {
        &self.desk
    }

    async fn answer(&self, peer: &Peer, admin: bool, answer: Answer) -> Result<Grant, Problem> {
        let question = self.desk.question(&answer.question);
        let known = question.filter(|q| crate::asking::grants::may_answer(q, peer.uid(), admin));
        let none = || Problem::new(Code::NoQuestion, "no question", "");
        let id = known.ok_or_else(none)?.id;
        let who = Who {
            uid: peer.uid(),
            name: None,
            via: answer.via,
        };
        let answered = self.desk.answer(&id, answer.choice, who, answer.why);
        answered.map_err(|e| Problem::new(Code::Internal, e.to_string(), ""))
    }

    async fn grant(&self, _: &Peer, _: Ahead) -> Result<Grant, Problem> {
        Err(Problem::new(Code::NoAgent, "none", ""))
    }

    async fn grants(&self, _: Option<&str>) -> Vec<Grant> {
        Vec::new()
    }

    async fn portal(
        &self,
        _: &Peer,
        _: Option<String>,
        _: Option<u64>,
        _: Vec<String>,
    ) -> Result<super::protocol::PortalReport, Problem> {
        Err(Problem::new(Code::NoAgent, "none", ""))
    }

    async fn revoke(&self, _: &Peer, _: bool, _: &str) -> Result<RevokeReport, Problem> {
        Err(Problem::new(Code::NoGrant, "none", ""))
    }

    async fn revoke_all(&self, _: &Peer, agent: &str) -> Result<RevokeReport, Problem> {
        self.isolate_report(agent, false)
    }

    async fn isolate(&self, _: &Peer, agent: &str, on: bool) -> Result<RevokeReport, Problem> {
        self.isolate_report(agent, on)
    }

    fn hub(&self) -> &Hub {
        &self.hub
    }
}

/// A server on its own thread; stopped and joined when dropped.
struct Running {
    dir: tempfile::TempDir,
    fake: Arc<Fake>,
    counts: CountsReader,
    cancel: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(limits: Limits, cgroup: CgroupReader, fake: Arc<Fake>) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let lock = DaemonLock::acquire(dir.path()).expect("lock");
        let cancel = CancellationToken::new();
        let (tell, counts) = mpsc::channel();
        let (handler, token) = (Arc::clone(&fake), cancel.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(async {
                let server = Server::bind_with(&lock, "exeat.slice", None, cgroup, limits);
                let server = server.expect("bind");
                tell.send(server.counts()).expect("tell");
                server.serve(handler, token).await;
            });
        });
        Self {
            counts: counts.recv().expect("started"),
            dir,
            fake,
            cancel,
            thread: Some(thread),
        }
    }

    fn plain() -> Self {
        Self::start(Limits::default(), outside(), Fake::new(64))
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join(SOCKET_NAME)
    }

    fn client(&self) -> Client {
        Client::connect(&self.path()).expect("connect")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

fn outside() -> CgroupReader {
    Arc::new(|_| Ok("0::/user.slice\n".into()))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

fn refusal(result: Result<Response, ClientError>) -> Problem {
    match result {
        Err(ClientError::Refused(problem)) => problem,
        other => panic!("not refused: {other:?}"),
    }
}

fn run_request() -> Request {
    Request::Run {
        agent: "a".into(),
        program: vec![],
    }
}

fn follow() -> Request {
    Request::Events {
        follow: true,
        since_seq: None,
        agent: None,
        limit: Some(0),
    }
}

#[test]
fn one_connection_asks_many_things() {
    let running = Running::plain();
    let mut client = running.client();
    let answer = client.ask(&Request::Status {}).expect("status");
    assert_eq!(answer, Response::Status(Box::new(status())));
    let answer = client.ask(&run_request()).expect("run");
    let Response::Run(ticket) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(ticket.run, format!("run-{}", std::process::id()));
    let none = Request::Leases {
        agent: Some("nobody".into()),
    };
    assert_eq!(refusal(client.ask(&none)).code, Code::NoAgent);
    client.send(&Request::Leases { agent: None }).expect("send");
    let mut sizes = vec![];
    while let Some(Response::Leases { leases }) = client.next().expect("leases") {
        sizes.push(leases.len());
    }
    assert_eq!(sizes, [LEASES_A_LINE, 1]);
}

#[test]
fn the_socket_is_for_everybody_and_its_folder_for_nobody_else() {
    let running = Running::plain();
    let mode = |p: &Path| std::fs::metadata(p).expect("mode").mode() & 0o7777;
    assert_eq!(mode(&running.path()), 0o666);
    assert_eq!(
        std::fs::read_dir(running.dir.path()).expect("list").count(),
        2
    );
    let path = running.path();
    running.cancel.cancel();
    until("the socket is removed", || !path.exists());
}

#[test]
fn a_governed_process_is_refused_whatever_its_uid() {
    let governed: CgroupReader = Arc::new(|_| Ok("0::/exeat.slice/a/run-1\n".into()));
    let running = Running::start(Limits::default(), governed, Fake::new(64));
    for request in [
        Request::Status {},
        run_request(),
        follow(),
        Request::Reload {},
    ] {
        let problem = refusal(running.client().ask(&request));
        assert_eq!(problem.code, Code::Governed, "{request:?}");
    }
    assert_eq!(running.fake.reloads.load(Ordering::SeqCst), 0);
    let counts = running.counts.read();
    assert_eq!((counts.accepted, counts.governed), (0, 4));
}

#[test]
fn a_process_whose_cgroup_is_not_known_is_refused() {
    let unknown: CgroupReader = Arc::new(|_| Err(std::io::ErrorKind::PermissionDenied.into()));
    let running = Running::start(Limits::default(), unknown, Fake::new(64));
    let problem = refusal(running.client().ask(&Request::Status {}));
    assert_eq!(problem.code, Code::Governed);
    assert!(problem.message.contains("cannot be shown"), "{problem}");
}

/// A reader whose answer changes when the flag is set.
fn switch() -> (Arc<AtomicBool>, CgroupReader) {
    let governed = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&governed);
    let reader: CgroupReader = Arc::new(move |_| {
        Ok(match flag.load(Ordering::SeqCst) {
            true => "0::/exeat.slice/a\n".into(),
            false => "0::/\n".into(),
        })
    });
    (governed, reader)
}

#[test]
fn standing_is_looked_at_for_every_request() {
    let (governed, reader) = switch();
    let running = Running::start(Limits::default(), reader, Fake::new(64));
    let mut client = running.client();
    client.ask(&Request::Status {}).expect("outside");
    governed.store(true, Ordering::SeqCst);
    let problem = refusal(client.ask(&Request::Reload {}));
    assert_eq!(problem.code, Code::Governed);
    assert!(matches!(client.next(), Ok(None)), "the connection ends");
}

#[test]
fn a_follower_that_becomes_governed_is_cut_off() {
    let (governed, reader) = switch();
    let limits = Limits {
        recheck: Duration::from_millis(5),
        ..Limits::default()
    };
    let running = Running::start(limits, reader, Fake::new(64));
    running.fake.hub.publish(record());
    let mut client = following(&running);
    governed.store(true, Ordering::SeqCst);
    let end = client.next().expect_err("cut off");
    assert!(
        matches!(&end, ClientError::Refused(p) if p.code == Code::Governed),
        "{end}"
    );
}

#[test]
fn a_connection_that_was_passed_on_is_of_no_use() {
    let running = Running::plain();
    let stream = UnixStream::connect(running.path()).expect("connect");
    let theirs: OwnedFd = stream.try_clone().expect("clone").into();
    let line = String::from_utf8(Request::Reload {}.to_line().expect("line")).expect("text");
    let mut child = std::process::Command::new("echo")
        .arg(line.trim_end())
        .stdout(theirs)
        .spawn()
        .expect("spawn");
    child.wait().expect("wait");
    let mut text = String::new();
    (&stream).read_to_string(&mut text).expect("read");
    assert!(text.contains("\"governed\""), "{text}");
    assert_eq!(running.fake.reloads.load(Ordering::SeqCst), 0);
}

#[test]
fn descriptors_in_a_request_are_not_taken() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let running = Running::plain();
    let stream = UnixStream::connect(running.path()).expect("connect");
    let line = Request::Status {}.to_line().expect("line");
    let fds = [stream.as_raw_fd()];
    let parts = [std::io::IoSlice::new(&line)];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(stream.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).expect("send");
    let mut text = String::new();
    (&stream).read_to_string(&mut text).expect("read");
    assert!(text.contains("\"governed\""), "{text}");
}

#[test]
fn nonsense_and_lines_without_end_are_refused() {
    let running = Running::plain();
    let first = |bytes: &[u8]| -> Problem {
        let stream = UnixStream::connect(running.path()).expect("connect");
        // The server stops reading a line that is too long, so not all may be taken.
        let _ = (&stream).write_all(bytes);
        let mut text = String::new();
        let mut reader = std::io::BufReader::new(&stream);
        std::io::BufRead::read_line(&mut reader, &mut text).expect("read");
        match serde_json::from_str(&text).expect(&text) {
            Response::Error(problem) => problem,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(first(b"\n").code, Code::BadRequest);
    assert_eq!(first(b"\xff\xfe\n").code, Code::BadRequest);
    assert_eq!(
        first(b"{\"version\":1,\"method\":\"teardown\"}\n").code,
        Code::UnknownMethod
    );
    assert_eq!(first(&vec![b'x'; MAX_LINE]).code, Code::TooLong);
}

#[test]
fn half_a_request_does_not_hold_its_place() {
    let limits = Limits {
        idle: Duration::from_millis(20),
        connections: 1,
        ..Limits::default()
    };
    let running = Running::start(limits, outside(), Fake::new(64));
    let stream = UnixStream::connect(running.path()).expect("connect");
    (&stream).write_all(b"{\"vers").expect("write");
    let mut rest = Vec::new();
    // The connection's end is what is waited for; unread bytes make it a reset.
    let _ = (&stream).read_to_end(&mut rest);
    assert!(rest.is_empty());
    until("its place is free", || {
        running.client().ask(&Request::Status {}).is_ok()
    });
}

#[test]
fn too_many_connections_are_told_so() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let running = Running::start(limits, outside(), Fake::new(64));
    let mut held = [running.client(), running.client()];
    for client in &mut held {
        client.ask(&Request::Status {}).expect("has a place");
    }
    let problem = refusal(running.client().ask(&Request::Status {}));
    assert_eq!(problem.code, Code::Busy);
    drop(held);
    until("a place is free", || {
        running.client().ask(&Request::Status {}).is_ok()
    });
    assert!(running.counts.read().busy >= 1);
}

#[test]
fn an_engine_that_hangs_is_reported() {
    let limits = Limits {
        handler: Duration::from_millis(20),
        ..Limits::default()
    };
    let running = Running::start(limits, outside(), Fake::new(64));
    let slow = Request::Run {
        agent: "slow".into(),
        program: vec![],
    };
    let mut client = running.client();
    assert_eq!(refusal(client.ask(&slow)).code, Code::Busy);
    client.ask(&Request::Status {}).expect("still there");
}

#[test]
fn remembered_records_come_and_what_is_forgotten_is_told() {
    let fake = Arc::new(Fake {
        hub: Hub::new(2, None),
        desk: desk(),
        reloads: AtomicU64::new(0),
    });
    let running = Running::start(Limits::default(), outside(), fake);
    for _ in 0..5 {
        running.fake.hub.publish(record());
    }
    let mut client = running.client();
    client
        .send(&Request::Events {
            follow: false,
            since_seq: Some(1),
            agent: None,
            limit: None,
        })
        .expect("send");
    let lost = client.next().expect("lost");
    assert!(matches!(
        lost,
        Some(Response::Lost {
            records: 2,
            cause: LossCause::Overwritten
        })
    ));
    for seq in [4, 5] {
        let flow = client.next().expect("flow");
        assert!(matches!(flow, Some(Response::Flow(f)) if f.seq == seq));
    }
    let end = client.next().expect("end");
    assert!(matches!(end, Some(Response::End { last_seq: 5 })));
}

/// Asks to follow and reads until the first record shows that it does.
fn following(running: &Running) -> Client {
    let mut client = running.client();
    client
        .send(&Request::Events {
            follow: true,
            since_seq: Some(0),
            agent: None,
            limit: Some(1),
        })
        .expect("send");
    let first = client.next().expect("first");
    assert!(matches!(first, Some(Response::Flow(f)) if f.seq == 1));
    client
}

#[test]
fn a_follower_that_is_slow_is_told_what_it_lost() {
    const RECORDS: u64 = 5000;
    let running = Running::start(Limits::default(), outside(), Fake::new(4));
    running.fake.hub.publish(record());
    let mut client = following(&running);
    for _ in 0..RECORDS {
        running.fake.hub.publish(record());
    }
    let (mut got, mut lost) = (0, 0);
    while got + lost < RECORDS {
        match client.next().expect("next").expect("not the end") {
            Response::Flow(_) => got += 1,
            Response::Lost { records, cause } => {
                assert_eq!(cause, LossCause::SlowReader);
                lost += records;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(lost > 0, "5000 records fit into no socket buffer");
    assert_eq!(running.fake.hub.counts().follower_lost, lost);
}

#[test]
fn a_follower_that_does_not_read_is_dropped() {
    let limits = Limits {
        write: Duration::from_millis(20),
        ..Limits::default()
    };
    let running = Running::start(limits, outside(), Fake::new(4096));
    running.fake.hub.publish(record());
    let client = following(&running);
    until("it is dropped", || {
        running.fake.hub.publish(record());
        running.counts.read().slow == 1
    });
    drop(client);
}

#[test]
fn stopping_ends_followers_in_order() {
    let running = Running::plain();
    running.fake.hub.publish(record());
    let mut client = following(&running);
    running.cancel.cancel();
    let end = client.next().expect("end");
    assert!(
        matches!(end, Some(Response::End { last_seq: 1 })),
        "{end:?}"
    );
    assert!(matches!(client.next(), Ok(None)));
}

#[test]
fn a_second_daemon_does_not_start() {
    let dir = tempfile::tempdir().expect("dir");
    let lock = DaemonLock::acquire(dir.path()).expect("first");
    let text = DaemonLock::acquire(dir.path())
        .expect_err("second")
        .to_string();
    assert!(
        text.contains(&format!("pid {}", std::process::id())),
        "{text}"
    );
    drop(lock);
    DaemonLock::acquire(dir.path()).expect("after the first");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().expect("dir");
    let lock = DaemonLock::acquire(dir.path()).expect("lock");
    let path = dir.path().join(SOCKET_NAME);
    let other = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let live = Server::bind(&lock, "s", None).err().expect("live");
    assert!(matches!(live, StartError::Running { .. }), "{live}");
    let both = nix::sys::socket::Shutdown::Both;
    nix::sys::socket::shutdown(other.as_raw_fd(), both).expect("shutdown");
    Server::bind(&lock, "s", None).expect("stale");
}

#[test]
fn a_folder_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("dir");
    let mode = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(dir.path(), mode).expect("mode");
    let text = DaemonLock::acquire(dir.path())
        .expect_err("writable")
        .to_string();
    assert!(text.contains("mode 0777"), "{text}");
    let target = tempfile::tempdir().expect("dir");
    let link = target.path().join("link");
    std::os::unix::fs::symlink(target.path(), &link).expect("link");
    assert!(matches!(
        DaemonLock::acquire(&link),
        Err(StartError::Directory { .. })
    ));
}

/// One session with a peer of another user, without a listener.
async fn as_user(uid: u32, admin_gid: Option<u32>, request: Request, fake: Arc<Fake>) -> String {
    let (server, client) = UnixStream::pair().expect("pair");
    setsockopt(&server, sockopt::PassCred, &true).expect("credentials");
    server.set_nonblocking(true).expect("nonblocking");
    let rules = Rules {
        slice: "exeat.slice".into(),
        admin_gid,
        cgroup: outside(),
        limits: Limits::default(),
        counters: Arc::default(),
    };
    let server = tokio::net::UnixStream::from_std(server).expect("stream");
    let session = Session::new(server, Peer::as_user(uid), Arc::new(rules));
    (&client)
        .write_all(&request.to_line().expect("line"))
        .expect("write");
    client
        .shutdown(std::net::Shutdown::Write)
        .expect("shutdown");
    session.run(fake, CancellationToken::new()).await;
    let mut text = String::new();
    (&client).read_to_string(&mut text).expect("read");
    text
}

#[tokio::test]
async fn other_users_may_ask_and_run_but_not_administer() {
    let fake = Fake::new(8);
    let ask = |uid, gid, request| as_user(uid, gid, request, Arc::clone(&fake));
    assert!(
        ask(1000, None, Request::Status {})
            .await
            .contains("\"status\"")
    );
    assert!(ask(1000, None, run_request()).await.contains("\"run\""));
    assert!(
        ask(1000, None, Request::Reload {})
            .await
            .contains("not_permitted")
    );
    assert!(
        ask(1000, Some(7), Request::Reload {})
            .await
            .contains("not_permitted")
    );
    assert_eq!(fake.reloads.load(Ordering::SeqCst), 0);
    assert!(
        ask(7, Some(7), Request::Reload {})
            .await
            .contains("\"reload\"")
    );
    assert!(
        ask(0, None, Request::Reload {})
            .await
            .contains("\"reload\"")
    );
    assert_eq!(fake.reloads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn other_users_see_flows_of_their_own_processes_only() {
    let fake = Fake::new(8);
    let of = |uid| -> FlowRecord {
        let mut r = record();
        r.process.as_mut().expect("process").uid = uid;
        r
    };
    for uid in [1000, 1001, 1000] {
        fake.hub.publish(of(uid));
    }
    let mut without_process = of(1000);
    without_process.process = None;
    fake.hub.publish(without_process);
    for (uid, seen) in [(1000, 2), (1001, 1), (1002, 0), (0, 4)] {
        let request = Request::Events {
            follow: false,
            since_seq: None,
            agent: None,
            limit: None,
        };
        let text = as_user(uid, None, request, Arc::clone(&fake)).await;
        let flows = text.matches("\"type\":\"flow\"").count();
        assert_eq!(flows, seen, "uid {uid}: {text}");
    }
}

#[test]
fn questions_are_shown_to_those_who_may_answer_them() {
    let running = Running::plain();
    let desk = running.fake.desk.clone();
    let me = nix::unistd::getuid().as_raw();
    let mine = put(&desk, "mine.example", Asks::User, me);
    let admins = put(&desk, "admins.example", Asks::Admin, me);
    let others = put(&desk, "others.example", Asks::User, me + 1);
    // Root sees all of them.
    let expected: Vec<String> = match me {
        0 => vec![mine.clone(), admins, others],
        _ => vec![mine.clone()],
    };
    let mut client = running.client();
    let ask = |follow| Request::Questions {
        follow,
        agent: None,
    };
    client.send(&ask(false)).expect("send");
    let mut seen = Vec::new();
    while let Some(Response::Question(question)) = client.next().expect("question") {
        seen.push(question.id);
    }
    assert_eq!(seen, expected);

    let mut follower = running.client();
    follower.send(&ask(true)).expect("send");
    for _ in &expected {
        assert!(matches!(follower.next(), Ok(Some(Response::Question(_)))));
    }
    let choice = Choice {
        ruling: Ruling::Allow,
        lasts: Lasts::Once,
        breadth: Breadth::This,
    };
    let answer = |question: &str| Request::Answer {
        question: question.to_owned(),
        choice,
        via: "cli".to_owned(),
        why: None,
    };
    let answered = client.ask(&answer(&mine)).expect("answered");
    let Response::Granted(grant) = answered else {
        panic!("{answered:?}");
    };
    assert_eq!((grant.by.uid, grant.question.as_ref()), (me, Some(&mine)));
    let Ok(Some(Response::Settled(settled))) = follower.next() else {
        panic!("it ended");
    };
    assert_eq!(
        (settled.question, settled.outcome),
        (mine.clone(), Outcome::Allowed)
    );
    assert_eq!(refusal(client.ask(&answer(&mine))).code, Code::NoQuestion);
}

/// A session of a user who does not administer, against a desk with questions of others.
#[tokio::test]
async fn a_user_gets_own_questions_and_answers_no_others() {
    let fake = Fake::new(16);
    let me = 4242;
    let mine = put(&fake.desk, "mine.example", Asks::User, me);
    let others = put(&fake.desk, "others.example", Asks::User, me + 1);
    let admins = put(&fake.desk, "admins.example", Asks::Admin, me);
    let say = async |request: Request| {
        let text = as_user(me, None, request, Arc::clone(&fake)).await;
        let line = text.lines().next().expect("an answer").to_owned();
        serde_json::from_str::<Response>(&line).expect("answer")
    };
    let answer = |question: &str| Request::Answer {
        question: question.to_owned(),
        choice: Choice {
            ruling: Ruling::Allow,
            lasts: Lasts::Once,
            breadth: Breadth::This,
        },
        via: "cli".to_owned(),
        why: None,
    };
    for id in [&others, &admins] {
        let refused = say(answer(id)).await;
        assert!(matches!(refused, Response::Error(p) if p.code == Code::NoQuestion));
    }
    for request in [
        Request::Portal {
            agent: None,
            seconds: Some(60),
            hosts: Vec::new(),
        },
        Request::Isolate {
            agent: "a".into(),
            on: true,
        },
        Request::Revoke {
            grant: None,
            agent: Some("a".into()),
        },
        Request::Grant {
            agent: "a".into(),
            subject: crate::asking::GrantSubject::Name {
                name: "n.example".into(),
            },
            port: None,
            ruling: Ruling::Allow,
            lasts: Lasts::Always,
            via: "cli".into(),
            why: None,
        },
    ] {
        let refused = say(request.clone()).await;
        assert!(
            matches!(&refused, Response::Error(p) if p.code == Code::NotPermitted),
            "{request:?}: {refused:?}"
        );
    }
    let questions = say(Request::Questions {
        follow: false,
        agent: None,
    })
    .await;
    assert!(
        matches!(&questions, Response::Question(q) if q.id == mine),
        "{questions:?}"
    );
    assert_eq!(fake.desk.pending(None), 3, "nothing was settled");
}
