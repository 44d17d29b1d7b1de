//! The page of a series: figures by size, or of several servers side by side.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use super::figure::{PlotFigure, escape, text_of};
use super::headline::{HEADLINES, Headline};
use super::plot::{self, Bars, Line, Lines};
use crate::report::readable;

pub(super) fn figures(series: &Value) -> Result<Vec<PlotFigure>> {
    let summary = series["summary"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut figures = Vec::new();
    for headline in HEADLINES {
        let entries: Vec<&Value> = summary.iter().filter(|entry| entry["figure"] == headline.figure).collect();
        if entries.iter().all(|entry| entry["max"].as_f64().unwrap_or(0.0) == 0.0) {
            continue;
        }
        // Only numbers have an axis.
        let has_axis = entries.iter().all(|entry| entry["value"].is_number());
        let (svg, legend) = if has_axis {
            over_sizes(headline, &entries, &text_of(&series["over"]))?
        } else {
            (side_by_side(headline, &entries, series)?, Vec::new())
        };
        figures.push(PlotFigure {
            title: headline.title.to_owned(),
            svg,
            legend,
            meaning: headline.meaning.to_owned(),
        });
    }
    Ok(figures)
}

pub(super) fn table(series: &Value) -> String {
    let has_ratio = series["summary"].as_array().is_some_and(|all| all.iter().any(|entry| entry["ratio"].is_object()));
    let over = series["over"].as_str();
    let mut table = "<table>\n<tr><th>figure</th>".to_owned();
    if let Some(over) = over {
        let _ = write!(table, "<th>{}</th>", escape(over));
    }
    table.push_str("<th>server</th><th>median</th><th>min</th><th>max</th>");
    table.push_str(if has_ratio { "<th>ratio</th><th>min</th><th>max</th></tr>\n" } else { "</tr>\n" });
    let mut entries: Vec<&Value> = series["summary"].as_array().into_iter().flatten().collect();
    entries.sort_by_key(|entry| text_of(&entry["figure"]));
    for entry in entries {
        let number = |value: &Value| value.as_f64().map(readable).unwrap_or_default();
        let _ = write!(table, "<tr><td>{}</td>", escape(&text_of(&entry["figure"])));
        if over.is_some() {
            let size = entry["value"].as_f64().map_or_else(|| text_of(&entry["value"]), readable);
            let _ = write!(table, "<td>{}</td>", escape(&size));
        }
        let _ = write!(table, "<td>{}</td>", escape(&text_of(&entry["server"])));
        for part in ["median", "min", "max"] {
            let _ = write!(table, "<td>{}</td>", number(&entry[part]));
        }
        if has_ratio {
            for part in ["median", "min", "max"] {
                let ratio = entry["ratio"][part].as_f64().map(|ratio| format!("{ratio:.3}")).unwrap_or_default();
                let _ = write!(table, "<td>{ratio}</td>");
            }
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</table>\n");
    table
}

fn over_sizes(headline: &Headline, entries: &[&Value], over: &str) -> Result<(String, Vec<String>)> {
    let mut lines: Vec<Line> = Vec::new();
    for entry in entries {
        let server = text_of(&entry["server"]);
        let index = lines.iter().position(|line| line.name == server).unwrap_or_else(|| {
            lines.push(Line { name: server, ..Line::default() });
            lines.len() - 1
        });
        let part = |name: &str| entry[name].as_f64().unwrap_or(0.0) / headline.scale;
        let size = entry["value"].as_f64().unwrap_or(0.0);
        lines[index].points.push((size, part("median")));
        lines[index].ranges.push((size, part("min"), part("max")));
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let legend = lines.iter().map(|line| line.name.clone()).collect();
    let plot = Lines { x_label: over.replace('-', " "), y_label: headline.unit.to_owned(), lines };
    Ok((plot::lines(&plot)?, legend))
}

fn side_by_side(headline: &Headline, entries: &[&Value], series: &Value) -> Result<String> {
    let bars = entries.iter().map(|entry| {
        let runs = series["runs"].as_array().into_iter().flatten();
        let own = runs.filter(|run| run["server"] == entry["server"] && run["value"] == entry["value"]);
        let values =
            own.filter_map(|run| value_of(&run["report"], headline.figure)).map(|value| value / headline.scale);
        let size = if entry["value"].is_null() { String::new() } else { format!(" {}", text_of(&entry["value"])) };
        let median = entry["median"].as_f64().unwrap_or(0.0) / headline.scale;
        (format!("{}{size}", text_of(&entry["server"])), median, values.collect())
    });
    plot::bars(&Bars { x_label: headline.unit.to_owned(), bars: bars.collect() })
}

/// A figure, or a percentile of a latency, of one report.
fn value_of(report: &Value, figure: &str) -> Option<f64> {
    report["figures"][figure].as_f64().or_else(|| {
        let at = figure.rfind("_p")?;
        report["latencies"][&figure[..at]][&figure[at + 1..]].as_f64()
    })
}
