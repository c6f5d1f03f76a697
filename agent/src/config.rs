//! `/etc/exeat/config.yaml`: how the daemon runs, not what agents may do.
//!
//! Every key has a default, so an empty file and no file mean the same. Unknown keys are
//! errors, because a misspelt key that is ignored is a setting that is silently not in
//! force.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::dns::resolver::{ResolverConfig, Upstream, Zone};

/// The file that is read when neither `--config` nor [`ENV`] names one.
pub const DEFAULT_PATH: &str = "/etc/exeat/config.yaml";
/// The environment variable that names a configuration file.
pub const ENV: &str = "EXEAT_CONFIG";
/// The port of the metrics page. The loopback address belongs to it: see [`Metrics`].
pub const METRICS_PORT: u16 = 9479;
/// The folder of detection rules that need not be there.
pub const DETECT_FOLDER: &str = "/etc/exeat/detect.d";
/// The largest file that is read. A configuration has a page of text.
const MAX_BYTES: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A named file is missing, or a file cannot be read.
    #[error("cannot read the configuration {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Larger than any configuration is.
    #[error(
        "the configuration {path} is larger than {MAX_BYTES} bytes; is it the right file?",
        path = path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The text does not fit; the message holds file, line, column and the line itself.
    #[error("{0}")]
    Parse(String),
    /// The group that may administer does not exist.
    #[error("control.group: there is no group `{}`; make it with `groupadd`, or leave the key out", .0.escape_debug())]
    Group(String),
    /// The values do not fit each other.
    #[error("{path}: `{key}`: {message}", path = path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, with its parents.
        key: &'static str,
        /// What is wrong and what to write.
        message: String,
    },
}

/// The configuration, checked: every path absolute, every number in its range.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Policy files and folders of policy files, merged in this order.
    /// Default: `[/etc/exeat/policy.d]`.
    pub policy: Vec<PathBuf>,
    /// The cgroup below the cgroup2 root that holds every agent. Default: `exeat.slice`.
    pub slice: Slice,
    /// Where cgroup2 is mounted. Default: found in `/proc/self/mountinfo`
    /// ([`crate::kernel::cgroup::cgroup2_root`]).
    pub cgroup_root: Option<PathBuf>,
    /// Where programs, links and maps are pinned. Default: `/sys/fs/bpf/exeat`.
    pub bpffs: PathBuf,
    /// Holds the control socket and the lock. Default: `/run/exeat`.
    pub runtime_dir: PathBuf,
    /// What outlives a reboot. Default: `/var/lib/exeat`.
    pub state_dir: PathBuf,
    /// The Prometheus page. Default: `127.0.0.1:9479`.
    pub metrics: Metrics,
    /// Lets [`Config::metrics`] be an address that other machines reach. Default: `false`.
    pub metrics_allow_remote: bool,
    /// Resolving the names of the policy.
    pub resolver: Resolver,
    /// What is kept and written of refused flows.
    pub events: Events,
    /// The audit log.
    pub audit: Audit,
    /// The agents' gateways.
    pub gateway: Gateway,
    /// Whether `exeat run` puts programs into a sandbox, as their policy says; without it
    /// it governs their network alone. Default: `true`.
    pub sandbox: bool,
    /// Whether agents are scopes of systemd, where it runs; else their cgroups are made without
    /// it, as everywhere else. Default: `true`.
    pub scopes: bool,
    /// Who may administer.
    pub control: Control,
    /// Rules over the stream of events.
    pub detect: Detect,
    /// What is kept of what went where.
    pub history: History,
    /// Receivers of records: `{name, to, …}` each. Default: none.
    pub ship: Vec<crate::ship::ReceiverConfig>,
    /// Questions on the users' desktops.
    pub notify: Notify,
    /// Asking people.
    pub asking: Asking,
    /// Signed policy bundles.
    pub bundle: crate::bundle::config::BundleConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: vec!["/etc/exeat/policy.d".into()],
            slice: Slice("exeat.slice".into()),
            cgroup_root: None,
            bpffs: "/sys/fs/bpf/exeat".into(),
            runtime_dir: "/run/exeat".into(),
            state_dir: "/var/lib/exeat".into(),
            metrics: Metrics::At(SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT))),
            metrics_allow_remote: false,
            resolver: Resolver::default(),
            events: Events::default(),
            audit: Audit::default(),
            gateway: Gateway::default(),
            sandbox: true,
            scopes: true,
            control: Control::default(),
            detect: Detect::default(),
            history: History::default(),
            ship: Vec::new(),
            notify: Notify::default(),
            asking: Asking::default(),
            bundle: crate::bundle::config::BundleConfig::default(),
        }
    }
}

