//! What is looked at: a closed list whose words and exit codes never change their meaning.

use serde::{Deserialize, Serialize};

macro_rules! checks {
    ($($(#[$meta:meta])* $variant:ident = $word:literal, $code:literal, $usual:ident, $about:literal;)+) => {
        /// One thing that is looked at. In the order of the table: where several fail, the
        /// exit code is that of the first.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Check { $($(#[$meta])* $variant,)+ }

        impl Check {
            /// Every check.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// Its word in JSON and options.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The exit code where it is the first that fails.
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)+ }
            }

            /// What it is found as where nothing else was asked for.
            pub const fn usual(self) -> Grade {
                match self { $(Self::$variant => Grade::$usual,)+ }
            }

            /// When it is not as it should be.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)+ }
            }
        }
    };
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Worth a look; changes no exit code.
    Warn,
    /// Not known: the daemon did not say. Changes no exit code, because what kept it from
    /// saying so has one.
    Unknown,
    /// Not as it should be.
    Fail,
}

impl Grade {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Unknown => "unknown",
            Self::Fail => "fail",
        }
    }
}

checks! {
    /// The daemon answers.
    Daemon = "daemon", 4, Fail, "the daemon does not answer (1 and 5 say why it did not, where it runs)";
    /// Walls stand.
    Walls = "walls", 10, Fail, "a wall that should stand does not, or nothing is enforced";
    /// There is a policy.
    Policy = "policy", 11, Fail, "no policy is in force, or one without agents";
    /// The newest policy is the one in force.
    PolicyLoad = "policy_load", 12, Fail, "the last load of the policy failed: an older one is in force";
    /// What policies require is there.
    Requirements = "requirements", 13, Fail, "a policy requires what this machine lacks";
    /// Limits hold.
    Limits = "limits", 14, Fail, "a limit of an agent does not hold";
    /// Adoption works.
    Adoption = "adoption", 15, Fail, "a program or cgroup that a policy matches could not be governed";
    /// The audit log is written.
    Audit = "audit", 16, Fail, "the audit log is not written";
    /// The history and the file of events are written.
    Recording = "recording", 30, Fail, "the history or the file of events is not written, or the history was damaged and begun anew";
    /// Detection rules hold.
    Detection = "detection", 17, Fail, "no detection rule is in force";
    /// Bundles are installed, and fresh.
    Bundle = "bundle", 18, Fail, "the policy bundle is old, expired or was refused";
    /// The policy is the one that is wanted.
    WantedPolicy = "wanted_policy", 19, Fail, "the policy in force is not the one that `--policy-digest` names";
    /// The version is new enough.
    WantedVersion = "wanted_version", 20, Fail, "the daemon is older than `--min-version`";
    /// Walls that were asked for stand.
    WantedWalls = "wanted_walls", 21, Fail, "a wall that `--wall` names is not up";
    /// Records arrive.
    Sinks = "sinks", 22, Fail, "a record has waited for its receiver for longer than `--sink-grace` (a day); before that: warn";
    /// Records are not lost.
    Losses = "losses", 23, Fail, "more records were lost since the daemon started than `--max-losses`; without it: warn. No verdict depends on them";
    /// Agents are held to their policies.
    Mode = "mode", 24, Warn, "an agent is in monitor mode: what its policy refuses is let out";
    /// The kernel has every wall.
    OptionalWalls = "optional_walls", 25, Warn, "this kernel or machine cannot have a wall, and no policy requires it";
    /// Names resolve.
    Names = "names", 26, Warn, "a name of the policy does not resolve";
    /// Tables have room.
    Capacity = "capacity", 27, Warn, "a table is nearly full, or addresses have no room and stay refused";
    /// Questions and answers work.
    Asking = "asking", 28, Warn, "answers that people gave could not be kept";
    /// Nobody is cut off.
    Held = "held", 29, Warn, "an agent is frozen, or cut off from the network";
    /// What this list does not know.
    #[serde(other)]
    Other = "other", 3, Fail, "the daemon is degraded for a reason that is in no other row";
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
