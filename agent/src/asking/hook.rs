//! `asking: hook:`: a program of the administrator's that gets each question and may answer.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::Question;
use super::outside::{Answer, MAX_ANSWER, Message, Outsider, read_answer};

/// The environment is this and the question's id.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// Whom it runs as.
    pub user: String,
    /// How long it may take, in seconds, 1 to 3600. Default: 10.
    #[serde(default = "ten")]
    pub timeout_seconds: u32,
}

fn ten() -> u32 {
    10
}

impl HookConfig {
    /// Whether it can be: the key that is wrong, and what to write.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let program = self.command.first().map(PathBuf::from);
        if !program.is_some_and(|program| program.is_absolute()) {
            let text = "must begin with the absolute path of a program".to_owned();
            return Err(("asking.hook.command", text));
        }
        if !(1..=3600).contains(&self.timeout_seconds) {
            let text = format!("{} is not between 1 and 3600", self.timeout_seconds);
            return Err(("asking.hook.timeout_seconds", text));
        }
        Ok(())
    }
}

/// The hook, with its user found.
#[derive(Debug, Clone)]
pub struct Hook {
    command: Vec<String>,
    uid: u32,
    gid: u32,
    limit: Duration,
}

impl Hook {
    /// Finds the user.
    pub fn new(config: &HookConfig) -> Result<Self, String> {
        let user = match nix::unistd::User::from_name(&config.user) {
            Ok(Some(user)) => user,
            _ => {
                return Err(format!(
                    "asking.hook.user: there is no user `{}`",
                    config.user.escape_debug()
                ));
            }
        };
        Ok(Self {
            command: config.command.clone(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            limit: Duration::from_secs(config.timeout_seconds.into()),
        })
    }

    /// Starts it; what it says comes over a socket. A pipe could be opened anew below
    /// `/proc/PID/fd` and written to by whoever may look at the process, and a socket cannot.
    fn start(&self, id: &str) -> std::io::Result<(Child, UnixStream)> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or(std::io::ErrorKind::NotFound)?;
        let (said, says) = std::os::unix::net::UnixStream::pair()?;
        said.set_nonblocking(true)?;
        let said = UnixStream::from_std(said)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("EXEAT_QUESTION", id)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(OwnedFd::from(says))
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        // As root, std also drops the supplementary groups.
        if !(nix::unistd::geteuid().as_raw() == self.uid && self.uid != 0) {
            command.uid(self.uid).gid(self.gid);
        }
        // SAFETY: between fork and exec only prctl(2) is called, which allocates nothing and
        // takes no lock.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_no_new_privs()?;
                Ok(())
            });
        }
        // With the command goes our copy of its end, or its end would never be seen.
        command.spawn().map(|child| (child, said))
    }

    /// Whether who asks could write into the hook: descriptors and memory of a process are open
    /// to its own user.
    fn is_of_the_asker(&self, question: &Question) -> bool {
        let process = question.process.as_ref().map(|process| process.uid);
        [process, question.uid].contains(&Some(self.uid))
    }

    async fn run(&self, question: &Question) -> Result<Option<Answer>, String> {
        let message = serde_json::to_vec(&Message::asked(question)).map_err(|e| e.to_string())?;
        let (mut child, stdout) = self
            .start(&question.id)
            .map_err(|e| format!("it cannot be started: {e}"))?;
        // Before anything can be given up: its children go with it.
        let mut group = Group(child.id());
        let stdin = child.stdin.take();
        let work = async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    // One that does not read may answer all the same.
                    let _ = stdin.write_all(&message).await;
                }
            };
            let read = async {
                let mut said = Vec::new();
                let mut limited = stdout.take(MAX_ANSWER as u64 + 1);
                limited.read_to_end(&mut said).await?;
                std::io::Result::Ok(said)
            };
            let ((), said) = tokio::join!(write, read);
            std::io::Result::Ok((said?, child.wait().await?))
        };
        let ended = tokio::time::timeout(self.limit, work).await;
        if matches!(ended, Ok(Ok(_))) {
            // It was collected: the number may be another's.
            group.0 = None;
        }
        drop(group);
        let (said, status) = match ended {
            Err(_) => return Err(format!("it did not end within {} s", self.limit.as_secs())),
            Ok(Err(error)) => return Err(error.to_string()),
            Ok(Ok(ended)) => ended,
        };
        if said.len() > MAX_ANSWER {
            return Err(format!("it said more than {MAX_ANSWER} bytes"));
        }
        // What failed may have said half of what it meant.
        if !status.success() {
            return Err(format!("it failed ({status})"));
        }
        read_answer(&said, question).map_err(|error| format!("its answer cannot be read: {error}"))
    }
}

/// A process group that ends with this.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) else {
            return;
        };
        let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
    }
}

impl Outsider for Hook {
    const VIA: &'static str = "hook";
    const AT_ONCE: usize = 4;

    fn uid(&self) -> u32 {
        self.uid
    }

