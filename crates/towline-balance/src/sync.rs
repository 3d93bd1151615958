//! What calls share with each other and with the driver; a model checker brings its own.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

pub(crate) use futures_util::task::AtomicWaker;
