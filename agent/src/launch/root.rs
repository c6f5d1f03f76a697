//! The root that an agent sees.
//!
//! It is a new one on memory, and holds what is put there: what is not named is not hidden, it is not there.
//! Everything lies at the path that it has outside. The plan is made before the namespaces, with the
//! caller's eyes; it is built by the first process in them, which then changes its root
//! (pivot_root(2)) and lets the old one go.
//!
//! What may be read is mounted read-only, without devices and set-user-ID; secrets in it are
//! covered. Paths are resolved to what they lead to first, and no link is followed when mounts
//! are made, because another agent may be changing its project meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsStr,
    fs,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        stat::{Mode, SFlag, fstat, mkdirat},
        statvfs::{FsFlags, fstatvfs},
    },
    unistd::{User, chdir, fchdir, geteuid, isatty, pivot_root, symlinkat},
};

use super::{LaunchError, files, landlock, services};
use crate::policy::{
    Openings, Services, autorun,
    sandbox::{Home, Project, SECRETS, STARTUP},
    services::RUN,
};
use crate::workspace;

/// Where the new root is made, and what is there in the old one is of no account any more.
const BASE: &str = "/tmp";
/// In it, what is not to be seen of it: gone before the command starts.
const BENEATH: &str = ".exeat";

/// What is at a path of the new root.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Item {
    /// A folder of its own, in which nothing can be made.
    Folder,
    /// An empty folder in memory, to be changed, with these rights.
    Memory(u32),
    /// What is there outside, to be read.
    Read,
    /// What is there outside, to be changed.
    Write,
    /// The same as long as the sandbox: changes are kept in memory.
    Copy,
    /// The same: changes are kept in these folders, an upper layer and overlayfs' own.
    Workspace(PathBuf, PathBuf),
    /// A device, or a terminal that has another path outside.
    Device(PathBuf),
    /// A socket that has another path outside.
    Socket(PathBuf),
    /// Nothing, where something would be.
    Hidden,
    /// To be read only, where it could be changed.
    Locked,
    /// The processes of its own.
    Processes,
    /// Terminals of its own.
    Terminals,
}

impl Item {
    /// Whether something of outside shows there.
    fn shows(&self) -> bool {
        matches!(
            self,
            Self::Read | Self::Write | Self::Copy | Self::Workspace(..) | Self::Locked
        )
    }

    fn is_bound(&self) -> bool {
        self.shows() || matches!(self, Self::Device(_) | Self::Socket(_))
    }
}

/// What the new root will hold.
#[derive(Debug)]
pub(super) struct Plan {
    items: BTreeMap<PathBuf, Item>,
    /// Links, by their path.
    links: BTreeMap<PathBuf, PathBuf>,
    /// The folder that the command starts in.
    folder: PathBuf,
    /// What the person who starts it should know.
    pub(super) notes: Vec<String>,
    /// Held as long as the sandbox lasts.
    layers: Option<workspace::Layers>,
}

fn failed(step: impl Into<String>) -> impl FnOnce(Errno) -> LaunchError {
    let step = step.into();
    move |errno| LaunchError::Sandbox {
        step,
        help: match errno {
            Errno::EPERM | Errno::EACCES => {
                "Where Exeat runs in a container, that one must not cover parts of /proc"
            }
            _ => "",
        },
        source: errno.into(),
    }
}

/// The homes of whom this process is: what programs take for it, and what the user database
/// says.
fn homes() -> (Option<PathBuf>, BTreeSet<PathBuf>) {
    let good = |path: PathBuf| path.is_absolute() && path != Path::new("/");
    let named = env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|p| good(p.clone()));
    let known = User::from_uid(geteuid())
        .ok()
        .flatten()
        .map(|user| user.dir);
    let all = [named.clone(), known.clone().filter(|p| good(p.clone()))];
    let all = all.into_iter().flatten();
    let all = all.filter_map(|home| fs::canonicalize(home).ok()).collect();
    (named.or(known).filter(|p| good(p.clone())), all)
}

