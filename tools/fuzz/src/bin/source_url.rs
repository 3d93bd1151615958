//! Sources as text: any text is a source or a reason that names it, and a source's text means that source.

#![no_main]

use libfuzzer_sys::fuzz_target;
use towline_core::Kind;
use towline_discover::{Defaults, Schemes, SourceUrl};

fuzz_target!(|text: &str| {
    if let Ok(url) = text.parse::<SourceUrl>() {
        let again: SourceUrl = url.to_string().parse().expect("what was parsed");
        assert_eq!((again.scheme(), again.rest()), (url.scheme(), url.rest()));
        assert_eq!((again.server(), again.name()), (url.server(), url.name()));
    }
    towline_fuzz::within(1_000 * text.len() + 1024 * 1024, || {
        if let Err(error) = Schemes::default().open(text) {
            assert_eq!(error.kind(), Kind::Config);
            assert!(!error.to_string().is_empty());
        }
    });
    let defaults = Defaults::new().port(7);
    if let Ok(endpoint) = defaults.parse(text) {
        let again = defaults.parse(&endpoint.target().to_string()).expect("what was parsed");
        assert_eq!(again.target().address(), endpoint.target().address());
    }
});
