//! Files of endpoints, in every format: any bytes are a set or a reason, in bounded memory; and what is a set is the same set when it
//! is written in another format.

#![no_main]

use libfuzzer_sys::fuzz_target;
use towline_core::{Endpoint, EndpointSet};
use towline_discover::{Format, parse};

/// The same endpoint as a line, if it can be one: values there have no blanks, and names no other meaning.
fn line(endpoint: &Endpoint) -> Option<String> {
    let plain = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace) && !text.starts_with('#');
    let mut line = endpoint.target().to_string();
    let mut add = |name: &str, value: &str| {
        line += &format!(" {name}={value}");
        plain(value)
    };
    let mut is_line = add("key", endpoint.key().as_str()) && add("weight", &endpoint.weight().get().to_string());
    is_line &= add("priority", &endpoint.priority().to_string());
    is_line &= endpoint.zone().is_none_or(|zone| add("zone", zone));
    is_line &= endpoint.target().tls_name().is_none_or(|name| add("tls_name", name));
    for (name, value) in endpoint.metadata().iter() {
        let is_free = !["key", "weight", "priority", "zone", "tls_name"].contains(&name.as_str());
        is_line &= is_free && plain(name) && !name.contains('=') && add(name, value);
    }
    (is_line && plain(&endpoint.target().to_string())).then_some(line)
}

fn check(set: &EndpointSet) {
    assert!(!set.is_empty() || set.is_none_on_purpose(), "never empty by chance");
    let mut keys: Vec<_> = set.iter().map(Endpoint::key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), set.len(), "every key once");
}

fuzz_target!(|input: &[u8]| {
    let Some((format, bytes)) = input.split_first() else { return };
    let format = [Format::Lines, Format::Json, Format::Yaml][usize::from(*format) % 3];
    // A byte can begin an endpoint, which is some hundred; nothing grows with what is promised.
    let parsed = towline_fuzz::within(4_000 * bytes.len() + 4 * 1024 * 1024, || parse(format, bytes));
    let Ok(set) = parsed else { return };
    check(&set);
    // Of the target's text its TLS name is a part, unless it is one of its own.
    let lines: Option<Vec<_>> = set.iter().map(line).collect();
    if let Some(lines) = lines.filter(|lines| !lines.is_empty()) {
        let again = parse(Format::Lines, lines.join("\n").as_bytes()).expect("a set as lines");
        let texts = |set: &EndpointSet| set.iter().map(line).collect::<Vec<_>>();
        assert_eq!(texts(&again), texts(&set));
    }
});