fn is_or_is_in(path: &Path, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

impl Plan {
    /// Looks at what there is.
    pub(super) fn new(
        services: &Services,
        openings: &Openings,
        kept: Option<&Path>,
        (agent, run): (&str, &str),
        sockets: &[(PathBuf, PathBuf)],
    ) -> Result<Self, LaunchError> {
        let folder = env::current_dir().map_err(|source| LaunchError::Sandbox {
            step: "find the current folder".to_owned(),
            help: "start the command in a folder that is there",
            source,
        })?;
        let mut plan = Self {
            items: BTreeMap::new(),
            links: BTreeMap::new(),
            folder,
            notes: Vec::new(),
            layers: None,
        };
        let (home, homes) = homes();
        plan.system();
        plan.run(services);
        plan.home(home.as_deref(), openings.home);
        plan.secrets(&homes);
        let opened = |path: &Path| {
            let named = openings.read.iter().chain(&openings.write);
            named
                .filter_map(|named| fs::canonicalize(expand(named, home.as_deref())?).ok())
                .any(|named| path.starts_with(named))
        };
        if plan.project(openings, &homes, opened)? && openings.project == Project::Copy {
            plan.copy_project(agent, run)?;
        }
        plan.desktop(openings, home.as_deref());
        for path in &openings.read {
            plan.named(path, home.as_deref(), Item::Read);
        }
        for path in &openings.write {
            plan.named(path, home.as_deref(), Item::Write);
        }
        for path in &openings.hide {
            plan.named(path, home.as_deref(), Item::Hidden);
        }
        for (outside, inside) in sockets {
            plan.put(inside, Item::Socket(outside.clone()));
        }
        if let Some(kept) = kept {
            plan.show(kept, Item::Read);
        }
        Ok(plan)
    }

    fn put(&mut self, path: impl Into<PathBuf>, item: Item) {
        self.items.insert(path.into(), item);
    }

    /// What a path leads to, as this; and a link where the path itself is another.
    fn show(&mut self, path: &Path, item: Item) {
        let Ok(real) = fs::canonicalize(path) else {
            // What is not there is not missed.
            return;
        };
        if real == Path::new("/") {
            return;
        }
        if real != path {
            self.links.insert(path.to_owned(), real.clone());
        }
        self.put(real, item);
    }

    fn named(&mut self, path: &str, home: Option<&Path>, item: Item) {
        if let Some(path) = expand(path, home) {
            self.show(&path, item);
        }
    }

    fn system(&mut self) {
        for path in files::SYSTEM {
            let path = Path::new(path);
            match fs::read_link(path) {
                Ok(target) => {
                    self.links.insert(path.to_owned(), target);
                }
                Err(_) => self.show(path, Item::Read),
            }
        }
        for path in files::MORE {
            self.show(Path::new(path), Item::Read);
        }
        for path in files::EMPTY {
            self.put(*path, Item::Folder);
        }
        self.links.insert("/var/run".into(), RUN.into());
        self.links.insert("/var/lock".into(), "/run/lock".into());
        for path in [BASE, "/var/tmp", "/dev/shm"] {
            self.put(path, Item::Memory(0o1777));
        }
        self.put("/proc", Item::Processes);
        self.put("/dev", Item::Folder);
        self.put("/dev/pts", Item::Terminals);
        for path in files::DEVICES {
            if Path::new(path).exists() {
                self.put(*path, Item::Device((*path).into()));
            }
        }
        for (path, target) in files::DEVICE_LINKS {
            self.links.insert((*path).into(), (*target).into());
        }
        // The terminal by a name that programs find it by: the terminals are its own.
        let terminal = [0, 1, 2].into_iter().find_map(|number: i32| {
            // SAFETY: these are open, or the call says that they are not.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            isatty(fd).ok().filter(|is| *is)?;
            fs::read_link(format!("/proc/self/fd/{number}")).ok()
        });
        if let Some(terminal) = terminal.filter(|path| path.starts_with("/dev")) {
            self.put("/dev/console", Item::Device(terminal));
        }
    }

    /// A `/run` without the machine's services, as without a sandbox, and without the user's.
    fn run(&mut self, services: &Services) {
        match services {
            Services::All => self.put(RUN, Item::Write),
            Services::Only(named) => {
                self.put(RUN, Item::Folder);
                self.put(format!("{RUN}/user/{}", geteuid()), Item::Memory(0o700));
                for name in services::USUAL {
                    self.show(&Path::new(RUN).join(name), Item::Read);
                }
                for path in named {
                    self.show(Path::new(path), Item::Read);
                }
            }
        }
    }

    fn home(&mut self, home: Option<&Path>, how: Home) {
        let Some(home) = home else {
            return;
        };
        let Ok(real) = fs::canonicalize(home) else {
            return;
        };
        if real != home {
            self.links.insert(home.to_owned(), real.clone());
        }
        match how {
            Home::Read => self.put(real, Item::Read),
            Home::Write => self.put(real, Item::Write),
            Home::Hidden => {
                self.put(real.clone(), Item::Memory(0o700));
                for name in files::TOOLS {
                    self.show(&real.join(name), Item::Read);
                }
                for name in files::STORES {
                    self.show(&real.join(name), Item::Copy);
                }
            }
        }
    }

    fn secrets(&mut self, homes: &BTreeSet<PathBuf>) {
        let places = [(SECRETS, Item::Hidden), (STARTUP, Item::Locked)];
        for (place, item) in places
            .iter()
            .flat_map(|(places, item)| places.iter().map(move |(place, _)| (*place, item)))
        {
            let paths: Vec<PathBuf> = match place.strip_prefix("~/") {
                Some(rest) => homes.iter().map(|home| home.join(rest)).collect(),
                None => vec![place.into()],
            };
            for path in paths {
                let Ok(real) = fs::canonicalize(&path) else {
                    continue;
                };
                // A tool of the home is read-only already.
                if *item == Item::Hidden || !self.items.contains_key(&real) {
                    self.put(real, item.clone());
                }
            }
        }
        // By their names only root may read them, and root is in the sandbox too.
        let keys = fs::read_dir("/etc/ssh").into_iter().flatten().flatten();
        for key in keys {
            let name = key.file_name();
            let name = name.as_bytes();
            if name.starts_with(b"ssh_host_") && name.ends_with(b"_key") {
                self.put(key.path(), Item::Hidden);
            }
        }
    }

    /// The folder that the command is started in, unless it is one that no project is in.
    fn project(
        &mut self,
        openings: &Openings,
        homes: &BTreeSet<PathBuf>,
        opened: impl Fn(&Path) -> bool,
    ) -> Result<bool, LaunchError> {
        let folder = self.folder.clone();
        let secret = self.items.iter().any(|(path, item)| {
            *item == Item::Hidden && folder.starts_with(path) && !opened(&folder)
        });
        if secret {
            return Err(LaunchError::Folder {
                folder,
                why: "it is hidden from the agent",
            });
        }
        let above_home = homes.iter().any(|home| home.starts_with(&folder));
        let holds_others = files::NO_PROJECT_ITSELF
            .iter()
            .chain(files::NO_PROJECT)
            .any(|place| Path::new(place).starts_with(&folder));
        let why = if above_home {
            "is the home, or holds it"
        } else if holds_others || is_or_is_in(&folder, files::NO_PROJECT) {
            "belongs to the machine"
        } else {
            let item = match openings.project {
                Project::Write => Item::Write,
                // Until there is a copy.
                Project::Read | Project::Copy => Item::Read,
            };
            let writes = item == Item::Write;
            self.put(folder.clone(), item);
            if writes && !openings.autorun {
                self.lock_autorun(&folder);
            }
            return Ok(true);
        };
        self.notes.push(format!(
            "the current folder ({}) {why}, so it is not opened to the command as a project: start it in the folder that it is to work in, or name what it needs in `sandbox:` of the policy",
            folder.display()
        ));
        Ok(false)
    }

    /// The command changes a copy of the project, which a person applies.
    fn copy_project(&mut self, agent: &str, run: &str) -> Result<(), LaunchError> {
        let layers = workspace::prepare(&self.folder, agent, run).map_err(|source| {
            LaunchError::Sandbox {
                step: "make a workspace for the project".to_owned(),
                help: "`project: copy` keeps changes in ~/.local/state/exeat",
                source,
            }
        })?;
        self.notes.push(format!(
            "the command changes a copy of {}: see `exeat workspace diff {}`",
            self.folder.display(),
            layers.id
        ));
        let item = Item::Workspace(layers.upper.clone(), layers.work.clone());
        self.put(self.folder.clone(), item);
        // The layers are not for the agent, whatever else of the home is.
        if let Some(store) = layers.upper.ancestors().nth(2) {
            self.put(store, Item::Hidden);
        }
        self.layers = Some(layers);
        Ok(())
    }

    /// What runs by itself of a project may be read.
    fn lock_autorun(&mut self, project: &Path) {
        let git = project.join(".git");
        let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        let is_there = |path: &Path| {
            let found = fs::symlink_metadata(path);
            found.is_ok_and(|found| found.is_dir() || found.is_file())
        };
        if is_folder(&git) {
            // Git makes it with every repository; where it is not there the agent could.
            let _ = fs::create_dir(git.join("hooks"));
        } else if is_there(&git) {
            // It names the repository.
            self.put(git.clone(), Item::Locked);
        }
        let mut found: Vec<PathBuf> = autorun::ENTRIES
            .iter()
            .map(|entry| project.join(entry.path))
            .filter(|path| is_there(path))
            .collect();
        found.extend(hooks_of(&git).map(|path| project.join(path)));
        found.extend(submodules(&git.join("modules"), 4));
        for path in found {
            let Ok(real) = fs::canonicalize(&path) else {
                continue;
            };
            if !real.starts_with(project) || real == project {
                continue;
            }
            // A folder above can be renamed, and another be put in its place; a mount cannot.
            for above in real
                .ancestors()
                .skip(1)
                .take_while(|above| *above != project)
            {
                let above = above.to_owned();
                self.items.entry(above).or_insert(Item::Write);
            }
            self.put(real, Item::Locked);
        }
    }

    /// The user's desktop, where the policy opens it.
    fn desktop(&mut self, openings: &Openings, home: Option<&Path>) {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
        let in_runtime = |name: &OsStr| match &runtime {
            Some(runtime) => Some(runtime.join(name)),
            None => Path::new(name).is_absolute().then(|| PathBuf::from(name)),
        };
        let mut paths = Vec::new();
        if openings.display {
            paths.extend(variable("WAYLAND_DISPLAY").and_then(|name| in_runtime(&name)));
            let display = variable("DISPLAY");
            let number = display.as_deref().and_then(|display| {
                let display = display.to_str()?.strip_prefix(':')?;
                let number = display.split('.').next()?;
                number
                    .bytes()
                    .all(|b| b.is_ascii_digit())
                    .then(|| number.to_owned())
            });
            paths.extend(number.map(|number| format!("/tmp/.X11-unix/X{number}").into()));
            let authority = variable("XAUTHORITY").map(PathBuf::from);
            paths.extend(authority.or_else(|| Some(home?.join(".Xauthority"))));
        }
        if openings.audio {
            for name in ["pipewire-0", "pulse/native"] {
                paths.extend(runtime.as_ref().map(|runtime| runtime.join(name)));
            }
            paths.extend(home.map(|home| home.join(".config/pulse/cookie")));
        }
        if openings.ssh_agent {
            paths.extend(variable("SSH_AUTH_SOCK").map(PathBuf::from));
        }
        for path in paths {
            self.show(&path, Item::Read);
        }
        if openings.gpu {
            let devices = fs::read_dir("/dev").into_iter().flatten().flatten();
            for device in devices {
                let name = device.file_name();
                let name = name.as_bytes();
                if name == b"dri" || name == b"kfd" || name.starts_with(b"nvidia") {
                    self.put(device.path(), Item::Device(device.path()));
                }
            }
            for path in [
                "/sys/bus/pci",
                "/sys/class/drm",
                "/sys/dev/char",
                "/sys/devices",
            ] {
                self.show(Path::new(path), Item::Read);
            }
        }
    }

    /// The nearest folder above that is in the plan.
    fn above(&self, path: &Path) -> Option<&Item> {
        path.ancestors()
            .skip(1)
            .find_map(|above| self.items.get(above))
    }

    /// What Landlock is to let through: all that is there, and changes where they are meant.
    pub(super) fn paths(&self) -> landlock::Paths {
        let write = self.items.iter().filter_map(|(path, item)| {
            let changes = matches!(
                item,
                Item::Write | Item::Copy | Item::Workspace(..) | Item::Memory(_) | Item::Processes
            );
            changes.then(|| path.clone())
        });
        landlock::Paths {
            read: Vec::new(),
            execute: vec!["/".into()],
            write: write.chain(["/dev".into()]).collect(),
        }
    }

    /// Whether a command that the sandbox does not have is there outside of it.
    pub(super) fn lacks(&self, command: &OsStr) -> bool {
        let path = Path::new(command);
        let there = |path: &Path| fs::metadata(path).is_ok_and(|found| found.is_file());
        match path.components().count() > 1 {
            true => there(path),
            false => env::var_os("PATH")
                .is_some_and(|paths| env::split_paths(&paths).any(|at| there(&at.join(path)))),
        }
    }

    /// Makes it, and goes there. By the first process of the namespaces, before it starts
    /// anything.
    pub(super) fn build(&self) -> Result<(), LaunchError> {
        // What is mounted here is not mounted for others, nor the other way around.
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .map_err(failed("keep its mounts to itself"))?;
        let old = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(failed("open the root"))?;
        let sources: BTreeMap<&Path, OwnedFd> = self
            .items
            .iter()
            .filter(|(_, item)| item.is_bound())
            .filter_map(|(path, item)| {
                let source = match item {
                    Item::Device(source) | Item::Socket(source) => source,
                    _ => path,
                };
                // What went meanwhile, or is not for this user, is not missed.
                Some((path.as_path(), beneath(&old, source).ok()?))
            })
            .collect();
        let layers = self.layers.as_ref().map(|layers| {
            let open = |path: &Path| beneath(&old, path);
            Ok((open(&layers.upper)?, open(&layers.work)?))
        });
        let layers = layers.transpose().map_err(failed("open the workspace"))?;
        mount_memory(Path::new(BASE), 0o755).map_err(failed("mount a new root"))?;
        let base = open(
            BASE,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed("open the new root"))?;
        let mut builder = Builder::new(base, layers)?;
        for (path, item) in &self.items {
            let above = self.above(path);
            let needless = match item {
                Item::Hidden => !above.is_some_and(Item::shows),
                Item::Locked => {
                    !matches!(above, Some(Item::Write | Item::Copy | Item::Workspace(..)))
                }
                _ => item.is_bound() && !sources.contains_key(path.as_path()),
            };
            if !needless {
                builder
                    .put(path, item, sources.get(path.as_path()))
                    .map_err(failed(format!("put {} into it", path.display())))?;
            }
        }
        drop(sources);
        for (path, target) in &self.links {
            builder
                .link(path, target)
                .map_err(failed(format!("put {} into it", path.display())))?;
        }
        builder.finish()?;
        chdir(&self.folder).map_err(|_| LaunchError::Folder {
            folder: self.folder.clone(),
            why: "it is not in the sandbox",
        })
    }
}

/// A path of a policy.
fn expand(path: &str, home: Option<&Path>) -> Option<PathBuf> {
    match path.strip_prefix("~/") {
        Some(rest) => Some(home?.join(rest)),
        None => Some(path.into()),
    }
}

/// Where a repository's settings say that its hooks are: folders of the project.
fn hooks_of(git: &Path) -> impl Iterator<Item = PathBuf> {
    let text = fs::read_to_string(git.join("config")).unwrap_or_default();
    let paths: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let is = key.trim().eq_ignore_ascii_case("hookspath");
            is.then(|| PathBuf::from(value.trim().trim_matches('"')))
        })
        .filter(|path| path.is_relative())
        .collect();
    paths.into_iter()
}

