//! Shows what was measured: a table on the screen, and everything in `target/bench/NAME.json`.

use std::collections::HashMap;
use std::path::Path;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Map, Value, json};

use super::number;

/// What one run of one case measured, in the order in which it is shown.
#[derive(Debug, Clone, Default)]
pub struct Figures(Vec<(&'static str, f64)>);

impl<const N: usize> From<[(&'static str, f64); N]> for Figures {
    fn from(figures: [(&'static str, f64); N]) -> Self {
        Self(figures.into())
    }
}

impl Figures {
    pub fn and(mut self, more: impl Into<Figures>) -> Self {
        self.0.extend(more.into().0);
        self
    }

    /// What was measured under this name; NaN if nothing was.
    pub fn get(&self, name: &str) -> f64 {
        self.0.iter().find(|(known, _)| *known == name).map_or(f64::NAN, |(_, value)| *value)
    }

    fn median_of(runs: &[Self]) -> Self {
        let names = runs.first().into_iter().flat_map(|run| run.0.iter().map(|(name, _)| *name));
        Self(names.map(|name| (name, quantile(runs.iter().map(|run| run.get(name)).collect(), 0.5))).collect())
    }

    fn json(&self) -> Value {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<Map<_, _>>().into()
    }
}

/// Everything that a benchmark has measured.
pub struct Report {
    name: &'static str,
    cases: Vec<(String, Vec<Figures>)>,
}

impl Report {
    pub fn new(name: &'static str) -> Self {
        Self { name, cases: Vec::new() }
    }

    /// Adds a run of a case and prints it.
    pub fn add(&mut self, case: &str, figures: Figures) {
        let shown: Vec<String> = figures.0.iter().map(|(name, value)| format!("{name} {}", text(*value))).collect();
        eprintln!("{case}: {}", shown.join(", "));
        match self.cases.iter_mut().find(|(known, _)| known == case) {
            Some((_, runs)) => runs.push(figures),
            None => self.cases.push((case.to_owned(), vec![figures])),
        }
    }

    /// Prints the medians and writes all runs.
    pub fn finish(self, note: &str) -> anyhow::Result<()> {
        let medians = || self.cases.iter().map(|(case, runs)| (case, Figures::median_of(runs)));
        let mut table = Table::new();
        table.load_style(NOTHING);
        for (case, figures) in medians() {
            if table.row_count() == 0 {
                table.set_header(std::iter::once(self.name).chain(figures.0.iter().map(|(name, _)| *name)));
            }
            let values = figures.0.iter().map(|(_, value)| text(*value));
            table.add_row(std::iter::once(case.clone()).chain(values));
        }
        println!("{table}\n{note}");
        let cases: Vec<Value> = medians()
            .zip(&self.cases)
            .map(|((case, median), (_, runs))| {
                json!({"case": case, "median": median.json(), "runs": runs.iter().map(Figures::json).collect::<Vec<_>>()})
            })
            .collect();
        let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let document = json!({"bench": self.name, "note": note, "processors": processors, "cases": cases});
        // Cargo's folder for what benchmarks write is target/tmp.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(self.name).with_extension("json");
        std::fs::write(&path, serde_json::to_string_pretty(&document)?)?;
        println!("all runs: {}", path.display());
        Ok(())
    }
}

/// Of what was published on schedule: how late it arrived, in milliseconds, and how much did not.
pub fn latencies(scheduled: &HashMap<u64, u64>, arrived: &HashMap<u64, u64>) -> Figures {
    let late = |(event, due): (&u64, &u64)| Some(number(arrived.get(event)?.saturating_sub(*due)) / 1e6);
    let late: Vec<f64> = scheduled.iter().filter_map(late).collect();
    let missing = scheduled.len() - late.len();
    Figures::from([
        ("p50 ms", quantile(late.clone(), 0.5)),
        ("p99 ms", quantile(late.clone(), 0.99)),
        ("p99.9 ms", quantile(late, 0.999)),
        ("missing", number(missing as u64)),
    ])
}

/// The value below which this share of all lies, roughly.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length is an index")]
pub fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = number(values.len().saturating_sub(1) as u64);
    values.get((last * share).round() as usize).copied().unwrap_or(f64::NAN)
}

fn text(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "-".to_owned(),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
