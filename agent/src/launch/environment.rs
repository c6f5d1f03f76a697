//! The variables that an agent is given: an allow-list.
//!
//! A shell's environment holds keys of services, sockets of brokers, and switches that change
//! what other programs load. What passes is named here, or by `environment:` of the agent's policy.

use std::{env, ffi::OsStr};

use crate::policy::Openings;

/// Names that pass. None of them is a secret, and none leads out of the sandbox.
const USUAL: &[&str] = &[
    // The person and the terminal.
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "COLORTERM",
    "COLUMNS",
    "EDITOR",
    "FORCE_COLOR",
    "HOME",
    "HOSTNAME",
    "INFOPATH",
    "LANG",
    "LANGUAGE",
    "LESS",
    "LESSCHARSET",
    "LINES",
    "LOGNAME",
    "LS_COLORS",
    "MANPAGER",
    "MANPATH",
    "MANWIDTH",
    "NO_COLOR",
    "OLDPWD",
    "PAGER",
    "PATH",
    "PWD",
    "SHELL",
    "SHLVL",
    "TERM",
    "TERMINFO",
    "TERMINFO_DIRS",
    "TERM_PROGRAM",
    "TERM_PROGRAM_VERSION",
    "TZ",
    "TZDIR",
    "USER",
    "VISUAL",
    "VTE_VERSION",
    // Where files belong.
    "XDG_CACHE_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_CONFIG_HOME",
    "XDG_CURRENT_DESKTOP",
    "XDG_DATA_DIRS",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    // Authorities to trust.
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "CURL_CA_BUNDLE",
    "DENO_CERT",
    "GIT_SSL_CAINFO",
    "NIX_SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    // Builds.
    "AR",
    "CC",
    "CFLAGS",
    "CI",
    "CMAKE_PREFIX_PATH",
    "CPATH",
    "CPP",
    "CPPFLAGS",
    "CXX",
    "CXXFLAGS",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "DEBIAN_FRONTEND",
    "LDFLAGS",
    "LIBRARY_PATH",
    "MAKE",
    "MAKEFLAGS",
    "NM",
    "PKG_CONFIG",
    "PKG_CONFIG_PATH",
    "RANLIB",
    "SOURCE_DATE_EPOCH",
    // Git.
    "EMAIL",
    "GIT_AUTHOR_DATE",
    "GIT_AUTHOR_EMAIL",
    "GIT_AUTHOR_NAME",
    "GIT_COMMITTER_DATE",
    "GIT_COMMITTER_EMAIL",
    "GIT_COMMITTER_NAME",
    "GIT_EDITOR",
    "GIT_PAGER",
    "GIT_TERMINAL_PROMPT",
    // Rust.
    "CARGO_BUILD_JOBS",
    "CARGO_HOME",
    "CARGO_INCREMENTAL",
    "CARGO_NET_OFFLINE",
    "CARGO_TARGET_DIR",
    "CARGO_TERM_COLOR",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "RUST_BACKTRACE",
    "RUST_LOG",
    // Python.
    "CONDA_DEFAULT_ENV",
    "CONDA_PREFIX",
    "PIPX_HOME",
    "PIP_DISABLE_PIP_VERSION_CHECK",
    "POETRY_HOME",
    "PYENV_ROOT",
    "PYENV_VERSION",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONIOENCODING",
    "PYTHONPATH",
    "PYTHONUNBUFFERED",
    "PYTHONUTF8",
    "UV_CACHE_DIR",
    "VIRTUAL_ENV",
    // JavaScript.
    "BUN_INSTALL",
    "DENO_DIR",
    "FNM_DIR",
    "FNM_MULTISHELL_PATH",
    "NODE_DISABLE_COLORS",
    "NODE_ENV",
    "NODE_NO_WARNINGS",
    "NODE_PATH",
    "NPM_CONFIG_CACHE",
    "NPM_CONFIG_PREFIX",
    "NVM_BIN",
    "NVM_DIR",
    "NVM_INC",
    "N_PREFIX",
    "PNPM_HOME",
    "VOLTA_HOME",
    "npm_config_cache",
    "npm_config_prefix",
    // Go, Java and others.
    "ANDROID_HOME",
    "ANDROID_SDK_ROOT",
    "ASDF_DATA_DIR",
    "ASDF_DIR",
    "BUNDLE_PATH",
    "CGO_ENABLED",
    "COMPOSER_HOME",
    "DOTNET_CLI_TELEMETRY_OPTOUT",
    "DOTNET_ROOT",
    "GEM_HOME",
    "GEM_PATH",
    "GO111MODULE",
    "GOARCH",
    "GOBIN",
    "GOCACHE",
    "GOFLAGS",
    "GOMAXPROCS",
    "GOMODCACHE",
    "GOOS",
    "GOPATH",
    "GOROOT",
    "GOTOOLCHAIN",
    "GRADLE_HOME",
    "GRADLE_USER_HOME",
    "HOMEBREW_CELLAR",
    "HOMEBREW_PREFIX",
    "HOMEBREW_REPOSITORY",
    "JAVA_HOME",
    "JDK_HOME",
    "LOCALE_ARCHIVE",
    "M2_HOME",
    "MAVEN_HOME",
    "MISE_DATA_DIR",
    "NIX_PATH",
    "NIX_PROFILES",
    "PERL5LIB",
    "RBENV_ROOT",
    "RBENV_VERSION",
    "R_HOME",
    "SDKMAN_DIR",
];