/// Settings and hooks of a repository's submodules.
fn submodules(modules: &Path, deep: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(modules).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let path = entry.path();
        if path.join("HEAD").is_file() {
            for name in ["config", "config.worktree", "hooks"] {
                found.push(path.join(name));
            }
            found.extend(submodules(&path.join("modules"), deep.saturating_sub(1)));
        } else if deep > 0 {
            found.extend(submodules(&path, deep - 1));
        }
    }
    found.retain(|path| path.exists());
    found
}

/// What is at a path below a folder, by no link.
fn beneath(folder: &impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    if relative.as_os_str().is_empty() {
        return Err(Errno::EINVAL);
    }
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
    openat2(folder, relative, how)
}

/// The path by which the kernel knows an open file.
fn by_fd(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

fn is_folder(fd: &impl AsFd) -> Result<bool, Errno> {
    let found = fstat(fd)?;
    Ok(SFlag::from_bits_truncate(found.st_mode & libc::S_IFMT) == SFlag::S_IFDIR)
}

fn mount_memory(at: &Path, mode: u32) -> Result<(), Errno> {
    mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(format!("mode={mode:04o}").as_str()),
    )
}

/// What is changed of a mount and all below it.
#[derive(Clone, Copy)]
struct Attributes {
    read_only: bool,
    no_devices: bool,
}

