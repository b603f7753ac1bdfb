//! Bars with whiskers from minimum to maximum: a panel for each case, to its own scale.

use plotters::{prelude::*, style::text_anchor::HPos};

use super::{
    figure,
    parts::{groups, ours},
    picture::{Area, FAINT, GRID, INK, MARGIN, MBUF, OTHERS, WIDTH, sheet, text, width, wrong},
};
use crate::row::{Measure, Row};

/// Bars on one picture at most, so that it stays small.
const MOST: usize = 48;
/// Pixels, downwards: a panel's title, a bar with what is between it and the next, the scale.
const HEAD: u32 = 24;
const BAR: u32 = 18;
const SCALE: u32 = 26;
const SIZE: u32 = 11;
/// A name longer than so many pixels takes a panel as wide as the picture.
const LONG: i32 = 140;
/// What a bar may be longer than the largest median, for the sake of a whisker.
const BEYOND: f64 = 1.6;

/// Bars below a title.
#[derive(Debug)]
pub struct Panel<'a> {
    title: String,
    bars: Vec<(String, &'a Row)>,
}

/// A panel for each case, its sides in order; what has one side only is together in one.
pub fn panels<'a>(rows: &[&'a Row]) -> Vec<Panel<'a>> {
    let cases = groups(rows.iter().map(|&row| (row.case.clone(), row)));
    let (alone, beside): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| case.1.len() == 1);
    let named = |row: &'a Row| (row.who.clone(), row);
    let mut panels: Vec<_> = beside
        .into_iter()
        .map(|(title, rows)| Panel { title, bars: rows.into_iter().map(named).collect() })
        .collect();
    let alone =
        groups(alone.into_iter().map(|(case, rows)| (rows[0].who.clone(), (case, rows[0]))));
    panels.extend(alone.into_iter().map(|(title, bars)| Panel { title, bars }));
    panels
}

/// As many as fit on a picture each; those of a picture are about as many as of the next.
pub fn sheets<'a, 'b>(panels: &'b [Panel<'a>]) -> Vec<&'b [Panel<'a>]> {
    let bars: usize = panels.iter().map(|panel| panel.bars.len()).sum();
    let each = bars.div_ceil(bars.div_ceil(MOST).max(1));
    let (mut sheets, mut rest) = (Vec::new(), panels);
    while !rest.is_empty() {
        let mut count = 0;
        let fits = |panel: &&Panel<'_>| {
            // With half of a panel too many there are fewer leftovers.
            let most = count + panel.bars.len() / 2;
            count += panel.bars.len();
            most <= each
        };
        let fit = rest.iter().take_while(fits).count().max(1);
        let (sheet, after) = rest.split_at(fit);
        sheets.push(sheet);
        rest = after;
    }
    sheets
}

impl Panel<'_> {
    fn height(&self) -> u32 {
        HEAD + BAR * self.bars.len() as u32 + SCALE
    }

    /// The width of the names.
    fn names(&self) -> i32 {
        self.bars.iter().map(|bar| width(&bar.0, SIZE)).max().unwrap_or(0)
    }
}

