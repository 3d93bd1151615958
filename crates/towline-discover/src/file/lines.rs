//! One endpoint per line: `address name=value …`, with comments from `#`.

use std::collections::HashMap;

use towline_core::{Endpoint, EndpointKey, EndpointSet};

use super::documents::Fields;
use crate::adapt::Defaults;

/// The line that says that there are none, on purpose.
pub(super) const NONE: &str = "none";

pub(super) fn parse(text: &str, defaults: &Defaults) -> Result<EndpointSet, String> {
    // By key, and in which line.
    let mut known = HashMap::<EndpointKey, (usize, usize)>::new();
    let mut endpoints = Vec::<Endpoint>::new();
    let mut says_none = false;
    for (number, line) in (1..).zip(text.lines()) {
        let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
        let Some(address) = words.next() else { continue };
        if address == NONE {
            says_none = true;
            continue;
        }
        let endpoint = endpoint(address, words, defaults).map_err(|why| format!("line {number}: {why}"))?;
        match known.get(endpoint.key()) {
            Some((index, _)) if endpoints[*index] == endpoint => {}
            Some((_, first)) => {
                return Err(format!(
                    "line {number}: it has the key {} of line {first}, and differs: give each a key of its own by key=…",
                    endpoint.key()
                ));
            }
            None => {
                known.insert(endpoint.key().clone(), (endpoints.len(), number));
                endpoints.push(endpoint);
            }
        }
    }
    match (endpoints.is_empty(), says_none) {
        (false, false) => Ok(endpoints.into()),
        (true, true) => Ok(EndpointSet::none()),
        (true, false) => Err(format!("there is no endpoint in it; say `{NONE}` to mean that")),
        (false, true) => Err(format!("it has endpoints, and says `{NONE}`")),
    }
}

fn endpoint<'a>(
    address: &'a str,
    words: impl Iterator<Item = &'a str>,
    defaults: &Defaults,
) -> Result<Endpoint, String> {
    let mut fields = Fields { address: address.to_owned(), ..Fields::default() };
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is not of the form name=value"))?;
        let is_new = match name {
            "key" => fields.key.replace(value.to_owned()).is_none(),
            "weight" => {
                let weight = value.parse().map_err(|_| format!("{value:?} is no weight; write a number"))?;
                fields.weight.replace(weight).is_none()
            }
            "zone" => fields.zone.replace(value.to_owned()).is_none(),
            "priority" => {
                let priority = value.parse().map_err(|_| format!("{value:?} is no priority from 0 to 255"))?;
                fields.priority.replace(priority).is_none()
            }
            "tls_name" => fields.tls_name.replace(value.to_owned()).is_none(),
            "" => return Err(format!("{word:?} is not of the form name=value")),
            name => fields.metadata.insert(name.to_owned(), value.to_owned()).is_none(),
        };
        if !is_new {
            return Err(format!("{name} is given twice"));
        }
    }
    fields.endpoint(defaults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<EndpointSet, String> {
        parse(text, &Defaults::default())
    }

    #[test]
    fn a_line_has_an_address_and_what_it_is_besides() {
        assert_eq!(parsed("a:1 weight=0").unwrap()[0].weight().get(), 0.0, "for want of any other");
        let text =
            "# ours\n\n a:1 \nb:2 weight=0.5 zone=z priority=2 tls_name=t key=k version=7 # spare\r\nunix:/run/x\n";
        let set = parsed(text).unwrap();
        let keys: Vec<_> = set.iter().map(|endpoint| endpoint.key().as_str()).collect();
        assert_eq!(keys, ["a:1", "k", "unix:/run/x"]);
        let b = &set[1];
        assert_eq!((b.weight().get(), b.zone(), b.priority()), (0.5, Some("z"), 2));
        assert_eq!(b.target().tls_name(), Some("t"));
        assert_eq!(b.metadata()["version"], "7");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, why) in [
            ("a:1\nb", "line 2: cannot parse \"b\" as an endpoint: it has no port"),
            ("a:1 weight=much", "line 1: \"much\" is no weight"),
            ("a:1 weight=-1", "line 1: the weight of an endpoint"),
            ("a:1 weight=NaN", "line 1: the weight of an endpoint"),
            ("a:1 priority=256", "line 1: \"256\" is no priority"),
            ("a:1 heavy", "line 1: \"heavy\" is not of the form"),
            ("a:1 =x", "line 1: \"=x\" is not of the form"),
            ("a:1 zone=x zone=y", "line 1: zone is given twice"),
            ("a:1 key=", "line 1: the key is empty"),
            ("a:1\n\na:1 weight=2", "line 3: it has the key a:1 of line 1"),
            ("# nothing\n", "there is no endpoint in it"),
            ("", "there is no endpoint in it"),
            ("a:1\nnone", "it has endpoints, and says `none`"),
        ] {
            let said = parsed(text).unwrap_err();
            assert!(said.starts_with(why), "{text:?}: {said}");
        }
    }

    #[test]
    fn equal_lines_are_one_and_none_is_none() {
        assert_eq!(parsed("a:1\na:1\n").unwrap().len(), 1);
        assert!(parsed("# maintenance\nnone\n").unwrap().is_none_on_purpose());
    }
}
