//! `exeat ui`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::kernel::cgroup::cgroup2_root;
use crate::web::{App, Guard, Live, Ui};

/// What follows the help.
pub(super) const AFTER_HELP: &str = "Examples:\n  exeat ui --open          open the page in the \
    browser\n  exeat ui --port 8700     on a port of choice; open the address that is printed\n\n\
    The page has the rights of who starts it: questions that are put to that user can be answered \
    there. It listens on 127.0.0.1 alone, and refuses agents. Ctrl-C ends it.";

/// Show what happens in a local web page, and answer questions there
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct UiArgs {
    /// Port of 127.0.0.1; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// Open it in the browser of the desktop
    #[arg(long)]
    pub open: bool,
}

/// Serves until interrupted.
pub fn run(config: &Config, args: &UiArgs) -> Result<Exit, Failure> {
    let root = match &config.cgroup_root {
        Some(root) => root.clone(),
        None => cgroup2_root().map_err(|e| Failure::new(Exit::Failed, e.to_string()))?,
    };
    let guard = Guard::new(root, config.slice.to_string()).map_err(|e| {
        let text = format!("this kernel does not say whose a connection is (sock_diag): {e}");
        Failure::new(Exit::Failed, text)
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(config.socket_path(), guard, args))?;
    // What asks the daemon waits without end.
    runtime.shutdown_background();
    Ok(Exit::Ok)
}

async fn serve(socket: PathBuf, guard: Guard, args: &UiArgs) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let cancel = CancellationToken::new();
    let live = Live::new(socket);
    let ui = Ui::bind(args.port, guard, Arc::clone(&live), cancel.clone())
        .await
        .map_err(|e| {
            let text = format!(
                "cannot listen on port {} of 127.0.0.1: {e}; leave out --port to take a free one",
                args.port
            );
            Failure::new(Exit::Failed, text)
        })?;
    live.start()?;
    let app = ui.app();
    let beside = args.open.then(|| open(&app)).transpose()?;
    // Of use with --open too: browsers in a box of their own may not see the file.
    say(&app)?;
    if std::io::stdin().is_terminal() {
        another_on_enter(app)?;
    }
    let served = tokio::spawn(ui.serve());
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    cancel.cancel();
    let served = served.await;
    drop(beside);
    served.map_err(|e| Failure::new(Exit::Failed, e.to_string()))??;
    Ok(())
}

fn say(app: &App) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", app.link()?)?;
    out.flush()?;
    let more = match std::io::stdin().is_terminal() {
        true => "Enter gives another, Ctrl-C ends the page",
        false => "Ctrl-C ends the page",
    };
    eprintln!("exeat: open this address in a browser; it is good once, for ten minutes ({more})");
    Ok(())
}

fn another_on_enter(app: Arc<App>) -> Result<(), Failure> {
    let read = move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() || say(&app).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("terminal".into())
        .spawn(read)?;
    Ok(())
}

/// A file that goes when it is dropped.
struct Beside(PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Opens the browser by a file that only this user can read: what is on a command line everybody
/// on the machine can read, and a token is not for everybody.
fn open(app: &App) -> Result<Beside, Failure> {
    let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty())
    else {
        let text = "there is no desktop session here (XDG_RUNTIME_DIR is not set): leave out --open, \
                    and open the address that is printed";
        return Err(Failure::new(Exit::Failed, text));
    };
    let path = PathBuf::from(folder).join(format!("exeat-ui-{}.html", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| Failure::new(Exit::Failed, format!("{}: {e}", path.display())))?;
    let beside = Beside(path);
    // Letters, digits and what is harmless in an attribute: the address is of our own making.
    writeln!(
        file,
        "<!DOCTYPE html><meta charset=\"utf-8\"><title>Exeat</title>\
         <meta http-equiv=\"refresh\" content=\"0;url={}\">",
        app.link()?
    )?;
    let started = std::process::Command::new("xdg-open")
        .arg(&beside.0)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    match started {
        Ok(mut child) => {
            // Some stay until the browser ends.
            std::thread::spawn(move || child.wait());
        }
        Err(e) => eprintln!("exeat: xdg-open cannot be started ({e})"),
    }
    Ok(beside)
}
