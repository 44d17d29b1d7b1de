//! Writes reports and series to the files that the command line names.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cli::OutputArgs;
use crate::html;

/// Writes the JSON file and the HTML page, if requested.
pub(crate) fn save(report: &Value, output: &OutputArgs) -> Result<()> {
    if let Some(file) = &output.json {
        let mut text = serde_json::to_string_pretty(report).context("cannot encode the report")?;
        text.push('\n');
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(folder) = &output.report {
        html::write(report, folder)?;
    }
    Ok(())
}
