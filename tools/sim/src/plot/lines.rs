//! Lines over numbers, one panel beside the other, each line named at its end.

use super::{Anchor, Canvas, FAINT, RULE, colour};
use crate::figures::NINES;
use crate::results::CaseResults;
use crate::strategies::{ORACLE, TOWLINE};

pub(crate) struct Axes {
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    /// Upwards; else from zero.
    pub(crate) logarithmic: bool,
}

impl Axes {
    /// Of [`Panel::by_nines`].
    pub(crate) const BY_NINES: Self =
        Self { x: "powers of ten: of so many calls one takes longer", y: "latency, ms", logarithmic: true };
}

/// A chart of its own, with a scale of its own.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

impl Panel {
    /// The curves of these strategies, as far as they were run. A point stands in the middle of its second.
    pub(crate) fn of_curves(case: &CaseResults, strategies: &[&'static str]) -> Self {
        let run = |strategy: &&'static str| case.runs(strategy).is_some();
        let line = |strategy: &'static str| {
            let points = case.curve(strategy).into_iter().zip(0u32..);
            (strategy, points.map(|(share, at)| (f64::from(at) + 0.5, share)).collect())
        };
        Self { title: case.case.name.clone(), lines: strategies.iter().copied().filter(run).map(line).collect() }
    }

    /// The latencies of these strategies.
    pub(crate) fn by_nines(case: &CaseResults, strategies: &[&'static str]) -> Self {
        let Self { title, lines } = Self::of_curves(case, strategies);
        let line = |(strategy, points): (&'static str, Vec<(f64, f64)>)| {
            (strategy, NINES.zip(points).map(|(nines, (_, ms))| (f64::from(nines) / 4.0, ms)).collect())
        };
        Self { title, lines: lines.into_iter().map(line).collect() }
    }
}

const PANEL: (f64, f64) = (560.0, 400.0);
/// Around the plot of a panel: above it its title, on the right the names of its lines.
const TOP: f64 = 84.0;
const RIGHT: f64 = 150.0;
const BOTTOM: f64 = 54.0;
const LEFT: f64 = 58.0;
/// Between the names of two lines.
const LEADING: f64 = 15.0;

pub(crate) fn draw(title: &str, axes: &Axes, panels: &[Panel]) -> String {
    let mut canvas = Canvas::new(PANEL.0 * panels.len() as f64, PANEL.1);
    canvas.title((20.0, 30.0), 17.0, title);
    let scale = if axes.logarithmic { ", logarithmic" } else { "" };
    canvas.text((20.0, 50.0), 12.0, FAINT, Anchor::Start, &format!("{}{scale}", axes.y));
    for (index, panel) in panels.iter().enumerate() {
        Plot::new(PANEL.0 * index as f64, axes, panel).draw(&mut canvas);
    }
    canvas.finish()
}

struct Plot<'a> {
    left: f64,
    axes: &'a Axes,
    panel: &'a Panel,
    x: (f64, f64),
    /// Decimal logarithms where the axis is logarithmic.
    y: (f64, f64),
}

impl<'a> Plot<'a> {
    fn new(left: f64, axes: &'a Axes, panel: &'a Panel) -> Self {
        let points = || panel.lines.iter().flat_map(|(_, points)| points);
        let extent = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
        };
        let x = extent(&mut points().map(|(x, _)| *x));
        let (low, high) = extent(&mut points().map(|(_, y)| *y));
        let thirds = |value: f64| value.max(1e-3).log10() * 3.0;
        let y = match axes.logarithmic {
            true => (thirds(low).floor() / 3.0, thirds(high).ceil() / 3.0),
            false => (0.0, high.max(1.0) * 1.05),
        };
        Self { left, axes, panel, x, y }
    }

    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let y = if self.axes.logarithmic { y.max(1e-3).log10() } else { y };
        let part = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        let (width, height) = (PANEL.0 - LEFT - RIGHT, PANEL.1 - TOP - BOTTOM);
        (self.left + LEFT + part(x, self.x) * width, PANEL.1 - BOTTOM - part(y, self.y) * height)
    }

    fn draw(&self, canvas: &mut Canvas) {
        let (x0, x1) = (self.left + LEFT, self.left + PANEL.0 - RIGHT);
        let base = PANEL.1 - BOTTOM;
        canvas.title((self.left + 20.0, TOP - 8.0), 13.0, &self.panel.title);
        for value in self.heights() {
            let (_, y) = self.at((self.x.0, value));
            canvas.line((x0, y), (x1, y), RULE, 1.0);
            canvas.text((x0 - 8.0, y + 4.0), 11.0, FAINT, Anchor::End, &number(value));
        }
        for value in steps(self.x.0, self.x.1) {
            let (x, _) = self.at((value, 1.0));
            canvas.line((x, base), (x, base + 4.0), FAINT, 1.0);
            canvas.text((x, base + 18.0), 11.0, FAINT, Anchor::Middle, &number(value));
        }
        canvas.text(((x0 + x1) / 2.0, base + 38.0), 12.0, FAINT, Anchor::Middle, self.axes.x);
        canvas.line((x0, base), (x1, base), FAINT, 1.0);
        // Ours last, so that it lies on top.
        let (ours, others): (Vec<_>, Vec<_>) = self.panel.lines.iter().partition(|(strategy, _)| *strategy == TOWLINE);
        for (strategy, points) in others.into_iter().chain(ours) {
            self.line(canvas, strategy, points);
        }
        self.names(canvas, x1);
    }

    /// Where rules are drawn: 1, 2 and 5 of each decade, or even steps.
    fn heights(&self) -> Vec<f64> {
        if !self.axes.logarithmic {
            return steps(self.y.0, self.y.1);
        }
        let decades = self.y.0.floor() as i32..=self.y.1.ceil() as i32;
        let values = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)));
        values.filter(|value| (self.y.0..=self.y.1).contains(&value.log10())).collect()
    }

    fn line(&self, canvas: &mut Canvas, strategy: &str, points: &[(f64, f64)]) {
        let points = points.iter().map(|point| self.at(*point));
        let path: Vec<_> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dashes = if strategy == ORACLE { r#" stroke-dasharray="5 4""# } else { "" };
        let (path, colour) = (path.join(" "), colour(strategy));
        let width = if strategy == TOWLINE { 2.6 } else { 1.6 };
        canvas.push(format_args!(
            r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>"#
        ));
    }

    /// The lines' names beside their ends, moved apart where they would touch.
    fn names(&self, canvas: &mut Canvas, x: f64) {
        let ends =
            self.panel.lines.iter().filter_map(|(strategy, points)| Some((self.at(*points.last()?).1, *strategy)));
        let mut names: Vec<_> = ends.collect();
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut places: Vec<_> = names.iter().map(|(y, _)| *y).collect();
        for index in 1..places.len() {
            places[index] = places[index].max(places[index - 1] + LEADING);
        }
        let mut lowest = PANEL.1 - BOTTOM;
        for place in places.iter_mut().rev() {
            *place = place.min(lowest);
            lowest = *place - LEADING;
        }
        for ((end, strategy), place) in names.into_iter().zip(places) {
            canvas.line((x + 3.0, end), (x + 16.0, place), colour(strategy), 0.8);
            canvas.text((x + 19.0, place + 4.0), 11.5, colour(strategy), Anchor::Start, strategy);
        }
    }
}

/// Round numbers within these bounds, five or so.
fn steps(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * decade).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|count| count as f64 * step).collect()
}

fn number(value: f64) -> String {
    if value >= 1_000.0 {
        format!("{}k", number(value / 1_000.0))
    } else {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}
