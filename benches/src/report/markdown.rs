//! The page: what it was measured on, a section for each part, where others are better, the goals.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::Value;

use super::{
    compare::{alike, best_peer, better, losses, words},
    figure,
    goals::{Goal, Outcome},
    parts::{Part, Results, axis, groups, measures, ours, what},
};
use crate::row::{Measure, Row};

/// The name and title of each picture of a part.
type Pictures = BTreeMap<String, Vec<(String, String)>>;

const ELSEWHERE: &str = "Where others are better";
const GOALS: &str = "Goals";

pub fn page(results: &Results, goals: &[Goal], pictures: &Pictures) -> String {
    let mut page = String::from(
        "<!-- Made by `report` of benches/ from benches/results/*.json: do not edit. -->\n\n\
         # Benchmarks\n\n\
         mbuf beside its peers. All sides of a comparison run in one run, interleaved by rounds; \
         figures are medians, with minimum and maximum of the rounds in parentheses. Absolute \
         times move from machine to machine and from run to run: what counts is the ratio. The \
         whiskers of the pictures go from minimum to maximum. What is ours is blue.\n\n",
    );
    contents(&mut page, results);
    measured(&mut page, results);
    for part in &results.parts {
        section(&mut page, part, &pictures[&part.name]);
    }
    missing(&mut page, results);
    others(&mut page, results);
    list(&mut page, results, goals);
    page
}

fn contents(page: &mut String, results: &Results) {
    let titles = results.parts.iter().map(Part::title).chain([ELSEWHERE, GOALS]);
    for title in titles {
        line(page, format_args!("- [{title}](#{})", anchor(title)));
    }
}

/// As both mdBook and GitHub make it of a heading.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || " -".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn measured(page: &mut String, results: &Results) {
    page.push_str("\n## How it was measured\n\n");
    let parts = results.parts.iter();
    let machines = groups(parts.flat_map(|part| part.machines.iter().map(|on| (on, &*part.name))));
    for (machine, mut names) in machines.clone() {
        names.dedup();
        let which = match machines.len() {
            1 => "All parts".to_owned(),
            _ => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        };
        let about: Vec<_> = machine.iter().map(|(name, value)| item(name, value)).collect();
        line(page, format_args!("- {which}: {}.", about.join(", ")));
    }
    let mut versions = BTreeMap::new();
    for part in &results.parts {
        versions.extend(part.versions.iter());
    }
    if !versions.is_empty() {
        let all: Vec<_> =
            versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        line(page, format_args!("- Peers: {}.", all.join(", ")));
    }
    page.push_str(
        "\nTo measure all of it again, and to make this page of what was measured:\n\n\
         ```console\n\
         cargo run --release --manifest-path benches/Cargo.toml -- all --into benches/results\n\
         cargo run --release --manifest-path benches/Cargo.toml -- report\n\
         ```\n\n\
         Each part is a command of its own: `... -- udp --help`. Every single round is in \
         `benches/results/*.json`. How each is measured, and what was tried: \
         [How we measure](how-we-measure.md).\n",
    );
}

fn item(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{name} {text}"),
        other => format!("{name} {other}"),
    }
}

fn section(page: &mut String, part: &Part, pictures: &[(String, String)]) {
    line(page, format_args!("\n## {}\n", part.title()));
    if !part.about().is_empty() {
        line(page, format_args!("{}\n", part.about()));
    }
    let mut options = part.options.clone();
    options.retain(|options| !options.is_empty());
    options.dedup();
    let with = if options.is_empty() { String::new() } else { format!(": {}", options.join("; ")) };
    line(page, format_args!("Command `{}`{with}.", part.name));
    for skipped in &part.skipped {
        line(page, format_args!("Skipped: {skipped}."));
    }
    for (index, note) in part.notes.iter().enumerate() {
        line(page, format_args!("{}- {note}", if index == 0 { "\n" } else { "" }));
    }
    if part.rows.is_empty() {
        page.push_str("\nThere are no figures in its file.\n");
    }
    for (name, title) in pictures {
        line(page, format_args!("\n![{title}](benchmarks/{name}.svg)"));
    }
    points(page, &part.points());
    for (axis, rows) in part.axes() {
        line(page, format_args!("\n<details><summary>Figures against {axis}</summary>"));
        for ((_, measure), rows) in groups(rows.iter().map(|&row| ((&*row.case, row.measure), row)))
        {
            curve(page, measure, &rows);
        }
        page.push_str("\n</details>\n");
    }
}

