//! Renders a report or a series as one self-contained HTML page: plots with their meaning, and a table of all figures.

mod figure;
mod headline;
mod plot;
mod run;
mod series;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use figure::{PlotFigure, escape, text_of};

const STYLE: &str = include_str!("style.css");

/// Writes `index.html` into the folder, which is created if it does not exist.
pub(crate) fn write(report: &Value, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = folder.join("index.html");
    std::fs::write(&file, page(report)?).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("wrote {}", file.display());
    Ok(())
}

fn page(report: &Value) -> Result<String> {
    let is_series = report.get("runs").is_some();
    let scenario = text_of(&report["scenario"]);
    let title = match report["of"].as_str() {
        Some(of) => format!("{scenario} of {of}"),
        None => scenario,
    };
    let figures = if is_series { series::figures(report)? } else { run::figures(report)? };
    let table = if is_series { series::table(report) } else { run::table(report) };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>loadtest: {title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n",
        title = escape(&title)
    );
    let _ = writeln!(page, "<p class=\"faint\">loadtest {}</p>", escape(&text_of(&report["loadtest"])));
    let _ = writeln!(page, "<pre>{}</pre>", escape(&text_of(&report["command"])));
    put_validity(&mut page, report);
    for figure in &figures {
        put_figure(&mut page, figure);
    }
    let _ = writeln!(page, "<h2>All figures</h2>\n<div class=\"table\">\n{table}</div>");
    put_list(&mut page, "Notes", &report["notes"]);
    page.push_str("</body>\n</html>\n");
    Ok(page)
}

fn put_validity(page: &mut String, report: &Value) {
    let problems = report["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    if report["ended_early"] == true {
        page.push_str("<p><strong>Ended early.</strong></p>\n");
    }
    if problems.is_empty() {
        page.push_str("<p>Valid: every check passed. The notes list what could not be checked.</p>\n");
        return;
    }
    page.push_str("<div class=\"invalid\"><strong>These figures are invalid.</strong>\n<ul>\n");
    for problem in problems {
        let _ = writeln!(page, "<li>{}</li>", escape(&text_of(problem)));
    }
    page.push_str("</ul></div>\n");
}

fn put_figure(page: &mut String, figure: &PlotFigure) {
    let _ = writeln!(page, "<h2>{}</h2>\n<figure>\n{}", escape(&figure.title), figure.svg);
    page.push_str("<figcaption>\n");
    if figure.legend.len() > 1 {
        page.push_str("<p class=\"legend\">");
        for (index, name) in figure.legend.iter().enumerate().take(plot::SERIES) {
            let _ = write!(page, "<span><i class=\"s{index}\"></i>{}</span>", escape(name));
        }
        page.push_str("</p>\n");
    }
    let _ = writeln!(page, "<p>{}</p>\n</figcaption>\n</figure>", escape(&figure.meaning));
}

fn put_list(page: &mut String, title: &str, items: &Value) {
    let Some(items) = items.as_array().filter(|items| !items.is_empty()) else { return };
    let _ = writeln!(page, "<h2>{title}</h2>\n<ul>");
    for item in items {
        let _ = writeln!(page, "<li>{}</li>", escape(&text_of(item)));
    }
    page.push_str("</ul>\n");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_is_self_contained_and_escapes_the_report() {
        let mut latency = crate::latency::Latency::new();
        (1..1000).for_each(|value| latency.record_ns(value * 1000));
        let report = json!({
            "scenario": "churn", "loadtest": "1", "command": "loadtest churn --url <script>", "problems": ["a < b"],
            "valid": false, "notes": ["n & m"], "figures": { "deliveries_per_s": 12.5 },
            "latencies": { "join_to_seen": latency.summary() },
            "series": { "server_rss_bytes": [[0.0, 1e6], [2.0, 2e6]] },
        });
        let page = page(&report).unwrap();
        for words in
            ["&lt;script&gt;", "a &lt; b", "n &amp; m", "invalid", "deliveries_per_s", "<svg", "prefers-color-scheme"]
        {
            assert!(page.contains(words), "{words} is missing");
        }
        for words in ["<script", "src=", "href=", "url("] {
            assert!(!page.contains(words), "{words} must not occur");
        }
        assert_eq!(page.matches("<svg").count(), 2);
    }
}
