//! What the hand-off between callers and the driver is made of; a model checker brings its own.

pub(crate) use std::sync::MutexGuard as Guard;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

pub(crate) use futures_util::task::AtomicWaker;
pub(crate) use towline_core::sync::Lock;