/// The `detect` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Detect {
    /// Whether the starter set of rules holds. Default: `true`.
    pub starter: bool,
    /// Files and folders of more rules; one of the same id replaces one from before.
    /// Default: `[/etc/exeat/detect.d]`, which need not be there.
    pub rules: Vec<PathBuf>,
    /// Whether rules may isolate and freeze agents; without it they only tell. Default: `true`.
    pub act: bool,
}

impl Default for Detect {
    fn default() -> Self {
        Self {
            starter: true,
            rules: vec![DETECT_FOLDER.into()],
            act: true,
        }
    }
}

/// The `notify` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Notify {
    /// Whether notifications have buttons that answer. `false`: they only show, and questions
    /// are answered in a terminal. Default: `true`.
    pub answer: bool,
}

impl Default for Notify {
    fn default() -> Self {
        Self { answer: true }
    }
}

/// The `gateway` section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// More authorities (PEM) that the certificates of inspected servers may come from, beside
    /// the system's. Default: none.
    pub authorities: Option<PathBuf>,
}

/// The `resolver` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resolver {
    /// The servers that names are asked of, in order: `IP` or `IP:PORT`, `tls://IP#NAME`,
    /// `https://IP/PATH#NAME`. Default: none, which means those of `/etc/resolv.conf`.
    pub upstreams: Vec<Upstream>,
    /// Names with servers of their own, which nobody else is asked for. Default: none.
    pub zones: Vec<Zone>,
    /// Certificates (PEM) of the authorities that may vouch for encrypted servers.
    /// Default: none, which means those of the system.
    pub ca_file: Option<PathBuf>,
    /// How long one query may take, in milliseconds, 50 to 30000. Default: 2000.
    pub timeout_ms: u32,
    /// How often a name is asked before it counts as failed, 1 to 10. Default: 2.
    pub attempts: u32,
    /// How long an address stays usable after it left the answer, in seconds: more than
    /// `min_ttl_seconds`, up to a day. Default: 300.
    pub grace_seconds: u32,
    /// The shortest life of an answer, in seconds, 1 to 3600: a name with a TTL of 0 is not
    /// asked without pause. Default: 5.
    pub min_ttl_seconds: u32,
    /// The longest life of an answer, in seconds, up to a day. Default: 3600.
    pub max_ttl_seconds: u32,
    /// The longest life of "there is none", in seconds, up to 10800. Default: 300.
    pub negative_max_ttl_seconds: u32,
    /// How long an answer that has ended is still given while no server answers, in
    /// seconds, up to three days; 0 is never. Default: 3600.
    pub serve_stale_seconds: u32,
    /// Mix the case of letters in queries over UDP and require the same in answers, which
    /// makes them hard to forge. Default: `true`.
    pub case_randomization: bool,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            zones: Vec::new(),
            ca_file: None,
            timeout_ms: 2000,
            attempts: 2,
            grace_seconds: 300,
            min_ttl_seconds: 5,
            max_ttl_seconds: 3600,
            negative_max_ttl_seconds: 300,
            serve_stale_seconds: 3600,
            case_randomization: true,
        }
    }
}

impl Resolver {
    /// The settings in the room's own terms.
    pub fn settings(&self) -> ResolverConfig {
        let seconds = |n: u32| Duration::from_secs(n.into());
        ResolverConfig {
            upstreams: self.upstreams.clone(),
            zones: self.zones.clone(),
            ca_file: self.ca_file.clone(),
            timeout: Duration::from_millis(self.timeout_ms.into()),
            attempts: self.attempts as usize,
            case_randomization: self.case_randomization,
            min_ttl: seconds(self.min_ttl_seconds),
            max_ttl: seconds(self.max_ttl_seconds),
            negative_max_ttl: seconds(self.negative_max_ttl_seconds),
            serve_stale: seconds(self.serve_stale_seconds),
            ..ResolverConfig::default()
        }
    }
}

