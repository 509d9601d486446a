//! How long all checks take over a long run, and how much memory. A history is made up and written to a file; a
//! process of its own reads and judges the file, and then sorts and judges every sample of a node one by one, as
//! reading back does. `check_speed [samples]`, 10 million by default.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quorate_jepsen_like_tests::checker::{Verdict, check_found, check_history};
use quorate_jepsen_like_tests::history::{
    Action, Answer, Counts, Form, Found, Level, Matcher, Outcomes, Pattern, Question, Read, Receipt,
    Recorder, SeriesPoints, ShardRead, Sorter, Stage, WriterOutcomes, read_file,
};
use quorate_jepsen_like_tests::values::{Batch, Kind};

const SAMPLES: u64 = 10_000_000;
const LOAD_WRITERS: u32 = 6;
const LOAD_SERIES: u32 = 100;
const WHOLE_SERIES: u32 = 20;
const SHARDS: u32 = 8;
/// Between the batches of a writer.
const BATCH_MS: i64 = 100;
const NODES: [u64; 3] = [1, 2, 3];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, judge, path] = arguments.as_slice()
        && judge == "judge"
    {
        return judge_file(Path::new(path));
    }
    let samples = arguments.get(1).map_or(Ok(SAMPLES), |samples| samples.parse())?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("history.jsonl.zst");
    let began = Instant::now();
    make_up(samples, &path)?;
    let bytes = std::fs::metadata(&path)?.len();
    println!(
        "made up and written in {:.1?}, {} MiB compressed",
        began.elapsed(),
        bytes >> 20
    );
    let status = Command::new(std::env::current_exe()?)
        .arg("judge")
        .arg(&path)
        .status()?;
    ensure!(status.success(), "the judge failed");
    Ok(())
}

fn judge_file(path: &Path) -> Result<()> {
    let began = Instant::now();
    let history = read_file(path)?.operations;
    let read = began.elapsed();
    let verdict = check_history(&history).into_result()?;
    let judged = began.elapsed() - read;

    let outcomes = Outcomes::of(&history);
    let (mut found, mut sorting) = (Vec::new(), Duration::ZERO);
    for (writer, known) in outcomes.writers() {
        found.push(sort(writer, known, NODES[0], &mut sorting));
    }
    let began = Instant::now();
    let mut again = Verdict::default();
    check_found(&outcomes, &found.iter().collect::<Vec<_>>(), &mut again);
    sorting += began.elapsed();
    ensure!(again.into_result()?.acked == verdict.acked, "samples differ");

    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    println!("{verdict}");
    println!(
        "{} operations read in {read:.2?}, judged in {judged:.2?}; samples of a node sorted and judged in {sorting:.2?}; {:.2} s of processor in all, peak memory {}",
        history.len(),
        processor_s()?,
        peak.context("peak memory")?.trim()
    );
    Ok(())
}

/// Processor time of this process, which a busy machine doesn't change.
fn processor_s() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').context("the name of the process")?.1;
    // User and system time, in hundredths of a second.
    let ticks: Vec<u64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<u64>() as f64 / 100.0)
}

/// Everything that a node holds of a writer, sorted into batches sample by sample. Making the samples is not timed.
fn sort(writer: u32, known: &WriterOutcomes, node: u64, sorting: &mut Duration) -> Found {
    let mut sorter = Sorter::new(known);
    let series = if Kind::of(writer) == Kind::Whole {
        WHOLE_SERIES
    } else {
        LOAD_SERIES
    };
    for number in 0..series {
        let batches = known.batches().iter().map(|known| known.batch);
        let mut points: Vec<(i64, u64)> = batches
            .filter_map(|batch| Some((batch.timestamp_ms, batch.bits_of(number)?)))
            .collect();
        let began = Instant::now();
        sorter.add(number, &mut points);
        *sorting += began.elapsed();
    }
    sorter.finish(node, Some(Level::Linearizable), writer)
}

