//! The machine that records come from.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The machine, and which start of the daemon: enough for an event to be told from every
/// other one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Its host name.
    pub hostname: String,
    /// `PRETTY_NAME` of os-release.
    pub os: String,
    /// `VERSION_ID` of os-release.
    pub os_version: String,
    /// The kernel's release.
    pub kernel: String,
    /// A hash of the machine's id: that itself is nobody else's to know (machine-id(5)).
    pub uid: String,
    /// Which start of the daemon, on which boot: the row of sequence numbers.
    pub start: String,
    /// Version of the daemon.
    pub version: String,
}

impl Device {
    /// This machine and this process. Events have the same ids whoever of this process asks.
    pub fn here() -> Self {
        let uname = nix::sys::utsname::uname().ok();
        let said = |field: Option<&std::ffi::OsStr>| {
            field.map_or_else(
                || "unknown".to_owned(),
                |s| s.to_string_lossy().into_owned(),
            )
        };
        let release = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default();
        Self {
            hostname: said(uname.as_ref().map(|u| u.nodename())),
            os: of_release(&release, "PRETTY_NAME").unwrap_or_else(|| "Linux".into()),
            os_version: of_release(&release, "VERSION_ID").unwrap_or_default(),
            kernel: said(uname.as_ref().map(|u| u.release())),
            uid: machine(),
            start: start(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    pub(super) fn object(&self) -> Value {
        let mut os = json!({
            "name": self.os,
            "type": "Linux",
            "type_id": 200,
            "kernel_release": self.kernel,
        });
        if !self.os_version.is_empty() {
            os["version"] = self.os_version.as_str().into();
        }
        // What kind of machine it is nobody asks here, and a guess would be one.
        let mut device =
            json!({"hostname": self.hostname, "type_id": 0, "type": "Unknown", "os": os});
        if !self.uid.is_empty() {
            device["uid"] = self.uid.as_str().into();
        }
        device
    }
}

/// A value of os-release(5), without its quotes.
fn of_release(release: &str, key: &str) -> Option<String> {
    let value = release
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    let value = value.trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// Empty where the machine has no id.
fn machine() -> String {
    let Ok(id) = std::fs::read_to_string("/etc/machine-id") else {
        return String::new();
    };
    match id.trim() {
        "" | "uninitialized" => String::new(),
        id => hex(&Sha256::digest(format!("exeat device {id}")))[..32].to_owned(),
    }
}

fn start() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let ticks = procfs::process::Process::myself()
        .and_then(|me| me.stat())
        .map_or(0, |stat| stat.starttime);
    format!("{}/{}/{ticks}", boot.trim(), std::process::id())
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_and_its_id_is_not_told() {
        let here = Device::here();
        assert!(!here.hostname.is_empty() && !here.kernel.is_empty());
        assert_eq!(here, Device::here());
        if let Ok(id) = std::fs::read_to_string("/etc/machine-id") {
            assert!(id.trim().is_empty() || !here.uid.contains(id.trim()));
        }
    }

    #[test]
    fn os_release_is_read_with_quotes_and_without() {
        let release = "NAME=x\nPRETTY_NAME=\"Some Linux 7\"\nVERSION_ID=7\nVERSION=\n";
        assert_eq!(
            of_release(release, "PRETTY_NAME").as_deref(),
            Some("Some Linux 7")
        );
        assert_eq!(of_release(release, "VERSION_ID").as_deref(), Some("7"));
        assert_eq!(of_release(release, "VERSION"), None);
        assert_eq!(of_release(release, "ID"), None);
    }
}
