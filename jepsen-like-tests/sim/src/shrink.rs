//! Makes a failing run smaller: fewer faults, then fewer clients, then a shorter time, as long as the same rule
//! is still broken.

use std::time::{Duration, Instant};

use crate::plan::{Plan, Selection};

/// A failing run that got smaller.
pub struct Shrunk {
    /// What is left of the plan.
    pub selection: Selection,
    /// What the smaller run says.
    pub detail: String,
    /// Runs tried.
    pub runs: u64,
}

struct Search<F> {
    seed: u64,
    /// What a plan's run says if it still breaks the rule.
    fails: F,
    deadline: Instant,
    best: Shrunk,
}

/// Shrinks the plan of a seed for at most `budget`. `fails` runs a plan and tells what it saw if that breaks
/// the same rule.
pub fn shrink(
    seed: u64,
    from: Selection,
    budget: Duration,
    fails: impl FnMut(Plan) -> Option<String>,
) -> Shrunk {
    let plan = Plan::new(seed);
    let all = |kept: Option<Vec<usize>>, count: usize| kept.unwrap_or_else(|| (0..count).collect());
    let faults = all(from.faults.clone(), plan.faults.len());
    let clients = all(from.clients.clone(), plan.clients.len());
    let mut search = Search {
        seed,
        fails,
        deadline: Instant::now() + budget,
        best: Shrunk {
            selection: from,
            detail: String::new(),
            runs: 0,
        },
    };
    search.fewer(faults, |selection, kept| selection.faults = Some(kept));
    search.fewer(clients, |selection, kept| selection.clients = Some(kept));
    search.shorter(plan.lasts);
    search.best
}

impl<F: FnMut(Plan) -> Option<String>> Search<F> {
    /// Whether the rule is still broken; if so, this is the best so far.
    fn fails(&mut self, selection: Selection) -> bool {
        if Instant::now() >= self.deadline {
            return false;
        }
        self.best.runs += 1;
        let Some(detail) = (self.fails)(Plan::new(self.seed).select(&selection)) else {
            return false;
        };
        self.best.selection = selection;
        self.best.detail = detail;
        true
    }

    /// Delta debugging: leaves out ever smaller pieces.
    fn fewer(&mut self, mut kept: Vec<usize>, set: impl Fn(&mut Selection, Vec<usize>)) {
        let mut piece = kept.len().div_ceil(2);
        while piece > 0 && !kept.is_empty() {
            let mut at = 0;
            while at < kept.len() {
                let end = (at + piece).min(kept.len());
                let rest: Vec<usize> = [&kept[..at], &kept[end..]].concat();
                let mut selection = self.best.selection.clone();
                set(&mut selection, rest.clone());
                if self.fails(selection) {
                    kept = rest;
                } else {
                    at = end;
                }
            }
            piece /= 2;
        }
    }

    fn shorter(&mut self, whole: Duration) {
        let mut lasts = self.best.selection.lasts.unwrap_or(whole);
        let mut cut = lasts / 2;
        while cut >= Duration::from_millis(100) {
            let mut selection = self.best.selection.clone();
            let shorter = Duration::from_millis((lasts - cut).as_millis() as u64);
            selection.lasts = Some(shorter);
            if self.fails(selection) {
                lasts = shorter;
            }
            cut /= 2;
        }
    }
}

/// The arguments that repeat a run.
pub fn arguments(seed: u64, selection: &Selection) -> String {
    let list = |name: &str, kept: &Option<Vec<usize>>| match kept {
        None => String::new(),
        Some(kept) if kept.is_empty() => format!(" --{name} none"),
        Some(kept) => {
            let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
            format!(" --{name} {}", kept.join(","))
        }
    };
    let lasts = selection
        .lasts
        .map_or(String::new(), |lasts| format!(" --for-ms {}", lasts.as_millis()));
    format!(
        "--seed {seed}{}{}{lasts}",
        list("faults", &selection.faults),
        list("clients", &selection.clients)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plan with several faults and clients.
    fn busy_seed() -> u64 {
        let busy = |seed: &u64| {
            let plan = Plan::new(*seed);
            plan.faults.len() >= 6 && plan.clients.len() >= 3
        };
        (0..).find(busy).unwrap()
    }

    #[test]
    fn only_what_the_failure_needs_is_left() {
        let seed = busy_seed();
        let whole = Plan::new(seed);
        let (first, second) = (whole.faults[1].clone(), whole.faults[4].clone());
        let client = whole.clients[1].number;
        let fails = |plan: Plan| {
            let needed = plan.faults.contains(&first)
                && plan.faults.contains(&second)
                && plan.clients.iter().any(|c| c.number == client)
                && plan.lasts >= Duration::from_secs(2);
            needed.then(|| "broken".to_owned())
        };
        let shrunk = shrink(seed, Selection::default(), Duration::from_secs(60), fails);
        assert_eq!(shrunk.selection.faults, Some(vec![1, 4]));
        assert_eq!(shrunk.selection.clients, Some(vec![1]));
        let lasts = shrunk.selection.lasts.unwrap();
        assert!(
            lasts >= Duration::from_secs(2) && lasts < Duration::from_millis(2_300),
            "{lasts:?}"
        );
        assert_eq!(shrunk.detail, "broken");
        assert_eq!(
            arguments(seed, &shrunk.selection),
            format!(
                "--seed {seed} --faults 1,4 --clients 1 --for-ms {}",
                lasts.as_millis()
            )
        );
    }

    #[test]
    fn what_never_fails_again_stays_whole() {
        let seed = busy_seed();
        let shrunk = shrink(seed, Selection::default(), Duration::from_secs(60), |_| None);
        assert_eq!(shrunk.selection, Selection::default());
        assert_eq!(arguments(seed, &shrunk.selection), format!("--seed {seed}"));
    }
}
