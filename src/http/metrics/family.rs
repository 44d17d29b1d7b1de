//! Metrics in the text format of Prometheus (exposition format 0.0.4).

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::metrics::Durations;

/// What the values of a metric mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A sum since the start. Its name ends in `_total`.
    Counter,
    /// A present value.
    Gauge,
    /// Durations in buckets, in seconds.
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Labels of a sample: names, and values of any text.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

/// All metrics of an answer, in the order in which they were added first.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<Family>);

/// The samples of one metric. The format requires that they stand together.
#[derive(Debug)]
struct Family {
    name: Cow<'static, str>,
    help: &'static str,
    kind: Kind,
    samples: String,
}

impl Families {
    /// Adds a present value without labels.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.add(Kind::Gauge, name, help, &[], value);
    }

    /// Adds a sum without labels.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.add(Kind::Counter, name, help, &[], value);
    }

    /// Adds a sample to the metric with this name, which has the same kind and meaning in each call.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        name: impl Into<Cow<'static, str>>,
        help: &'static str,
        labels: Labels<'_>,
        value: f64,
    ) {
        let family = self.family(kind, name.into(), help);
        put_sample(&mut family.samples, &family.name, "", labels, value);
    }

    /// Adds a histogram.
    pub(super) fn histogram(&mut self, name: String, help: &'static str, durations: &Durations) {
        let Family { name, samples, .. } = self.family(Kind::Histogram, name.into(), help);
        for (bound_us, count) in durations.cumulative() {
            let bound = seconds(bound_us).to_string();
            put_sample(samples, name, "_bucket", &[("le", &bound)], count as f64);
        }
        let count = durations.count() as f64;
        put_sample(samples, name, "_bucket", &[("le", "+Inf")], count);
        put_sample(samples, name, "_sum", &[], seconds(durations.sum_us));
        put_sample(samples, name, "_count", &[], count);
    }

    fn family(&mut self, kind: Kind, name: Cow<'static, str>, help: &'static str) -> &mut Family {
        let at = self.0.iter().position(|family| family.name == name).unwrap_or_else(|| {
            self.0.push(Family { name, help, kind, samples: String::new() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// The text of the answer.
    pub(super) fn text(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        for Family { name, help, kind, samples } in &self.0 {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {}\n{samples}", kind.name());
        }
        text
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn put_sample(text: &mut String, name: &str, suffix: &str, labels: Labels<'_>, value: f64) {
    text.push_str(name);
    text.push_str(suffix);
    put_labels(text, labels);
    // Integers without a fraction, and no exponents.
    let _ = writeln!(text, " {value}");
}

fn put_labels(text: &mut String, labels: Labels<'_>) {
    for (at, (name, value)) in labels.iter().enumerate() {
        text.push_str(if at == 0 { "{" } else { "," });
        let _ = write!(text, "{name}=\"");
        for char in value.chars() {
            match char {
                '\n' => text.push_str("\\n"),
                '"' | '\\' => text.extend(['\\', char]),
                _ => text.push(char),
            }
        }
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_metric_stand_together_below_its_help_and_type() {
        let mut families = Families::default();
        families.add(Kind::Counter, "a_total", "The a.", &[("reason", "x")], 7.0);
        families.gauge("b_seconds", "The b.", 0.000_025);
        families.add(Kind::Counter, "a_total", "The a.", &[("reason", "y"), ("app", "1")], 1e15);
        let expected = "# HELP a_total The a.\n# TYPE a_total counter\na_total{reason=\"x\"} 7\n\
                        a_total{reason=\"y\",app=\"1\"} 1000000000000000\n\
                        # HELP b_seconds The b.\n# TYPE b_seconds gauge\nb_seconds 0.000025\n";
        assert_eq!(families.text(), expected);
    }

    #[test]
    fn values_of_labels_are_any_text() {
        let mut text = String::new();
        put_labels(&mut text, &[("node", "a\"b\\c\nd")]);
        assert_eq!(text, "{node=\"a\\\"b\\\\c\\nd\"}");
    }
}
