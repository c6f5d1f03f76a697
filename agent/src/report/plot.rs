//! Plots as SVG inside of the page. Their colours are attributes; the page's style gives them
//! others where the reader's screen is dark.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use super::model::Hour;
use crate::cli::output::bytes;

/// Of the drawing; the page scales it.
const SIZE: (u32, u32) = (1840, 300);
/// Bars of one plot, at most.
const BARS: i64 = 240;
/// Hours that one bar can stand for.
const WIDTHS: [i64; 6] = [1, 3, 6, 24, 168, 672];

const ALLOWED: RGBColor = RGBColor(0x2f, 0x6f, 0xb5);
const REFUSED: RGBColor = RGBColor(0xc0, 0x39, 0x2b);
const SENT: RGBColor = RGBColor(0x6b, 0x4f, 0xa3);
const LINES: RGBColor = RGBColor(0xd5, 0xd9, 0xde);
const TEXT: RGBColor = RGBColor(0x55, 0x5d, 0x68);

/// The period cut into bars, each as many hours long.
pub(super) struct Bars {
    begin: i64,
    width: i64,
    zone: TimeZone,
    /// Let out, refused, bytes sent.
    values: Vec<[u64; 3]>,
}

/// What a plot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Series {
    Allowed,
    Refused,
    Sent,
}

impl Bars {
    pub(super) fn new(hours: &[Hour], since: Timestamp, until: Timestamp, zone: &TimeZone) -> Self {
        let begin = since.as_second().div_euclid(3600);
        let end = until.as_second().saturating_add(3599).div_euclid(3600);
        let length = end.saturating_sub(begin).clamp(1, 24 * 366 * 100);
        let width = WIDTHS.into_iter().find(|w| length.div_euclid(*w) < BARS);
        let width = width.unwrap_or_else(|| length.div_euclid(BARS) + 1);
        let count = usize::try_from((length + width - 1).div_euclid(width)).unwrap_or(1);
        let mut values = vec![[0_u64; 3]; count.max(1)];
        for hour in hours {
            let at = (hour.begin.as_second().div_euclid(3600) - begin).div_euclid(width);
            if let Some(bar) = usize::try_from(at).ok().and_then(|at| values.get_mut(at)) {
                let amounts = &hour.amounts;
                for (sum, more) in
                    bar.iter_mut()
                        .zip([amounts.allowed, amounts.refused, amounts.sent_bytes])
                {
                    *sum = sum.saturating_add(more);
                }
            }
        }
        Self {
            begin,
            width,
            zone: zone.clone(),
            values,
        }
    }

    /// What one bar stands for, in words.
    pub(super) fn unit(&self) -> String {
        match self.width {
            1 => "hour".to_owned(),
            24 => "day".to_owned(),
            168 => "week".to_owned(),
            hours => format!("{hours} hours"),
        }
    }

    /// The highest bar and when it began; none where there is nothing.
    pub(super) fn peak(&self, series: Series) -> Option<(u64, Timestamp)> {
        let all = self.values.iter().map(|bar| bar[series as usize]);
        let (at, most) = all
            .enumerate()
            .max_by_key(|(at, n)| (*n, usize::MAX - at))?;
        (most > 0).then(|| (most, self.time(at as f64)))
    }

    fn time(&self, at: f64) -> Timestamp {
        let hours = self.begin.saturating_add((at * self.width as f64) as i64);
        Timestamp::from_second(hours.saturating_mul(3600)).unwrap_or(Timestamp::MIN)
    }

    /// The places of local midnights, or of every sixth hour where the period is short; few
    /// enough to write at each.
    fn ticks(&self) -> (Vec<f64>, &'static str) {
        let hours = self.values.len() as i64 * self.width;
        let (step, format) = match hours {
            ..=12 => (1, "%a %H:%M"),
            13..=60 => (6, "%a %H:%M"),
            61..=240 => (24, "%a %-d %b"),
            _ => (24 * (hours / 240 + 1), "%-d %b"),
        };
        let mut ticks = Vec::new();
        let first = self.time(0.0).to_zoned(self.zone.clone());
        let Ok(mut at) = first.start_of_day() else {
            return (ticks, format);
        };
        let begin = self.time(0.0).as_second();
        for _ in 0..64 {
            let place = (at.timestamp().as_second() - begin) as f64 / 3600.0 / self.width as f64;
            if place >= self.values.len() as f64 {
                break;
            }
            if place >= 0.0 {
                ticks.push(place);
            }
            // Hours of the clock, so that a change of the clock moves no midnight.
            let next = match step % 24 {
                0 => at.checked_add((step / 24).days()),
                _ => at.checked_add(step.hours()),
            };
            match next {
                Ok(next) => at = next,
                Err(_) => break,
            }
        }
        (ticks, format)
    }

