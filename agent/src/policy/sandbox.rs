//! `sandbox:` of an agent: what the launcher leaves open to its program.
//!
//! Without a word the sandbox is whole; every field here is one opening, or one path.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// The sandbox of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// The program runs as it would without Exeat, but for the network (`sandbox: none`).
    None,
    /// It runs behind every wall, but for these openings.
    Walls(Box<Openings>),
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::Walls(Box::default())
    }
}

/// What a sandbox leaves open. Paths are absolute, or begin with `~/` (the home of whom the
/// command runs as), and are in their shortest form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Openings {
    /// What is to be seen of the home besides the tools in it.
    pub home: Home,
    /// The folder that the command is started in.
    pub project: Project,
    /// Files and folders to be read, also such that are hidden without it.
    pub read: BTreeSet<String>,
    /// Files and folders to be changed.
    pub write: BTreeSet<String>,
    /// Files and folders to be hidden besides the usual secrets.
    pub hide: BTreeSet<String>,
    /// Variables of the environment that pass besides the usual ones; a `*` at the end
    /// stands for any ending.
    pub environment: BTreeSet<String>,
    /// The network namespace.
    pub network: Network,
    /// What runs by itself outside (Git's hooks, editors' tasks) may be changed in the project.
    pub autorun: bool,
    /// The user's display: the sockets of Wayland and X11.
    pub display: bool,
    /// The user's sound: the sockets of PipeWire and PulseAudio.
    pub audio: bool,
    /// The devices of the graphics card.
    pub gpu: bool,
    /// The user's SSH agent.
    pub ssh_agent: bool,
    /// io_uring(7).
    pub io_uring: bool,
    /// ptrace(2) and reading memory of the agent's own processes: debuggers.
    pub debug: bool,
    /// User namespaces of the program's own: browsers' sandboxes, containers.
    pub user_namespaces: bool,
    /// Names on D-Bus that may be spoken to, through a filtering proxy.
    pub dbus: Dbus,
}

/// What is to be seen of the home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Home {
    /// An empty one, but for named paths and the usual tools.
    #[default]
    Hidden,
    /// It may be read, but for secrets.
    Read,
    /// It may be changed, but for secrets and start-up files.
    Write,
}

/// What may be done with the project folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Project {
    /// It may be changed.
    #[default]
    Write,
    /// It may be read.
    Read,
    /// The program changes a copy, and a person applies it (`exeat workspace`).
    Copy,
}

/// The network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The caller's.
    #[default]
    Host,
    /// One of its own with loopback alone.
    Own,
}

/// Names on the buses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dbus {
    /// On the user's session bus.
    pub session: BTreeSet<String>,
    /// On the system's bus.
    pub system: BTreeSet<String>,
}

impl fmt::Display for Openings {
    /// What is open, in one line: `home read, project write, reads ~/notes, display`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
        let lists = [
            ("reads", &self.read),
            ("writes", &self.write),
            ("hides", &self.hide),
            ("variables", &self.environment),
            ("speaks on the session bus to", &self.dbus.session),
            ("speaks on the system bus to", &self.dbus.system),
        ];
        let switches = [
            ("autorun", self.autorun),
            ("display", self.display),
            ("audio", self.audio),
            ("gpu", self.gpu),
            ("ssh_agent", self.ssh_agent),
            ("io_uring", self.io_uring),
            ("debug", self.debug),
            ("user_namespaces", self.user_namespaces),
        ];
        let home = match self.home {
            Home::Hidden => "home hidden",
            Home::Read => "home read",
            Home::Write => "home write",
        };
        let project = match self.project {
            Project::Write => "project write",
            Project::Read => "project read",
            Project::Copy => "project copy",
        };
        write!(f, "{home}, {project}")?;
        if self.network == Network::Own {
            f.write_str(", network own")?;
        }
        for (word, set) in lists.iter().filter(|(_, set)| !set.is_empty()) {
            write!(f, ", {word} {}", list(set))?;
        }
        for (word, _) in switches.iter().filter(|(_, on)| *on) {
            write!(f, ", {word}")?;
        }
        Ok(())
    }
}

/// Places and what is in them. Those below `~/` are in the home.
pub type Places = [(&'static str, &'static str)];