/// The `events` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// How many flows `exeat events` can look back on, 1 to 1000000. About 1 KB each.
    /// Default: 10000.
    pub keep: u32,
    /// Events a second for one agent and reason; the rest is counted. Default: 200.
    pub rate: u32,
    /// Events at once before [`Events::rate`] holds, at least `rate`. Default: 400.
    pub burst: u32,
    /// A file that gets one JSON object a line. Default: none.
    pub file: Option<PathBuf>,
    /// Size at which the file is put aside (three old ones are kept), at least 65536.
    /// Default: 67108864 (64 MiB).
    pub file_max_bytes: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            keep: 10_000,
            rate: 200,
            burst: 400,
            file: None,
            file_max_bytes: 64 << 20,
        }
    }
}

/// The `asking` section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asking {
    /// Lets users who do not administer allow something for longer than a day, and for always.
    /// Default: `false`.
    pub users_may_always: bool,
    /// Lets users who do not administer allow a whole domain. Default: `false`.
    pub users_may_domain: bool,
    /// A program that is told of each question, and may answer. Default: none.
    pub hook: Option<crate::asking::hook::HookConfig>,
    /// A service that is told of each question, and may answer. Default: none.
    pub webhook: Option<crate::asking::webhook::WebhookConfig>,
}

impl Asking {
    /// What a user who does not administer may answer.
    pub fn users(&self) -> crate::asking::grants::Users {
        crate::asking::grants::Users {
            always: self.users_may_always,
            domain: self.users_may_domain,
        }
    }
}

/// The `audit` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Whether there is a log. Default: `true`.
    pub enabled: bool,
    /// Where it is. Default: `audit` in the state folder.
    pub folder: Option<PathBuf>,
    /// Size at which the next file is begun, 65536 to a gibibyte. Default: 33554432 (32 MiB).
    pub max_bytes: u64,
    /// How many files are kept, 2 to 10000; older ones are deleted, and the log says so.
    /// Default: 8.
    pub keep: u32,
    /// The longest time between a record and the signed checkpoint behind it, 1 to 3600.
    /// Default: 60.
    pub checkpoint_seconds: u32,
    /// Flows that were allowed too, as far as they make events. Default: `false`.
    pub allowed: bool,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            enabled: true,
            folder: None,
            max_bytes: 32 << 20,
            keep: 8,
            checkpoint_seconds: 60,
            allowed: false,
        }
    }
}

/// The `control` section.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// A group whose members may administer as root may. Default: none.
    pub group: Option<String>,
}

/// The `history` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// Whether flows and incidents are kept for `exeat flows`. Default: `true`.
    pub enabled: bool,
    /// The SQLite file. Default: `history.sqlite` in [`Config::state_dir`].
    pub file: Option<PathBuf>,
    /// How old a record gets, as in `30d` or `12h`; an hour to ten years. Default: `30d`.
    #[serde(deserialize_with = "age")]
    pub max_age: Duration,
    /// How large the file gets, as in `256MiB`; from 1MiB on. The oldest records go first.
    /// Default: `256MiB`.
    #[serde(deserialize_with = "amount")]
    pub max_bytes: u64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            enabled: true,
            file: None,
            max_age: Duration::from_secs(30 * 86_400),
            max_bytes: 256 << 20,
        }
    }
}

impl History {
    /// The file.
    pub fn path(&self, state_dir: &Path) -> PathBuf {
        let default = || state_dir.join(crate::store::FILE_NAME);
        self.file.clone().unwrap_or_else(default)
    }

    /// Begins to keep it, if it is to be kept: a daemon of one run leaves nothing behind.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(
        &self,
        state_dir: &Path,
        lifetime: crate::daemon::Lifetime,
    ) -> std::io::Result<Option<std::sync::Arc<crate::store::Store>>> {
        if !self.enabled || lifetime == crate::daemon::Lifetime::OneRun {
            return Ok(None);
        }
        let bounds = crate::store::Bounds {
            max_age: self.max_age,
            max_bytes: self.max_bytes,
        };
        let store = crate::store::Store::start(&self.path(state_dir), bounds)?;
        Ok(Some(std::sync::Arc::new(store)))
    }
}

/// A time with its units.
fn age<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    let seconds = crate::policy::limits::parse_time(&text).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "`{}` is no time: write one with its units, such as 30d or 12h",
            text.escape_debug()
        ))
    })?;
    Ok(Duration::from_secs(seconds))
}

