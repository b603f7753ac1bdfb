//! The pictures of a part: one for each measure with bars, one for each axis with curves.

use anyhow::anyhow;
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    bars, curves, figure,
    parts::{Part, measures},
};
use crate::row::Row;

/// Pixels.
pub const WIDTH: u32 = 700;
pub const MARGIN: u32 = 12;
/// Of the title above all panels.
pub const TITLE: u32 = 34;

pub const MBUF: RGBColor = RGBColor(0x0b, 0x63, 0xce);
/// The others, where their names stand beside what is drawn.
pub const OTHERS: RGBColor = RGBColor(0xa3, 0xad, 0xb8);
pub const INK: RGBColor = RGBColor(0x1f, 0x24, 0x2b);
pub const FAINT: RGBColor = RGBColor(0x5c, 0x66, 0x70);
pub const GRID: RGBColor = RGBColor(0xe3, 0xe7, 0xeb);
const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// Something to draw on, the whole or a panel.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The name, the title and the SVG of each.
pub fn of(part: &Part) -> anyhow::Result<Vec<(String, String, String)>> {
    let mut pictures = Vec::new();
    let points = part.points();
    for measure in measures(&points) {
        let rows: Vec<&Row> = points.iter().copied().filter(|row| row.measure == measure).collect();
        if rows.len() < 2 {
            // One bar says no more than its figure.
            continue;
        }
        let panels = bars::panels(&rows);
        let sheets = bars::sheets(&panels);
        for (index, sheet) in sheets.iter().enumerate() {
            let mut name = format!("{}-{}", part.name, slug(measure.title()));
            let mut title = format!("{}: {}", part.title(), figure::title(measure));
            if sheets.len() > 1 {
                name += &format!("-{}", index + 1);
                title += &format!(" ({} of {})", index + 1, sheets.len());
            }
            let svg = bars::draw(&title, measure, sheet)?;
            pictures.push((slug(&name), title, svg));
        }
    }
    for (axis, rows) in part.axes() {
        let title = format!("{} with {}", part.title(), curves::label(axis));
        let svg = curves::draw(&title, axis, &rows)?;
        pictures.push((slug(&format!("{}-{axis}", part.name)), title, svg));
    }
    Ok(pictures)
}

/// Letters and digits, with hyphens between words.
fn slug(name: &str) -> String {
    let plain = name.replace("messages/s", "messages per second").replace("bytes/s", "rate");
    let words = plain.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    let words = words.filter(|word| !word.is_empty()).map(|word| word.replace('.', "-"));
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

/// A picture with a title: so many pixels high below it, drawn by `fill`.
pub fn sheet(
    title: &str,
    height: u32,
    fill: impl FnOnce(&Area<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, TITLE + height)).into_drawing_area();
        area.fill(&PAPER).map_err(wrong)?;
        text(&area, title, (MARGIN as i32, 9), 16, &INK, HPos::Left)?;
        let (_, below) = area.split_vertically(TITLE);
        fill(&below)?;
        area.present().map_err(wrong)?;
    }
    Ok(svg)
}

/// Writes a line whose upper left, middle or right corner is at a place.
pub fn text(
    area: &Area<'_>,
    line: &str,
    at: (i32, i32),
    size: u32,
    colour: &RGBColor,
    anchor: HPos,
) -> anyhow::Result<()> {
    let style = font(size).color(colour).pos(Pos::new(anchor, VPos::Top));
    area.draw_text(line, &style, at).map_err(wrong)
}

/// So many pixels; the library takes the height of a line for the size.
pub fn font(size: u32) -> FontDesc<'static> {
    FontDesc::new(FontFamily::SansSerif, f64::from(size) * 1.24, FontStyle::Normal)
}

/// About so many pixels wide.
pub fn width(line: &str, size: u32) -> i32 {
    (line.chars().count() as f64 * f64::from(size) * 0.56).ceil() as i32
}

/// An error of the drawing library, whose own is not an error that can be passed on.
pub fn wrong<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        assert_eq!(slug("udp-server CPU, ns a message"), "udp-server-cpu-ns-a-message");
        assert_eq!(slug("latency-p99.9, ns"), "latency-p99-9-ns");
        assert_eq!(slug("tcp-messages/s"), "tcp-messages-per-second");
    }
}
