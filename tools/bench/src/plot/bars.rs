//! Horizontal bars from zero, in panels with scales of their own, two panels to a line.

use super::{Anchor, Canvas, FAINT, INK, colour, short};

/// Bars that are compared with each other.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

pub(crate) struct Bar {
    pub(crate) peer: &'static str,
    pub(crate) value: f64,
}

impl Bar {
    pub(crate) fn new(peer: &'static str, value: f64) -> Self {
        Self { peer, value }
    }
}

const COLUMNS: usize = 2;
const WIDTH: f64 = 480.0;
const TOP: f64 = 62.0;
const NAME: f64 = 148.0;
const BAR: f64 = 18.0;
const STEP: f64 = 25.0;
const HEADING: f64 = 34.0;
const VALUE: f64 = 62.0;

pub(crate) fn draw(title: &str, unit: &str, panels: &[Panel]) -> String {
    let columns = COLUMNS.min(panels.len());
    let height = |line: &[Panel]| {
        let most = line.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
        HEADING + STEP * most as f64 + 18.0
    };
    let total: f64 = panels.chunks(columns).map(height).sum();
    let mut canvas = Canvas::new(WIDTH * columns as f64, TOP + total);
    canvas.title(20.0, 30.0, 17.0, title);
    canvas.text(20.0, 50.0, 12.0, FAINT, Anchor::Start, unit);
    let mut top = TOP;
    for line in panels.chunks(columns) {
        for (column, panel) in line.iter().enumerate() {
            draw_panel(&mut canvas, WIDTH * column as f64, top, panel);
        }
        top += height(line);
    }
    canvas.finish()
}

fn draw_panel(canvas: &mut Canvas, left: f64, top: f64, panel: &Panel) {
    canvas.title(left + 20.0, top + 20.0, 13.0, &panel.title);
    let most = panel.bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
    let (x0, room) = (left + NAME, WIDTH - NAME - VALUE);
    for (index, Bar { peer, value }) in panel.bars.iter().enumerate() {
        let y = top + HEADING + STEP * index as f64;
        let width = (value.max(0.0) / most * room).max(1.0);
        canvas.text(x0 - 8.0, y + 13.5, 12.0, INK, Anchor::End, peer);
        canvas.push(format_args!(
            r#"<rect x="{x0:.1}" y="{y:.1}" width="{width:.1}" height="{BAR}" rx="2" fill="{}"/>"#,
            colour(peer)
        ));
        canvas.text(x0 + width + 6.0, y + 13.5, 12.0, INK, Anchor::Start, &short(*value));
    }
}
