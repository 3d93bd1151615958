//! Lines over categories on a logarithmic scale, one panel beside the other, each line named at its end.

use super::{Anchor, Canvas, FAINT, RULE, colour, is_floor, short};

/// A chart of its own, with the scale of all.
pub(crate) struct Panel {
    pub(crate) title: String,
    /// A value per category.
    pub(crate) series: Vec<(&'static str, Vec<f64>)>,
}

const PANEL: (f64, f64) = (500.0, 400.0);
/// Around the plot of a panel: above it its title, on the right the names of its lines.
const TOP: f64 = 84.0;
const RIGHT: f64 = 170.0;
const BOTTOM: f64 = 54.0;
const LEFT: f64 = 58.0;
/// Between the names of two lines.
const LEADING: f64 = 15.0;

pub(crate) fn draw(title: &str, x_name: &str, y_name: &str, categories: &[usize], panels: &[Panel]) -> String {
    let mut canvas = Canvas::new(PANEL.0 * panels.len() as f64, PANEL.1);
    canvas.title(20.0, 30.0, 17.0, title);
    canvas.text(20.0, 50.0, 12.0, FAINT, Anchor::Start, &format!("{y_name}, logarithmic; higher is better"));
    let values = || panels.iter().flat_map(|panel| &panel.series).flat_map(|(_, values)| values);
    let low = values().copied().fold(f64::MAX, f64::min).log10();
    let high = values().copied().fold(1.0, f64::max).log10();
    let scale = Scale { low: (low * 3.0).floor() / 3.0, high: (high * 3.0).ceil() / 3.0 };
    for (index, panel) in panels.iter().enumerate() {
        scale.panel(&mut canvas, PANEL.0 * index as f64, x_name, categories, panel);
    }
    canvas.finish()
}

/// Decimal logarithms of the ends of the axis.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn y(&self, value: f64) -> f64 {
        let share = (value.log10() - self.low) / (self.high - self.low);
        PANEL.1 - BOTTOM - share * (PANEL.1 - BOTTOM - TOP)
    }

    fn panel(&self, canvas: &mut Canvas, left: f64, x_name: &str, categories: &[usize], panel: &Panel) {
        let (x0, x1) = (left + LEFT, left + PANEL.0 - RIGHT);
        let base = PANEL.1 - BOTTOM;
        canvas.title(left + 20.0, TOP - 8.0, 13.0, &panel.title);
        for value in self.ticks() {
            let y = self.y(value);
            canvas.line((x0, y), (x1, y), RULE, 1.0);
            canvas.text(x0 - 8.0, y + 4.0, 11.0, FAINT, Anchor::End, &short(value));
        }
        let step = (x1 - x0) / categories.len() as f64;
        let x = |index: usize| x0 + step * (index as f64 + 0.5);
        for (index, category) in categories.iter().enumerate() {
            canvas.line((x(index), base), (x(index), base + 4.0), FAINT, 1.0);
            canvas.text(x(index), base + 18.0, 11.0, FAINT, Anchor::Middle, &category.to_string());
        }
        canvas.text((x0 + x1) / 2.0, base + 38.0, 12.0, FAINT, Anchor::Middle, x_name);
        canvas.line((x0, base), (x1, base), FAINT, 1.0);
        // Floors first, ours last, so that ours lie on top.
        let mut series: Vec<_> = panel.series.iter().collect();
        series.sort_by_key(|(peer, _)| (!is_floor(peer), peer.starts_with("towline-")));
        for (peer, values) in &series {
            let points: Vec<_> = values.iter().enumerate().map(|(i, v)| (x(i), self.y(*v))).collect();
            polyline(canvas, peer, &points);
        }
        self.names(canvas, &series, x(categories.len() - 1));
    }

    /// 1, 2 and 5 of each decade within the axis.
    fn ticks(&self) -> Vec<f64> {
        let decades = self.low.floor() as i32..=self.high.ceil() as i32;
        let values = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)));
        values.filter(|value| (self.low..=self.high).contains(&value.log10())).collect()
    }

    /// The lines' names beside their ends, moved apart where they would touch.
    fn names(&self, canvas: &mut Canvas, series: &[&(&'static str, Vec<f64>)], x: f64) {
        let last = |values: &[f64]| values.last().copied().unwrap_or(1.0);
        let mut names: Vec<_> =
            series.iter().map(|(peer, values)| (self.y(last(values)), *peer, last(values))).collect();
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let ends: Vec<_> = names.iter().map(|(y, ..)| *y).collect();
        let mut places = ends.clone();
        for index in 1..places.len() {
            places[index] = places[index].max(places[index - 1] + LEADING);
        }
        // A pile that has grown downwards goes up by half of what it grew.
        let grown = places.iter().zip(&ends).map(|(place, end)| place - end).fold(0.0, f64::max);
        let over = places.last().map_or(0.0, |place| place - (PANEL.1 - BOTTOM));
        let up = if over > 0.0 { over.max(grown / 2.0) } else { 0.0 };
        for index in (0..places.len()).rev() {
            let below = places.get(index + 1).map_or(f64::MAX, |below| below - LEADING);
            places[index] = (places[index].max(ends[index] - up)).min(below).min(PANEL.1 - BOTTOM);
        }
        for ((end, peer, value), place) in names.into_iter().zip(places) {
            canvas.line((x + 5.0, end), (x + 18.0, place), colour(peer), 0.8);
            canvas.text(x + 21.0, place + 4.0, 11.5, colour(peer), Anchor::Start, &format!("{peer} {}", short(value)));
        }
    }
}

fn polyline(canvas: &mut Canvas, peer: &str, points: &[(f64, f64)]) {
    let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let dashes = if is_floor(peer) { r#" stroke-dasharray="5 4""# } else { "" };
    let (path, colour) = (path.join(" "), colour(peer));
    let width = if peer.starts_with("towline-") { 2.6 } else { 1.8 };
    canvas.push(format_args!(
        r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>"#
    ));
    for (x, y) in points {
        canvas.push(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.2" fill="{colour}"/>"#));
    }
}
