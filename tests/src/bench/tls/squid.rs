//! The proxy to compare with: squid, asked with HTTP CONNECT.

use crate::peer::{Program, Served};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::world::{NAME_SERVER, World};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3128);

/// The name of [`PLAIN_USER`].
const USER: &str = "nobody";

/// It runs until it is dropped.
pub(super) struct Squid {
    /// Its name and version.
    pub(super) version: String,
    _served: Served,
}

impl Squid {
    /// Starts one in the laptop: one process, no cache, a line of log for each connection.
    ///
    /// # Errors
    /// Where there is no such program, or it does not answer.
    pub(super) fn start(world: &World) -> anyhow::Result<Self> {
        let laptop = &world.laptop;
        let program = Program::find("squid")?;
        let folder = world.folder().join("squid");
        std::fs::create_dir(&folder)?;
        std::os::unix::fs::chown(&folder, Some(PLAIN_USER), Some(PLAIN_USER))?;
        // Icons for listings of files, of which there are none here.
        std::fs::write(folder.join("mime"), "")?;
        let file = folder.join("conf");
        std::fs::write(&file, config(&folder))?;
        let mut command = program.command(laptop);
        command.arg("-N").arg("-f").arg(&file);
        let answers = || laptop.run(|| Ok(TcpStream::connect(ADDRESS)?)).is_ok();
        let served = Served::start(command, &folder.join("said"), answers)?;
        Ok(Self {
            version: program.version(laptop, "squid", "-v"),
            _served: served,
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        ADDRESS
    }
}

/// Only its start is root's, who alone may read where it was unpacked. So it is told of no file
/// there; the helper that removes cached files is looked for, and never started.
fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "http_port {ADDRESS}\nhttp_access allow all\ncache deny all\ncache_mem 8 MB\n\
         access_log stdio:{folder}/access.log\nbuffered_logs on\ncache_log {folder}/cache.log\n\
         pid_filename none\nnetdb_filename none\ncoredump_dir {folder}\npinger_enable off\n\
         cache_effective_user {USER}\nvisible_hostname bench.example\n\
         dns_nameservers {NAME_SERVER}\nshutdown_lifetime 0 seconds\n\
         mime_table {folder}/mime\nerror_directory {folder}\nicon_directory {folder}\nunlinkd_program /bin/true\n"
    )
}
