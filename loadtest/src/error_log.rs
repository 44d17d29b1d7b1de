//! How many errors of one kind occurred, and the first few in words.

/// Errors of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct ErrorLog {
    pub(crate) count: u64,
    pub(crate) examples: Vec<String>,
}

impl ErrorLog {
    const SHOWN: usize = 3;

    pub(crate) fn add(&mut self, error: String) {
        self.count += 1;
        if self.examples.len() < Self::SHOWN {
            self.examples.push(error);
        }
    }

    /// A sentence for the report: "3 of 20 connections were lost: …". `None`: there were no errors.
    pub(crate) fn problem(&self, what: &str) -> Option<String> {
        (self.count > 0).then(|| format!("{} {what}: {}", self.count, self.examples()))
    }

    pub(crate) fn examples(&self) -> String {
        self.examples.join("; ")
    }
}
