//! Endpoints from a file that others write.
//!
//! The file is looked at by the clock, which works everywhere: on network mounts, in containers, and for Kubernetes' mounted
//! ConfigMaps, where the path stays and what a symbolic link above it leads to is exchanged. What tells of a change is what the
//! path leads to, its length and its times; only then it is read.
//!
//! A writer should write another file and rename it over this one. For those that write in place, a file that has just changed is
//! left alone for a moment, and one that changed while it was read is read again: half a list is a list as well, if it is cut at
//! the end of a line.

mod documents;
mod format;
mod lines;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::select;
use futures_util::stream;
use tokio::time::{Instant, sleep_until};
use towline_core::{EndpointSet, Error, Kind, Phase, Sent};

pub use self::format::Format;
use crate::adapt::Defaults;
use crate::{Refresh, Source};

/// Written in place, a file may be half there. This is how long it must not have changed.
const QUIET: Duration = Duration::from_millis(100);
/// After so many looks at a file that changes all the time, it is taken as it is.
const LOOKS: u32 = 10;

/// A file of endpoints: JSON, YAML, or one per line; by its name, `.json`, `.yaml` or `.yml`, or else lines.
///
/// ```text
/// # One endpoint per line: an address, and what it is besides.
/// 10.0.0.1:7000
/// db-2.example:7000  weight=2 zone=eu-1a priority=1 tls_name=db.example key=db-2 version=7
/// unix:/run/db.sock
/// ```
///
/// What is neither `key`, `weight`, `zone`, `priority` nor `tls_name` is metadata. JSON and YAML have a list of the same, each a
/// text or an object with `address` and these, and `metadata`; the list by itself, or as `endpoints` of an object.
///
/// ```json
/// {"endpoints": ["10.0.0.1:7000", {"address": "db-2.example:7000", "weight": 2, "metadata": {"version": "7"}}]}
/// ```
///
/// # What happens when
///
/// It is looked at every second, and when it is [asked to](Refresh); within 1.1 seconds a change is seen. A file that is broken, too long or gone is an error that says where and
/// why, once; the set before it stays, and comes again when the file is well. So does a file with no endpoints in it: say
/// `none` (a line, or the text as the whole document) to mean that. Equal endpoints are one; two that differ under one key are an
/// error, as is an unknown field. A weight of 0 is for want of any other endpoint.
///
/// Reading and parsing are done on tokio's threads for what blocks.
///
/// ```
/// use futures_util::StreamExt;
/// use towline_discover::{Defaults, File};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let path = std::env::temp_dir().join(format!("endpoints-{}", std::process::id()));
/// std::fs::write(&path, "10.0.0.1\n10.0.0.2:7001 weight=2\n")?;
///
/// let mut source = File::new(&path).defaults(Defaults::new().port(7000)).source()?;
/// let set = source.next().await.unwrap()?;
/// assert_eq!(set[0].key().as_str(), "10.0.0.1:7000");
/// assert_eq!(set[1].weight().get(), 2.0);
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), towline_core::BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct File {
    path: PathBuf,
    format: Option<Format>,
    every: Duration,
    max_bytes: u64,
    defaults: Defaults,
}

impl File {
    /// The file at this path, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            every: Duration::from_secs(1),
            max_bytes: 64 * 1024 * 1024,
            defaults: Defaults::default(),
        }
    }

    /// What is in it, whatever its name says.
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// How often it is looked at: every second by default.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// A file that is longer is an error: more than 64 MiB by default, which are 500,000 endpoints and more.
    pub fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// What endpoints have that say nothing else, a port above all.
    pub fn defaults(mut self, defaults: Defaults) -> Self {
        self.defaults = defaults;
        self
    }

    /// The source.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when the file is to be looked at all the time, or has a format that this build cannot read.
    pub fn source(self) -> Result<Source, Error> {
        let Self { path, format, every, max_bytes, defaults } = self;
        if every.is_zero() {
            let why = "a file cannot be looked at every 0 s: use 10 ms or more";
            return Err(Error::new(Kind::Config, Phase::Build).with_message(why));
        }
        let format = format.unwrap_or_else(|| Format::of(&path));
        format.check(&path)?;
        let looker = Looker { path, format, max_bytes, defaults };
        let refresh = Refresh::new();
        let watch =
            Watch { looker: Arc::new(looker), every, refresh: refresh.clone(), seen: None, said: None, due: None };
        let sets = stream::unfold(watch, async |mut watch| {
            let item = watch.next().await;
            Some((item, watch))
        });
        Ok(Source::refreshed(sets, refresh))
    }
}

/// Looks at the file by the clock.
struct Watch {
    looker: Arc<Looker>,
    every: Duration,
    refresh: Refresh,
    /// What was read.
    seen: Option<Mark>,
    /// The last error, which is said once.
    said: Option<String>,
    due: Option<Instant>,
}