/// Keys, passwords and tokens: hidden in every sandbox unless the policy names the path.
pub const SECRETS: &Places = &[
    ("~/.ssh", "the user's SSH keys"),
    ("~/.gnupg", "the user's PGP keys"),
    ("~/.aws", "keys of AWS"),
    ("~/.azure", "keys of Azure"),
    ("~/.oci", "keys of Oracle's cloud"),
    ("~/.boto", "keys of Google's cloud"),
    ("~/.s3cfg", "keys of S3"),
    ("~/.config/gcloud", "keys of Google's cloud"),
    ("~/.config/doctl", "keys of DigitalOcean"),
    ("~/.config/hcloud", "keys of Hetzner"),
    ("~/.config/rclone", "keys of remote storage"),
    ("~/.config/gh", "a token of GitHub"),
    ("~/.config/hub", "a token of GitHub"),
    ("~/.config/glab-cli", "a token of GitLab"),
    ("~/.config/github-copilot", "a token of GitHub"),
    ("~/.config/op", "sessions of 1Password"),
    ("~/.config/1Password", "the user's passwords"),
    ("~/.config/Bitwarden", "the user's passwords"),
    ("~/.config/Bitwarden CLI", "the user's passwords"),
    ("~/.config/keepassxc", "the user's passwords"),
    (
        "~/.config/containers/auth.json",
        "passwords of container registries",
    ),
    ("~/.config/git/credentials", "passwords of Git servers"),
    ("~/.config/sops", "keys of encrypted files"),
    ("~/.config/age", "keys of encrypted files"),
    ("~/.config/systemd/creds", "secrets of services"),
    (
        "~/.config/google-chrome",
        "a browser's sessions and passwords",
    ),
    (
        "~/.config/google-chrome-beta",
        "a browser's sessions and passwords",
    ),
    ("~/.config/chromium", "a browser's sessions and passwords"),
    (
        "~/.config/BraveSoftware",
        "a browser's sessions and passwords",
    ),
    (
        "~/.config/microsoft-edge",
        "a browser's sessions and passwords",
    ),
    ("~/.config/opera", "a browser's sessions and passwords"),
    ("~/.config/vivaldi", "a browser's sessions and passwords"),
    ("~/.config/Slack", "sessions of Slack"),
    ("~/.config/Signal", "messages and their keys"),
    ("~/.config/discord", "sessions of Discord"),
    ("~/.config/evolution", "mail and its passwords"),
    ("~/.mozilla", "a browser's sessions and passwords"),
    ("~/.librewolf", "a browser's sessions and passwords"),
    ("~/.zen", "a browser's sessions and passwords"),
    ("~/.thunderbird", "mail and its passwords"),
    ("~/.cache/mozilla", "a browser's cache"),
    ("~/.cache/google-chrome", "a browser's cache"),
    ("~/.cache/chromium", "a browser's cache"),
    ("~/.cache/thunderbird", "a mail program's cache"),
    ("~/.local/share/keyrings", "the user's keyring"),
    ("~/.local/share/kwalletd", "the user's keyring"),
    ("~/.local/share/evolution", "mail and its passwords"),
    ("~/.local/share/Bitwarden", "the user's passwords"),
    (
        "~/.local/share/containers",
        "images and secrets of containers",
    ),
    ("~/.local/share/TelegramDesktop", "messages and their keys"),
    ("~/.password-store", "the user's passwords"),
    ("~/.vault-token", "a token of Vault"),
    (
        "~/.terraform.d/credentials.tfrc.json",
        "tokens of Terraform",
    ),
    ("~/.kube", "keys of Kubernetes"),
    (
        "~/.docker",
        "passwords of container registries, and sockets that start containers",
    ),
    ("~/.netrc", "passwords of servers"),
    ("~/.git-credentials", "passwords of Git servers"),
    ("~/.npmrc", "tokens of package registries"),
    ("~/.yarnrc.yml", "tokens of package registries"),
    ("~/.pypirc", "tokens of package registries"),
    ("~/.gem/credentials", "tokens of package registries"),
    ("~/.cargo/credentials", "tokens of package registries"),
    ("~/.cargo/credentials.toml", "tokens of package registries"),
    ("~/.m2/settings.xml", "passwords of package registries"),
    (
        "~/.m2/settings-security.xml",
        "passwords of package registries",
    ),
    (
        "~/.gradle/gradle.properties",
        "passwords of package registries",
    ),
    ("~/.pgpass", "passwords of databases"),
    ("~/.my.cnf", "passwords of databases"),
    ("~/.mylogin.cnf", "passwords of databases"),
    ("~/.bash_history", "what was typed in a shell"),
    ("~/.zsh_history", "what was typed in a shell"),
    ("~/.python_history", "what was typed in an interpreter"),
    ("~/.node_repl_history", "what was typed in an interpreter"),
    ("~/.psql_history", "what was typed in a database's shell"),
    (
        "~/.local/share/fish/fish_history",
        "what was typed in a shell",
    ),
    ("~/.ICEauthority", "keys of the user's desktop"),
    ("~/.Xauthority", "the key of the user's display"),
    ("~/snap", "the data of other programs"),
    ("~/.var/app", "the data of other programs"),
    ("~/.local/state/exeat", "Exeat's own files"),
    ("/etc/exeat", "Exeat's own files"),
    ("/var/lib/exeat", "Exeat's own files"),
    ("/run/exeat", "Exeat's own files"),
    (
        "/sys/fs/cgroup",
        "the files that programs leave their cgroup by",
    ),
    ("/sys/fs/bpf", "the programs that govern it"),
    ("/etc/shadow", "hashes of passwords"),
    ("/etc/shadow-", "hashes of passwords"),
    ("/etc/gshadow-", "hashes of passwords"),
    ("/etc/security/opasswd", "hashes of passwords"),
    (
        "/etc/NetworkManager/system-connections",
        "passwords of networks",
    ),
    ("/etc/wpa_supplicant", "passwords of networks"),
    ("/etc/wireguard", "keys of networks"),
    ("/etc/openvpn", "keys of networks"),
    ("/etc/swanctl", "keys of networks"),
    ("/etc/ipsec.secrets", "keys of networks"),
    ("/etc/ppp", "passwords of networks"),
    ("/etc/letsencrypt", "keys of this machine"),
    ("/etc/pki/tls/private", "keys of this machine"),
    ("/etc/mysql/debian.cnf", "passwords of databases"),
    ("/etc/docker", "settings of containers"),
    ("/etc/gshadow", "hashes of passwords"),
    ("/etc/ssl/private", "keys of this machine"),
    ("/etc/krb5.keytab", "keys of this machine"),
    ("/etc/kubernetes", "keys of Kubernetes"),
    ("/etc/rancher", "keys of Kubernetes"),
];

