//! What people read of several runs: a row for each, with ratios between the kinds of locking.

use comfy_table::{CellAlignment, Table, presets};
use std::time::Duration;

use super::rig::Footprint;
use super::setting::Setting;
use crate::locking::Locking;

/// A run's times, in the order of the phases' names.
pub(crate) struct Row {
    pub(crate) format: &'static str,
    pub(crate) vcpus: u32,
    pub(crate) locking: Locking,
    pub(crate) times: Vec<Duration>,
    pub(crate) footprint: Footprint,
}

/// Said before anything is run.
pub(crate) fn introduction(setting: &Setting) -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = String::new();
    if setting.is_default {
        text += "No options: comparing one mutex round everything with no lock at all on small guests, verified. See --help \
                 for more.\n";
    }
    text +=
        &format!("Measured on the software machine (TLBs and page walks are modelled), OS threads on {cpus} CPUs.\n");
    if let Some(most) = setting.vcpus.iter().max().filter(|most| **most as usize > cpus) {
        text += &format!("Note: {most} vCPUs share {cpus} CPUs: threads take turns, and times grow by that alone.\n");
    }
    text
}

/// The table of all runs: each time, and its ratio to that of the first kind of locking.
pub(crate) fn table(setting: &Setting, phases: &[&str], rows: &[Row]) -> String {
    let first = setting.lockings.first().copied();
    let has_ratios = setting.lockings.len() > 1;
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let mut header = vec!["vCPUs".to_owned(), "format".to_owned(), "locking".to_owned()];
    for phase in phases {
        header.push((*phase).to_owned());
        header.extend(has_ratios.then(|| "ratio".to_owned()));
    }
    table.set_header(header);
    for row in rows {
        let base = rows
            .iter()
            .find(|other| Some(other.locking) == first && other.vcpus == row.vcpus && other.format == row.format);
        let mut cells = vec![row.vcpus.to_string(), row.format.to_owned(), row.locking.name().to_owned()];
        for (index, time) in row.times.iter().enumerate() {
            cells.push(format!("{:.6}", time.as_secs_f64()));
            let ratio = base.map(|base| ratio(base.times[index], *time));
            cells.extend(ratio.filter(|_| has_ratios));
        }
        table.add_row(cells);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        let is_name = matches!(index, 1 | 2);
        column.set_cell_alignment(if is_name { CellAlignment::Left } else { CellAlignment::Right });
    }
    let mut text = table.to_string();
    if let Some(first) = first.filter(|_| has_ratios) {
        text += &format!("\nratio: the time of {} divided by the row's; above 1, the row is faster.", first.name());
    }
    text
}

fn ratio(base: Duration, time: Duration) -> String {
    format!("{:.2}", base.as_secs_f64() / time.as_secs_f64().max(f64::MIN_POSITIVE))
}

/// The most tables of any run, and what all of them left.
pub(crate) fn tables(rows: &[Row]) -> String {
    let peak = rows.iter().map(|row| row.footprint.tables_peak).max().unwrap_or_default();
    let left: u64 = rows.iter().map(|row| row.footprint.tables_after_teardown).sum();
    format!("Page tables at most: {peak}; after teardown: {left}.")
}
