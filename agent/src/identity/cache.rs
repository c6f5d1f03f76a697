//! Digests that are known already, by what the kernel says of the version of a file.
//!
//! Two versions of a file with the same times are told apart by nothing, so an entry is only
//! made where no later change can leave them as they are. File systems take a change's time
//! from a clock that stands still between two ticks of the kernel (10 ms at most): what was changed a moment
//! ago may be changed once more at the same time. See [`Version::is_settled`].

use std::collections::{HashMap, VecDeque};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use super::Sha256;

/// Two ticks of the slowest kernel clock (`CONFIG_HZ=100`).
pub const SETTLED: Duration = Duration::from_millis(20);

/// A point in time as the kernel says it: seconds and nanoseconds of `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: i64,
}

impl Moment {
    const fn as_nanos(self) -> i128 {
        self.seconds as i128 * 1_000_000_000 + self.nanos as i128
    }
}

/// One version of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The file system.
    pub dev: u64,
    /// The file.
    pub ino: u64,
    /// Its bytes.
    pub size: u64,
    /// When its contents changed; anybody who may write the file may set it.
    pub mtime: Moment,
    /// When anything of it changed; nobody but the kernel sets it.
    pub ctime: Moment,
}

impl Version {
    /// What the kernel says of a file.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime: Moment {
                seconds: metadata.mtime(),
                nanos: metadata.mtime_nsec(),
            },
            ctime: Moment {
                seconds: metadata.ctime(),
                nanos: metadata.ctime_nsec(),
            },
        }
    }

    /// Whether it is the same file, in whatever version.
    pub fn same_file(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }

    /// Whether a change at `now` or later gets another ctime. Not where the ctime lies in the
    /// future: then a clock was set back.
    pub fn is_settled(&self, now: Moment) -> bool {
        now.as_nanos() - self.ctime.as_nanos() > SETTLED.as_nanos() as i128
    }
}

/// Digests of versions, at most so many: the one that came first goes first.
#[derive(Debug)]
pub struct Cache {
    most: usize,
    digests: HashMap<Version, Sha256>,
    order: VecDeque<Version>,
}

impl Cache {
    /// An empty one for at most `most` digests.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            digests: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The digest of this version, where it is known.
    pub fn get(&self, version: &Version) -> Option<Sha256> {
        self.digests.get(version).copied()
    }

    /// Remembers the digest of a version whose reading began at `begun` or later; false where
    /// it is not settled, and then nothing is remembered.
    pub fn put(&mut self, version: Version, begun: Moment, digest: Sha256) -> bool {
        if self.most == 0 || !version.is_settled(begun) {
            return false;
        }
        if self.digests.insert(version, digest).is_none() {
            self.order.push_back(version);
        }
        while self.order.len() > self.most {
            if let Some(oldest) = self.order.pop_front() {
                self.digests.remove(&oldest);
            }
        }
        true
    }

    /// How many it holds.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Nanoseconds of a tick of the slowest kernel.
    const TICK: i64 = 10_000_000;

    fn at(nanos: i64) -> Moment {
        Moment {
            seconds: nanos.div_euclid(1_000_000_000),
            nanos: nanos.rem_euclid(1_000_000_000),
        }
    }

    fn digest_of(contents: u64) -> Sha256 {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&contents.to_le_bytes());
        Sha256::from(bytes)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(i64),
        /// New contents of the same length, with the old mtime set again.
        Write(u64),
        Touch,
        Ask,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_i64..3 * TICK).prop_map(Step::Wait),
            (0_u64..4).prop_map(Step::Write),
            Just(Step::Touch),
            Just(Step::Ask),
        ]
    }

    proptest! {
        /// A file is changed and asked for at any times, with a clock that stands still within
        /// each tick: what the cache says is always what the file holds.
        #[test]
        fn what_is_known_is_what_the_file_holds(
            phase in 0_i64..TICK,
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let mut cache = Cache::new(8);
            let mut now = 1_700_000_000_000_000_000_i64 + phase;
            let mut contents = 0_u64;
            let coarse = |now: i64| at(now - now.rem_euclid(TICK));
            let mut version = Version { dev: 1, ino: 2, size: 3, mtime: at(7), ctime: coarse(now) };
            for step in steps {
                match step {
                    Step::Wait(nanos) => now += nanos,
                    Step::Write(new) => {
                        contents = new;
                        version.ctime = coarse(now);
                    }
                    Step::Touch => version.ctime = coarse(now),
                    Step::Ask => match cache.get(&version) {
                        Some(known) => prop_assert_eq!(known, digest_of(contents)),
                        None => {
                            cache.put(version, at(now), digest_of(contents));
                        }
                    },
                }
            }
        }

        #[test]
        fn it_never_holds_more_than_its_bound(
            most in 0_usize..6,
            inodes in proptest::collection::vec(0_u64..12, 0..60),
        ) {
            let mut cache = Cache::new(most);
            for ino in inodes {
                let version = Version { dev: 1, ino, size: 0, mtime: at(0), ctime: at(0) };
                prop_assert_eq!(cache.put(version, at(1_000_000_000), digest_of(ino)), most > 0);
                prop_assert_eq!(cache.get(&version).is_some(), most > 0);
                prop_assert!(cache.len() <= most);
                prop_assert_eq!(cache.len(), cache.order.len());
            }
        }
    }

    #[test]
    fn a_version_settles_after_two_ticks_and_never_in_the_future() {
        let version = Version {
            dev: 1,
            ino: 1,
            size: 1,
            mtime: at(0),
            ctime: at(1_000_000_000),
        };
        for (now, settled) in [
            (1_000_000_000, false),
            (1_020_000_000, false),
            (1_020_000_001, true),
            (999_999_999, false),
            (i64::MAX, true),
        ] {
            assert_eq!(version.is_settled(at(now)), settled, "{now}");
        }
        let mut cache = Cache::new(1);
        assert!(!cache.put(version, at(1_000_000_000), digest_of(1)));
        assert!(cache.is_empty());
    }

    #[test]
    fn every_part_of_a_version_counts() {
        let version = Version {
            dev: 1,
            ino: 2,
            size: 3,
            mtime: at(4),
            ctime: at(5),
        };
        let mut cache = Cache::new(9);
        assert!(cache.put(version, at(TICK * 9), digest_of(1)));
        assert_eq!(cache.get(&version), Some(digest_of(1)));
        for other in [
            Version { dev: 9, ..version },
            Version { ino: 9, ..version },
            Version { size: 9, ..version },
            Version {
                mtime: at(9),
                ..version
            },
            Version {
                ctime: at(9),
                ..version
            },
        ] {
            assert_eq!(cache.get(&other), None, "{other:?}");
        }
    }
}
