//! Clients of other people: a hundred names that the policy allows and a hundred that it does
//! not, all at one address, by IPv4, IPv6 and v4-mapped IPv6.
//!
//! A client is given an address, the file of a certificate authority, the seconds that it may
//! wait, and a file of names. It asks many of them at once and says `served NAME`, or `refused
//! NAME` and why, a line each.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::clients;
use exeat_tests::http::{Authority, HttpHost};
use exeat_tests::puppet::Puppet;
use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::wait;
use exeat_tests::world::open_to_all;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The address that all of them share.
const SHARED: &str = "203.0.113.30";
const SHARED_V6: &str = "2001:db8::30";
/// As an IPv6 socket says it.
const MAPPED: &str = "::ffff:203.0.113.30";

const COUNT: usize = 100;

/// What a client waits for an answer that does not come.
const WAIT: u64 = 6;

/// What judges the connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// The kernel reads the hello of a connection that goes straight to the host.
    Straight,
    /// The gateway reads it, which the kernel has steered the connection to.
    Gateway,
}

/// What a client is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Both ways, at every kind of address.
    Quick,
    /// By the gateway at one address only. That every kind of address is steered there, the
    /// quick ones tell; what differs from client to client is the hello.
    Slow,
}

struct Scene {
    way: Way,
    addresses: &'static [&'static str],
    stage: Stage,
    hosts: [HttpHost; 2],
    authority: PathBuf,
    names: PathBuf,
    allowed: BTreeSet<String>,
}

impl Scene {
    /// `rule` is what every rule says besides its name, its port and its way.
    fn new(way: Way, pace: Pace, rule: &str) -> Self {
        let names = |kind: &str| -> BTreeSet<String> {
            let of = |n: usize| match n % 3 {
                0 => format!("{kind}-{n}.wild.example"),
                1 => format!("{kind}{n}.example"),
                _ => format!("a.longer.name.of-{kind}.number-{n}.tenants.cdn.example"),
            };
            (0..COUNT).map(of).collect()
        };
        let (allowed, forbidden) = (names("good"), names("evil"));
        let mut policy = "version: 1\nagents:\n  worker:\n    allow:\n".to_owned();
        let via = match way {
            Way::Straight => "",
            Way::Gateway => ", via: gateway",
        };
        for name in &allowed {
            policy += &format!("      - {{ host: {name}, ports: [443]{via}{rule} }}\n");
        }
        let stage = Stage::new(&policy, "").expect("stage");
        for name in allowed.iter().chain(&forbidden) {
            stage.dns.set(name, &[SHARED, SHARED_V6], 600);
        }
        let authority = Authority::new().expect("authority");
        let all: Vec<&str> = allowed
            .iter()
            .chain(&forbidden)
            .map(String::as_str)
            .collect();
        let host = |address: &str| {
            let host = stage.world.https(address, &authority, &all);
            host.expect("host")
        };
        let hosts = [host("203.0.113.30:443"), host("[2001:db8::30]:443")];
        let authority = authority.write(stage.world.folder()).expect("authority");
        let names = file(&stage, "names", &(all.join("\n") + "\n"));
        let mut agent: Puppet = stage.daemon.puppet(AGENT).expect("puppet");
        for name in &allowed {
            let asked = format!("len(getaddrinfo({name:?}, 443, type=SOCK_STREAM))");
            assert_eq!(agent.value(&asked).expect(name), 2, "{name}");
        }
        let addresses: &[&str] = match (way, pace) {
            (Way::Gateway, Pace::Slow) => &[SHARED_V6],
            _ => &[SHARED, SHARED_V6, MAPPED],
        };
        Self {
            way,
            addresses,
            stage,
            hosts,
            authority,
            names,
            allowed,
        }
    }

    /// Has a client ask for all names; `words` come before those that every client is given.
    fn ask(&self, program: &Path, words: &[String]) {
        for address in self.addresses {
            let mut argv = vec![program.display().to_string()];
            argv.extend_from_slice(words);
            argv.extend([
                (*address).to_owned(),
                self.authority.display().to_string(),
                wait::seconds(WAIT),
                self.names.display().to_string(),
            ]);
            self.judge(address, &argv);
        }
    }

