//! `quorate write`: stores samples in Prometheus's text format.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use quorate_client::{Series, WriteResult};

use super::connect::ConnectArgs;
use super::time::{now_ms, parse_time};

/// Most bytes of input.
const MAX_INPUT_BYTES: u64 = 256 << 20;

/// Samples in one request.
const MAX_REQUEST_SAMPLES: usize = 10_000;

/// Wrong lines that are listed before giving up.
const MAX_LISTED_ERRORS: usize = 10;

/// Store samples read from stdin, in Prometheus's text format: name, labels, value, and milliseconds if known
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// The time of samples without one: RFC 3339 or Unix seconds. Default: now.
    #[arg(long, value_parser = parse_time, allow_hyphen_values = true, value_name = "TIME")]
    time: Option<i64>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `quorate write`. Nothing is stored when a line can't be read. Fails when a sample is rejected.
pub async fn run(args: WriteArgs) -> anyhow::Result<()> {
    let mut input = String::new();
    let read = std::io::stdin()
        .lock()
        .take(MAX_INPUT_BYTES + 1)
        .read_to_string(&mut input);
    let bytes = read.context("can't read stdin as text")?;
    ensure!(
        bytes as u64 <= MAX_INPUT_BYTES,
        "the input has more than {MAX_INPUT_BYTES} bytes"
    );
    let requests = requests(&input, args.time.unwrap_or_else(now_ms))?;
    ensure!(!requests.is_empty(), "there is no sample in the input");
    let client = args.connect.client()?;
    let mut total = Total::default();
    for request in requests {
        let written = client
            .write(request)
            .await
            .with_context(|| total.before_failure())?;
        total.add(written);
    }
    print!("{}", total.describe());
    match total.rejected() {
        0 => Ok(()),
        rejected => bail!("{rejected} samples were rejected; the others are stored"),
    }
}

/// The samples as requests of bounded size, those of one series together where they come so.
fn requests(input: &str, default_ts_ms: i64) -> anyhow::Result<Vec<Vec<Series>>> {
    let (mut requests, mut wrong) = (Vec::new(), Vec::new());
    let (mut batch, mut samples) = (BTreeMap::<Vec<(String, String)>, Series>::new(), 0);
    for line in quorate_ingest::TextParser::new(input, default_ts_ms) {
        let sample = match line {
            Ok(sample) => sample,
            Err(error) => {
                wrong.push(error.to_string());
                continue;
            }
        };
        let labels: Vec<_> = sample
            .label_pairs()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let series = batch
            .entry(labels)
            .or_insert_with_key(|labels| Series::from_labels(labels.iter().cloned()));
        series.push(sample.timestamp_ms, sample.value);
        samples += 1;
        if samples >= MAX_REQUEST_SAMPLES {
            requests.push(std::mem::take(&mut batch).into_values().collect());
            samples = 0;
        }
    }
    if !wrong.is_empty() {
        let more = wrong.len().saturating_sub(MAX_LISTED_ERRORS);
        wrong.truncate(MAX_LISTED_ERRORS);
        let tail = if more > 0 {
            format!("\n… and {more} more")
        } else {
            String::new()
        };
        bail!("nothing was stored:\n{}{tail}", wrong.join("\n"));
    }
    if !batch.is_empty() {
        requests.push(batch.into_values().collect());
    }
    Ok(requests)
}

/// What became of all samples.
#[derive(Debug, Default)]
struct Total {
    stored: u64,
    duplicate: u64,
    shards: BTreeMap<u32, u64>,
    /// By reason: how many and the first.
    rejections: BTreeMap<String, (u64, String)>,
}

impl Total {
    fn add(&mut self, written: WriteResult) {
        self.stored += written.samples_stored;
        self.duplicate += written.samples_duplicate;
        for receipt in written.receipts {
            *self.shards.entry(receipt.shard).or_default() += receipt.samples;
        }
        for rejection in written.rejections {
            let entry = self
                .rejections
                .entry(rejection.reason)
                .or_insert((0, rejection.first));
            entry.0 += rejection.samples;
        }
    }

    fn rejected(&self) -> u64 {
        self.rejections.values().map(|(samples, _)| samples).sum()
    }

    fn before_failure(&self) -> String {
        match self.stored + self.duplicate {
            0 => "the write failed".to_owned(),
            stored => format!("the write failed after {stored} samples were stored"),
        }
    }

    fn describe(&self) -> String {
        let mut text = format!("stored {} samples", self.stored);
        if self.duplicate > 0 {
            text.push_str(&format!(", {} were there already", self.duplicate));
        }
        if !self.shards.is_empty() {
            let shards: Vec<String> = self.shards.keys().map(u32::to_string).collect();
            text.push_str(&format!(" (shards {})", shards.join(" ")));
        }
        text.push('\n');
        for (reason, (samples, first)) in &self.rejections {
            text.push_str(&format!("rejected {samples} ({reason}), the first: {first}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use quorate_client::{Receipt, Rejection};

    use super::*;

    #[test]
    fn lines_of_a_series_become_one_series_and_requests_are_bounded() {
        let made = requests("up 1 5\nup 2 6\n# HELP x y\nx{a=\"b\"} 3\n", 7).unwrap();
        let up = Series::new("up").sample(5, 1.0).sample(6, 2.0);
        let x = Series::new("x").label("a", "b").sample(7, 3.0);
        assert_eq!(made, [vec![up, x]]);
        let many: String = (0..MAX_REQUEST_SAMPLES + 1)
            .map(|at| format!("m {at} {at}\n"))
            .collect();
        let made = requests(&many, 0).unwrap();
        assert_eq!(
            made.iter()
                .map(|series| series[0].sample_count())
                .collect::<Vec<_>>(),
            [MAX_REQUEST_SAMPLES, 1]
        );
        assert!(requests("# nothing\n\n", 0).unwrap().is_empty());
    }

    #[test]
    fn every_wrong_line_is_told() {
        let error = requests("up 1\n{ 2\nup x\n", 0).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("line 3"), "{error}");
        let many = "up x\n".repeat(50);
        assert!(
            requests(&many, 0)
                .unwrap_err()
                .to_string()
                .ends_with("and 40 more")
        );
    }

    #[test]
    fn the_summary_counts_all_requests() {
        let receipt = |shard, samples| Receipt {
            shard,
            epoch: 1,
            term: 1,
            index: 1,
            samples,
        };
        let rejection = Rejection {
            reason: "too_old".into(),
            samples: 2,
            first: "up at 1".into(),
        };
        let mut total = Total::default();
        for shard in [2, 1] {
            total.add(WriteResult {
                receipts: vec![receipt(shard, 3)],
                samples_stored: 3,
                samples_duplicate: 1,
                rejections: vec![rejection.clone()],
            });
        }
        assert_eq!(
            total.describe(),
            "stored 6 samples, 2 were there already (shards 1 2)\nrejected 4 (too_old), the first: up at 1\n"
        );
        assert_eq!(total.rejected(), 4);
    }
}