    async fn ask(&self, question: &Question) -> Option<Answer> {
        if self.is_of_the_asker(question) {
            tracing::warn!(
                question = question.id,
                "the hook is not told: it runs as the user of the agent that asks, which could \
                 answer in its place; give it a user of its own (`asking.hook.user`)"
            );
            return None;
        }
        match self.run(question).await {
            Ok(answer) => answer,
            Err(why) => {
                let program = self.command.first().map_or("", String::as_str);
                tracing::warn!(
                    program,
                    question = question.id,
                    why,
                    "the hook did not answer"
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asking::outside::tests::question;
    use crate::asking::{Breadth, Lasts, Ruling};

    fn hook(script: &str, seconds: u64) -> Hook {
        Hook {
            command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            limit: Duration::from_secs(seconds),
        }
    }

    async fn run(script: &str) -> Result<Option<Answer>, String> {
        hook(script, 20).run(&question("k3w9qd")).await
    }

    #[tokio::test]
    async fn it_reads_the_question_and_answers() {
        let script = r#"grep -q '"name":"a.example"' && printf '{"answer":"allow","lasts":"hour","why":"%s %s"}' "$EXEAT_QUESTION" "$(env | cut -d= -f1 | sort | tr '\n' ' ')""#;
        let answer = run(script).await.expect("it ran").expect("an answer");
        assert_eq!(answer.choice.ruling, Ruling::Allow);
        assert_eq!(answer.choice.lasts, Lasts::For { seconds: 3600 });
        assert_eq!(answer.choice.breadth, Breadth::Port { port: 443 });
        let why = answer.why.expect("words");
        // The shell adds PWD, and some add _ and SHLVL.
        let mut words = why.split_whitespace();
        assert_eq!(words.next(), Some("k3w9qd"));
        for word in words {
            let known = ["PATH", "EXEAT_QUESTION", "PWD", "OLDPWD", "SHLVL", "_"];
            assert!(
                known.contains(&word),
                "the daemon's environment leaks: {why}"
            );
        }
    }

    #[tokio::test]
    async fn it_is_not_told_what_its_own_user_asks() {
        let dir = tempfile::tempdir().expect("folder");
        let script = format!(
            "echo > {}/ran; echo '{{\"answer\":\"allow\"}}'",
            dir.path().display()
        );
        let hook = hook(&script, 20);
        let mut own = question("q");
        own.uid = Some(hook.uid);
        assert_eq!(hook.ask(&own).await, None);
        assert!(!dir.path().join("ran").exists());
        assert!(hook.ask(&question("q")).await.is_some());
    }

    #[tokio::test]
    async fn silence_failure_and_noise_are_no_answer() {
        assert_eq!(run("cat > /dev/null").await, Ok(None));
        assert_eq!(run("exit 0").await, Ok(None));
        let failed = run(r#"echo '{"answer":"allow"}'; exit 1"#).await;
        assert!(failed.is_err(), "{failed:?}");
        let noise = run("echo allow").await;
        assert!(noise.is_err(), "{noise:?}");
        let endless = run("exec yes '{\"answer\":\"allow\"}'").await;
        assert!(endless.is_err(), "{endless:?}");
        let mut missing = hook("", 1);
        missing.command = vec!["/nonexistent/hook".into()];
        assert!(missing.run(&question("q")).await.is_err());
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_with_its_children() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let late = hook(&script, 1).run(&question("q")).await;
        assert!(late.is_err_and(|why| why.contains("within 1 s")));
        let pid = std::fs::read_to_string(&file).expect("it began");
        let stat = format!("/proc/{}/stat", pid.trim());
        let gone = || match std::fs::read_to_string(&stat) {
            Err(_) => true,
            // Nobody has collected it yet.
            Ok(text) => text
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim().starts_with('Z')),
        };
        tokio::time::timeout(Duration::from_secs(20), async {
            while !gone() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("its child ended");
    }

    #[test]
    fn a_hook_that_cannot_be_is_named() {
        let config = |command: &[&str], timeout_seconds| HookConfig {
            command: command.iter().map(|one| (*one).to_owned()).collect(),
            user: "root".into(),
            timeout_seconds,
        };
        assert_eq!(config(&["/bin/true"], 10).check(), Ok(()));
        for (wrong, key) in [
            (config(&[], 10), "asking.hook.command"),
            (config(&["true"], 10), "asking.hook.command"),
            (config(&["/bin/true"], 0), "asking.hook.timeout_seconds"),
        ] {
            assert_eq!(wrong.check().expect_err("wrong").0, key);
        }
        let mut nobody = config(&["/bin/true"], 10);
        nobody.user = "no-such-user".into();
        let error = Hook::new(&nobody).expect_err("no user");
        assert!(error.contains("no-such-user"), "{error}");
        assert_eq!(
            Hook::new(&config(&["/bin/true"], 10)).expect("root").uid(),
            0
        );
    }
}