impl Attributes {
    fn mount_flags(self) -> MsFlags {
        let mut flags = MsFlags::MS_NOSUID;
        flags.set(MsFlags::MS_RDONLY, self.read_only);
        flags.set(MsFlags::MS_NODEV, self.no_devices);
        flags
    }
}

/// Sets them on the mount that is open here, and on every one below it.
fn set(at: &OwnedFd, path: &Path, attributes: Attributes) -> Result<(), Errno> {
    let mut bits = libc::MOUNT_ATTR_NOSUID;
    if attributes.read_only {
        bits |= libc::MOUNT_ATTR_RDONLY;
    }
    if attributes.no_devices {
        bits |= libc::MOUNT_ATTR_NODEV;
    }
    let wanted = libc::mount_attr {
        attr_set: bits,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a string that ends in NUL, the structure is of the size that is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_raw_fd(),
            c"".as_ptr(),
            AtFlags::AT_EMPTY_PATH.bits() | libc::AT_RECURSIVE,
            &wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    match Errno::result(done) {
        // Before Linux 5.12.
        Err(Errno::ENOSYS) => set_each(path, attributes),
        done => done.map(drop),
    }
}

/// The same, mount by mount.
fn set_each(path: &Path, attributes: Attributes) -> Result<(), Errno> {
    let full = Path::new(BASE).join(path.strip_prefix("/").unwrap_or(path));
    let table = fs::read("/proc/self/mountinfo").map_err(|_| Errno::EIO)?;
    for line in table.split(|byte| *byte == b'\n') {
        let Some(point) = line.split(|byte| *byte == b' ').nth(4) else {
            continue;
        };
        let point = PathBuf::from(OsStr::from_bytes(&unescaped(point)));
        if !point.starts_with(&full) {
            continue;
        }
        let Ok(relative) = point.strip_prefix(BASE) else {
            continue;
        };
        let base = open(BASE, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let Ok(fd) = beneath(&base, relative) else {
            continue;
        };
        // What is set already is locked, and must be said again.
        let has = fstatvfs(&fd)?.flags();
        let mut flags = attributes.mount_flags() | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        for (held, flag) in [
            (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
            (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
            (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
            (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
            (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
            (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
        ] {
            if has.contains(held) {
                flags |= flag;
            }
        }
        mount(
            None::<&str>,
            by_fd(&fd).as_str(),
            None::<&str>,
            flags,
            None::<&str>,
        )?;
    }
    Ok(())
}

/// A path of mountinfo (proc_pid_mountinfo(5)): some bytes are written in octal.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| byte == b'\\');
        let number = digits.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match number {
            Some(number) => {
                plain.push(number);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

/// Mounts what is in `lower` with changes kept in `upper`.
fn overlay(
    place: &OwnedFd,
    lower: &OwnedFd,
    upper: &OwnedFd,
    work: &OwnedFd,
    more: &str,
) -> Result<(), Errno> {
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{more}",
        by_fd(lower),
        by_fd(upper),
        by_fd(work)
    );
    mount(
        Some("overlay"),
        by_fd(place).as_str(),
        Some("overlay"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
}

struct Builder {
    base: OwnedFd,
    /// An empty file.
    nothing: OwnedFd,
    /// Folders in memory that are closed at the end.
    close: Vec<PathBuf>,
    copies: u32,
    /// Upper layer of the project, and overlayfs' own folder.
    layers: Option<(OwnedFd, OwnedFd)>,
}

impl Builder {
    fn new(base: OwnedFd, layers: Option<(OwnedFd, OwnedFd)>) -> Result<Self, LaunchError> {
        let make = || -> Result<OwnedFd, Errno> {
            mkdirat(&base, BENEATH, Mode::from_bits_truncate(0o700))?;
            let own = beneath(&base, Path::new(BENEATH))?;
            // Of its own, because what is copied keeps it when its path is gone.
            mount_memory(Path::new(&by_fd(&own)), 0o700)?;
            let nothing = Path::new(BENEATH).join("nothing");
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            openat(&base, &nothing, flags, Mode::from_bits_truncate(0o444))?;
            beneath(&base, &nothing)
        };
        let nothing = make().map_err(failed("prepare the new root"))?;
        Ok(Self {
            base,
            nothing,
            close: Vec::new(),
            copies: 0,
            layers,
        })
    }

    /// The folder that holds a path, made where it is not there.
    fn parent(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let mut at = self.base.try_clone().map_err(|_| Errno::EMFILE)?;
        let parts: Vec<&OsStr> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        let Some((_, parents)) = parts.split_last() else {
            return Ok(at);
        };
        for name in parents {
            let name = Path::new(name);
            at = match beneath(&at, name) {
                Err(Errno::ENOENT) => {
                    mkdirat(&at, name, Mode::from_bits_truncate(0o755))?;
                    beneath(&at, name)?
                }
                found => found?,
            };
        }
        Ok(at)
    }

    /// A place to mount on: what is there, or an empty folder or file.
    fn place(&self, path: &Path, folder: bool) -> Result<OwnedFd, Errno> {
        let parent = self.parent(path)?;
        let name = Path::new(path.file_name().ok_or(Errno::EINVAL)?);
        match beneath(&parent, name) {
            Err(Errno::ENOENT) => {
                if folder {
                    mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
                } else {
                    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
                    openat(&parent, name, flags, Mode::from_bits_truncate(0o444))?;
                }
                beneath(&parent, name)
            }
            found => found,
        }
    }

    fn bind(&self, path: &Path, source: &OwnedFd, attributes: Attributes) -> Result<(), Errno> {
        let place = self.place(path, is_folder(source)?)?;
        mount(
            Some(by_fd(source).as_str()),
            by_fd(&place).as_str(),
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )?;
        set(&beneath(&self.base, path)?, path, attributes)
    }

    fn memory(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        let place = self.place(path, true)?;
        mount_memory(Path::new(&by_fd(&place)), mode)
    }

    fn put(&mut self, path: &Path, item: &Item, source: Option<&OwnedFd>) -> Result<(), Errno> {
        const READ: Attributes = Attributes {
            read_only: true,
            no_devices: true,
        };
        const WRITE: Attributes = Attributes {
            read_only: false,
            no_devices: true,
        };
        const DEVICE: Attributes = Attributes {
            read_only: false,
            no_devices: false,
        };
        match (item, source) {
            (Item::Folder, _) => {
                self.memory(path, 0o755)?;
                self.close.push(path.to_owned());
            }
            (Item::Memory(mode), _) => self.memory(path, *mode)?,
            (Item::Read | Item::Locked | Item::Socket(_), Some(source)) => {
                self.bind(path, source, READ)?
            }
            (Item::Write, Some(source)) => self.bind(path, source, WRITE)?,
            (Item::Device(_), Some(source)) => self.bind(path, source, DEVICE)?,
            (Item::Copy, Some(source)) => self.copy(path, source)?,
            (Item::Workspace(..), Some(source)) => {
                let (upper, work) = self.layers.as_ref().ok_or(Errno::EINVAL)?;
                let place = self.place(path, true)?;
                overlay(&place, source, upper, work, ",userxattr")?;
            }
            (Item::Hidden, _) => {
                let place = beneath(&self.base, path);
                match place.and_then(|place| is_folder(&place)) {
                    Ok(true) => {
                        self.memory(path, 0o755)?;
                        self.close.push(path.to_owned());
                    }
                    Ok(false) => self.bind(path, &self.nothing, READ)?,
                    // It is not there in what the agent sees.
                    Err(_) => {}
                }
            }
            (Item::Processes, _) => self.processes(path)?,
            (Item::Terminals, _) => {
                let place = self.place(path, true)?;
                mount(
                    Some("devpts"),
                    by_fd(&place).as_str(),
                    Some("devpts"),
                    MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
                    Some("newinstance,ptmxmode=0666,mode=0620"),
                )?;
            }
            // Of a source that is not there.
            (_, None) => {}
        }
        Ok(())
    }

    /// What the agent changes of a store is its own, and ends with it.
    fn copy(&mut self, path: &Path, source: &OwnedFd) -> Result<(), Errno> {
        if !is_folder(source)? {
            const READ: Attributes = Attributes {
                read_only: true,
                no_devices: true,
            };
            return self.bind(path, source, READ);
        }
        self.copies += 1;
        let own = Path::new(BENEATH).join(self.copies.to_string());
        let make = |name: &str| {
            let at = own.join(name);
            let at = Path::new("/").join(at);
            self.place(&at, true)
        };
        let (upper, work) = (make("upper")?, make("work")?);
        let place = self.place(path, true)?;
        overlay(&place, source, &upper, &work, ",userxattr")
            .or_else(|_| overlay(&place, source, &upper, &work, ""))
            // Before Linux 5.11 an ordinary user may not.
            .or_else(|_| {
                let attributes = Attributes {
                    read_only: true,
                    no_devices: true,
                };
                self.bind(path, source, attributes)
            })
    }

    fn processes(&mut self, path: &Path) -> Result<(), Errno> {
        let place = self.place(path, true)?;
        mount(
            Some("proc"),
            by_fd(&place).as_str(),
            Some("proc"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            None::<&str>,
        )?;
        // The rights of these files are enough for everybody else; covering them would keep a
        // program with namespaces of its own from a `/proc` in them.
        if !geteuid().is_root() {
            return Ok(());
        }
        let read = Attributes {
            read_only: true,
            no_devices: true,
        };
        for name in files::PROC_READ_ONLY {
            let at = path.join(name);
            if let Ok(source) = beneath(&self.base, &at) {
                self.bind(&at, &source, read)?;
            }
        }
        for name in files::PROC_HIDDEN {
            let at = path.join(name);
            match beneath(&self.base, &at).and_then(|found| is_folder(&found)) {
                Ok(true) => {
                    self.memory(&at, 0o755)?;
                    self.close.push(at);
                }
                Ok(false) => self.bind(&at, &self.nothing, read)?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// A link, where nothing is.
    fn link(&self, path: &Path, target: &Path) -> Result<(), Errno> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        // In what is of outside, it is there already or is not wanted.
        match self
            .parent(path)
            .and_then(|parent| symlinkat(target, &parent, name))
        {
            Err(Errno::EEXIST | Errno::EROFS | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => {
                Ok(())
            }
            done => done,
        }
    }

    /// Nothing more can be made in its own folders; it becomes the root.
    fn finish(self) -> Result<(), LaunchError> {
        let read = Attributes {
            read_only: true,
            no_devices: false,
        };
        // One mount each, not what lies in it.
        let close = |fd: &OwnedFd| {
            let flags =
                read.mount_flags() | MsFlags::MS_NODEV | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
            mount(
                None::<&str>,
                by_fd(fd).as_str(),
                None::<&str>,
                flags,
                None::<&str>,
            )
        };
        let done = || -> Result<(), Errno> {
            let own = beneath(&self.base, Path::new(BENEATH))?;
            umount2(by_fd(&own).as_str(), MntFlags::MNT_DETACH)?;
            drop(own);
            nix::unistd::unlinkat(&self.base, BENEATH, nix::unistd::UnlinkatFlags::RemoveDir)?;
            for path in &self.close {
                close(&beneath(&self.base, path)?)?;
            }
            fchdir(&self.base)?;
            mount(
                None::<&str>,
                ".",
                None::<&str>,
                MsFlags::MS_RDONLY
                    | MsFlags::MS_NOSUID
                    | MsFlags::MS_NODEV
                    | MsFlags::MS_REMOUNT
                    | MsFlags::MS_BIND,
                None::<&str>,
            )?;
            pivot_root(".", ".")?;
            umount2(".", MntFlags::MNT_DETACH)?;
            chdir("/")
        };
        done().map_err(failed("enter the new root"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_mountinfo_are_read() {
        assert_eq!(unescaped(b"/a\\040b\\134c"), b"/a b\\c");
        assert_eq!(unescaped(b"/a\\9"), b"/a\\9");
    }

    #[test]
    fn settings_say_where_hooks_are() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(
            folder.path().join("config"),
            "[core]\n\thooksPath = tools/hooks\n\teditor = vi\n[x]\nhookspath=/abs\n",
        )
        .expect("write");
        let found: Vec<PathBuf> = hooks_of(folder.path()).collect();
        assert_eq!(found, [PathBuf::from("tools/hooks")]);
    }

    #[test]
    fn paths_of_a_policy_are_in_the_home() {
        let home = Path::new("/home/u");
        assert_eq!(expand("~/a", Some(home)), Some("/home/u/a".into()));
        assert_eq!(expand("/a", Some(home)), Some("/a".into()));
        assert_eq!(expand("~/a", None), None);
    }
}
