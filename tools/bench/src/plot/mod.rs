//! Charts as SVG text. A white ground makes them legible on dark pages too.

pub(crate) mod bars;
pub(crate) mod lines;

use std::fmt::Write;

const INK: &str = "#1f2328";
const FAINT: &str = "#59636e";
const RULE: &str = "#d8dee4";

/// An SVG document that is drawn top to bottom.
struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

/// Which end of a text its position names.
#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

impl Canvas {
    fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.body, "{element}").expect("a string takes whatever is written");
    }

    fn text(&mut self, x: f64, y: f64, size: f64, colour: &str, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.push(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    fn title(&mut self, x: f64, y: f64, size: f64, text: &str) {
        self.push(format_args!(r#"<g font-weight="600">"#));
        self.text(x, y, size, INK, Anchor::Start, text);
        self.push(format_args!("</g>"));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="{width}"/>"#
        ));
    }

    fn finish(self) -> String {
        let Self { width, height, body } = self;
        let fonts = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, DejaVu Sans, sans-serif";
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"{fonts}\">\n\
             <rect width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }
}

/// Ours stand out, floors stay back.
fn colour(peer: &str) -> &'static str {
    match peer {
        "towline-multiplexed" => "#0550ae",
        "towline-exclusive" | "towline-handshake" => "#218bff",
        "tokio-tower" => "#bc4c00",
        "hyper-http1" => "#8250df",
        "hyper-http2" => "#bf3989",
        "tonic" => "#1a7f37",
        "tonic-balance-list3" => "#bc4c00",
        "towline-tonic" | "towline-http1" => "#0550ae",
        "towline-tonic3" | "towline-http2" => "#218bff",
        "towline-pool" => "#0550ae",
        "hyper-util-cache" => "#8250df",
        "deadpool-unmanaged" => "#1a7f37",
        "deadpool-managed" => "#2da44e",
        "bb8" => "#bc4c00",
        "towline-balance" => "#0550ae",
        "towline-balance-ewma" => "#218bff",
        "tower-balance" => "#8250df",
        "tower-buffer-balance" => "#bc4c00",
        "framed" => "#9a6700",
        _ => "#8c959f",
    }
}

fn is_floor(peer: &str) -> bool {
    peer.starts_with("floor-")
}

/// Three digits with a unit: 1.28M, 57k, 940.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 999_500.0 => (v / 1e6, "M"),
        v if v >= 1_000.0 => (v / 1e3, "k"),
        v => (v, ""),
    };
    match value {
        v if v >= 99.5 || unit.is_empty() || v.fract() == 0.0 => format!("{v:.0}{unit}"),
        v if v >= 9.95 => format!("{v:.1}{unit}"),
        v => format!("{v:.2}{unit}"),
    }
}
