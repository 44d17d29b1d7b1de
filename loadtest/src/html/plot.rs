//! SVG plots. Only this file uses plotters.
//!
//! Shapes are drawn in placeholder colors, which are replaced by CSS classes afterwards. So one picture serves the
//! light theme, the dark theme and print.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

const SIZE: (u32, u32) = (720, 330);
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
/// Series n is drawn in (3, n, 0).
const SERIES_RED: u8 = 3;
/// The number of series colors; later series reuse them.
pub(super) const SERIES: usize = 6;
const FONT: (&str, i32) = ("sans-serif", 14);
/// If the largest size is more than this many times the smallest, the axis is logarithmic.
const LOG_SPAN: f64 = 20.0;
/// Room above the highest point.
const HEADROOM: f64 = 1.08;

/// Values by size or time.
pub(super) struct Lines {
    pub(super) x_label: String,
    pub(super) y_label: String,
    pub(super) lines: Vec<Line>,
}

#[derive(Default)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// (x, minimum, maximum) at each point.
    pub(super) ranges: Vec<(f64, f64, f64)>,
}

/// Runs of each server, side by side.
pub(super) struct Bars {
    pub(super) x_label: String,
    /// (name, median, runs)
    pub(super) bars: Vec<(String, f64, Vec<f64>)>,
}

pub(super) fn lines(plot: &Lines) -> Result<String> {
    let xs = || plot.lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let (min, max) = (xs().fold(f64::INFINITY, f64::min), xs().fold(f64::NEG_INFINITY, f64::max));
    let margin = ((max - min) * 0.02).max(f64::EPSILON);
    if min > 0.0 && max / min > LOG_SPAN {
        draw_lines(plot, (min * 0.9..max * 1.1).log_scale(), &short)
    } else {
        draw_lines(plot, min - margin..max + margin, &short)
    }
}

/// A latency by percentile; each step to the right leaves a tenth of the values.
pub(super) fn percentiles(mut plot: Lines) -> Result<String> {
    for point in plot.lines.iter_mut().flat_map(|line| line.points.iter_mut()) {
        point.0 = -(1.0 - point.0).log10();
    }
    let max = plot.lines.iter().flat_map(|line| &line.points).map(|point| point.0).fold(1.0, f64::max);
    draw_lines(&plot, 0.0..max, &|nines| percent(nines))
}

pub(super) fn bars(plot: &Bars) -> Result<String> {
    let mut svg = String::new();
    {
        let size = (SIZE.0, 70 + 44 * u32::try_from(plot.bars.len()).unwrap_or(1));
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let max = plot.bars.iter().flat_map(|(_, _, runs)| runs).copied().fold(f64::MIN_POSITIVE, f64::max);
        let rows = plot.bars.len() as f64;
        let mut chart = ChartBuilder::on(&root)
            .margin(10)
            .x_label_area_size(44)
            .y_label_area_size(12)
            .build_cartesian_2d(0.0..max * HEADROOM, rows..0.0)
            .map_err(plot_error)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .x_desc(plot.x_label.as_str())
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(FONT.into_font().color(&INK))
            .x_label_formatter(&|value| short(*value))
            .draw()
            .map_err(plot_error)?;
        for (index, (name, median, runs)) in plot.bars.iter().enumerate() {
            let row = index as f64;
            let bar = Rectangle::new([(0.0, row + 0.5), (*median, row + 0.85)], series(index).filled());
            chart.draw_series([bar]).map_err(plot_error)?;
            let dots = runs.iter().map(|run| Circle::new((*run, row + 0.675), 3, INK.filled()));
            chart.draw_series(dots).map_err(plot_error)?;
            let label =
                Text::new(format!("{name}: {}", short(*median)), (0.0, row + 0.12), FONT.into_font().color(&INK));
            chart.draw_series([label]).map_err(plot_error)?;
        }
        root.present().map_err(plot_error)?;
    }
    Ok(themed(&svg))
}

