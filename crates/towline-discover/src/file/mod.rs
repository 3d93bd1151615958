//! Endpoints from a file that others write.
//!
//! The file is looked at by the clock, which works everywhere: on network mounts, in containers, and for Kubernetes' mounted
//! ConfigMaps, where the path stays and what a symbolic link above it leads to is exchanged. What tells of a change is what the
//! path leads to, its length and its times; only then it is read.
//!
//! A writer should write another file and rename it over this one. For those that write in place, a file that has changed is taken
//! when it looks the same for a moment, by our own clock and not by its times, which may be another machine's; and one that changed
//! while it was read is not taken: half a list is a list as well, if it is cut at the end of a line.

mod documents;
mod format;
mod lines;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};
use futures_util::stream;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout};
use towline_core::sync::after;
use towline_core::{EndpointSet, Error, Kind, Phase, Sent, stable_hash};

pub use self::format::Format;
use crate::adapt::Defaults;
use crate::refresh::Asked;
use crate::{Refresh, Source};

/// Written in place, a file may be half there. This is how long it must not have changed. Also between two looks that are asked for.
const QUIET: Duration = Duration::from_millis(100);
/// A file that changes for longer than this, at every look, is an error.
const RESTLESS: Duration = Duration::from_secs(1);
/// Times of files have steps, of two seconds at the most: within one step a file can change and look the same.
const STEP: Duration = Duration::from_secs(2);
/// A look that takes longer is an error; it goes on, and there is no other meanwhile.
const STUCK: Duration = Duration::from_secs(10);

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
/// It is looked at every second, and when it is [asked to](Refresh), though not more often than every 100 ms; within 1.1 seconds a change is
/// seen. A file that is broken, too long, gone or written to all the time is an error that says where and why, once; the set before it stays, and
/// comes again when the file is well. So does a file with no endpoints in it: say
/// `none` (a line, or the text as the whole document) to mean that. Equal endpoints are one; two that differ under one key are an
/// error, and so is a field of JSON or YAML that is not known. A weight of 0 is used only when no other endpoint can take the call. YAML's anchors
/// and aliases are refused; values of metadata are texts.
///
/// The errors of the source are of [`Kind::Config`]. It needs a tokio runtime with time.
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
    /// [`Kind::Config`] when it is to be looked at every 0 s, or has a format that this build cannot read.
    pub fn source(self) -> Result<Source, Error> {
        let Self { path, format, every, max_bytes, defaults } = self;
        if every.is_zero() {
            let why = "a file cannot be looked at every 0 s: use 10 ms or more";
            return Err(Error::new(Kind::Config, Phase::Build).with_message(why));
        }
        let format = format.unwrap_or_else(|| Format::of(&path));
        format.check(&path)?;
        let looker = Looker { path, format, max_bytes, defaults };
        let (refresh, asked) = Refresh::new();
        let at = looker.path.clone();
        let watch = Watch::new(at, move |ask| looker.look(ask), every, asked);
        let sets = stream::unfold(watch, async |mut watch| {
            let item = watch.next().await;
            Some((item, watch))
        });
        Ok(Source::refreshed(sets, refresh))
    }
}

/// Looks at the file by the clock.
struct Watch {
    path: PathBuf,
    /// On a thread that may block.
    glance: Arc<dyn Fn(&Ask) -> Look + Send + Sync>,
    every: Duration,
    stuck: Duration,
    asked: Asked,
    /// What was read.
    seen: Option<Mark>,
    /// The hash of what was taken, unless an error came after it.
    content: Option<u64>,
    /// When to read it once more, though it looks the same.
    again_at: Option<Instant>,
    /// The last error, which is said once.
    said: Option<String>,
    looked_at: Option<Instant>,
    /// What has been begun, and cannot be stopped.
    looking: Option<JoinHandle<Look>>,
}

impl Watch {
    fn new(
        path: PathBuf,
        glance: impl Fn(&Ask) -> Look + Send + Sync + 'static,
        every: Duration,
        asked: Asked,
    ) -> Self {
        Self {
            path,
            glance: Arc::new(glance),
            every,
            stuck: STUCK,
            asked,
            seen: None,
            content: None,
            again_at: None,
            said: None,
            looked_at: None,
            looking: None,
        }
    }