impl Watch {
    async fn next(&mut self) -> Result<EndpointSet, Error> {
        loop {
            if let Some(due) = self.due {
                select(pin!(sleep_until(due)), pin!(self.refresh.asked())).await;
            }
            let look = self.look().await;
            self.due = Some(Instant::now() + self.every);
            match look {
                Ok(None) => {}
                Ok(Some(set)) => {
                    self.said = None;
                    return Ok(set);
                }
                Err(error) => {
                    let text = error.to_string();
                    if self.said.as_ref() != Some(&text) {
                        self.said = Some(text);
                        return Err(error);
                    }
                }
            }
        }
    }

    /// What is new, once it has settled.
    async fn look(&mut self) -> Result<Option<EndpointSet>, Error> {
        for looks in 1.. {
            let (looker, seen) = (self.looker.clone(), self.seen.clone());
            let looking = tokio::task::spawn_blocking(move || looker.look(seen.as_ref(), looks >= LOOKS));
            let look = looking.await.map_err(|cause| {
                let why = format!("reading {} was cut off", self.looker.path.display());
                Error::new(Kind::Runtime, Phase::Resolve).with_sent(Sent::Never).with_message(why).with_source(cause)
            })?;
            match look {
                Look::Unchanged => break,
                Look::Unsettled => sleep_until(Instant::now() + QUIET).await,
                Look::Unreadable(error) => {
                    // When it is back, it is new, whatever it looks like.
                    self.seen = None;
                    return Err(error);
                }
                Look::New(mark, set) => {
                    self.seen = Some(mark);
                    return set.map(Some);
                }
            }
        }
        Ok(None)
    }
}

/// What a look has shown.
enum Look {
    Unchanged,
    /// It has just changed, or does.
    Unsettled,
    Unreadable(Error),
    New(Mark, Result<EndpointSet, Error>),
}

/// By what a change is known.
#[derive(Clone, Debug, PartialEq)]
struct Mark {
    bytes: u64,
    modified: Option<SystemTime>,
    /// Device, number, and when anything of it changed: `rename` changes these even where the times of what was written are the same.
    #[cfg(unix)]
    inode: (u64, u64, i64, i64),
}

impl Mark {
    fn of(metadata: &std::fs::Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Self {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            inode: (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether it has not changed for a while. A time in the future is another machine's.
    fn is_quiet(&self) -> bool {
        let age = self.modified.map(|modified| SystemTime::now().duration_since(modified));
        !matches!(age, Some(Ok(age)) if age < QUIET)
    }
}

struct Looker {
    path: PathBuf,
    format: Format,
    max_bytes: u64,
    defaults: Defaults,
}

impl Looker {
    /// On a thread that may block.
    fn look(&self, seen: Option<&Mark>, is_last: bool) -> Look {
        let result = std::fs::metadata(&self.path).and_then(|metadata| {
            let mark = Mark::of(&metadata);
            if seen == Some(&mark) {
                return Ok(Look::Unchanged);
            }
            // Opening a pipe waits for its other end.
            if !metadata.is_file() {
                return Ok(Look::Unreadable(self.refused("it is no file")));
            }
            if !is_last && !mark.is_quiet() {
                return Ok(Look::Unsettled);
            }
            if mark.bytes > self.max_bytes {
                return Ok(Look::New(mark, Err(self.too_long())));
            }
            let mut bytes = Vec::new();
            let mut file = std::fs::File::open(&self.path)?.take(self.max_bytes.saturating_add(1));
            file.read_to_end(&mut bytes)?;
            if !is_last && Mark::of(&file.get_ref().metadata()?) != mark {
                return Ok(Look::Unsettled);
            }
            if bytes.len() as u64 > self.max_bytes {
                return Ok(Look::New(mark, Err(self.too_long())));
            }
            Ok(Look::New(mark, self.parse(&bytes)))
        });
        result.unwrap_or_else(|cause| Look::Unreadable(self.refused(&cause.to_string()).with_source(cause)))
    }

    fn parse(&self, bytes: &[u8]) -> Result<EndpointSet, Error> {
        self.format.parse(bytes, &self.defaults).map_err(|why| self.refused(&why))
    }

    fn too_long(&self) -> Error {
        self.refused(&format!("it is longer than {} bytes: raise max_bytes, or split it", self.max_bytes))
    }

    fn refused(&self, why: &str) -> Error {
        let why = format!("cannot take endpoints from {}: {why}", self.path.display());
        Error::new(Kind::Config, Phase::Resolve).with_sent(Sent::Never).with_message(why)
    }
}

/// For fuzzing: what a file of this format holds.
#[doc(hidden)]
pub fn parse(format: Format, bytes: &[u8]) -> Result<EndpointSet, String> {
    format.check(Path::new("")).map_err(|error| error.to_string())?;
    format.parse(bytes, &Defaults::default())
}

#[cfg(test)]
mod tests;
