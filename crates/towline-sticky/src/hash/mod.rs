//! Homes by hash: nothing is remembered, and all clients agree without talking to each other.

mod maglev;
mod rendezvous;
mod slots;

pub use self::maglev::{Maglev, MaglevOrder, MaglevPicker};
pub use self::rendezvous::{Rendezvous, RendezvousOrder, RendezvousPicker};
