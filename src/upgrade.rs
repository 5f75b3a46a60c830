//! An upgrade: everything is handed to a new process, and nobody notices.
//!
//! 1. `portolan upgrade` asks for it at the [`socket`], a socket that only the process's own user and
//!    root can use.
//! 2. The running process, the [`predecessor`], starts the new one with its own arguments. The new
//!    one's standard input is a socket between the two; over it go the listening sockets.
//! 3. The new process, the [`successor`], reads the configuration, probes the endpoints, and says
//!    when it could serve.
//! 4. It is told to take over, accepts, and says so. Up to here the old process has changed nothing
//!    and goes on if anything is wrong.
//! 5. The old process accepts nobody any more, lets its clients finish however long they take, and
//!    ends. If the new one stops meanwhile, it stops as well: see [`previous_generations`].
//!
//! What they say to each other is in [`wire`].

mod predecessor;
mod previous_generations;
mod socket;
mod successor;
mod wire;

pub(crate) use crate::upgrade::previous_generations::PreviousGenerations;
pub(crate) use crate::upgrade::socket::{Question, UpgradeAnswer, UpgradeSocket};
pub(crate) use predecessor::{Successor, Upgrader};
pub(crate) use successor::{Inherited, Predecessor};
