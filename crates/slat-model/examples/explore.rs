//! Every scenario with every bug planted: which find which.
use slat_model::plant;
use slat_model::scenario;
use slat_model::tool::Search;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (scenarios, plants) = (arguments[0].as_str(), arguments[1].as_str());
    let limit: u64 = arguments[2].parse().unwrap();
    for scenario in scenario::ALL.iter().filter(|s| s.name.contains(scenarios)) {
        let nothing = [plant::Plant::Nothing];
        let all = if plants == "-" { &nothing[..] } else { plant::ALL };
        for plant in all.iter().filter(|p| plants == "-" || p.to_string().contains(plants)) {
            for search in
                [scenario.bounded(), Search::Random(limit as usize / 2), Search::Priorities(limit as usize / 2)]
            {
                let r = scenario.run_at_most(limit, search, *plant);
                println!(
                    "{}|{plant}|{search:?}|{}|{:.2}|{}",
                    scenario.name,
                    r.executions,
                    r.elapsed.as_secs_f64(),
                    r.found.as_deref().unwrap_or("-").lines().next().unwrap()
                );
                if arguments.len() > 3 {
                    println!("{}", r.found.unwrap_or_default());
                }
            }
        }
    }
}
