//! What the fuzz targets share: an allocator that ends the process when a target takes more memory than it may.

#![forbid(unsafe_code)]

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs `target`, which may hold `most` bytes more than there were before. One byte beyond is a finding.
pub fn within<R>(most: usize, target: impl FnOnce() -> R) -> R {
    let before = ALLOCATOR.allocated();
    ALLOCATOR.set_limit(before + most).expect("room for what is allocated already");
    let result = target();
    ALLOCATOR.set_limit(usize::MAX).expect("no limit");
    result
}
