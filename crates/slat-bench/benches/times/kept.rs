//! The medians in `times.json`, each beside the one that was kept before it on the same kind of machine.

use std::path::Path;

use serde_json::{Map, Value, json};

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/times.json");

/// Keeps the medians of these benchmarks.
pub(crate) fn keep(results: &Path, names: &[&str]) {
    let kept: Value = read(Path::new(KEPT)).unwrap_or_default();
    let machine = machine();
    let same_machine = kept["machine"] == machine;
    let mut times = Map::new();
    for name in names {
        let now = median(results, name).expect("criterion has just written it");
        let before = if same_machine { kept["times"][name]["now"].clone() } else { Value::Null };
        times.insert((*name).to_owned(), json!({ "now": (now * 100.0).round() / 100.0, "before": before }));
    }
    let about = "nanoseconds of CPU time, medians; written by `cargo bench -p slat-bench -- --keep`";
    let report = json!({ "about": about, "machine": machine, "times": times });
    let text = serde_json::to_string_pretty(&report).expect("plain values");
    std::fs::write(KEPT, text + "\n").expect("the repository can be written to");
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

fn median(results: &Path, name: &str) -> Option<f64> {
    read(&results.join(name).join("new/estimates.json"))?["median"]["point_estimate"].as_f64()
}

/// The machine, without its name.
fn machine() -> Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let processor = field("model name").unwrap_or_else(|| "unknown".to_owned());
    let virtualized = field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    json!({ "processor": processor, "cpus": cpus, "virtualized": virtualized, "system": std::env::consts::OS })
}