/// What runs by itself when the user logs in, opens a shell or starts a program: read-only
/// in every sandbox unless the policy names the path under `write`.
pub const STARTUP: &Places = &[
    ("~/.bashrc", "commands of each shell"),
    ("~/.bash_profile", "commands of each login"),
    ("~/.bash_login", "commands of each login"),
    ("~/.bash_logout", "commands of each logout"),
    ("~/.bash_aliases", "commands of each shell"),
    ("~/.profile", "commands of each login"),
    ("~/.zshrc", "commands of each shell"),
    ("~/.zshenv", "commands of each shell"),
    ("~/.zprofile", "commands of each login"),
    ("~/.zlogin", "commands of each login"),
    ("~/.xprofile", "commands of each login"),
    ("~/.xinitrc", "commands of each login"),
    ("~/.xsessionrc", "commands of each login"),
    ("~/.config/fish", "commands of each shell"),
    ("~/.config/autostart", "programs of each login"),
    ("~/.config/systemd", "the user's services"),
    (
        "~/.config/environment.d",
        "the environment of the user's services",
    ),
    ("~/.config/plasma-workspace", "programs of each login"),
    ("~/.config/git", "commands that Git runs"),
    ("~/.config/direnv", "commands of each shell"),
    ("~/.config/nvim", "commands of an editor"),
    ("~/.config/Code", "commands of an editor"),
    ("~/.config/pip", "where pip takes packages from"),
    ("~/.gitconfig", "commands that Git runs"),
    ("~/.vimrc", "commands of an editor"),
    ("~/.vim", "commands of an editor"),
    ("~/.emacs", "commands of an editor"),
    ("~/.emacs.d", "commands of an editor"),
    ("~/.vscode", "programs of an editor"),
    ("~/.vscode-server", "programs of an editor"),
    ("~/.tmux.conf", "commands of each terminal"),
    ("~/.inputrc", "keys of each shell"),
    ("~/.pam_environment", "the environment of each login"),
    ("~/.local/bin", "programs of the user"),
    ("~/bin", "programs of the user"),
    (
        "~/.local/share/applications",
        "programs of the user's desktop",
    ),
    ("~/.local/share/systemd", "the user's services"),
    ("~/.local/share/dbus-1", "the user's services"),
    ("~/.cargo/bin", "programs of the user"),
    ("~/.cargo/config", "commands that cargo runs"),
    ("~/.cargo/config.toml", "commands that cargo runs"),
    ("~/.cargo/env", "commands of each shell"),
    ("~/.rustup", "programs of the user"),
    ("~/.nvm", "programs of the user"),
    ("~/.pyenv", "programs of the user"),
    ("~/.rbenv", "programs of the user"),
    ("~/.asdf", "programs of the user"),
    ("~/.local/share/mise", "programs of the user"),
    ("~/.local/lib", "libraries of the user's programs"),
    ("~/.nix-profile", "programs of the user"),
    ("~/go/bin", "programs of the user"),
    ("~/.deno/bin", "programs of the user"),
    ("~/.bun/bin", "programs of the user"),
];

