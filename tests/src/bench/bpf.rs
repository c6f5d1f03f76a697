//! The two commands of `bpf(2)` that take a product's pinned links away between rounds,
//! and the empty programs.

use anyhow::Context;
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Program};
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::{bpf_attr, bpf_cmd};
use std::any::Any;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole bpf_attr, and what it points to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// Detaches every link that is pinned in a folder, and waits for it: a link whose last
/// pin is only removed goes when the kernel finds time.
pub(crate) fn detach_all(folder: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let name = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = zeroed();
        attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
        let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)
            .with_context(|| format!("open the pin {}", path.display()))?;
        // SAFETY: the kernel has just given it to us.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut attr = zeroed();
        attr.link_detach.link_fd = link.as_raw_fd() as u32;
        bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr)
            .with_context(|| format!("detach {}", path.display()))?;
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// What the kernel has counted of a program: nanoseconds and runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs {
    nanoseconds: u128,
    count: u64,
}

impl Runs {
    /// Until now.
    pub(crate) fn of(program: &Program) -> anyhow::Result<Self> {
        let info = program.info().context("ask the kernel about a program")?;
        Ok(Self {
            nanoseconds: info.run_time().as_nanos(),
            count: info.run_count(),
        })
    }

    /// Nanoseconds a run since `before`; an error if it did not run.
    pub(crate) fn since(self, before: Self) -> anyhow::Result<f64> {
        let runs = self.count - before.count;
        anyhow::ensure!(runs > 0, "a program that was to be measured did not run");
        Ok((self.nanoseconds - before.nanoseconds) as f64 / runs as f64)
    }
}

/// The empty programs, at the hooks and cgroups where Exeat's are.
pub(crate) struct Empty {
    ebpf: Ebpf,
    links: Vec<Held>,
}

/// A link of any of the programs' types.
type Held = Box<dyn Any + Send + Sync>;

impl Empty {
    /// Loads the object that `cargo xtask bench` has built.
    pub(crate) fn load(object: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(object)
            .with_context(|| format!("read {}; `cargo xtask bench` builds it", object.display()))?;
        let mut ebpf = EbpfLoader::new()
            .load(&bytes)
            .context("load the empty programs")?;
        for (_, program) in ebpf.programs_mut() {
            match program {
                Program::CgroupSockAddr(p) => p.load()?,
                Program::CgroupSock(p) => p.load()?,
                Program::CgroupSockopt(p) => p.load()?,
                Program::CgroupSkb(p) => p.load()?,
                _ => anyhow::bail!("the empty object holds a program of another kind"),
            }
        }
        Ok(Self {
            ebpf,
            links: Vec::new(),
        })
    }

    /// Attaches them all.
    pub(crate) fn attach(&mut self, root: &Path, slice: &Path) -> anyhow::Result<()> {
        let open = |path: &Path| {
            File::open(path).with_context(|| format!("open the cgroup {}", path.display()))
        };
        let (root, slice) = (open(root)?, open(slice)?);
        // Kernel links stand beside each other whatever the mode says.
        let mode = CgroupAttachMode::Single;
        for (name, program) in self.ebpf.programs_mut() {
            let link: Held = match program {
                Program::CgroupSockAddr(p) => {
                    let at_root = matches!(name, "empty_connect4" | "empty_sendmsg4");
                    let id = p.attach(if at_root { &root } else { &slice }, mode)?;
                    Box::new(p.take_link(id)?)
                }
                Program::CgroupSock(p) => {
                    let id = p.attach(&slice, mode)?;
                    Box::new(p.take_link(id)?)
                }
                Program::CgroupSockopt(p) => {
                    let id = p.attach(&slice, mode)?;
                    Box::new(p.take_link(id)?)
                }
                Program::CgroupSkb(p) => {
                    let id = p.attach(&slice, CgroupSkbAttachType::Egress, mode)?;
                    Box::new(p.take_link(id)?)
                }
                _ => continue,
            };
            self.links.push(link);
        }
        Ok(())
    }

    /// Detaches them all: closing the last descriptor of a link does.
    pub(crate) fn detach(&mut self) {
        self.links.clear();
    }

    /// The empty program of a hook.
    pub(crate) fn program(&self, hook: &str) -> anyhow::Result<&Program> {
        self.ebpf
            .program(&format!("empty_{hook}"))
            .with_context(|| format!("no empty program for {hook}"))
    }
}