    async fn next(&mut self) -> Result<EndpointSet, Error> {
        loop {
            self.wait().await;
            let look = self.look().await;
            self.looked_at = Some(Instant::now());
            match look {
                Ok(None) => {}
                Ok(Some(set)) => {
                    self.said = None;
                    return Ok(set);
                }
                Err(error) => {
                    // When it is well it is news, whatever it holds.
                    self.content = None;
                    let text = error.to_string();
                    if self.said.as_ref() != Some(&text) {
                        self.said = Some(text);
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn wait(&self) {
        let Some(looked_at) = self.looked_at else { return };
        let due = after(looked_at, self.every);
        if let Either::Right(_) = select(pin!(sleep_until(due)), pin!(self.asked.wait())).await {
            sleep_until(due.min(after(looked_at, QUIET))).await;
        }
    }

    /// What is new, once it has settled.
    async fn look(&mut self) -> Result<Option<EndpointSet>, Error> {
        let began = Instant::now();
        // One that is there when we begin, and has been for long, need not show that it is quiet.
        let is_first = self.looked_at.is_none();
        let is_due = self.again_at.is_some_and(|again_at| again_at <= began);
        let mut ask = match is_due {
            true => Ask { seen: None, quiet: self.seen.clone(), is_first },
            false => Ask { seen: self.seen.clone(), quiet: None, is_first },
        };
        loop {
            match self.look_once(ask.clone()).await? {
                Look::Unchanged => return Ok(None),
                Look::Changing(mark) => {
                    if began.elapsed() >= RESTLESS {
                        let why = "it is written to all the time; write another file, and rename it";
                        return Err(refused(&self.path, why));
                    }
                    ask.quiet = Some(mark);
                    sleep_until(Instant::now() + QUIET).await;
                }
                Look::Unreadable(error) => {
                    // When it is back, it is new, whatever it looks like.
                    (self.seen, self.again_at) = (None, None);
                    return Err(error);
                }
                Look::New(mark, content, set) => {
                    let is_young = self.seen.as_ref() != Some(&mark) && mark.is_younger_than(STEP);
                    self.again_at = is_young.then(|| after(Instant::now(), STEP));
                    self.seen = Some(mark);
                    let set = set?;
                    let is_known = self.content.replace(content) == Some(content);
                    return Ok((!is_known).then_some(set));
                }
            }
        }
    }

    async fn look_once(&mut self, ask: Ask) -> Result<Look, Error> {
        let looking = self.looking.get_or_insert_with(|| {
            let glance = self.glance.clone();
            spawn_blocking(move || glance(&ask))
        });
        let looked = timeout(self.stuck, looking).await;
        if looked.is_ok() {
            self.looking = None;
        }
        let error = match looked {
            Ok(Ok(look)) => return Ok(look),
            Ok(Err(cause)) => {
                refused(&self.path, "reading it was cut off, by the end of the runtime or a panic").with_source(cause)
            }
            Err(_) => refused(&self.path, &format!("reading it takes longer than {:?}", self.stuck)),
        };
        // When it can be read again, it is new, whatever it looks like.
        (self.seen, self.again_at) = (None, None);
        Err(error)
    }
}

/// What a look is to find out.
#[derive(Clone)]
struct Ask {
    /// Known: if it is this, there is nothing to do.
    seen: Option<Mark>,
    /// It was this a moment ago: if it still is, it is read.
    quiet: Option<Mark>,
    is_first: bool,
}

/// What a look has shown.
enum Look {
    Unchanged,
    /// It is another than a moment ago.
    Changing(Mark),
    Unreadable(Error),
    /// With a hash of what is in it.
    New(Mark, u64, Result<EndpointSet, Error>),
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

    /// A time in the future is another machine's, and young.
    fn is_younger_than(&self, age: Duration) -> bool {
        let is_old = |modified| SystemTime::now().duration_since(modified).is_ok_and(|it| it >= age);
        !self.modified.is_some_and(is_old)
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
    fn look(&self, ask: &Ask) -> Look {
        let result = std::fs::metadata(&self.path).and_then(|metadata| {
            let mark = Mark::of(&metadata);
            if ask.seen.as_ref() == Some(&mark) {
                return Ok(Look::Unchanged);
            }
            // Opening a pipe waits for its other end.
            if !metadata.is_file() {
                return Ok(Look::Unreadable(self.refused("it is no file")));
            }
            let is_quiet = ask.quiet.as_ref() == Some(&mark) || ask.is_first && !mark.is_younger_than(STEP);
            if !is_quiet {
                return Ok(Look::Changing(mark));
            }
            if mark.bytes > self.max_bytes {
                return Ok(Look::New(mark, 0, Err(self.too_long())));
            }
            let mut bytes = Vec::new();
            let mut file = std::fs::File::open(&self.path)?.take(self.max_bytes.saturating_add(1));
            file.read_to_end(&mut bytes)?;
            let now = Mark::of(&file.get_ref().metadata()?);
            if now != mark {
                return Ok(Look::Changing(now));
            }
            if bytes.len() as u64 > self.max_bytes {
                return Ok(Look::New(mark, 0, Err(self.too_long())));
            }
            Ok(Look::New(mark, stable_hash(&bytes), self.parse(&bytes)))
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
        refused(&self.path, why)
    }
}

fn refused(path: &Path, why: &str) -> Error {
    let why = format!("cannot take endpoints from {}: {why}", path.display());
    Error::new(Kind::Config, Phase::Resolve).with_sent(Sent::Never).with_message(why)
}

/// For fuzzing: what a file of this format holds.
#[doc(hidden)]
pub fn parse(format: Format, bytes: &[u8]) -> Result<EndpointSet, String> {
    format.check(Path::new("")).map_err(|error| error.to_string())?;
    format.parse(bytes, &Defaults::default())
}

#[cfg(test)]
mod tests;
