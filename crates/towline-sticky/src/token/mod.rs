//! The endpoint rides in a token that the client hands out.

mod layer;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use towline_core::sync::Lock;
use towline_core::{Error, Home};

pub use self::layer::{ByFunctions, CarryToken, TokenFuture, TokenLayer, TokenService};
use crate::sessions::config;

/// Signs and verifies tokens that name a session's home.
///
/// A token is 34 bytes in base64url, 46 characters, fit for a cookie or a header:
///
/// | bytes | |
/// |---|---|
/// | 0 | version, 1 |
/// | 1 | id of the key |
/// | 2–9 | the second, since 1970, from which it is stale; big-endian |
/// | 10–17 | the [`Home`], masked |
/// | 18–33 | tag |
///
/// The tag is the first half of HMAC-SHA256 over bytes 0 to 9 and the home; the mask is the first eight bytes of HMAC-SHA256 over
/// the tag, by another key; both keys are derived from the secret (this is SIV: Rogaway and Shrimpton, "Deterministic
/// Authenticated-Encryption", 2006). So whoever has a token learns when it expires and by which key it was signed, and nothing of
/// the endpoint: not its address, nor its hash, which could be guessed. Two tokens for one endpoint of one second are equal.
///
/// **Keys rotate** while calls run. Clones share the keys. With several processes: [`accept`](Self::accept) the new key
/// everywhere, then [`sign_with`](Self::sign_with) it everywhere, and [`retire`](Self::retire) the old one when a token's life is over.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use towline_core::{EndpointKey, Home};
/// use towline_sticky::{TokenError, Tokens};
///
/// let tokens = Tokens::new(1, b"thirty-two bytes from /dev/urandom")?;
/// let (home, now) = (Home::from(&EndpointKey::new("10.0.0.7:7000")), SystemTime::now());
/// let token = tokens.issue(home, now);
/// assert_eq!(tokens.verify(token.as_str(), now), Ok(home));
/// assert_eq!(tokens.verify(token.as_str(), now + Duration::from_secs(3_600)), Err(TokenError::Stale));
///
/// tokens.accept(2, b"another thirty-two bytes or more of those")?;
/// tokens.sign_with(2)?;
/// assert_eq!(tokens.verify(token.as_str(), now), Ok(home));
/// tokens.retire(1)?;
/// assert_eq!(tokens.verify(token.as_str(), now), Err(TokenError::UnknownKey));
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokens {
    // Read at every token, for as long as it takes to count a reference; what is within is replaced, never changed.
    keys: Arc<Lock<Arc<Keys>>>,
    /// In whole seconds.
    life: u64,
}

/// Why a token is not heeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// It is no token of ours, or of a version to come.
    Malformed,
    /// It names a key that is not known here: not yet, or not any more.
    UnknownKey,
    /// It was not signed by the key that it names.
    Forged,
    /// It was good once.
    Stale,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a session token",
            Self::UnknownKey => "the session token was signed by a key that is not known",
            Self::Forged => "the session token was not signed by the key that it names",
            Self::Stale => "the session token has expired",
        })
    }
}

impl std::error::Error for TokenError {}

const VERSION: u8 = 1;
const HEAD: usize = 10;
const HOME: usize = 8;
const TAG: usize = 16;
const BYTES: usize = HEAD + HOME + TAG;
/// Six bits a character.
const CHARS: usize = (BYTES * 8).div_ceil(6);

/// Secrets that are shorter can be found by trying, or are words.
const SHORTEST_SECRET: usize = 32;
const LIFE: u64 = 3_600;

/// A signed token, as text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token([u8; CHARS]);

impl Token {
    /// Its 46 characters: letters, digits, `-` and `_`.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// By hand: whoever can read it can use it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[derive(Clone)]
struct Keys {
    signs: Key,
    /// All that verify, the one that signs among them.
    all: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: u8,
    /// With their key already in, so that it is not hashed again for every token.
    tag: Hmac<Sha256>,
    mask: Hmac<Sha256>,
}

impl Key {
    fn new(id: u8, secret: &[u8]) -> Result<Self, Error> {
        if secret.len() < SHORTEST_SECRET {
            let message = format!(
                "a secret of tokens has {SHORTEST_SECRET} bytes at least, not {}: take them from a random source",
                secret.len()
            );
            return Err(config(message));
        }
        let keyed = |key: &[u8]| Hmac::new_from_slice(key).map_err(|_| config("a key of tokens has the wrong length"));
        let derived = |purpose: &[u8]| -> Result<_, Error> {
            keyed(&keyed(secret)?.chain_update(purpose).finalize().into_bytes())
        };
        Ok(Self { id, tag: derived(b"towline token 1 tag")?, mask: derived(b"towline token 1 mask")? })
    }

