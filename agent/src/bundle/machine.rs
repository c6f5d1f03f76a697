//! Which laptop this is, for the selectors and roll-outs of bundles.

use sha2::{Digest as _, Sha256};

use super::config::BundleConfig;

/// The accounts of people, as login.defs has them.
const PEOPLE: std::ops::Range<u32> = 1000..60_000;

/// A laptop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// `/etc/machine-id`, or the host's name where there is none. It leaves the laptop nowhere.
    pub id: String,
    /// Name of the host.
    pub host: String,
    /// Who uses it.
    pub users: Vec<String>,
    /// Groups that they are in.
    pub groups: Vec<String>,
    /// Roles that its configuration gives it.
    pub roles: Vec<String>,
}

impl Machine {
    /// This one.
    pub fn here(config: &BundleConfig) -> Self {
        let host = nix::sys::utsname::uname()
            .map(|names| names.nodename().to_string_lossy().into_owned())
            .unwrap_or_default();
        let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let id = match id.trim() {
            "" => host.clone(),
            id => id.to_owned(),
        };
        let users = match &config.users {
            Some(users) => users.clone(),
            None => local_users(),
        };
        let groups = users.iter().flat_map(|user| groups_of(user)).collect();
        Self {
            id,
            host,
            users,
            groups,
            roles: config.roles.clone(),
        }
    }

    /// Where it stands among ten thousand in the roll-outs of a bundle of this name.
    pub fn place(&self, bundle: &str) -> u32 {
        let mut hash = Sha256::new();
        for part in ["exeat rollout", bundle, &self.id] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let digest = hash.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        (u64::from_be_bytes(first) % 10_000) as u32
    }
}

/// From the file and not from the name service: every account of a directory resolves on every
/// laptop.
fn local_users() -> Vec<String> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut parts = line.split(':');
            let (name, uid) = (parts.next()?, parts.nth(1)?);
            PEOPLE.contains(&uid.parse().ok()?).then(|| name.to_owned())
        })
        .collect()
}

fn groups_of(user: &str) -> Vec<String> {
    use nix::unistd::{Group, User, getgrouplist};
    let Ok(Some(account)) = User::from_name(user) else {
        return Vec::new();
    };
    let Ok(name) = std::ffi::CString::new(user) else {
        return Vec::new();
    };
    let gids = getgrouplist(&name, account.gid).unwrap_or_default();
    gids.into_iter()
        .filter_map(|gid| Some(Group::from_gid(gid).ok()??.name))
        .collect()
}
