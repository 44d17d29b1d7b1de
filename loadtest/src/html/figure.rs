//! What both kinds of pages are made of: plots with a caption, and escaped text.

use serde_json::Value;

/// A plot with its caption.
pub(super) struct PlotFigure {
    pub(super) title: String,
    pub(super) svg: String,
    /// Names of the lines, in the order of their colors; empty for a single line.
    pub(super) legend: Vec<String>,
    pub(super) meaning: String,
}

/// A JSON value without the quotes of strings.
pub(super) fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