    fn tag(&self, head: &[u8; HEAD], home: Home) -> Hmac<Sha256> {
        self.tag.clone().chain_update(head).chain_update(home.to_u64().to_be_bytes())
    }

    /// Masks, and unmasks.
    fn masked(&self, tag: &[u8; TAG], home: u64) -> u64 {
        let mask = self.mask.clone().chain_update(tag).finalize().into_bytes();
        let mask = mask.first_chunk().map_or(0, |mask| u64::from_be_bytes(*mask));
        home ^ mask
    }
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Tokens {
    /// Signs by this secret, under an id by which it is found again. Tokens live for an hour.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) for a secret of less than 32 bytes.
    pub fn new(id: u8, secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        let signs = Key::new(id, secret.as_ref())?;
        let keys = Keys { all: vec![signs.clone()], signs };
        Ok(Self { keys: Arc::new(Lock::new(Arc::new(keys))), life: LIFE })
    }

    /// How long tokens are good for, in whole seconds, rounded up; an hour by default. [`TokenLayer`] renews them when half of
    /// it is over, so a session that calls more often than that is kept.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) for zero.
    pub fn life(mut self, life: Duration) -> Result<Self, Error> {
        if life.is_zero() {
            return Err(config("a token that lives for no time keeps no session: give it longer"));
        }
        self.life = life.as_secs().saturating_add(u64::from(life.subsec_nanos() > 0));
        Ok(self)
    }

    /// Verifies tokens by this secret too.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) for a secret of less than 32 bytes, and an id that another key has.
    pub fn accept(&self, id: u8, secret: impl AsRef<[u8]>) -> Result<(), Error> {
        let key = Key::new(id, secret.as_ref())?;
        self.edit(|keys| {
            if keys.all.iter().any(|key| key.id == id) {
                return Err(config(format!(
                    "tokens have a key {id} already: give each its own id, or retire that one"
                )));
            }
            keys.all.push(key);
            Ok(())
        })
    }

    /// Signs by another of the keys that are accepted, from now on.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) for an id that no key has.
    pub fn sign_with(&self, id: u8) -> Result<(), Error> {
        self.edit(|keys| {
            let key = keys.all.iter().find(|key| key.id == id);
            keys.signs = key.cloned().ok_or_else(|| config(format!("tokens have no key {id}: accept it first")))?;
            Ok(())
        })
    }

    /// Forgets a key: its tokens are not heeded any more.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) for the key that signs, and an id that no key has.
    pub fn retire(&self, id: u8) -> Result<(), Error> {
        self.edit(|keys| {
            if keys.signs.id == id {
                return Err(config(format!("the key {id} of tokens signs: sign with another one first")));
            }
            let before = keys.all.len();
            keys.all.retain(|key| key.id != id);
            if keys.all.len() == before {
                return Err(config(format!("tokens have no key {id} that could be retired")));
            }
            Ok(())
        })
    }

    fn edit(&self, edit: impl FnOnce(&mut Keys) -> Result<(), Error>) -> Result<(), Error> {
        let mut shared = self.keys.lock();
        let mut keys = (**shared).clone();
        edit(&mut keys)?;
        *shared = Arc::new(keys);
        Ok(())
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.lock().clone()
    }

    /// A token for `home`.
    pub fn issue(&self, home: Home, now: SystemTime) -> Token {
        let key = &self.keys().signs;
        let mut bytes = [0; BYTES];
        let (head, rest) = bytes.split_at_mut(HEAD);
        head[0] = VERSION;
        head[1] = key.id;
        head[2..].copy_from_slice(&seconds(now).saturating_add(self.life).to_be_bytes());
        let mut tag = [0; TAG];
        let head: &[u8; HEAD] = head.first_chunk().expect("as long as that");
        tag.copy_from_slice(&key.tag(head, home).finalize().into_bytes()[..TAG]);
        rest[..HOME].copy_from_slice(&key.masked(&tag, home.to_u64()).to_be_bytes());
        rest[HOME..].copy_from_slice(&tag);
        let mut text = [0; CHARS];
        BASE64_URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).expect("just long enough");
        Token(text)
    }

