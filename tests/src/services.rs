//! Sockets of services as a laptop has them, that only count who comes.

use crate::ns::Ns;
use anyhow::Context;
use nix::mount::{MsFlags, mount};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Those that resolve names for whoever asks.
pub const RESOLVERS: [&str; 4] = [
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/dbus/system_bus_socket",
    "/run/nscd/socket",
    "/run/avahi-daemon/socket",
];

/// Services in the mount namespace of a laptop, whose `/run` is theirs alone.
pub struct Services {
    laptop: Ns,
    listeners: BTreeMap<String, UnixListener>,
}

impl Services {
    /// Starts one at each path, for every user to use.
    ///
    /// # Errors
    /// Those of mount and bind.
    pub fn start(laptop: &Ns, paths: &[&str]) -> anyhow::Result<Self> {
        laptop.run_inside(|| {
            mount(
                Some("tmpfs"),
                "/run",
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=0755"),
            )
            .context("mount a /run")
        })?;
        let mut services = Self {
            laptop: laptop.clone(),
            listeners: BTreeMap::new(),
        };
        for path in paths {
            services.restart(path)?;
        }
        Ok(services)
    }

    /// Ends the service at a path, if there is one, and starts it again.
    ///
    /// # Errors
    /// Those of unlink and bind.
    pub fn restart(&mut self, path: &str) -> anyhow::Result<()> {
        self.listeners.remove(path);
        let listener = self.laptop.run_inside(|| {
            let at = Path::new(path);
            if at.exists() {
                std::fs::remove_file(at)?;
            }
            std::fs::create_dir_all(at.parent().context("a path in /run")?)?;
            let listener = UnixListener::bind(at).with_context(|| format!("bind {path}"))?;
            std::fs::set_permissions(at, PermissionsExt::from_mode(0o666))?;
            Ok(listener)
        })?;
        listener.set_nonblocking(true)?;
        self.listeners.insert(path.to_owned(), listener);
        Ok(())
    }

    /// How many have connected since it was last asked, by path; only those with any.
    pub fn visitors(&self) -> BTreeMap<&str, usize> {
        self.listeners
            .iter()
            .map(|(path, listener)| {
                let visitors = std::iter::from_fn(|| listener.accept().ok()).count();
                (path.as_str(), visitors)
            })
            .filter(|(_, visitors)| *visitors > 0)
            .collect()
    }
}