/// Bytes with or without a unit.
fn amount<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let text = String::deserialize(d)?;
    crate::policy::limits::parse_bytes(&text).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "`{}` is no amount: write one with its unit, such as 256MiB",
            text.escape_debug()
        ))
    })
}

/// Name of the agents' slice: one path component.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Slice(String);

impl Slice {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Slice {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let ok = !name.is_empty()
            && name.len() <= 200
            && !name.starts_with(['.', '-'])
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if !ok {
            return Err(format!(
                "`{}` cannot be a slice: write one path component of letters, digits, `.`, `-` \
                 and `_`, such as exeat.slice",
                name.escape_debug()
            ));
        }
        // cgroup2 has files of these names in every directory, and systemd keeps its own.
        if ["cgroup.", "cpu.", "io.", "memory.", "pids."]
            .iter()
            .any(|taken| name.starts_with(taken))
        {
            return Err(format!(
                "`{name}` cannot be a slice: the kernel uses the prefix for files of its own"
            ));
        }
        if ["system.slice", "user.slice", "machine.slice", "init.scope"].contains(&name.as_str()) {
            return Err(format!(
                "`{name}` cannot be the slice: the rest of the system lives there, and all of it \
                 would be governed"
            ));
        }
        Ok(Self(name))
    }
}

/// Where the metrics page is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Metrics {
    /// Nowhere: `metrics: off`.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl TryFrom<String> for Metrics {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| {
            format!(
                "`{}` is not an address: write IP:PORT, such as 127.0.0.1:{METRICS_PORT}, or off",
                text.escape_debug()
            )
        })
    }
}

impl Config {
    /// The configuration that holds for this process: the file of `--config`, else of the
    /// environment variable [`ENV`], else [`DEFAULT_PATH`], else the defaults. Only the
    /// default file may be missing.
    pub fn load(flag: Option<&Path>) -> Result<Self, ConfigError> {
        let env = std::env::var_os(ENV).filter(|v| !v.is_empty());
        Self::load_from(flag, env.as_deref().map(Path::new), Path::new(DEFAULT_PATH))
    }

