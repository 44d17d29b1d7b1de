//! Latencies in an HDR histogram, and the percentiles of it that a report shows. The JSON report contains the
//! histogram, so reports of several processes can be merged without averaging percentiles.

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};
use serde::Serialize;

use crate::procfs::NANOS_PER_MICRO;

/// Longer latencies are recorded as this: beyond a minute it is an outage.
const MAX_NS: u64 = 60_000_000_000;
/// Values are exact to 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;
/// Points of a percentile curve per halving of the remaining share.
const TICKS_PER_HALVING: u32 = 5;

/// Values in nanoseconds.
#[derive(Debug)]
pub(crate) struct Latency(Histogram<u64>);

/// What a report shows of a histogram. Times are in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p99_9_us: f64,
    pub(crate) max_us: f64,
    /// The histogram itself in nanoseconds: HdrHistogram's V2 encoding in base64.
    pub(crate) histogram_v2: String,
}

impl Latency {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_NS, SIGNIFICANT_DIGITS).expect("constant bounds are valid"))
    }

    pub(crate) fn record_ns(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns);
    }

    /// Adds the encoded histogram of another report.
    pub(crate) fn add(&mut self, encoded: &str) -> Result<()> {
        self.0.add(decode(encoded)?).context("the histogram has other bounds")
    }

    pub(crate) fn summary(&self) -> Summary {
        let percentile_us = |quantile| self.0.value_at_quantile(quantile) as f64 / NANOS_PER_MICRO;
        Summary {
            count: self.0.len(),
            mean_us: self.0.mean() / NANOS_PER_MICRO,
            p50_us: percentile_us(0.5),
            p90_us: percentile_us(0.9),
            p99_us: percentile_us(0.99),
            p99_9_us: percentile_us(0.999),
            max_us: self.0.max() as f64 / NANOS_PER_MICRO,
            histogram_v2: self.encode(),
        }
    }

    fn encode(&self) -> String {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&self.0, &mut bytes).expect("writing to memory does not fail");
        STANDARD.encode(bytes)
    }
}

/// Percentiles of an encoded histogram as (quantile, microseconds), from 0 towards 1, as far as its values differ.
pub(crate) fn curve(encoded: &str) -> Result<Vec<(f64, f64)>> {
    let histogram = decode(encoded)?;
    let steps = histogram.iter_quantiles(TICKS_PER_HALVING);
    let steps = steps.map(|step| (step.quantile_iterated_to(), step.value_iterated_to() as f64 / NANOS_PER_MICRO));
    Ok(steps.take_while(|(quantile, _)| *quantile < 1.0).collect())
}

fn decode(encoded: &str) -> Result<Histogram<u64>> {
    let bytes = STANDARD.decode(encoded).context("the histogram is not base64")?;
    Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| anyhow!("the histogram is damaged: {error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thousand() -> Latency {
        let mut latency = Latency::new();
        (1..=1000).for_each(|micros| latency.record_ns(micros * 1000));
        latency
    }

    #[test]
    fn percentiles_are_exact_to_three_digits() {
        let summary = thousand().summary();
        assert_eq!(summary.count, 1000);
        for (found, expected) in [
            (summary.p50_us, 500.0),
            (summary.p90_us, 900.0),
            (summary.p99_us, 990.0),
            (summary.p99_9_us, 999.0),
            (summary.max_us, 1000.0),
            (summary.mean_us, 500.5),
        ] {
            assert!((found / expected - 1.0).abs() < 0.001, "{found} is not {expected}");
        }
    }

    #[test]
    fn values_above_the_limit_are_recorded_as_the_limit() {
        let mut latency = thousand();
        latency.record_ns(u64::MAX);
        let summary = latency.summary();
        assert_eq!(summary.count, 1001);
        assert!(summary.max_us >= 60_000_000.0);
    }

    #[test]
    fn an_encoded_histogram_can_be_decoded_and_added() {
        let latency = thousand();
        let encoded = latency.summary().histogram_v2;
        assert_eq!(decode(&encoded).unwrap(), latency.0);
        let mut sum = thousand();
        sum.add(&encoded).unwrap();
        assert_eq!(sum.summary().count, 2000);
        assert!(sum.add("nonsense").is_err());
    }

    #[test]
    fn a_percentile_curve_rises_to_the_slowest_value() {
        let curve = curve(&thousand().summary().histogram_v2).unwrap();
        assert!(curve.len() > 10 && curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1), "{curve:?}");
        assert!((curve[curve.len() - 1].1 / 1000.0 - 1.0).abs() < 0.01, "{curve:?}");
    }
}