/// Whether a variable of this name is an address of what an opening opens, and if so, whether
/// that is open. `environment:` does not change it.
fn of_an_opening(name: &str, openings: &Openings) -> Option<bool> {
    let begins = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    let is = |names: &[&str]| names.contains(&name);
    let dbus = !openings.dbus.session.is_empty() || !openings.dbus.system.is_empty();
    if name == "XDG_RUNTIME_DIR" {
        let session = !openings.dbus.session.is_empty();
        Some(openings.display || openings.audio || session)
    } else if is(&[
        "DISPLAY",
        "XAUTHORITY",
        "XDG_SESSION_TYPE",
        "DESKTOP_STARTUP_ID",
    ]) || begins(&["WAYLAND_", "XCURSOR_"])
    {
        Some(openings.display)
    } else if begins(&["PULSE_", "PIPEWIRE_", "JACK_", "ALSA_"]) {
        Some(openings.audio)
    } else if begins(&["SSH_AUTH_SOCK", "SSH_AGENT_"]) {
        Some(openings.ssh_agent)
    } else if begins(&["DBUS_"]) {
        Some(dbus)
    } else {
        None
    }
}

/// Whether a name looks like that of a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    [
        "TOKEN",
        "KEY",
        "SECRET",
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "CREDENTIAL",
        "COOKIE",
    ]
    .iter()
    .any(|word| name.contains(word))
}

/// Whether a variable of this name passes.
pub fn passes(name: &str, openings: &Openings) -> bool {
    // What the dynamic linker and the C library obey.
    if name.starts_with("LD_") || name == "GLIBC_TUNABLES" {
        return false;
    }
    if let Some(open) = of_an_opening(name, openings) {
        return open;
    }
    if USUAL.contains(&name) || openings.environment.contains(name) {
        return true;
    }
    // A pattern does not name a secret.
    !is_secret(name)
        && (name.starts_with("LC_")
            || openings
                .environment
                .iter()
                .filter_map(|pattern| pattern.strip_suffix('*'))
                .any(|start| name.starts_with(start)))
}

/// Removes every variable that does not pass from the environment of this process. What the agent
/// is given besides its own ([`super::Given`]) is to be set afterwards. Call it with one thread.
pub fn filter(openings: &Openings) {
    let removed: Vec<_> = env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| !passes_as_written(name, openings))
        .collect();
    for name in removed {
        // SAFETY: this process has one thread.
        unsafe { env::remove_var(name) };
    }
}

