//! Charts as SVG text. A white ground makes them legible on dark pages too.

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

    fn text(&mut self, (x, y): (f64, f64), size: f64, colour: &str, anchor: Anchor, text: &str) {
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

    fn title(&mut self, at: (f64, f64), size: f64, text: &str) {
        self.push(format_args!(r#"<g font-weight="600">"#));
        self.text(at, size, INK, Anchor::Start, text);
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

/// Ours stands out, the bound stays back.
fn colour(strategy: &str) -> &'static str {
    match strategy {
        "towline" => "#0550ae",
        "towline-hot-cold" => "#0969da",
        "tower-p2c-ewma" => "#bc4c00",
        "tower-p2c-pending" => "#9a6700",
        "prequal" => "#8250df",
        "prequal-no-probes" => "#bf3989",
        "p2c-least-request" => "#1a7f37",
        "least-request" => "#2da44e",
        "envoy" => "#cf222e",
        "grpc-a50" => "#0a7d91",
        "finagle" => "#5e3fbe",
        "linkerd" => "#57606a",
        "towline+hedge" | "towline-rendezvous" => "#0969da",
        "towline-budget" | "towline-maglev" => "#218bff",
        "no-budget" | "ring-1024" => "#cf222e",
        "finagle-budget" | "finagle+backup" => "#5e3fbe",
        "grpc-throttle" | "grpc-10" => "#0a7d91",
        "aws-standard" | "haproxy-125" | "first-half" => "#bf3989",
        "tower-tps-budget" | "envoy-125" => "#bc4c00",
        "p2c+hedge" | "rendezvous" => "#2da44e",
        _ => "#8c959f",
    }
}
