//! What of the file system an agent sees besides what its policy names.

/// The system: read-only. What is a link stays one.
pub(super) const SYSTEM: &[&str] = &[
    "/bin", "/etc", "/gnu", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/opt", "/sbin", "/usr",
];

/// More that programs read, below folders that are not to be seen: read-only.
pub(super) const MORE: &[&str] = &[
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/kernel/mm/transparent_hugepage",
    "/var/cache/fontconfig",
    "/var/lib/ca-certificates",
    "/var/lib/dpkg",
];

/// Folders in which no project is: what may be changed there the machine runs.
pub(super) const NO_PROJECT: &[&str] = &[
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/gnu",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/exeat",
    "/var/run",
    "/var/spool",
];

/// Folders that are not a project themselves, but may hold one.
pub(super) const NO_PROJECT_ITSELF: &[&str] = &["/tmp", "/var/tmp", "/var/lib", "/opt", "/home"];

/// Empty folders that programs take for granted.
pub(super) const EMPTY: &[&str] = &[
    "/media",
    "/mnt",
    "/srv",
    "/var/cache",
    "/var/lib",
    "/var/log",
];

/// Tools in a hidden home: read-only.
pub(super) const TOOLS: &[&str] = &[
    ".asdf",
    ".bun",
    ".cabal",
    ".conda",
    ".config/fnm",
    ".config/git",
    ".deno",
    ".dotnet",
    ".elan",
    ".fnm",
    ".gem",
    ".ghcup",
    ".gitattributes",
    ".gitconfig",
    ".gitignore",
    ".gitignore_global",
    ".inputrc",
    ".jenv",
    ".juliaup",
    ".local/bin",
    ".local/lib",
    ".local/pipx",
    ".local/share/fnm",
    ".local/share/mise",
    ".local/share/pipx",
    ".local/share/pnpm",
    ".local/share/uv",
    ".local/state/nix",
    ".nix-defexpr",
    ".nix-profile",
    ".npm-global",
    ".nvm",
    ".opam",
    ".pyenv",
    ".rbenv",
    ".rustup",
    ".rvm",
    ".sdkman",
    ".stack",
    ".terminfo",
    ".volta",
    "anaconda3",
    "bin",
    "miniconda3",
    "miniforge3",
];

/// Stores of tools that write into them: the agent changes a copy that ends with its run,
/// because what lies there people build and run outside.
pub(super) const STORES: &[&str] = &[
    ".bundle",
    ".cargo",
    ".composer",
    ".gradle",
    ".ivy2",
    ".m2",
    ".npm",
    ".nuget",
    ".pub-cache",
    "go",
];

/// Devices.
pub(super) const DEVICES: &[&str] = &[
    "/dev/full",
    "/dev/null",
    "/dev/random",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
];

/// Links in `/dev`.
pub(super) const DEVICE_LINKS: &[(&str, &str)] = &[
    ("/dev/core", "/proc/kcore"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
];

/// Of `/proc`, what root could change without a capability.
pub(super) const PROC_READ_ONLY: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Of `/proc`, what tells root of the machine.
pub(super) const PROC_HIDDEN: &[&str] = &[
    "acpi",
    "kallsyms",
    "kcore",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "key-users",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "vmallocinfo",
];
