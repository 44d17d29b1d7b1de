//! The page of one run: latencies by percentile, and memory over time.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use super::figure::{PlotFigure, escape, text_of};
use super::headline::latency_meaning;
use super::plot::{self, Line, Lines};
use crate::latency;
use crate::report::readable;

const MICROS_PER_MILLI: f64 = 1000.0;
const BYTES_PER_MEGABYTE: f64 = 1e6;

pub(super) fn figures(report: &Value) -> Result<Vec<PlotFigure>> {
    let mut figures = Vec::new();
    for (name, summary) in report["latencies"].as_object().into_iter().flatten() {
        let Some(encoded) = summary["histogram_v2"].as_str().filter(|_| summary["count"].as_u64() > Some(0)) else {
            continue;
        };
        let points = latency::curve(encoded)?.into_iter().map(|(quantile, us)| (quantile, us / MICROS_PER_MILLI));
        let line = Line { name: name.clone(), points: points.collect(), ranges: Vec::new() };
        let plot = Lines { x_label: "percentile".to_owned(), y_label: "ms".to_owned(), lines: vec![line] };
        figures.push(PlotFigure {
            title: title(name),
            svg: plot::percentiles(plot)?,
            legend: Vec::new(),
            meaning: latency_meaning(name).to_owned(),
        });
    }
    // The generator's own delay comes last: it only helps to interpret the others.
    figures.sort_by_key(|figure| figure.title == title("send_delay"));
    if let Some(points) = report["series"]["server_rss_bytes"].as_array() {
        figures.push(memory(points)?);
    }
    Ok(figures)
}

pub(super) fn table(report: &Value) -> String {
    let mut table = "<table>\n<tr><th>figure</th><th>value</th></tr>\n".to_owned();
    for (name, value) in report["figures"].as_object().into_iter().flatten() {
        let value = readable(value.as_f64().unwrap_or(0.0));
        let _ = writeln!(table, "<tr><td>{}</td><td>{value}</td></tr>", escape(name));
    }
    table.push_str("</table>\n<table>\n<tr><th>latency, ms</th>");
    const COLUMNS: [&str; 5] = ["p50_us", "p90_us", "p99_us", "p99_9_us", "max_us"];
    for column in COLUMNS {
        let _ = write!(table, "<th>{}</th>", column.trim_end_matches("_us").replace('_', "."));
    }
    table.push_str("<th>values</th></tr>\n");
    for (name, summary) in report["latencies"].as_object().into_iter().flatten() {
        let _ = write!(table, "<tr><td>{}</td>", escape(name));
        for column in COLUMNS {
            let ms = summary[column].as_f64().unwrap_or(0.0) / MICROS_PER_MILLI;
            let _ = write!(table, "<td>{ms:.3}</td>");
        }
        let _ = writeln!(table, "<td>{}</td></tr>", text_of(&summary["count"]));
    }
    table.push_str("</table>\n<table>\n<tr><th>setting</th><th>value</th></tr>\n");
    for (name, value) in report["settings"].as_object().into_iter().flatten() {
        let _ = writeln!(table, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(&text_of(value)));
    }
    table.push_str("</table>\n");
    table
}

fn memory(points: &[Value]) -> Result<PlotFigure> {
    let points = points.iter().filter_map(|point| Some((point[0].as_f64()?, point[1].as_f64()? / BYTES_PER_MEGABYTE)));
    let line = Line { name: "server".to_owned(), points: points.collect(), ranges: Vec::new() };
    let plot = Lines { x_label: "seconds".to_owned(), y_label: "MB".to_owned(), lines: vec![line] };
    Ok(PlotFigure {
        title: "Memory of the server over time".to_owned(),
        svg: plot::lines(&plot)?,
        legend: Vec::new(),
        meaning:
            "User-space memory that is not backed by files. The load is constant, so memory should reach a level and \
             stay there; a continuing slope is a leak."
                .to_owned(),
    })
}

fn title(name: &str) -> String {
    match name {
        "join_to_seen" => "Join → seen by an observer".to_owned(),
        "send_delay" => "Delay of the generator itself".to_owned(),
        "ack_round_trip" => "Heartbeat → ack".to_owned(),
        "connect_to_joined" => "Connect → joined".to_owned(),
        "reset_to_joined" => "Reset → joined again".to_owned(),
        other => other.replace('_', " "),
    }
}
