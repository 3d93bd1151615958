//! Who is at the other end of a connection.
//!
//! TLS knows, somewhere inside a dial, and whoever reads a call's [`Report`](crate::Report) wants to. In between are the
//! connections of any protocol, over streams of any type, which need not know. So the peer is [introduced](introduce) on the
//! side: to whoever [hears](hear) what is said while a dial is polled on this thread, as pools do.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

/// What a peer has shown, and what was agreed on with it, when a TLS connection was made.
///
/// ```
/// use towline_core::TlsPeer;
///
/// let peer = TlsPeer::new(vec![vec![0x30, 0x82]], Some(b"h2".to_vec()));
/// assert_eq!(peer.certificate(), Some(&[0x30, 0x82][..]));
/// assert_eq!(peer.alpn(), Some(&b"h2"[..]));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct TlsPeer {
    certificates: Vec<Vec<u8>>,
    alpn: Option<Vec<u8>>,
}

impl TlsPeer {
    /// A peer with this chain, its own certificate first, each in DER, and this protocol.
    pub fn new(certificates: Vec<Vec<u8>>, alpn: Option<Vec<u8>>) -> Self {
        Self { certificates, alpn }
    }

    /// The chain that the peer has sent, its own certificate first, each in DER. Libraries that keep the others to themselves
    /// say just the first.
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    /// The peer's own certificate in DER; `None` where certificates are not verified and the peer has shown none.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificates.first().map(Vec::as_slice)
    }

    /// The protocol that both sides agreed on by ALPN.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }
}

impl fmt::Debug for TlsPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certificates, alpn } = self;
        let alpn = alpn.as_ref().map(|alpn| alpn.escape_ascii().to_string());
        f.debug_struct("TlsPeer").field("certificates", &certificates.len()).field("alpn", &alpn).finish()
    }
}

thread_local! {
    /// Who was introduced, while somebody hears.
    static HEARD: RefCell<Option<Option<Arc<TlsPeer>>>> = const { RefCell::new(None) };
}

/// For layers that make connections: this is who is at the other end. Does nothing where nobody hears.
pub fn introduce(peer: &Arc<TlsPeer>) {
    let _gone = HEARD.try_with(|heard| {
        if let Some(heard) = &mut *heard.borrow_mut() {
            *heard = Some(peer.clone());
        }
    });
}

/// For pools: polls a dial, and notes in `heard` who is introduced meanwhile.
pub fn hear<R>(heard: &mut Option<Arc<TlsPeer>>, poll: impl FnOnce() -> R) -> R {
    /// Whoever heard before hears again, even when `poll` panics.
    struct Restore<'a> {
        heard: &'a mut Option<Arc<TlsPeer>>,
        before: Option<Option<Arc<TlsPeer>>>,
    }
    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            let said = HEARD.try_with(|heard| heard.replace(self.before.take())).ok().flatten().flatten();
            if said.is_some() {
                *self.heard = said;
            }
        }
    }
    // While a thread ends there is nobody to be introduced.
    let before = HEARD.try_with(|heard| heard.replace(Some(None))).ok().flatten();
    let _restore = Restore { heard, before };
    poll()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str) -> Arc<TlsPeer> {
        Arc::new(TlsPeer::new(vec![name.into()], None))
    }

    #[test]
    fn who_is_introduced_is_heard_of_by_the_innermost_who_hears() {
        introduce(&peer("nobody"));
        let (mut outer, mut inner) = (None, None);
        hear(&mut outer, || {
            introduce(&peer("a"));
            hear(&mut inner, || introduce(&peer("b")));
            hear(&mut inner, || {});
        });
        assert_eq!((outer, inner), (Some(peer("a")), Some(peer("b"))));
        assert_eq!(HEARD.with(|heard| heard.borrow().clone()), None);
    }

    #[test]
    fn a_panic_inside_leaves_nobody_who_hears() {
        let mut heard = None;
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            hear(&mut heard, || -> () {
                introduce(&peer("a"));
                panic!("inside")
            });
        }));
        assert!(caught.is_err());
        assert_eq!(heard, Some(peer("a")));
        assert_eq!(HEARD.with(|heard| heard.borrow().clone()), None);
    }
}
