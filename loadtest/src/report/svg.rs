//! Two pictures as SVG: bars with their range, and curves of percentiles.

use std::fmt::Write;

/// Colours that also the colour-blind tell apart (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const WIDTH: f64 = 520.0;
/// Room for names at the left.
const LEFT: f64 = 125.0;
const RIGHT: f64 = 60.0;
const BAR: f64 = 28.0;

/// One bar. The name is escaped already.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) label: String,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// Bars to the right, each with a line from its least to its most, and a dashed line at the goal.
pub(super) fn bars(bars: &[Bar], goal: f64) -> String {
    let most = bars.iter().map(|bar| bar.max).fold(goal, f64::max).max(f64::MIN_POSITIVE);
    let x = |value: f64| LEFT + value / most * (WIDTH - LEFT - RIGHT);
    let height = bars.len() as f64 * BAR + 24.0;
    let mut svg = open(height);
    for (index, bar) in bars.iter().enumerate() {
        let (top, colour) = (index as f64 * BAR + 4.0, COLOURS[index % COLOURS.len()]);
        let middle = top + BAR / 2.0 - 3.0;
        let Bar { name, label, median, min, max } = bar;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
             <path d=\"M{:.1} {middle:.1}H{:.1}m0 -5v10M{:.1} {:.1}v10\" stroke=\"#1b1f24\" fill=\"none\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
            LEFT - 8.0,
            middle + 4.0,
            x(*median) - LEFT,
            BAR - 6.0,
            x(*min),
            x(*max),
            x(*min),
            middle - 5.0,
            x(*max) + 6.0,
            middle + 4.0,
        );
    }
    let (at, bottom) = (x(goal), bars.len() as f64 * BAR + 2.0);
    let _ = write!(
        svg,
        "<path d=\"M{at:.1} 0V{bottom:.1}\" stroke=\"#6a737d\" stroke-dasharray=\"4 3\"/>\
         <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#6a737d\">to reach: {goal}</text></svg>",
        bottom + 14.0,
    );
    svg
}

/// One curve: percentiles and their values. The name is escaped already.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

const HEIGHT: f64 = 300.0;
const BOTTOM: f64 = 262.0;
const CURVE_LEFT: f64 = 60.0;
/// The percentiles with a line of their own: each is ten times rarer than the one before.
const LINES: [(f64, &str); 6] =
    [(0.0, "0"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"), (99.99, "99.99"), (99.999, "99.999 %")];

/// Percentiles to the right, rarer by ten for each line; values up, ten times for each line.
pub(super) fn curves(curves: &[Curve]) -> String {
    let values = || curves.iter().flat_map(|curve| &curve.points).map(|point| point.1.max(0.1).log10());
    let low = values().fold(f64::INFINITY, f64::min).floor();
    let high = values().fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    let mut svg = open(HEIGHT);
    if !low.is_finite() {
        return svg + "</svg>";
    }
    let nines = |percentile: f64| -(1.0 - percentile / 100.0).log10();
    let x = |percentile: f64| CURVE_LEFT + nines(percentile) / 5.0 * (WIDTH - CURVE_LEFT - RIGHT);
    let y = |value: f64| BOTTOM - (value.max(0.1).log10() - low) / (high - low) * (BOTTOM - 10.0);
    for (percentile, label) in LINES {
        let at = x(percentile);
        let _ = write!(
            svg,
            "<path d=\"M{at:.1} 10V{BOTTOM}\" stroke=\"#d5d9de\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            BOTTOM + 16.0,
        );
    }
    // Values are logarithms of microseconds: from 0.1 to some millions, a dozen lines at most.
    for power in low as i32..=high as i32 {
        let value = 10_f64.powi(power);
        let at = y(value);
        let _ = write!(
            svg,
            "<path d=\"M{CURVE_LEFT} {at:.1}H{:.1}\" stroke=\"#d5d9de\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            CURVE_LEFT - 4.0,
            at + 4.0,
            time(value),
        );
    }
    let mut legend = 4.0;
    for (index, Curve { name, points }) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let line: Vec<String> =
            points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            line.join(" "),
            legend,
            HEIGHT - 4.0,
        );
        // Most letters of this size are narrower than 7.
        legend += name.chars().count() as f64 * 7.0 + 16.0;
    }
    svg + "</svg>"
}

/// A time given in microseconds, in the unit that is shortest.
fn time(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros} µs"),
        ..1e6 => format!("{} ms", micros / 1e3),
        _ => format!("{} s", micros / 1e6),
    }
}

fn open(height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12\">"
    )
}
