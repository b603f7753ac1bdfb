//! Curves with logarithmic axes: a panel for each case and measure.

use plotters::{coord::combinators::BindKeyPoints, prelude::*, style::text_anchor::HPos};

use super::{
    figure,
    parts::{groups, what},
    picture::{Area, FAINT, GRID, INK, MARGIN, MBUF, font, sheet, text, width, wrong},
};
use crate::row::{Measure, Row};

const HEIGHT: u32 = 262;
/// Of the lines of the others, and what marks their points is as dark.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0xd9, 0x5f, 0x02),
    RGBColor(0x2b, 0x8a, 0x3e),
    RGBColor(0x86, 0x4a, 0xc9),
    RGBColor(0x6b, 0x74, 0x7d),
    RGBColor(0xc2, 0x25, 0x5c),
];

/// What an axis counts.
pub fn label(axis: &str) -> &str {
    match axis {
        "segments" => "segments in a chain",
        "batch" => "packets in a batch",
        "file size" => "the size of the file",
        other => other,
    }
}

pub fn draw(title: &str, axis: &str, rows: &[&Row]) -> anyhow::Result<String> {
    let panels = groups(rows.iter().map(|&row| ((&*row.case, row.measure), row)));
    let columns = if panels.len() == 1 { 1 } else { 2 };
    let lines = panels.len().div_ceil(columns);
    // One colour for each name, on the whole picture; a variant of ours is a line of its own.
    let others = groups(rows.iter().filter(|row| row.who != "mbuf").map(|row| (&*row.who, ())));
    let names: Vec<&str> = others.into_iter().map(|group| group.0).collect();
    sheet(title, HEIGHT * lines as u32 + MARGIN, |area| {
        let (usable, _) = area.split_vertically(HEIGHT * lines as u32);
        let areas = usable.split_evenly((lines, columns));
        for (((_, measure), rows), area) in panels.iter().zip(&areas) {
            panel(area, what(rows[0]), axis, *measure, rows, &names)?;
        }
        Ok(())
    })
}

fn panel(
    area: &Area<'_>,
    case: &str,
    axis: &str,
    measure: Measure,
    rows: &[&Row],
    names: &[&str],
) -> anyhow::Result<()> {
    text(area, case, (MARGIN as i32, 2), 12, &INK, HPos::Left)?;
    let colour = |who: &str| match names.iter().position(|name| *name == who) {
        Some(at) => COLOURS[at % COLOURS.len()],
        None => MBUF,
    };
    let sides = groups(rows.iter().map(|&row| (&*row.who, row)));
    let mut left = MARGIN as i32;
    for (who, _) in &sides {
        let dot = Circle::new((left + 4, 26), 4, colour(who).filled());
        area.draw(&dot).map_err(wrong)?;
        text(area, who, (left + 12, 20), 11, &INK, HPos::Left)?;
        left += 24 + width(who, 11);
    }

    let scaled = |value| figure::scaled(measure, value);
    // A logarithm has no place for what is not above zero; the table has it.
    let positive = |value: &f64| *value > 0.0;
    let places: Vec<f64> = groups(rows.iter().filter_map(|row| Some((row.x?, ()))))
        .into_iter()
        .map(|group| group.0)
        .collect();
    let all = rows.iter().flat_map(|row| [row.min, row.median, row.max]).map(scaled);
    let (low, high) = range(all.filter(positive));
    let (first, last) = range(places.iter().copied().filter(positive));
    let ys = ticks(low, high);
    let (bottom, top) = (low.min(ys[0]) / 1.05, high.max(ys[ys.len() - 1]) * 1.05);

    let mut chart = ChartBuilder::on(area)
        .margin_top(38)
        .margin_right(18)
        .margin_left(4)
        .margin_bottom(10)
        .x_label_area_size(38)
        .y_label_area_size(54)
        .build_cartesian_2d(
            (first / 1.1..last * 1.1).log_scale().with_key_points(thinned(&places)),
            (bottom..top).log_scale().with_key_points(ys),
        )
        .map_err(wrong)?;
    let small = font(10).color(&FAINT);
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_label_formatter(&|x| figure::place(axis, *x))
        .y_label_formatter(&|y| figure::tick(*y))
        .label_style(small.clone())
        .axis_desc_style(font(11).color(&FAINT))
        .x_desc(label(axis))
        .y_desc(figure::title(measure))
        .draw()
        .map_err(wrong)?;
    // Ours last, so that it lies on top.
    let (mine, theirs): (Vec<_>, Vec<_>) = sides.into_iter().partition(|side| side.0 == "mbuf");
    for (who, rows) in theirs.into_iter().chain(mine) {
        let colour = colour(who);
        let points: Vec<_> = rows
            .iter()
            .filter(|row| row.median > 0.0)
            .filter_map(|row| Some((row.x?, scaled(row.median), scaled(row.min), scaled(row.max))))
            .collect();
        let line = points.iter().map(|point| (point.0, point.1));
        let stroke = colour.stroke_width(2);
        chart.draw_series(LineSeries::new(line, stroke)).map_err(wrong)?;
        for (x, median, min, max) in points {
            let whisker = [(x, min.max(bottom)), (x, max)];
            chart.draw_series([PathElement::new(whisker, colour)]).map_err(wrong)?;
            chart.draw_series([Circle::new((x, median), 3, colour.filled())]).map_err(wrong)?;
        }
    }
    Ok(())
}

/// The smallest and the largest; one apart where there is none.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), value| {
        (low.min(value), high.max(value))
    });
    if low > high { (1.0, 10.0) } else { (low, high) }
}

/// Round figures between the two, and one beyond them if there would be but one.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let between = |steps: &[f64]| {
        let all = decades.clone().flat_map(|n| steps.iter().map(move |step| step * 10f64.powi(n)));
        all.filter(|tick| (low / 1.3..=high * 1.3).contains(tick)).collect::<Vec<_>>()
    };
    let all = [&[1.0][..], &[1.0, 3.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0]];
    let mut tried = all.into_iter().map(between);
    let fine = tried.find(|ticks| ticks.len() >= 3).unwrap_or_else(|| vec![low, high]);
    let every = fine.len().div_ceil(6);
    fine.into_iter().step_by(every).collect()
}

/// At most seven of them.
fn thinned(places: &[f64]) -> Vec<f64> {
    places.iter().copied().step_by(places.len().div_ceil(7).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_any_range() {
        assert_eq!(ticks(1.0, 1000.0), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(ticks(4.0, 60.0), [5.0, 10.0, 20.0, 50.0]);
        for (low, high) in [(1.0, 1.0), (0.003, 0.004), (5e6, 9e9), (7.0, 7.1)] {
            let ticks = ticks(low, high);
            assert!((2..=7).contains(&ticks.len()), "{low} {high}: {ticks:?}");
            assert!(ticks.iter().all(|tick| *tick > 0.0));
        }
        assert_eq!(range(std::iter::empty()), (1.0, 10.0));
    }
}
