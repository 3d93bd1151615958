//! What files look like.

use std::path::Path;

use towline_core::{EndpointSet, Error, Kind, Phase};

use super::lines;
use crate::adapt::Defaults;

/// What a [`File`](crate::File) looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// One endpoint per line.
    Lines,
    /// JSON; needs the feature `json`.
    Json,
    /// YAML; needs the feature `yaml`.
    Yaml,
}

impl Format {
    /// By the name.
    pub(super) fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Self::Json,
            Some("yaml" | "yml") => Self::Yaml,
            _ => Self::Lines,
        }
    }

    /// Whether this build can read it.
    pub(super) fn check(self, path: &Path) -> Result<(), Error> {
        let missing = match self {
            Self::Json if cfg!(not(feature = "json")) => "json",
            Self::Yaml if cfg!(not(feature = "yaml")) => "yaml",
            _ => return Ok(()),
        };
        Err(Error::new(Kind::Config, Phase::Build).with_message(format!(
            "cannot read {}: built without the feature `{missing}` (of towline, towline-http or towline-discover); turn it on, or write one endpoint per line",
            path.display()
        )))
    }

    /// What it holds, or why nothing. Only after [`check`](Self::check).
    pub(super) fn parse(self, bytes: &[u8], defaults: &Defaults) -> Result<EndpointSet, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("line {line}: it is no UTF-8")
        })?;
        // As some editors begin a file.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match self {
            Self::Lines => lines::parse(text, defaults),
            #[cfg(feature = "json")]
            Self::Json => super::documents::json(text, defaults),
            #[cfg(feature = "yaml")]
            Self::Yaml => super::documents::yaml(text, defaults),
            #[cfg(not(all(feature = "json", feature = "yaml")))]
            _ => Err("it was not checked whether this build can read it".to_owned()),
        }
    }
}
