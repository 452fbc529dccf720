//! The memory of encoders: `listener.compression`, of which one client has a share.

use std::sync::Arc;

use lodge_manifest::compress::Coding;

use super::encoder::room;
use crate::admission::client_memory::ClientMemory;

/// Creates the memory of `most` bytes. A client has room for at least one encoder.
pub fn encoder_memory(most: usize) -> Arc<ClientMemory> {
    ClientMemory::new(most, room(Coding::Brotli), usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a small host there is room for one encoder of each coding.
    #[test]
    fn a_small_host_compresses() {
        for coding in Coding::ALL {
            assert!(encoder_memory(4 << 20).reserve([192, 0, 2, 1].into(), room(coding)).is_some(), "{coding:?}");
        }
    }
}