    /// The allowed names are served, each of them, and no other is.
    fn judge(&self, address: &str, argv: &[String]) {
        let before = self.served();
        let output = self
            .stage
            .daemon
            .run_command(AGENT, PLAIN_USER, argv)
            .stdin(Stdio::null())
            .output()
            .expect("run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        let what = || format!("{} {:?} to {address}: {text}{errors}", argv[0], self.way);
        let said = |word: &str| -> BTreeSet<String> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(word));
            let names = lines.filter_map(|rest| rest.split_whitespace().next());
            names.map(str::to_owned).collect()
        };
        assert_eq!(said("served "), self.allowed, "{}", what());
        assert_eq!(said("refused ").len(), COUNT, "{}", what());
        // The judge is the host.
        let mut served = self.served().split_off(before.len());
        served.sort();
        assert_eq!(served, Vec::from_iter(self.allowed.clone()), "{}", what());
    }

    /// Names were refused where they should have been, and nowhere else.
    fn went_that_way(&self) {
        let hook = match self.way {
            Way::Straight => "egress",
            Way::Gateway => "gateway",
        };
        let refused = |e: &Value| e["reason"] == "tls_name";
        let daemon = &self.stage.daemon;
        daemon.event(refused).expect("an event");
        for event in daemon.events().expect("events") {
            assert!(!refused(&event) || event["hook"] == hook, "{event}");
        }
    }

    /// The names that the hosts have served.
    fn served(&self) -> Vec<String> {
        let requests = self.hosts.iter().flat_map(|host| {
            let requests = host.requests().into_iter();
            requests.map(|request| (request.at, request.server_name.unwrap_or_default()))
        });
        let mut all: Vec<_> = requests.collect();
        all.sort();
        all.into_iter().map(|(_, name)| name).collect()
    }

    /// A client whose program is a script.
    fn script(&self, interpreter: &Path, name: &str, text: &str) {
        let script = file(&self.stage, name, text);
        self.ask(interpreter, &[script.display().to_string()]);
    }

    /// A client that is a process for each name. `ask` is how a shell starts it: what it reads
    /// is the request, and what it writes has the answer.
    fn processes(&self, program: &Path, ask: &str) {
        // A file: NSS's client turns in circles at the end of a pipe.
        let request = "GET / HTTP/1.1\r\nHost: shared.example\r\n\r\n";
        let request = file(&self.stage, "request", request).display().to_string();
        let text = PROCESSES.replace("ASK", ask).replace("REQUEST", &request);
        let script = file(&self.stage, "tls.sh", &text);
        let words = [&script, program].map(|path| path.display().to_string());
        self.ask(Path::new("/bin/sh"), &words);
    }
}

/// Starts itself again for each name. Not for all at once: two hundred processes that begin
/// together take longer than a client may wait.
const PROCESSES: &str = r#"
[ $# = 5 ] && exec xargs -P 20 -n 1 /bin/sh "$0" "$@" < "$5"
program=$1 address=$2 authority=$3 seconds=$4 name=$6
case $address in *:*) host="[$address]" ;; *) host=$address ;; esac
got=$(timeout "$seconds" ASK < 'REQUEST' 2>&1)
case $got in
*reached*) echo served "$name" ;;
*) printf 'refused %s %s\n' "$name" "$(printf %s "$got" | tail -n 1)" ;;
esac
"#;

/// Sets a scene for each way.
fn each_way(pace: Pace, rule: &str, client: impl Fn(&Scene)) {
    for way in [Way::Straight, Way::Gateway] {
        let scene = Scene::new(way, pace, rule);
        client(&scene);
        scene.went_that_way();
    }
}

fn file(stage: &Stage, name: &str, text: &str) -> PathBuf {
    let path = stage.world.folder().join(name);
    std::fs::write(&path, text).expect("write");
    open_to_all(&path).expect("chmod");
    path
}

#[test]
fn python() {
    let text = include_str!("../../clients/tls.py");
    let python = Path::new("/usr/bin/python3");
    each_way(Pace::Quick, "", |scene| {
        scene.script(python, "tls.py", text)
    });
}

#[test]
fn rustls() {
    let program = clients::own("tls_client");
    each_way(Pace::Quick, "", |scene| scene.ask(&program, &[]));
}

#[test]
fn go() {
    if let Some(program) = clients::find("tls-go") {
        each_way(Pace::Quick, "", |scene| scene.ask(&program, &[]));
    }
}

#[test]
fn node() {
    if let Some(program) = clients::find("node") {
        let text = include_str!("../../clients/tls.js");
        each_way(Pace::Quick, "", |scene| {
            scene.script(&program, "tls.js", text)
        });
    }
}

#[test]
fn java() {
    if let Some(program) = clients::find("java") {
        let text = include_str!("../../clients/Tls.java");
        each_way(Pace::Slow, "", |scene| {
            scene.script(&program, "Tls.java", text)
        });
    }
}