    /// Whose token this is. Takes the same time whatever is wrong with a signature.
    ///
    /// # Errors
    ///
    /// When it is none that is to be heeded.
    pub fn verify(&self, text: &str, now: SystemTime) -> Result<Home, TokenError> {
        self.open(text, now).map(|(home, _)| home)
    }

    /// And for how many seconds it will be good.
    fn open(&self, text: &str, now: SystemTime) -> Result<(Home, u64), TokenError> {
        let mut bytes = [0; BYTES];
        let is_ours = text.len() == CHARS && BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) == Ok(BYTES);
        if !is_ours || bytes[0] != VERSION {
            return Err(TokenError::Malformed);
        }
        let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or(TokenError::Malformed)?;
        let (masked, tag) = rest.split_first_chunk::<HOME>().ok_or(TokenError::Malformed)?;
        let tag: &[u8; TAG] = tag.first_chunk().ok_or(TokenError::Malformed)?;
        let keys = self.keys();
        let key = keys.all.iter().find(|key| key.id == head[1]).ok_or(TokenError::UnknownKey)?;
        let home = Home::from_u64(key.masked(tag, u64::from_be_bytes(*masked)));
        key.tag(head, home).verify_truncated_left(tag).map_err(|_| TokenError::Forged)?;
        let expires = head.last_chunk().map_or(0, |seconds| u64::from_be_bytes(*seconds));
        match expires.saturating_sub(seconds(now)) {
            0 => Err(TokenError::Stale),
            left => Ok((home, left)),
        }
    }
}

