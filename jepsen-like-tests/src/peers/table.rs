//! The comparison as a table, in Markdown, which is readable as it is.

use super::Struck;
use super::server::Subject;
use crate::report::quantile;

/// The results of one server under one kind of strike.
#[derive(Debug, Clone)]
pub struct Row {
    /// Which server.
    pub subject: Subject,
    /// Its version.
    pub version: String,
    /// Strike by strike.
    pub struck: Vec<Struck>,
}

const HEAD: &str = "\
| server | version | strikes | acknowledged | lost | share | strikes with loss | worst loss | median loss | ready after (median) |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|
";

/// The table of these rows.
pub fn markdown(rows: &[Row]) -> String {
    let mut out = HEAD.to_owned();
    for Row {
        subject,
        version,
        struck,
    } in rows
    {
        let acked: u64 = struck.iter().map(|struck| struck.acked).sum();
        let lost: u64 = struck.iter().map(|struck| struck.lost).sum();
        let share = if acked == 0 {
            0.0
        } else {
            100.0 * lost as f64 / acked as f64
        };
        let with_loss = struck.iter().filter(|struck| struck.lost > 0).count();
        let copies = match subject.nodes() {
            1 => String::new(),
            nodes => format!(", {nodes} nodes"),
        };
        out.push_str(&format!(
            "| {}{copies} | {version} | {} | {} | {} | {share:.2} % | {with_loss} | {} | {} | {} |\n",
            subject.name(),
            struck.len(),
            grouped(acked),
            grouped(lost),
            seconds(struck, |struck| struck.reach_s, 1.0),
            seconds(struck, |struck| struck.reach_s, 0.5),
            seconds(struck, |struck| struck.ready_s, 0.5),
        ));
    }
    out
}

fn seconds(struck: &[Struck], of: impl Fn(&Struck) -> f64, share: f64) -> String {
    let mut all: Vec<f64> = struck.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    match quantile(&all, share) {
        None => "–".to_owned(),
        Some(0.0) => "0 s".to_owned(),
        Some(value) => format!("{value:.1} s"),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sum_up_all_strikes() {
        let struck = |acked, lost, reach_s| Struck {
            acked,
            lost,
            reach_s,
            ready_s: 1.25,
            wrong: 0,
        };
        let row = Row {
            subject: Subject::Quorate,
            version: "9.9".to_owned(),
            struck: vec![
                struck(900_000, 0, 0.0),
                struck(100_000, 25_000, 12.34),
                struck(0, 0, 0.0),
            ],
        };
        let table = markdown(&[row]);
        let expected =
            "| Quorate, 3 nodes | 9.9 | 3 | 1,000,000 | 25,000 | 2.50 % | 1 | 12.3 s | 0 s | 1.2 s |";
        assert_eq!(table.lines().last(), Some(expected));
        assert_eq!(
            table.lines().next().unwrap().matches('|').count(),
            expected.matches('|').count()
        );
    }
}
