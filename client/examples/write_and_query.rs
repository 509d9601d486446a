//! Writes a minute of a sine wave, waits for the acknowledgement and reads it back.
//!
//! `cargo run -p quorate-client --example write_and_query -- 127.0.0.1:9095,127.0.0.1:9096`

use quorate_client::{Client, QueryOptions, RangeWindow, ReadLevel, Series};
use std::time::{SystemTime, UNIX_EPOCH};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:9095".to_owned());
    let client = Client::builder().endpoints(endpoints.split(',')).connect()?;

    let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let mut wave = Series::new("example_wave")
        .label("job", "example")
        .label("instance", "laptop");
    for second in -59..=0 {
        wave.push(now_ms + second * 1_000, (second as f64 / 10.0).sin());
    }

    // Ok: on disk on a majority of the replicas.
    let written = client.write(vec![wave]).await?;
    println!(
        "stored {} samples, {} were there already",
        written.samples_stored, written.samples_duplicate
    );
    for receipt in &written.receipts {
        println!(
            "  shard {} at term {} index {}",
            receipt.shard, receipt.term, receipt.index
        );
    }
    for rejection in &written.rejections {
        println!(
            "  refused {} ({}): {}",
            rejection.samples, rejection.reason, rejection.first
        );
    }

    // Linearizable: sees the write above whichever node answers.
    let options = QueryOptions {
        read: ReadLevel::Linearizable,
        ..QueryOptions::default()
    };
    let window = RangeWindow {
        start_ms: now_ms - 59_000,
        end_ms: now_ms,
        step_ms: 10_000,
    };
    let answer = client.range("example_wave", window, &options).await?;
    for series in &answer.series {
        println!("{}", series.labels);
        for sample in series.samples() {
            println!("  {} {:.3}", sample.timestamp_ms, sample.value);
        }
    }
    Ok(())
}