/// What is at a path, where it is one of these places or in one. A folder that has such places
/// in it does not open them.
pub fn found(places: &Places, path: &str) -> Option<&'static str> {
    let place = places.iter().find(|(place, _)| is_below(path, place));
    place.map(|(_, what)| *what)
}

/// Whether a path is another, or in it.
pub fn is_below(inner: &str, outer: &str) -> bool {
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path in its shortest form.
///
/// # Errors
/// With what is wrong and what to write instead.
pub(crate) fn path(text: &str) -> Result<String, (&'static str, String)> {
    const SHAPE: &str = "write an absolute path or one in the home, as in `~/notes`";
    let (start, rest) = match text.strip_prefix("~/") {
        Some(rest) => ("~", rest),
        None if text == "~" => {
            let help = "write `home: read` or `home: write`, or name what is in it";
            return Err(("is all of the home", help.to_owned()));
        }
        None => match text.strip_prefix('/') {
            Some(rest) => ("", rest),
            None => return Err(("is not absolute", SHAPE.to_owned())),
        },
    };
    if text.contains(['\0', '*', '?', '[']) {
        return Err(("is no path", SHAPE.to_owned()));
    }
    let mut path = start.to_owned();
    for part in rest.split('/').filter(|part| !part.is_empty()) {
        if part == ".." || part == "." {
            let help = "write the path without it".to_owned();
            return Err(("has `.` or `..` in it", help));
        }
        path.push('/');
        path.push_str(part);
    }
    match path.as_str() {
        "" | "~" => Err((
            "is all of it",
            "name what is needed of it; for no sandbox at all write `sandbox: none`".to_owned(),
        )),
        _ => Ok(path),
    }
}

/// A name of a variable, or the beginning of names with a `*` at its end.
///
/// # Errors
/// With what is wrong and what to write instead.
pub(crate) fn variable(text: &str) -> Result<String, (&'static str, String)> {
    let name = text.strip_suffix('*').unwrap_or(text);
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good = !text.is_empty()
        && name.chars().all(word)
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if good {
        return Ok(text.to_owned());
    }
    let help = "write names, as in `environment: [EDITOR, \"MY_TOOL_*\"]`".to_owned();
    Err((
        match text.contains('=') {
            true => "gives a variable a value",
            false => "is no name of a variable",
        },
        help,
    ))
}

/// A well-known name of the D-Bus specification, perhaps with `.*` after it for all names below.
///
/// # Errors
/// With what is wrong and what to write instead.
pub(crate) fn bus_name(text: &str) -> Result<String, (&'static str, String)> {
    let plain = text.strip_suffix(".*").unwrap_or(text);
    let good = |part: &str| {
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part.chars().all(word)
    };
    if plain.len() <= 255 && plain.contains('.') && plain.split('.').all(good) {
        return Ok(text.to_owned());
    }
    let help = "write a name, as in `org.freedesktop.Notifications` or `org.example.*`";
    Err(("is no name on D-Bus", help.to_owned()))
}
