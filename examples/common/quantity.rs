//! Sizes and times as people write them on a command line.

use std::time::Duration;

/// `64MiB`, `64M`, `1500`.
pub fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        unit => return Err(format!("`{unit}` is none of KiB, MiB, GiB")),
    };
    let number: usize = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too much"))
}

/// Seconds, with a fraction if wanted; at most a day.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if !(0.0..=86_400.0).contains(&number) {
        return Err("not between 0 and 86400 seconds".into());
    }
    Ok(Duration::from_secs_f64(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_as_people_write_them() {
        assert_eq!(bytes("1500"), Ok(1500));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("64M"), Ok(64 << 20));
        assert!(bytes("64MB?").is_err() && bytes("").is_err() && bytes("-1").is_err());
        assert!(bytes("99999999999G").is_err());
        assert_eq!(seconds("2.5"), Ok(Duration::from_millis(2500)));
        assert!(seconds("-1").is_err() && seconds("nan").is_err() && seconds("inf").is_err());
    }
}
