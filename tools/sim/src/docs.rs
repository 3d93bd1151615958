//! Pages of the documentation and their pictures. Each scenario names its page and has a section there between two markers,
//! and a run replaces the sections of its own scenarios only.

use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;

use crate::results::Results;
use crate::table::Table;

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Writes what the scenarios came to.
pub(crate) fn write(all: &[Results]) -> Result<()> {
    for results in all {
        let scenario = results.scenario;
        let path = docs().join(scenario.page);
        let mut text = std::fs::read_to_string(&path)
            .map_err(|error| Error::new(error.kind(), format!("reading docs/{}: {error}", scenario.page)))?;
        let mut section = format!("*Written by `cargo xtask sim {} --docs`.*\n\n{}\n\n", scenario.name, scenario.about);
        if let Some(picture) = scenario.picture {
            let name = format!("sim-{}.svg", scenario.name);
            let images = docs().join("images");
            std::fs::create_dir_all(&images)?;
            std::fs::write(images.join(&name), picture(results))?;
            section.push_str(&format!("![{}](images/{name})\n\n", scenario.title));
        }
        let tables: Vec<_> = (scenario.tables)(results).iter().map(Table::markdown).collect();
        section.push_str(&tables.join("\n"));
        replace(&mut text, scenario.name, &section).map_err(|markers| {
            let message = format!("{} has no place for {}: add {markers}", scenario.page, scenario.title);
            Error::new(ErrorKind::NotFound, message)
        })?;
        std::fs::write(&path, text)?;
    }
    Ok(())
}

/// Replaces what is between the markers of `name`.
///
/// # Errors
///
/// The markers, where they are not there.
fn replace(text: &mut String, name: &str, section: &str) -> std::result::Result<(), String> {
    let (begin, end) = (format!("<!-- sim:{name} -->\n"), format!("<!-- /sim:{name} -->\n"));
    let start = text.find(&begin).map(|at| at + begin.len());
    let place = start.and_then(|start| text[start..].find(&end).map(|length| start..start + length));
    let place = place.ok_or_else(|| format!("the lines {} and {}", begin.trim_end(), end.trim_end()))?;
    text.replace_range(place, &format!("\n{section}\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios;

    #[test]
    fn every_scenario_has_a_section_on_its_page() {
        for scenario in &scenarios::ALL {
            // A page that is not written yet has no sections either.
            let Ok(text) = std::fs::read_to_string(docs().join(scenario.page)) else { continue };
            for marker in ["", "/"].map(|slash| format!("<!-- {slash}sim:{} -->\n", scenario.name)) {
                assert_eq!(text.matches(&marker).count(), 1, "{marker} in {}", scenario.page);
            }
        }
    }

    #[test]
    fn a_section_is_replaced_in_its_place_and_without_a_place_there_is_an_error() {
        let mut text = "# Page\n\n<!-- sim:a -->\nold\n<!-- /sim:a -->\nrest\n".to_owned();
        replace(&mut text, "a", "new").unwrap();
        assert_eq!(text, "# Page\n\n<!-- sim:a -->\n\nnew\n<!-- /sim:a -->\nrest\n");
        let missing = replace(&mut text, "b", "other").unwrap_err();
        assert_eq!(missing, "the lines <!-- sim:b --> and <!-- /sim:b -->");
    }
}