/// A row for each case and side, a column for each measure.
fn points(page: &mut String, rows: &[&Row]) {
    if rows.is_empty() {
        return;
    }
    let measures = measures(rows);
    let compared = rows.iter().any(|row| !ours(row));
    let mut heads = vec!["case", "by"];
    heads.extend(measures.iter().map(|&measure| figure::title(measure)));
    heads.extend(compared.then_some("beside the best of the others"));
    heading(page, &heads, 2);
    for (case, rows) in groups(rows.iter().map(|&row| (&*row.case, row))) {
        let mut shown = case;
        for (who, mine) in groups(rows.iter().map(|&row| (&*row.who, row))) {
            let is_ours = ours(mine[0]);
            let of = |measure| mine.iter().copied().find(|row| row.measure == measure);
            let mut cells =
                vec![shown.to_owned(), if is_ours { format!("**{who}**") } else { who.into() }];
            let show = if is_ours { figure::bold } else { figure::spread };
            cells.extend(measures.iter().map(|&measure| of(measure).map_or(String::new(), show)));
            if compared {
                cells.push(beside(&mine, &rows, measures.len() > 1));
            }
            row(page, &cells);
            shown = "";
        }
    }
}

/// Rows of ours in words, with their measures where there are several.
fn beside(mine: &[&Row], rows: &[&Row], named: bool) -> String {
    let mut all = Vec::new();
    for row in mine.iter().filter(|row| ours(row)) {
        if let Some(peer) = best_peer(&alike(rows, row)) {
            let name = if named { format!("{}: ", measure(row.measure)) } else { String::new() };
            all.push(format!("{name}{}", words(row, peer)));
        }
    }
    all.join("; ")
}

/// Its name without the unit.
fn measure(measure: Measure) -> &'static str {
    figure::title(measure).split(',').next().unwrap_or_default()
}

/// A row for each place, a column for each side.
fn curve(page: &mut String, measure: Measure, rows: &[&Row]) {
    let sides = groups(rows.iter().map(|&row| (&*row.who, ())));
    let compared = rows.iter().any(|row| !ours(row));
    line(page, format_args!("\n{}: {}", what(rows[0]), figure::title(measure)));
    let mut heads = vec![axis(rows[0])];
    heads.extend(sides.iter().map(|side| side.0));
    heads.extend(compared.then_some("beside the best of the others"));
    heading(page, &heads, 1);
    for (x, here) in groups(rows.iter().filter_map(|&row| Some((row.x?, row)))) {
        let of = |who| here.iter().copied().find(|row| row.who == who);
        let mut cells = vec![figure::place(axis(rows[0]), x)];
        let show = |row| if ours(row) { figure::bold(row) } else { figure::spread(row) };
        cells.extend(sides.iter().map(|side| of(side.0).map_or(String::new(), show)));
        if compared {
            let mine = here.iter().copied().filter(|row| ours(row));
            let best =
                mine.reduce(
                    |best, row| {
                        if better(measure, row.median, best.median) { row } else { best }
                    },
                );
            cells.push(best.map_or(String::new(), |best| beside(&[best], &here, false)));
        }
        row(page, &cells);
    }
}