    fn load_from(
        flag: Option<&Path>,
        env: Option<&Path>,
        default: &Path,
    ) -> Result<Self, ConfigError> {
        let named = flag.or(env);
        let path = named.unwrap_or(default);
        let read = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(e) => return Err(read(e)),
        };
        let mut text = String::new();
        let mut limited = std::io::Read::take(file, MAX_BYTES + 1);
        std::io::Read::read_to_string(&mut limited, &mut text).map_err(read)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(ConfigError::TooLarge {
                path: path.to_owned(),
            });
        }
        Self::parse(path, &text)
    }

    /// Reads a configuration from its text; `path` is only named in errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self =
            serde_saphyr::from_str(text).map_err(|e| ConfigError::Parse(located(path, &e)))?;
        config
            .check()
            .map_err(|(key, message)| ConfigError::Value {
                path: path.to_owned(),
                key,
                message,
            })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let absolute = |key, path: &Path| {
            if path.is_absolute() && !path.components().any(|c| c.as_os_str() == "..") {
                return Ok(());
            }
            Err((
                key,
                format!("{} must be an absolute path without `..`", path.display()),
            ))
        };
        if self.policy.is_empty() {
            let text = "names no file; write at least one, or leave the key out".to_owned();
            return Err(("policy", text));
        }
        for path in &self.policy {
            absolute("policy", path)?;
        }
        absolute("bpffs", &self.bpffs)?;
        absolute("runtime_dir", &self.runtime_dir)?;
        absolute("state_dir", &self.state_dir)?;
        if let Some(path) = &self.cgroup_root {
            absolute("cgroup_root", path)?;
        }
        self.bundle.check()?;
        if let Some(hook) = &self.asking.hook {
            hook.check()?;
        }
        if let Some(webhook) = &self.asking.webhook {
            webhook.check()?;
        }
        if let Some(path) = &self.events.file {
            absolute("events.file", path)?;
        }
        if let Some(path) = &self.history.file {
            absolute("history.file", path)?;
        }
        if let Some(path) = &self.audit.folder {
            absolute("audit.folder", path)?;
        }
        if let Some(path) = &self.gateway.authorities {
            absolute("gateway.authorities", path)?;
        }
        for path in &self.detect.rules {
            absolute("detect.rules", path)?;
        }
        if let Metrics::At(addr) = self.metrics
            && !addr.ip().is_loopback()
            && !self.metrics_allow_remote
        {
            return Err((
                "metrics",
                format!(
                    "{addr} can be reached from other machines, and the page needs no password; \
                     use 127.0.0.1:{}, or say metrics_allow_remote: true",
                    addr.port()
                ),
            ));
        }
        let range = |key, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err((key, format!("{value} is not between {low} and {high}")))
        };
        let r = &self.resolver;
        let day = 86_400;
        let (age, bytes) = (self.history.max_age.as_secs(), self.history.max_bytes);
        range("history.max_age", age, 3600, 3660 * day)?;
        range("history.max_bytes", bytes, crate::store::MIN_BYTES, 1 << 40)?;
        range("resolver.timeout_ms", r.timeout_ms.into(), 50, 30_000)?;
        range("resolver.attempts", r.attempts.into(), 1, 10)?;
        range(
            "resolver.min_ttl_seconds",
            r.min_ttl_seconds.into(),
            1,
            3600,
        )?;
        let low = r.min_ttl_seconds.into();
        range(
            "resolver.max_ttl_seconds",
            r.max_ttl_seconds.into(),
            low,
            day,
        )?;
        // A lease must not end before its name is asked again.
        range(
            "resolver.grace_seconds",
            r.grace_seconds.into(),
            low + 1,
            day,
        )?;
        let negative = r.negative_max_ttl_seconds;
        range(
            "resolver.negative_max_ttl_seconds",
            negative.into(),
            0,
            10_800,
        )?;
        let stale = r.serve_stale_seconds;
        range("resolver.serve_stale_seconds", stale.into(), 0, 3 * day)?;
        if let Some(path) = &r.ca_file {
            absolute("resolver.ca_file", path)?;
        }
        // What the room itself knows of servers and zones; it names its keys.
        r.settings()
            .validate()
            .map_err(|error| ("resolver", error.to_string()))?;
        crate::ship::check(&self.ship).map_err(|message| ("ship", message))?;
        let a = &self.audit;
        range("audit.max_bytes", a.max_bytes, 65_536, 1 << 30)?;
        range("audit.keep", a.keep.into(), 2, 10_000)?;
        let seconds = a.checkpoint_seconds.into();
        range("audit.checkpoint_seconds", seconds, 1, 3600)?;
        let e = &self.events;
        range("events.keep", e.keep.into(), 1, 1_000_000)?;
        range("events.rate", e.rate.into(), 1, 1_000_000)?;
        range("events.burst", e.burst.into(), e.rate.into(), 10_000_000)?;
        range("events.file_max_bytes", e.file_max_bytes, 65_536, 1 << 40)
    }

    /// The group whose members may administer, as a number.
    pub fn admin_gid(&self) -> Result<Option<u32>, ConfigError> {
        let Some(name) = &self.control.group else {
            return Ok(None);
        };
        match nix::unistd::Group::from_name(name) {
            Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
            _ => Err(ConfigError::Group(name.clone())),
        }
    }

    /// Where the audit log is.
    pub fn audit_folder(&self) -> PathBuf {
        let default = || self.state_dir.join("audit");
        self.audit.folder.clone().unwrap_or_else(default)
    }

    /// The control socket.
    pub fn socket_path(&self) -> PathBuf {
        self.runtime_dir.join(crate::control::SOCKET_NAME)
    }
}

/// `file:line:column: what`, and the line with a mark under it.
fn located(path: &Path, error: &serde_saphyr::Error) -> String {
    let path = path.display();
    let Some(at) = error.location() else {
        return format!("{path}: {error}");
    };
    let (line, column) = (at.line(), at.column());
    let plain = error.without_snippet().to_string();
    let message = plain
        .strip_suffix(&format!(" at line {line}, column {column}"))
        .unwrap_or(&plain);
    let snippet: String = error
        .to_string()
        .lines()
        .filter(|l| l.contains('|') && !l.starts_with("error"))
        .map(|l| format!("\n{l}"))
        .collect();
    format!("{path}:{line}:{column}: {message}{snippet}")
}

#[cfg(test)]
mod tests;
