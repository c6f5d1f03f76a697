//! A thread that serves sockets until it is dropped.

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Tells the threads of one [`Service`] to end.
#[derive(Clone)]
pub struct Stop(Arc<EventFd>);

impl Stop {
    /// One that has not been raised.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new() -> anyhow::Result<Self> {
        let fd = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .context("eventfd")?;
        Ok(Self(Arc::new(fd)))
    }

    /// Raises it, for good.
    pub fn raise(&self) {
        // Fails only when the counter is full, and then it is raised already.
        let _ = self.0.write(1);
    }

    /// Waits until one of `fds` can be read; gives its index, or `None` once raised.
    pub fn readable(&self, fds: &[BorrowedFd<'_>]) -> Option<usize> {
        loop {
            let mut polled: Vec<PollFd<'_>> = fds
                .iter()
                .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
                .collect();
            polled.push(PollFd::new(self.0.as_fd(), PollFlags::POLLIN));
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return None,
            }
            let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|flags| !flags.is_empty());
            if polled.last().is_some_and(ready) {
                return None;
            }
            if let Some(index) = polled.iter().position(ready) {
                return Some(index);
            }
        }
    }
}

/// Threads that end, and are joined, when this is dropped.
pub struct Service {
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Runs `serve` on a thread of its own; it must end soon after `Stop` is raised.
    ///
    /// # Errors
    /// When the eventfd or the thread cannot be made.
    pub fn spawn(name: &str, serve: impl FnOnce(Stop) + Send + 'static) -> anyhow::Result<Self> {
        let mut service = Self {
            stop: Stop::new()?,
            threads: Vec::new(),
        };
        service.add(name, serve)?;
        Ok(service)
    }

    /// Another thread of the same service.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn add(
        &mut self,
        name: &str,
        serve: impl FnOnce(Stop) + Send + 'static,
    ) -> anyhow::Result<()> {
        let stop = self.stop.clone();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || serve(stop))
            .context("cannot start a thread")?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.raise();
        for thread in self.threads.drain(..) {
            // A panic of a stub host has already been printed; the test judges by effects.
            let _ = thread.join();
        }
    }
}