pub fn draw(title: &str, measure: Measure, panels: &[Panel<'_>]) -> anyhow::Result<String> {
    let narrow = panels.len() > 1
        && panels.iter().all(|panel| panel.names() <= LONG && width(&panel.title, 12) < 320);
    let columns = if narrow { 2 } else { 1 };
    let names = panels.iter().map(Panel::names).max().unwrap_or(0) + 8;
    let lines: Vec<_> = panels.chunks(columns).collect();
    let heights: Vec<_> =
        lines.iter().map(|line| line.iter().map(Panel::height).max().unwrap_or(0)).collect();
    let better = if measure.more_is_better() { "longer" } else { "shorter" };
    let title = format!("{title}; {better} is better");
    sheet(&title, heights.iter().sum::<u32>() + MARGIN, |area| {
        let mut rest = area.clone();
        for (line, height) in lines.iter().zip(heights) {
            let (now, below) = rest.split_vertically(height);
            rest = below;
            for (index, panel) in line.iter().enumerate() {
                let each = WIDTH / columns as u32;
                let left = each * index as u32;
                let (_, from) = now.split_horizontally(left);
                let (mine, _) = from.split_horizontally(each);
                panel.draw(&mine, names, measure)?;
            }
        }
        Ok(())
    })
}

impl Panel<'_> {
    fn draw(&self, area: &Area<'_>, names: i32, measure: Measure) -> anyhow::Result<()> {
        let (wide, _) = area.dim_in_pixel();
        let left = MARGIN as i32 + names;
        let value = |row: &Row| figure::short(figure::scaled(measure, row.median));
        let values = self.bars.iter().map(|bar| width(&value(bar.1), SIZE)).max().unwrap_or(0);
        let right = wide as i32 - MARGIN as i32 - values - 8;
        text(area, &self.title, (MARGIN as i32, 4), 12, &INK, HPos::Left)?;

        let largest =
            |of: fn(&Row) -> f64| self.bars.iter().map(|bar| of(bar.1)).fold(0.0, f64::max);
        let most = largest(|row| row.max).min(largest(|row| row.median) * BEYOND);
        let end = figure::scaled(measure, if most > 0.0 { most } else { 1.0 });
        let at = |value: f64| left + (value.min(end) / end * f64::from(right - left)) as i32;
        let (top, bottom) = (HEAD as i32, (HEAD + BAR * self.bars.len() as u32) as i32);
        for tick in ticks(end) {
            let line = [(at(tick), top), (at(tick), bottom + 2)];
            area.draw(&PathElement::new(line, GRID)).map_err(wrong)?;
            text(area, &figure::tick(tick), (at(tick), bottom + 4), 10, &FAINT, HPos::Center)?;
        }
        for (index, (name, row)) in self.bars.iter().enumerate() {
            let y = top + BAR as i32 * index as i32;
            let scaled = |value| figure::scaled(measure, value);
            let colour = if ours(row) { MBUF } else { OTHERS };
            text(area, name, (left - 6, y + 3), SIZE, &INK, HPos::Right)?;
            let (median, low, high) =
                (at(scaled(row.median)), at(scaled(row.min)), at(scaled(row.max)));
            let bar = [(left, y + 3), (median.max(left + 1), y + BAR as i32 - 3)];
            area.draw(&Rectangle::new(bar, colour.filled())).map_err(wrong)?;
            let middle = y + BAR as i32 / 2;
            if row.max > row.min {
                let whisker = [(low, middle), (high, middle)];
                area.draw(&PathElement::new(whisker, INK)).map_err(wrong)?;
                // What goes on beyond the scale has no end there.
                let beyond = scaled(row.max) > end;
                for x in if beyond { vec![low] } else { vec![low, high] } {
                    let cap = [(x, middle - 3), (x, middle + 3)];
                    area.draw(&PathElement::new(cap, INK)).map_err(wrong)?;
                }
                if beyond {
                    let tip = [(high - 4, middle - 3), (high, middle), (high - 4, middle + 3)];
                    area.draw(&PathElement::new(tip, INK)).map_err(wrong)?;
                }
            }
            text(area, &value(row), (high.max(median) + 5, y + 3), SIZE, &INK, HPos::Left)?;
        }
        Ok(())
    }
}

/// From zero to the end in two to four steps of 1, 2 or 5.
fn ticks(end: f64) -> Vec<f64> {
    let decade = 10f64.powf((end / 4.0).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * decade);
    let step = steps.into_iter().find(|step| end / step <= 4.0).unwrap_or(end);
    (0..=4).map(|n| f64::from(n) * step).take_while(|&tick| tick <= end * 1.0001).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_few_and_round() {
        assert_eq!(ticks(10.0), [0.0, 2.5, 5.0, 7.5, 10.0]);
        assert_eq!(ticks(0.9), [0.0, 0.25, 0.5, 0.75]);
        assert_eq!(ticks(7_000_000.0), [0.0, 2e6, 4e6, 6e6]);
        for end in [1e-9, 0.3, 1.0, 3.7, 99.0, 1e12] {
            let ticks = ticks(end);
            assert!((2..=5).contains(&ticks.len()), "{end}: {ticks:?}");
        }
    }

    #[test]
    fn pictures_have_some_panels_each_and_none_is_lost() {
        let row = Row::new("", "mbuf", Measure::Seconds, vec![1.0]);
        let bars = |n| (0..n).map(|_| (String::new(), &row)).collect();
        let panels = [40, 8, 1, 30, 100, 2].map(|n| Panel { title: String::new(), bars: bars(n) });
        let counts: Vec<_> = sheets(&panels).iter().map(|sheet| sheet.len()).collect();
        assert_eq!(counts, [2, 2, 1, 1]);
        assert!(sheets(&[]).is_empty());
    }

    #[test]
    fn cases_with_one_side_share_a_panel() {
        let row = |case, who| Row::new(case, who, Measure::Instructions, vec![1.0]);
        let all = [row("a", "mbuf"), row("b", "mbuf"), row("b", "DPDK"), row("c", "mbuf")];
        let rows: Vec<&Row> = all.iter().collect();
        let panels = panels(&rows);
        assert_eq!(panels.len(), 2);
        assert_eq!((&*panels[0].title, panels[0].bars.len()), ("b", 2));
        assert_eq!((&*panels[1].title, panels[1].bars.len()), ("mbuf", 2));
    }
}