    /// The plot; none where there is nothing to show.
    pub(super) fn svg(&self, series: Series) -> Option<String> {
        let (most, _) = self.peak(series)?;
        let mut svg = String::new();
        self.draw(&mut svg, series, most).ok()?;
        Some(svg)
    }

    fn draw(
        &self,
        svg: &mut String,
        series: Series,
        most: u64,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let colour = match series {
            Series::Allowed => ALLOWED,
            Series::Refused => REFUSED,
            Series::Sent => SENT,
        };
        let (ticks, format) = self.ticks();
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let top = (most as f64 * 1.08).max(1.0);
        let across = Across {
            end: self.values.len() as f64,
            ticks,
        };
        let mut chart = ChartBuilder::on(&root)
            .margin_top(12)
            .margin_right(16)
            .x_label_area_size(44)
            .y_label_area_size(130)
            .build_cartesian_2d(across, 0.0..top)?;
        let write_time = |at: &f64| {
            let time = self.time(*at).to_zoned(self.zone.clone());
            time.strftime(format).to_string()
        };
        let write_value = |value: &f64| match series {
            Series::Sent => bytes(*value as u64),
            // Between whole flows there is nothing.
            _ if value.fract() != 0.0 => String::new(),
            _ => format!("{value}"),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(LINES)
            .light_line_style(TRANSPARENT)
            .axis_style(LINES)
            .y_labels(4)
            .label_style(("sans-serif", 24).into_font().color(&TEXT))
            .x_label_formatter(&write_time)
            .y_label_formatter(&write_value)
            .draw()?;
        let bars = self.values.iter().enumerate();
        chart.draw_series(bars.filter_map(|(at, bar)| {
            let value = bar[series as usize];
            let at = at as f64;
            (value > 0).then(|| {
                Rectangle::new([(at + 0.1, 0.0), (at + 0.9, value as f64)], colour.filled())
            })
        }))?;
        root.present()?;
        drop(chart);
        drop(root);
        Ok(())
    }
}

/// The axis of time: bars from 0 on, written at chosen places.
struct Across {
    end: f64,
    ticks: Vec<f64>,
}

impl Ranged for Across {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let length = f64::from(to) - f64::from(from);
        (f64::from(from) + length * value / self.end.max(1.0)) as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Amounts;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("time")
    }

    fn hour(begin: &str, allowed: u64, refused: u64) -> Hour {
        Hour {
            begin: at(begin),
            amounts: Amounts {
                allowed,
                refused,
                sent_bytes: allowed * 1000,
                received_bytes: 0,
            },
        }
    }

    #[test]
    fn hours_fall_into_their_bars_and_the_peak_is_found() {
        let hours = [
            hour("2026-03-01T10:00:00Z", 3, 0),
            hour("2026-03-07T23:00:00Z", 9, 2),
        ];
        let (since, until) = (at("2026-03-01T00:00:00Z"), at("2026-03-08T00:00:00Z"));
        let bars = Bars::new(&hours, since, until, &TimeZone::UTC);
        assert_eq!((bars.values.len(), bars.unit().as_str()), (168, "hour"));
        let peak = bars.peak(Series::Allowed);
        assert_eq!(peak, Some((9, at("2026-03-07T23:00:00Z"))));
        assert_eq!(bars.values[10], [3, 0, 3000]);
        let year = Bars::new(&hours, at("2025-03-08T00:00:00Z"), until, &TimeZone::UTC);
        assert_eq!(year.unit(), "week");
        assert!(year.values.len() < BARS as usize);
        assert_eq!(year.values.iter().map(|bar| bar[0]).sum::<u64>(), 12);
    }

    #[test]
    fn a_plot_has_bars_and_nothing_makes_none() {
        let (since, until) = (at("2026-03-01T00:30:00Z"), at("2026-03-01T05:10:00Z"));
        let hours = [hour("2026-03-01T01:00:00Z", 3, 0)];
        let bars = Bars::new(&hours, since, until, &TimeZone::UTC);
        let svg = bars.svg(Series::Allowed).expect("a plot");
        assert!(svg.starts_with("<svg") && svg.contains("#2F6FB5"), "{svg}");
        assert!(!svg.contains("style=") && !svg.contains("href"), "{svg}");
        assert_eq!(bars.svg(Series::Refused), None);
        // A period that is no period.
        Bars::new(&hours, until, since, &TimeZone::UTC).svg(Series::Allowed);
        let far = Bars::new(&[], Timestamp::MIN, Timestamp::MAX, &TimeZone::UTC);
        assert_eq!(far.svg(Series::Allowed), None);
    }
}
