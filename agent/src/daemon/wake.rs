//! Threads that wait for the kernel, and are told that something changed here.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    sys::eventfd::{EfdFlags, EventFd},
};

/// One thread's bell.
#[derive(Clone, Debug)]
pub(super) struct Bell(Arc<EventFd>);

impl Bell {
    fn new() -> nix::Result<Self> {
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map(|fd| Self(Arc::new(fd)))
    }

    /// Rings.
    pub(super) fn ring(&self) {
        // A counter that is full rings all the same.
        let _ = self.0.write(1);
    }

    /// Stops ringing.
    pub(super) fn quiet(&self) {
        while !matches!(self.0.read(), Err(Errno::EAGAIN) | Ok(_)) {}
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Everybody's.
#[derive(Clone, Debug, Default)]
pub(super) struct Wakes(Arc<Mutex<Vec<Bell>>>);

impl Wakes {
    /// A bell for a thread that begins.
    pub(super) fn bell(&self) -> nix::Result<Bell> {
        let bell = Bell::new()?;
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bells.push(bell.clone());
        Ok(bell)
    }

    /// Rings every bell.
    pub(super) fn wake(&self) {
        let bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bells.iter().for_each(Bell::ring);
    }
}