fn draw_lines<X>(plot: &Lines, x_axis: X, x_format: &dyn Fn(f64) -> String) -> Result<String>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let ys = plot
            .lines
            .iter()
            .flat_map(|line| line.points.iter().map(|point| point.1).chain(line.ranges.iter().map(|range| range.2)));
        let max = ys.fold(f64::MIN_POSITIVE, f64::max);
        let mut chart = ChartBuilder::on(&root)
            .margin(10)
            .margin_right(24)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(x_axis, 0.0..max * HEADROOM)
            .map_err(plot_error)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(8)
            .y_labels(6)
            .x_desc(plot.x_label.as_str())
            .y_desc(plot.y_label.as_str())
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(FONT.into_font().color(&INK))
            .x_label_formatter(&|value| x_format(*value))
            .y_label_formatter(&|value| short(*value))
            .draw()
            .map_err(plot_error)?;
        for (index, line) in plot.lines.iter().enumerate().take(SERIES) {
            let color = series(index);
            let points = line.points.iter().copied();
            chart.draw_series(LineSeries::new(points, color.stroke_width(2))).map_err(plot_error)?;
            let ranges = line.ranges.iter().filter(|range| range.1 < range.2);
            let ranges = ranges.map(|(x, min, max)| PathElement::new([(*x, *min), (*x, *max)], color));
            chart.draw_series(ranges).map_err(plot_error)?;
            if line.points.len() <= 24 {
                let dots = line.points.iter().map(|point| Circle::new(*point, 3, color.filled()));
                chart.draw_series(dots).map_err(plot_error)?;
            }
        }
        root.present().map_err(plot_error)?;
    }
    Ok(themed(&svg))
}

fn series(index: usize) -> RGBColor {
    RGBColor(SERIES_RED, u8::try_from(index % SERIES).unwrap_or(0), 0)
}

/// Replaces placeholder colors by classes of the page's style sheet.
fn themed(svg: &str) -> String {
    let mut themed = svg
        .replace("fill=\"#010101\"", "class=\"ink\"")
        .replace("stroke=\"#010101\"", "class=\"ink-line\"")
        .replace("stroke=\"#020202\"", "class=\"grid-line\"");
    for index in 0..SERIES {
        themed = themed
            .replace(&format!("fill=\"#030{index}00\""), &format!("class=\"s{index}\""))
            .replace(&format!("stroke=\"#030{index}00\""), &format!("class=\"s{index}-line\""));
    }
    themed
}

/// A number with three significant digits, for axes.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        large if large >= 1e6 => format!("{} M", digits(value / 1e6)),
        large if large >= 1e4 => format!("{} k", digits(value / 1e3)),
        _ => digits(value),
    }
}

fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        large if large >= 100.0 => 0,
        medium if medium >= 10.0 => 1,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn percent(nines: f64) -> String {
    let share = 100.0 * (1.0 - 10_f64.powf(-nines));
    let decimals = (nines.round() as usize).saturating_sub(2);
    if (nines - nines.round()).abs() > 1e-6 { String::new() } else { format!("{share:.decimals$} %") }
}

fn plot_error(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a plot: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_labels_are_short() {
        for (value, text) in
            [(0.0, "0"), (0.25, "0.25"), (12.34, "12.3"), (100.0, "100"), (15_000.0, "15 k"), (2.5e6, "2.5 M")]
        {
            assert_eq!(short(value), text);
        }
        for (nines, text) in [(0.0, "0 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (1.5, "")] {
            assert_eq!(percent(nines), text);
        }
    }

    #[test]
    fn all_placeholder_colors_are_replaced() {
        let line = |name: &str, factor: f64| Line {
            name: name.to_owned(),
            points: vec![(100.0, factor), (10_000.0, 2.0 * factor)],
            ranges: vec![(100.0, 0.5 * factor, 1.5 * factor)],
        };
        let plot = Lines { x_label: "x".into(), y_label: "y".into(), lines: vec![line("a", 1.0), line("b", 2.0)] };
        let bars_plot = Bars { x_label: "x".into(), bars: vec![("a".into(), 2.0, vec![1.0, 3.0])] };
        for svg in [lines(&plot).unwrap(), percentiles(plot).unwrap(), bars(&bars_plot).unwrap()] {
            assert!(svg.starts_with("<svg") && svg.contains("class=\"s0"), "{svg}");
            assert!(!svg.contains("#01") && !svg.contains("#02") && !svg.contains("#03"), "{svg}");
        }
    }
}
