//! What is printed: ratios, and the figures they come from.

use crate::workload::Cost;

#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a line: how fast ours is, as a ratio to the other figure of the same round.
    pub(crate) fn compare(&mut self, name: &str, rounds: &[(Cost, Cost)]) {
        let ratio = median(rounds.iter().map(|(native, ours)| native.seconds / ours.seconds));
        let figure = |pick: fn(&(Cost, Cost)) -> f64| median(rounds.iter().map(pick));
        let line = format!(
            "{name:<54} {ratio:>6.2}  {:>9.3} {:>9.3}   {:>8.2} {:>8.2}",
            figure(|(native, _)| native.seconds),
            figure(|(_, ours)| ours.seconds),
            figure(|(native, _)| native.cpu),
            figure(|(_, ours)| ours.cpu),
        );
        // Who stops it early has seen this much.
        eprintln!("{line}");
        self.lines.push(line);
    }

    /// Adds a fact that is no ratio.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    pub(crate) fn print(&self) {
        println!();
        println!("{:<54} {:>6}  {:>9} {:>9}   {:>8} {:>8}", "", "speed", "seconds:", "", "CPU s:", "");
        println!(
            "{:<54} {:>6}  {:>9} {:>9}   {:>8} {:>8}",
            "workload", "ratio", "native", "ours", "native", "ours"
        );
        for line in &self.lines {
            println!("{line}");
        }
        println!();
        for note in &self.notes {
            println!("{note}");
        }
        println!(
            "\nspeed ratio: native seconds ÷ ours, median of rounds; more is better. CPU: reader and mount together."
        );
    }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
