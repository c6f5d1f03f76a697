//! The sandbox of an agent, from what is written.

use super::super::file::{At, HomeFile, NetworkFile, OpeningsFile, ProjectFile, SandboxFile};
use super::super::sandbox::{Dbus, Home, Network, Openings, Project, Sandbox};
use std::collections::BTreeSet;

pub(super) fn sandbox(file: Option<&At<SandboxFile>>) -> Sandbox {
    match file.map(|sandbox| &sandbox.value) {
        None => Sandbox::default(),
        Some(SandboxFile::None) => Sandbox::None,
        Some(SandboxFile::Openings(file)) => Sandbox::Walls(Box::new(openings(file))),
    }
}

fn openings(file: &OpeningsFile) -> Openings {
    let set = |list: &[At<String>]| -> BTreeSet<String> {
        list.iter().map(|item| item.value.clone()).collect()
    };
    let on = |switch: &Option<At<bool>>| switch.as_ref().is_some_and(|at| at.value);
    Openings {
        home: match file.home.as_ref().map(|home| home.value) {
            None | Some(HomeFile::Hidden) => Home::Hidden,
            Some(HomeFile::Read) => Home::Read,
            Some(HomeFile::Write) => Home::Write,
        },
        project: match file.project.as_ref().map(|project| project.value) {
            None | Some(ProjectFile::Write) => Project::Write,
            Some(ProjectFile::Read) => Project::Read,
            Some(ProjectFile::Copy) => Project::Copy,
        },
        network: match file.network.as_ref().map(|network| network.value) {
            None | Some(NetworkFile::Host) => Network::Host,
            Some(NetworkFile::Own) => Network::Own,
        },
        read: set(&file.read),
        write: set(&file.write),
        hide: set(&file.hide),
        environment: set(&file.environment),
        autorun: on(&file.autorun),
        display: on(&file.display),
        audio: on(&file.audio),
        gpu: on(&file.gpu),
        ssh_agent: on(&file.ssh_agent),
        io_uring: on(&file.io_uring),
        debug: on(&file.debug),
        user_namespaces: on(&file.user_namespaces),
        dbus: file.dbus.as_ref().map_or_else(Dbus::default, |dbus| Dbus {
            session: set(&dbus.value.session),
            system: set(&dbus.value.system),
        }),
    }
}