// By hand: secrets stay secret.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys();
        let ids: Vec<_> = keys.all.iter().map(|key| key.id).collect();
        f.debug_struct("Tokens")
            .field("signs", &keys.signs.id)
            .field("accepts", &ids)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use towline_core::{EndpointKey, Kind, Rng};

    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    fn tokens() -> Tokens {
        Tokens::new(1, SECRET).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn home() -> Home {
        Home::from(&EndpointKey::new("10.0.0.7:7000"))
    }

    #[test]
    fn tokens_are_the_same_in_every_version() {
        let token = tokens().issue(home(), at(1_800_000_000));
        assert_eq!(token.as_str(), "AQEAAAAAa0ngEGxECdsE_tjyK1hv6DKmcsJbxMw78yOX5A");
        assert_eq!(tokens().verify(token.as_str(), at(1_800_000_000)), Ok(home()));
    }

    #[test]
    fn a_token_expires_at_its_second_and_not_before() {
        let tokens = tokens().life(Duration::from_millis(9_001)).unwrap();
        let token = tokens.issue(home(), at(1_000) + Duration::from_millis(999));
        assert_eq!(tokens.verify(token.as_str(), at(1_010) - Duration::from_nanos(1)), Ok(home()));
        assert_eq!(tokens.verify(token.as_str(), at(1_010)), Err(TokenError::Stale));
        assert_eq!(tokens.verify(token.as_str(), at(0)), Ok(home()));
        let for_ever = Tokens::new(1, SECRET).unwrap().life(Duration::MAX).unwrap().issue(home(), at(1_000));
        assert_eq!(tokens.verify(for_ever.as_str(), at(1 << 40)), Ok(home()));
        let before_1970 = tokens.issue(home(), SystemTime::UNIX_EPOCH - Duration::from_secs(100));
        assert_eq!(tokens.verify(before_1970.as_str(), at(9)), Ok(home()));
    }

    #[test]
    fn no_bit_can_be_flipped() {
        let tokens = tokens();
        let token = tokens.issue(home(), at(1_000));
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token.as_str()).unwrap();
        assert_eq!(bytes.len(), BYTES);
        for bit in 0..BYTES * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let error = tokens.verify(&BASE64_URL_SAFE_NO_PAD.encode(&forged), at(1_000)).unwrap_err();
            let expected = match bit / 8 {
                0 => TokenError::Malformed,
                1 => TokenError::UnknownKey,
                _ => TokenError::Forged,
            };
            assert_eq!(error, expected, "bit {bit}");
        }
        // Nor any of the text, whose last character has bits to spare.
        for (index, bit) in (0..CHARS).flat_map(|index| (0..8).map(move |bit| (index, bit))) {
            let mut text = token.as_str().as_bytes().to_vec();
            text[index] ^= 1 << bit;
            if let Ok(text) = std::str::from_utf8(&text) {
                tokens.verify(text, at(1_000)).unwrap_err();
            }
        }
    }

    #[test]
    fn no_part_of_a_token_is_one_nor_is_more_than_one() {
        let tokens = tokens();
        let token = tokens.issue(home(), at(1_000)).to_string();
        for len in 0..CHARS {
            assert_eq!(tokens.verify(&token[..len], at(1_000)), Err(TokenError::Malformed));
            assert_eq!(tokens.verify(&token[len + 1..], at(1_000)), Err(TokenError::Malformed));
        }
        for text in
            [format!("{token}="), format!("{token}A"), format!(" {token}"), format!("{token}\0"), token.repeat(100)]
        {
            assert_eq!(tokens.verify(&text, at(1_000)), Err(TokenError::Malformed));
        }
    }

    proptest! {
        #[test]
        fn random_text_is_no_token(text in "\\PC{0,80}", bytes: [u8; BYTES]) {
            prop_assert_eq!(tokens().verify(&text, at(1_000)), Err(TokenError::Malformed));
            let mut bytes = bytes;
            bytes[..2].copy_from_slice(&[VERSION, 1]);
            let forged = BASE64_URL_SAFE_NO_PAD.encode(bytes);
            prop_assert_eq!(tokens().verify(&forged, at(1_000)), Err(TokenError::Forged));
        }

        #[test]
        fn what_is_issued_is_verified(home: u64, now in 0..1u64 << 40, secret: [u8; 40]) {
            let (home, tokens) = (Home::from_u64(home), Tokens::new(9, secret).unwrap());
            let token = tokens.issue(home, at(now));
            prop_assert_eq!(tokens.open(token.as_str(), at(now)), Ok((home, LIFE)));
        }
    }

    #[test]
    fn keys_rotate_and_what_a_retired_one_signed_is_not_heeded() {
        let (tokens, mut rng) = (tokens(), Rng::with_seed(1));
        let (shared, old) = (tokens.clone(), tokens.issue(home(), at(1_000)));
        let secret: Vec<u8> = (0..64).map(|_| rng.next_u64() as u8).collect();
        tokens.accept(2, &secret).unwrap();
        assert_eq!(shared.issue(home(), at(1_000)), old, "it only verifies yet");
        let elsewhere = Tokens::new(2, &secret).unwrap().issue(home(), at(1_000));
        assert_eq!(shared.verify(elsewhere.as_str(), at(1_000)), Ok(home()));
        tokens.sign_with(2).unwrap();
        assert_eq!(shared.issue(home(), at(1_000)), elsewhere);
        assert_eq!(shared.verify(old.as_str(), at(1_000)), Ok(home()));
        tokens.retire(1).unwrap();
        assert_eq!(shared.verify(old.as_str(), at(1_000)), Err(TokenError::UnknownKey));
        // The id comes back with another secret.
        tokens.accept(1, [8; 32]).unwrap();
        assert_eq!(shared.verify(old.as_str(), at(1_000)), Err(TokenError::Forged));
    }

    #[test]
    fn a_token_shows_nothing_of_its_home() {
        let tokens = tokens();
        let masked = |home: u64, now: u64| {
            let token = tokens.issue(Home::from_u64(home), at(now));
            BASE64_URL_SAFE_NO_PAD.decode(token.as_str()).unwrap()[HEAD..HEAD + HOME].to_vec()
        };
        assert_ne!(masked(1, 1_000), 1u64.to_be_bytes());
        let xor = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a ^ b).collect::<Vec<_>>();
        let difference = xor(&masked(1, 1_000), &masked(2, 1_000));
        assert_ne!(difference, 3u64.to_be_bytes(), "not even how two homes differ");
        assert_ne!(masked(1, 1_000), masked(1, 1_001));
    }

    #[test]
    fn bad_keys_and_lives_say_what_to_change() {
        let tokens = tokens();
        for (error, word) in [
            (Tokens::new(1, [1; 31]).unwrap_err(), "32 bytes"),
            (tokens.accept(2, "password").unwrap_err(), "32 bytes"),
            (tokens.accept(1, [9; 32]).unwrap_err(), "own id"),
            (tokens.sign_with(5).unwrap_err(), "accept it first"),
            (tokens.retire(1).unwrap_err(), "another one first"),
            (tokens.retire(5).unwrap_err(), "no key 5"),
            (tokens.clone().life(Duration::ZERO).unwrap_err(), "longer"),
        ] {
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(!format!("{tokens:?} {:?}", tokens.issue(home(), at(1))).contains("7, 7"));
    }
}