/// The machine's.
#[test]
fn openssl() {
    if let Some(program) = clients::find("openssl") {
        each_way(Pace::Slow, "", |scene| scene.processes(&program, OPENSSL));
    }
}

/// Shows X25519MLKEM768 beside X25519, in 1,550 bytes.
#[test]
fn openssl_with_ml_kem() {
    if let Some(program) = clients::find("openssl-3.5") {
        each_way(Pace::Slow, "", |scene| scene.processes(&program, OPENSSL));
    }
}

const OPENSSL: &str = r#""$program" s_client -connect "$host:443" -servername "$name" \
    -verify_hostname "$name" -CAfile "$authority" -verify_return_error -quiet -ign_eof"#;

/// Firefox's library. It shows ML-KEM alone, which the hosts do not know, and so says hello
/// twice.
#[test]
fn nss() {
    let (Some(program), Some(databases)) = (clients::find("tstclnt"), clients::find("certutil"))
    else {
        return;
    };
    each_way(Pace::Slow, "", |scene| {
        let database = nss_database(scene, &databases);
        let ask = format!(
            r#""$program" -h "$address" -p 443 -a "$name" -d '{database}' \
            -I mlkem768x25519,x25519,P256"#
        );
        scene.processes(&program, &ask);
    });
}

/// One that trusts the authority, and every user may read.
fn nss_database(scene: &Scene, certutil: &Path) -> String {
    let folder = scene.stage.world.folder().join("nss");
    std::fs::create_dir(&folder).expect("mkdir");
    let database = format!("sql:{}", folder.display());
    let authority = scene.authority.display().to_string();
    for words in [
        &["-N", "--empty-password"][..],
        &["-A", "-n", "ca", "-t", "C,,", "-i", &authority],
    ] {
        let mut certutil = Command::new(certutil);
        let output = certutil.args(words).args(["-d", &database]).output();
        let output = output.expect("certutil");
        assert!(output.status.success(), "{output:?}");
    }
    for entry in std::fs::read_dir(&folder).expect("list") {
        open_to_all(&entry.expect("entry").path()).expect("chmod");
    }
    open_to_all(&folder).expect("chmod");
    database
}

#[test]
fn gnutls() {
    if let Some(program) = clients::find("gnutls-cli") {
        let ask = r#""$program" --x509cafile "$authority" --sni-hostname "$name" \
            --verify-hostname "$name" -p 443 "$address""#;
        each_way(Pace::Slow, "", |scene| scene.processes(&program, ask));
    }
}

/// Chromium's library, and what Chromium puts in its hellos: unknown values (RFC 8701), another
/// order each time, and what looks like an encrypted hello.
#[test]
fn boringssl() {
    if let Some(program) = clients::find("bssl-tool") {
        let ask = r#""$program" client -connect "$host:443" -server-name "$name" \
            -root-certs "$authority" -grease -permute-extensions -ech-grease"#;
        each_way(Pace::Slow, ", ech: keep", |scene| {
            scene.processes(&program, ask)
        });
    }
}

#[test]
fn curl() {
    let Some(program) = clients::find("curl") else {
        return;
    };
    let script = "\"$1\" -q -K \"$2\" |
        sed -e 's/^200 /served /' -e 's/^000 /refused /' -e 's,https://\\(.*\\)/,\\1,'";
    each_way(Pace::Quick, "", |scene| {
        for address in scene.addresses {
            let config = file(&scene.stage, "curl.conf", &curl_config(scene, address));
            let words = ["/bin/sh", "-c", script, "sh"].map(str::to_owned);
            let paths = [&program, &config].map(|path| path.display().to_string());
            scene.judge(address, &[&words[..], &paths[..]].concat());
        }
    });
}

/// All names at once.
fn curl_config(scene: &Scene, address: &str) -> String {
    let mut config = format!(
        "cacert = {}\nparallel\nparallel-max = 200\nparallel-immediate\nno-progress-meter\nnoproxy = *\n",
        scene.authority.display()
    );
    let names = std::fs::read_to_string(&scene.names).expect("names");
    let address = match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    };
    for name in names.lines() {
        config += &format!("resolve = {name}:443:{address}\n");
    }
    for name in names.lines() {
        config += &format!("url = https://{name}/\noutput = /dev/null\n");
    }
    let wait = wait::seconds(WAIT);
    config += &format!("max-time = {wait}\nwrite-out = \"%{{http_code}} %{{url}}\\n\"\n");
    config
}