fn missing(page: &mut String, results: &Results) {
    if results.missing.is_empty() {
        return;
    }
    page.push_str("\n## Not measured\n\n");
    for known in &results.missing {
        line(
            page,
            format_args!("- {}: `{}` was not measured; it has no file.", known.title, known.name),
        );
    }
}

fn others(page: &mut String, results: &Results) {
    line(page, format_args!("\n## {ELSEWHERE}\n"));
    let mut any = false;
    for part in &results.parts {
        let rows: Vec<&Row> = part.rows.iter().collect();
        let losses = losses(&rows);
        if losses.is_empty() {
            continue;
        }
        any = true;
        line(page, format_args!("{}:", part.title()));
        heading(page, &["case", "measure", "better", "ours"], 4);
        let losses = losses.into_iter();
        let placed = losses.map(|(mine, ahead)| ((&*mine.case, mine.measure), (mine, ahead)));
        for ((case, measure), places) in groups(placed) {
            let mine = places.iter().map(|place| place.0).collect();
            // A peer that is ahead of several of ours is named once.
            let ahead = groups(
                places.iter().flat_map(|place| &place.1).map(|row| ((&row.who, row.x), *row)),
            );
            let ahead = ahead.into_iter().map(|group| group.1[0]).collect();
            row(page, &[case.into(), figure::title(measure).into(), named(ahead), named(mine)]);
        }
        page.push('\n');
    }
    if !any {
        page.push_str("Nowhere, in what was measured.\n");
    }
}

/// Rows with their names, by their places on the curve.
fn named(rows: Vec<&Row>) -> String {
    let places = groups(rows.into_iter().map(|row| (row.x, row)));
    let each = places.into_iter().map(|(x, rows)| {
        let at = x.map(|x| format!("at {}: ", figure::place(axis(rows[0]), x)));
        let value = |row: &Row| figure::plain(figure::scaled(row.measure, row.median));
        let rows: Vec<_> = rows.iter().map(|row| format!("{} {}", row.who, value(row))).collect();
        at.unwrap_or_default() + &rows.join("; ")
    });
    each.collect::<Vec<_>>().join("; ")
}

fn list(page: &mut String, results: &Results, goals: &[Goal]) {
    let outcomes: Vec<_> = goals.iter().map(|goal| (goal, goal.check(results))).collect();
    let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|entry| is(&entry.1)).count();
    let end = page.trim_end().len();
    page.truncate(end);
    line(page, format_args!("\n\n## {GOALS}\n"));
    line(
        page,
        format_args!(
            "{} are met, {} are not, {} were not measured; they are kept in \
             `benches/goals.toml`.",
            count(|outcome| matches!(outcome, Outcome::Met(_))),
            count(|outcome| matches!(outcome, Outcome::NotMet(_))),
            count(|outcome| matches!(outcome, Outcome::NotMeasured(_))),
        ),
    );
    heading(page, &["goal", "", "measured"], 3);
    for (goal, outcome) in outcomes {
        let (how, figures) = match outcome {
            Outcome::Met(figures) => ("met", figures),
            Outcome::NotMet(figures) => ("**not met**", figures),
            Outcome::NotMeasured(why) => ("not measured", why),
        };
        row(page, &[goal.goal.clone(), how.into(), figures]);
    }
}

/// The heads of a table, so many of its columns aligned left.
fn heading(page: &mut String, heads: &[&str], left: usize) {
    page.push('\n');
    row(page, heads);
    let last = heads.len() - 1;
    let rule = |at| {
        if at < left || heads[last].starts_with("beside") && at == last { "---" } else { "---:" }
    };
    row(page, &(0..heads.len()).map(rule).collect::<Vec<_>>());
}

fn row(page: &mut String, cells: &[impl AsRef<str>]) {
    let cells: Vec<_> = cells.iter().map(|cell| cell.as_ref().replace('|', "\\|")).collect();
    line(page, format_args!("| {} |", cells.join(" | ")));
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // A `String` takes everything.
    let _ = writeln!(page, "{text}");
}
