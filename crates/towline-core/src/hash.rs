//! The hash by which processes agree.

use xxhash_rust::xxh3::xxh3_64;

/// XXH3 of 64 bits without a seed: the same in every process, on every machine and in every version. Whoever sends by hash
/// (sessions, subsets, tokens) sends by this one. It is fast and not secret: who chooses the bytes can choose the hash.
///
/// ```
/// assert_eq!(towline_core::stable_hash(b"alice"), 0x4da1_0dd6_1a01_16b0);
/// ```
#[inline]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}
