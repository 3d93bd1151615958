//! Pages of the documentation and their pictures. Each scenario names its page and has a section there between two markers,
//! and a run replaces the sections of its own scenarios only.

use std::io::Result;
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
        let mut text = std::fs::read_to_string(&path)?;
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
        replace(&mut text, scenario.name, scenario.title, &section);
        std::fs::write(&path, text)?;
    }
    Ok(())
}

/// Replaces what is between the markers of `name`; a section that is not there goes to the end, under a heading.
fn replace(text: &mut String, name: &str, heading: &str, section: &str) {
    let (begin, end) = (format!("<!-- sim:{name} -->\n"), format!("<!-- /sim:{name} -->\n"));
    let start = text.find(&begin).map(|at| at + begin.len());
    let place = start.and_then(|start| text[start..].find(&end).map(|length| start..start + length));
    match place {
        Some(place) => text.replace_range(place, &format!("\n{section}\n")),
        None => text.push_str(&format!("\n## {heading}\n\n{begin}\n{section}\n{end}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios;

    #[test]
    fn every_scenario_has_a_section_on_its_page() {
        for scenario in &scenarios::ALL {
            let text = std::fs::read_to_string(docs().join(scenario.page)).unwrap_or_default();
            for marker in ["", "/"].map(|slash| format!("<!-- {slash}sim:{} -->\n", scenario.name)) {
                assert_eq!(text.matches(&marker).count(), 1, "{marker} in {}", scenario.page);
            }
        }
    }

    #[test]
    fn a_section_is_replaced_in_its_place_and_a_new_one_goes_to_the_end() {
        let mut text = "# Page\n\n<!-- sim:a -->\nold\n<!-- /sim:a -->\nrest\n".to_owned();
        replace(&mut text, "a", "A", "new");
        assert_eq!(text, "# Page\n\n<!-- sim:a -->\n\nnew\n<!-- /sim:a -->\nrest\n");
        replace(&mut text, "b", "B", "other");
        assert!(text.ends_with("rest\n\n## B\n\n<!-- sim:b -->\n\nother\n<!-- /sim:b -->\n"), "{text}");
    }
}
