//! The server's memory over time: does it reach a level?

use anyhow::Result;

use crate::meter::Meter;
use crate::report::Report;

const NANOS_PER_SECOND: f64 = 1e9;
const SECONDS_PER_HOUR: f64 = 3600.0;
/// With fewer points no slope is computed.
const MIN_POINTS: usize = 10;

/// Samples at a fixed interval.
pub(crate) struct MemorySamples {
    every_ns: u64,
    next_ns: u64,
    /// (seconds since the start, bytes of anonymous memory)
    points: Vec<[f64; 2]>,
}

impl MemorySamples {
    pub(crate) fn new(every_ns: u64) -> Self {
        Self { every_ns, next_ns: 0, points: Vec::new() }
    }

    /// Takes a sample if it is due.
    pub(crate) fn take_due(&mut self, elapsed_ns: u64, meter: &Meter) -> Result<()> {
        if elapsed_ns < self.next_ns {
            return Ok(());
        }
        self.next_ns = elapsed_ns + self.every_ns;
        if let Some(anonymous) = meter.anonymous()? {
            self.points.push([elapsed_ns as f64 / NANOS_PER_SECOND, anonymous.bytes as f64]);
        }
        Ok(())
    }

    pub(crate) fn describe(self, report: &mut Report) {
        let Some([first, .., last]) = self.points.get(..).filter(|points| points.len() > 1) else {
            return;
        };
        report.figure("server_rss_start_bytes", first[1], "user space, not backed by files");
        report.figure("server_rss_end_bytes", last[1], "at the end");
        let most = self.points.iter().map(|point| point[1]).fold(0.0, f64::max);
        report.figure("server_rss_max_bytes", most, "the largest sample");
        // Caches and tables fill up in the first half; a leak continues in the second half.
        let later = &self.points[self.points.len() / 2..];
        if later.len() >= MIN_POINTS {
            let per_hour = slope(later) * SECONDS_PER_HOUR;
            report.figure("server_rss_growth_bytes_per_hour", per_hour, "slope of the second half");
        }
        report.series("server_rss_bytes", self.points);
    }
}

/// By least squares.
fn slope(points: &[[f64; 2]]) -> f64 {
    let count = points.len() as f64;
    let [x_mean, y_mean] = [0, 1].map(|axis| points.iter().map(|point| point[axis]).sum::<f64>() / count);
    let covariance: f64 = points.iter().map(|[x, y]| (x - x_mean) * (y - y_mean)).sum();
    let variance: f64 = points.iter().map(|[x, _]| (x - x_mean) * (x - x_mean)).sum();
    if variance == 0.0 { 0.0 } else { covariance / variance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_of_a_straight_line_is_exact() {
        let points: Vec<[f64; 2]> = (0..20).map(|x| [f64::from(x), 3.0 * f64::from(x) + 7.0]).collect();
        assert!((slope(&points) - 3.0).abs() < 1e-9);
        assert_eq!(slope(&[[1.0, 2.0]]), 0.0);
    }

    #[test]
    fn the_slope_is_reported_only_with_enough_points() {
        let report_of = |points: usize| {
            let points = (0..points).map(|second| [second as f64, 100.0 + 2.0 * second as f64]).collect();
            let mut report = Report::new("soak");
            MemorySamples { every_ns: 1, next_ns: 0, points }.describe(&mut report);
            report.to_json()
        };
        let (few, many) = (report_of(2 * MIN_POINTS - 2), report_of(2 * MIN_POINTS));
        assert!(
            few["figures"]["server_rss_growth_bytes_per_hour"].is_null()
                && few["figures"]["server_rss_max_bytes"] == 134.0
        );
        assert!((many["figures"]["server_rss_growth_bytes_per_hour"].as_f64().unwrap() - 7200.0).abs() < 1e-3);
    }
}
