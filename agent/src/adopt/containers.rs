//! What a container is called, by what its engine wrote to the disk. The engines are not asked.
//!
//! Docker keeps `containers/ID/config.v2.json` with name and labels. Podman keeps the names in
//! `overlay-containers/containers.json` of its storage, of the system and of each user; its
//! labels are in a database that is not read here, so they are not known.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Where docker keeps its containers.
const DOCKER: &[&str] = &[
    "/var/lib/docker/containers",
    "/var/lib/docker-engine/containers",
];
/// Where podman keeps its own, as root and below each home.
const PODMAN: &str = "containers/storage";
/// The kinds of storage that podman has.
const DRIVERS: &[&str] = &["overlay-containers", "vfs-containers", "btrfs-containers"];
/// A file that is larger is not read.
const MAX_FILE: u64 = 16 << 20;

/// What is known of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its names.
    pub names: Vec<String>,
    /// Its labels, where they are known.
    pub labels: BTreeMap<String, String>,
}

/// The folders of the engines.
#[derive(Clone, Debug)]
pub struct Stores {
    docker: Vec<PathBuf>,
    podman: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct DockerFile {
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "Config", default)]
    config: DockerConfig,
}

#[derive(Default, Deserialize)]
struct DockerConfig {
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct PodmanEntry {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

impl Default for Stores {
    /// Those of this machine: a user's podman is below the home that `/etc/passwd` names.
    fn default() -> Self {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let mut homes: Vec<PathBuf> = passwd
            .lines()
            .filter_map(|line| line.split(':').nth(5))
            .filter(|home| home.len() > 1 && home.starts_with('/'))
            .map(|home| Path::new(home).join(".local/share").join(PODMAN))
            .collect();
        homes.sort();
        homes.dedup();
        homes.insert(0, Path::new("/var/lib").join(PODMAN));
        Self {
            docker: DOCKER.iter().map(PathBuf::from).collect(),
            podman: homes,
        }
    }
}

impl Stores {
    /// What is known of a container; `None` where no engine's files name it.
    pub fn find(&self, id: &str) -> Option<Container> {
        // The id comes from the path of a cgroup, whose maker chose it.
        if id.len() != 64 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let docker = self.docker.iter().find_map(|folder| {
            let text = read(&folder.join(id).join("config.v2.json")).ok()?;
            let file: DockerFile = serde_json::from_slice(&text).ok()?;
            Some(Container {
                names: vec![file.name.trim_start_matches('/').to_owned()],
                labels: file.config.labels.unwrap_or_default(),
            })
        });
        docker.or_else(|| {
            let stores = self
                .podman
                .iter()
                .flat_map(|store| DRIVERS.iter().map(move |driver| store.join(driver)));
            stores.into_iter().find_map(|store| {
                let text = read(&store.join("containers.json")).ok()?;
                let entries: Vec<PodmanEntry> = serde_json::from_slice(&text).ok()?;
                let entry = entries.into_iter().find(|entry| entry.id == id)?;
                Some(Container {
                    names: entry.names,
                    labels: BTreeMap::new(),
                })
            })
        })
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // A user's own files: nothing that blocks, and nothing without an end.
    let file = fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_files_are_understood() {
        let folder = tempfile::tempdir().expect("folder");
        let (one, two) = ("1a".repeat(32), "2b".repeat(32));
        let docker = folder.path().join("docker");
        fs::create_dir_all(docker.join(&one)).expect("folders");
        let text = r#"{"ID":"x","Name":"/agent-1","Config":{"Labels":{"role":"agent"},"Env":[]}}"#;
        fs::write(docker.join(&one).join("config.v2.json"), text).expect("write");
        let podman = folder.path().join("storage");
        fs::create_dir_all(podman.join("overlay-containers")).expect("folders");
        let text = format!(r#"[{{"id":"{two}","names":["agent-2","b"],"layer":"x"}}]"#);
        fs::write(podman.join("overlay-containers/containers.json"), text).expect("write");
        let stores = Stores {
            docker: vec![docker],
            podman: vec![podman],
        };
        let found = stores.find(&one).expect("docker");
        assert_eq!(found.names, ["agent-1"]);
        assert_eq!(found.labels["role"], "agent");
        assert_eq!(stores.find(&two).expect("podman").names, ["agent-2", "b"]);
        for none in ["", "../../etc", &"3c".repeat(32)] {
            assert_eq!(stores.find(none), None, "{none}");
        }
    }
}
