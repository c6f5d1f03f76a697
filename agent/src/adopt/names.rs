//! What the last part of a cgroup's path says, as systemd, the container engines, flatpak and
//! snapd write it.

/// Whether it is a unit of systemd.
pub(super) fn is_unit(last: &str) -> bool {
    [".service", ".scope", ".slice"]
        .iter()
        .any(|end| last.ends_with(end))
}

/// The id of a container, by the path of its cgroup: `docker-ID.scope`, `libpod-ID.scope`,
/// `docker/ID`, `libpod_parent/libpod-ID`. Its monitor (`libpod-conmon-ID.scope`) is none.
pub fn container_id(below_root: &str) -> Option<&str> {
    let (above, last) = below_root.rsplit_once('/').unwrap_or(("", below_root));
    let name = last.strip_suffix(".scope").unwrap_or(last);
    let engines = ["docker-", "libpod-", "crio-", "cri-containerd-"];
    let id = engines
        .iter()
        .find_map(|engine| name.strip_prefix(engine))
        .or_else(|| (above.rsplit('/').next() == Some("docker")).then_some(name))?;
    let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then_some(id)
}

/// The id of a flatpak: `app-flatpak-ID-NUMBER.scope`, its parts escaped as systemd does.
pub(super) fn flatpak(last: &str) -> Option<String> {
    let name = last.strip_suffix(".scope")?;
    let name = name
        .strip_prefix("app-flatpak-")
        .or_else(|| name.strip_prefix("flatpak-"))?;
    let (id, number) = name.rsplit_once('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| id.replace(r"\x2d", "-"))
}

/// The name of a snap: `snap.NAME.APP-ID.scope` or `snap.NAME.APP.service`.
pub(super) fn snap(last: &str) -> Option<&str> {
    if !is_unit(last) {
        return None;
    }
    let (name, _) = last.strip_prefix("snap.")?.split_once('.')?;
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_known_by_the_shapes_of_their_engines() {
        let id = "0123456789abcdef".repeat(4);
        for (path, is) in [
            (format!("system.slice/docker-{id}.scope"), true),
            (format!("docker/{id}"), true),
            (format!("a/docker/{id}"), true),
            (format!("machine.slice/libpod-{id}.scope"), true),
            (format!("libpod_parent/libpod-{id}"), true),
            (format!("machine.slice/libpod-conmon-{id}.scope"), false),
            (format!("machine.slice/libpod-{id}.scope/container"), false),
            (format!("other/{id}"), false),
            ("system.slice/docker-abc.scope".to_owned(), false),
        ] {
            assert_eq!(container_id(&path), is.then_some(id.as_str()), "{path}");
        }
    }
}
