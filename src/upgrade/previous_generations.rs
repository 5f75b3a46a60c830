//! Processes before this one that still let their clients finish.
//!
//! Each waits at the other end of a socket for it to be closed by everybody who has it. It is handed
//! on from each process to the next, so it closes when the one that serves stops, or ends.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{RecvFlags, recv};

/// One socket for each of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct PreviousGenerations(Arc<Mutex<Vec<OwnedFd>>>);

impl PreviousGenerations {
    /// There are more.
    pub(crate) fn add(&self, more: impl IntoIterator<Item = OwnedFd>) {
        self.lock().extend(more);
    }

    /// Those that are still there, once more.
    pub(super) fn duplicate(&self) -> io::Result<Vec<OwnedFd>> {
        let mut elders = self.lock();
        elders.retain(is_there);
        elders.iter().map(OwnedFd::try_clone).collect()
    }

    /// This process stops: so shall they.
    pub(crate) fn stop(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether somebody is at the other end, silent or not.
fn is_there(socket: &OwnedFd) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match recv(socket, &mut [0_u8; 1], flags) {
        Ok((_, read)) => read > 0,
        Err(error) => error == rustix::io::Errno::AGAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn those_that_have_ended_are_forgotten() {
        let elders = PreviousGenerations::default();
        let (ours, theirs) = UnixStream::pair().unwrap();
        elders.add([OwnedFd::from(ours)]);
        assert_eq!(elders.duplicate().unwrap().len(), 1);
        drop(theirs);
        assert_eq!(elders.duplicate().unwrap().len(), 0);
    }
}
