//! How figures are written, for people.

use crate::{
    row::{Measure, Row},
    table::grouped,
};

/// What heads a column or an axis, in the unit that [`scaled`] is in.
pub fn title(measure: Measure) -> &'static str {
    match measure {
        Measure::BytesPerSecond => "GB/s",
        Measure::PeakBytes => "peak memory, MiB",
        Measure::P50 => "p50, µs",
        Measure::P99 => "p99, µs",
        Measure::P999 => "p99.9, µs",
        other => other.title(),
    }
}

/// In the unit of the title.
pub fn scaled(measure: Measure, value: f64) -> f64 {
    match measure {
        Measure::BytesPerSecond => value / 1e9,
        Measure::PeakBytes => value / f64::from(1 << 20),
        Measure::P50 | Measure::P99 | Measure::P999 => value / 1e3,
        _ => value,
    }
}

/// With three digits at least, and thousands set apart.
pub fn plain(value: f64) -> String {
    let digits = match value.abs() {
        size if size == 0.0 || size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    grouped(value, digits)
}

/// The same in as little room as possible: `7.01 M`.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 999_500_000.0 => format!("{} G", plain(value / 1e9)),
        size if size >= 999_500.0 => format!("{} M", plain(value / 1e6)),
        size if size >= 9_999.5 => format!("{} k", plain(value / 1e3)),
        _ => plain(value),
    }
}

/// The same without zeroes at the end, for a scale.
pub fn tick(value: f64) -> String {
    let text = short(value);
    let (number, unit) = match text.split_once(' ') {
        Some((number, unit)) => (number, format!(" {unit}")),
        None => (&*text, String::new()),
    };
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    number.to_owned() + &unit
}

/// `median (min–max)`, or the median alone where there was one round.
pub fn spread(row: &Row) -> String {
    let show = |value| plain(scaled(row.measure, value));
    match row.rounds.len() {
        0 | 1 => show(row.median),
        _ => format!("{} ({}–{})", show(row.median), show(row.min), show(row.max)),
    }
}

/// The same with the median in bold.
pub fn bold(row: &Row) -> String {
    let text = spread(row);
    match text.split_once(' ') {
        Some((median, rest)) => format!("**{median}** {rest}"),
        None => format!("**{text}**"),
    }
}

/// A place on an axis: `64`, `10,000`, `8 GiB`.
pub fn place(axis: &str, x: f64) -> String {
    if axis != "file size" {
        return if x.fract() == 0.0 { grouped(x, 0) } else { plain(x) };
    }
    match x as u64 {
        x if x >= 1 << 30 => format!("{} GiB", x >> 30),
        x if x >= 1 << 20 => format!("{} MiB", x >> 20),
        x => format!("{} KiB", x >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (0.0123, "0.012"),
            (4.894, "4.89"),
            (45.0, "45.0"),
            (99.96, "100"),
            (1_234_567.0, "1,234,567"),
            (-0.5, "-0.500"),
        ] {
            assert_eq!(plain(value), expected);
        }
        assert_eq!(short(7_012_345.0), "7.01 M");
        assert_eq!(short(230_400.0), "230 k");
        assert_eq!(short(9_000.0), "9,000");
        assert_eq!([20_000.0, 0.25, 5.0, 100.0].map(tick), ["20 k", "0.25", "5", "100"]);
    }

    #[test]
    fn units_are_those_of_the_title() {
        let row = Row::new("c", "mbuf", Measure::PeakBytes, vec![1048576.0, 3145728.0]);
        assert_eq!(spread(&row), "2.00 (1.00–3.00)");
        assert_eq!(bold(&row), "**2.00** (1.00–3.00)");
        assert_eq!(place("file size", 8.0 * 1024.0 * 1024.0), "8 MiB");
        assert_eq!(place("layers", 32.0), "32");
    }
}