/// Writers take turns; each read asks for some series and gets what the model says. Every node returns
/// everything.
fn make_up(samples: u64, path: &Path) -> Result<()> {
    let recorder = Recorder::to_file(path)?;
    let round = u64::from(LOAD_WRITERS * LOAD_SERIES + WHOLE_SERIES);
    let whole = Kind::Whole.writer(0);
    for number in 0..samples.div_ceil(round) {
        let timestamp_ms = 1_000_000 + number as i64 * BATCH_MS;
        for writer in (0..LOAD_WRITERS).chain([whole]) {
            let series = if writer == whole {
                WHOLE_SERIES
            } else {
                LOAD_SERIES
            };
            write(
                Batch {
                    writer,
                    number,
                    series,
                    timestamp_ms,
                },
                &recorder,
            );
        }
        if number % 3 == 0 {
            let form = if number % 2 == 0 { Form::Raw } else { Form::Count };
            read(form, number, &recorder);
        }
    }
    let outcomes = Outcomes::of(&recorder.operations());
    for node in NODES {
        for (writer, known) in outcomes.writers() {
            let found = sort(writer, known, node, &mut Duration::default());
            recorder.record(Stage::Ok, Action::Found(Box::new(found)));
        }
    }
    recorder.finish()
}

fn write(batch: Batch, recorder: &Recorder) {
    let counts = Counts {
        stored: u64::from(batch.series),
        ..Counts::default()
    };
    let receipt = |shard| Receipt {
        shard,
        epoch: 1,
        term: 1,
        index: 10 * (batch.number + 1) + u64::from(batch.writer.min(9)),
        samples: u64::from(batch.series / SHARDS),
    };
    let (error, nothing) = (None, Vec::new());
    recorder.record(
        Stage::Invoke,
        Action::Write {
            batch,
            receipts: nothing,
            counts: None,
            error: None,
        },
    );
    recorder.record(
        Stage::Ok,
        Action::Write {
            batch,
            receipts: (1..=SHARDS).map(receipt).collect(),
            counts: Some(counts),
            error,
        },
    );
}

/// The last 100 batches of three series of a writer.
fn read(form: Form, newest: u64, recorder: &Recorder) {
    let writer = (newest % u64::from(LOAD_WRITERS)) as u32;
    let numbers = [newest % 7, 20 + newest % 31, 60 + newest % 37].map(|number| number as u32);
    let matcher = |label: &str, pattern| Matcher {
        label: label.to_owned(),
        negated: false,
        pattern,
    };
    let until_ms = 1_000_000 + newest as i64 * BATCH_MS;
    let after_ms = until_ms - 100 * BATCH_MS;
    let question = Question {
        form,
        matchers: vec![
            matcher("instance", Pattern::Is(format!("writer-{writer}"))),
            matcher(
                "series",
                Pattern::OneOf(numbers.map(|number| number.to_string()).to_vec()),
            ),
        ],
        after_ms,
        until_ms,
    };
    let points = |number: u32| {
        let batches = (newest.saturating_sub(99)..=newest).map(|batch| Batch {
            writer,
            number: batch,
            series: LOAD_SERIES,
            timestamp_ms: 1_000_000 + batch as i64 * BATCH_MS,
        });
        let samples = batches.filter_map(|batch| Some((batch.timestamp_ms, batch.bits_of(number)?)));
        let samples: Vec<(i64, u64)> = samples.collect();
        match form {
            Form::Raw => samples,
            _ => {
                let stale = 0x7ff0_0000_0000_0002;
                let count = samples.iter().filter(|(_, bits)| *bits != stale).count();
                vec![(until_ms, (count as f64).to_bits())]
            }
        }
    };
    let series = numbers.map(|number| SeriesPoints {
        writer,
        number,
        points: points(number),
    });
    let applied = 10 * (newest + 1) + 9;
    let shard = |shard| ShardRead {
        shard,
        node: 1,
        before: applied,
        after: applied,
        staleness_ms: Some(0),
    };
    let answer = Answer {
        series: series.to_vec(),
        ..Answer::default()
    };
    let read = Read {
        session: 1,
        node: 1,
        level: Level::Linearizable,
        began_us: recorder.now_us(),
        question,
        answer: Some(answer),
        shards: (1..=SHARDS).map(shard).collect(),
        error: None,
    };
    recorder.record(Stage::Ok, Action::Read(Box::new(read)));
}