/// A name that is no text is on no list.
fn passes_as_written(name: &OsStr, openings: &Openings) -> bool {
    name.to_str().is_some_and(|name| passes(name, openings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::in_child::in_child;
    use std::collections::BTreeSet;

    fn naming(names: &[&str]) -> Openings {
        Openings {
            environment: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Openings::default()
        }
    }

    #[test]
    fn what_programs_need_passes() {
        let whole = Openings::default();
        for name in [
            "PATH",
            "HOME",
            "LANG",
            "LC_ALL",
            "LC_MESSAGES",
            "TERM",
            "EDITOR",
            "CARGO_HOME",
            "NVM_DIR",
            "JAVA_HOME",
            "GIT_AUTHOR_NAME",
        ] {
            assert!(passes(name, &whole), "{name}");
        }
    }

    #[test]
    fn what_is_not_named_does_not() {
        let whole = Openings::default();
        for name in [
            "ANTHROPIC_API_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_PROFILE",
            "GITHUB_TOKEN",
            "LC_SECRET",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "GLIBC_TUNABLES",
            "DISPLAY",
            "WAYLAND_DISPLAY",
            "WAYLAND_SOCKET",
            "XAUTHORITY",
            "XDG_RUNTIME_DIR",
            "DBUS_SESSION_BUS_ADDRESS",
            "SSH_AUTH_SOCK",
            "PULSE_SERVER",
            "PIPEWIRE_REMOTE",
            "DOCKER_HOST",
            "TMUX",
            "BASH_ENV",
            "BASH_FUNC_x%%",
            "HTTPS_PROXY",
            "http_proxy",
            "NODE_OPTIONS",
            "TMPDIR",
            "GNUPGHOME",
            "KUBECONFIG",
            "path",
            "",
        ] {
            assert!(!passes(name, &whole), "{name}");
        }
    }

    #[test]
    fn a_policy_names_more() {
        let openings = naming(&["ANTHROPIC_API_KEY", "MY_*", "LD_PRELOAD", "DISPLAY"]);
        for (name, passes_now) in [
            ("ANTHROPIC_API_KEY", true),
            ("ANTHROPIC_API_KEY_2", false),
            ("OPENAI_API_KEY", false),
            ("MY_SETTING", true),
            ("MY_", true),
            ("MY_TOKEN", false),
            ("My_setting", false),
            ("LD_PRELOAD", false),
            ("DISPLAY", false),
        ] {
            assert_eq!(passes(name, &openings), passes_now, "{name}");
        }
        let all = naming(&["*"]);
        assert!(passes("ANYTHING", &all));
        for name in [
            "GITHUB_TOKEN",
            "LD_AUDIT",
            "SSH_AUTH_SOCK",
            "NPM_CONFIG__PASSWORD",
        ] {
            assert!(!passes(name, &all), "{name}");
        }
    }

    #[test]
    fn an_opening_brings_its_own() {
        let open = |set: fn(&mut Openings)| {
            let mut openings = Openings::default();
            set(&mut openings);
            [
                "DISPLAY",
                "WAYLAND_DISPLAY",
                "PULSE_SERVER",
                "SSH_AUTH_SOCK",
                "DBUS_SESSION_BUS_ADDRESS",
                "XDG_RUNTIME_DIR",
            ]
            .into_iter()
            .filter(|name| passes(name, &openings))
            .collect::<Vec<_>>()
        };
        assert_eq!(
            open(|o| o.display = true),
            ["DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR"]
        );
        assert_eq!(
            open(|o| o.audio = true),
            ["PULSE_SERVER", "XDG_RUNTIME_DIR"]
        );
        assert_eq!(open(|o| o.ssh_agent = true), ["SSH_AUTH_SOCK"]);
        assert_eq!(
            open(|o| o.dbus.session = BTreeSet::from(["org.example".to_owned()])),
            ["DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"]
        );
    }

    #[test]
    fn the_usual_ones_are_neither_secrets_nor_addresses() {
        let whole = Openings::default();
        for name in USUAL {
            assert!(!is_secret(name), "{name}");
            assert!(of_an_opening(name, &whole).is_none(), "{name}");
            assert!(!name.starts_with("LD_"), "{name}");
        }
    }

    #[test]
    fn the_process_keeps_only_what_passes() {
        let code = in_child(|| {
            // SAFETY: the child has one thread.
            unsafe {
                env::set_var("GITHUB_TOKEN", "x");
                env::set_var("LD_PRELOAD", "x");
                env::set_var("LANG", "C");
                env::set_var("MY_SETTING", "x");
            }
            filter(&naming(&["MY_SETTING"]));
            let left: Vec<String> = env::vars().map(|(name, _)| name).collect();
            let has = |name: &str| left.iter().any(|left| left == name);
            let openings = naming(&["MY_SETTING"]);
            let fine = has("LANG")
                && has("MY_SETTING")
                && !has("GITHUB_TOKEN")
                && !has("LD_PRELOAD")
                && left.iter().all(|name| passes(name, &openings));
            i32::from(!fine)
        });
        assert_eq!(code, 0);
    }
}
