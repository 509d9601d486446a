//! What is measured: a recording of real scrapes, or series as load generators make them.

use std::collections::HashMap;

use quorate_storage::Labels;

/// A series and its samples.
pub(crate) struct Series {
    pub(crate) labels: Labels,
    pub(crate) timestamps: Vec<i64>,
    pub(crate) bits: Vec<u64>,
}

/// Reads lines of `name{labels} value timestamp`, the text format with Unix milliseconds, of which it
/// takes every `thin`th scrape. The scrapes of all targets have to be in order of time.
pub(crate) fn recording(text: &str, thin: usize) -> Result<Vec<Series>, Box<dyn std::error::Error>> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut series: Vec<Series> = Vec::new();
    let (mut scrape_ms, mut scrapes) = (i64::MIN, 0usize);
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        // The recorder may be in the middle of its last line.
        let Some((rest, timestamp)) = line.rsplit_once(' ') else {
            break;
        };
        let Some((name, value)) = rest.rsplit_once(' ') else {
            break;
        };
        let (Ok(timestamp_ms), Ok(value)) = (timestamp.parse::<i64>(), value.parse::<f64>()) else {
            break;
        };
        if timestamp_ms != scrape_ms {
            scrape_ms = timestamp_ms;
            scrapes += 1;
        }
        if scrapes % thin != 0 {
            continue;
        }
        let place = match places.get(name) {
            Some(place) => *place,
            None => {
                series.push(Series {
                    labels: labels_of(name)?,
                    timestamps: Vec::new(),
                    bits: Vec::new(),
                });
                places.insert(name, series.len() - 1);
                series.len() - 1
            }
        };
        series[place].timestamps.push(timestamp_ms);
        series[place].bits.push(value.to_bits());
    }
    Ok(series)
}

fn labels_of(name: &str) -> Result<Labels, Box<dyn std::error::Error>> {
    let (metric, rest) = name.split_once('{').unwrap_or((name, "}"));
    let mut pairs = vec![
        ("__name__".to_owned(), metric.to_owned()),
        ("instance".to_owned(), "host-1:9100".to_owned()),
        ("job".to_owned(), "node".to_owned()),
    ];
    let mut rest = rest.trim_end_matches('}');
    while let Some((label, after)) = rest.split_once("=\"") {
        let mut end = 0;
        let bytes = after.as_bytes();
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        let value = after.get(..end).ok_or("a label is not closed")?;
        if !value.is_empty() {
            pairs.push((label.trim_start_matches(',').to_owned(), value.to_owned()));
        }
        rest = &after[end + 1..];
    }
    Ok(Labels::from_pairs(pairs)?)
}

/// Xorshift, so that every run measures the same data.
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u64) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end) as f64
    }
}

/// Series like those of a load generator, 480 of each host: of five, two count up by 0 to 999, one by 0
/// to 14.99, one gauge of two decimals walks, and one is constant. Their entropy is 0.954 bytes a sample.
pub(crate) fn generated(series: usize, scrapes: usize, start_ms: i64, interval_ms: i64) -> Vec<Series> {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let one = |i: usize| {
        let (host, k) = (i / 480, i % 480);
        let labels = Labels::from_pairs([
            ("__name__", format!("load_metric_{}_total", k % 24)),
            ("cpu", format!("{}", k / 24)),
            ("instance", format!("host-{host:05}.example.net:9100")),
            ("job", "node".to_owned()),
        ]);
        let mut value = rng.below(100_000);
        let mut bits = Vec::with_capacity(scrapes);
        for _ in 0..scrapes {
            value = match i % 5 {
                0 | 1 => value + rng.below(1000),
                2 => value + rng.below(1500) / 100.0,
                3 => ((value * 100.0).round() + rng.below(201) - 100.0) / 100.0,
                _ => value,
            };
            bits.push(value.to_bits());
        }
        let timestamps = (0..scrapes as i64)
            .map(|step| start_ms + host as i64 * 37 % interval_ms + step * interval_ms)
            .collect();
        labels.map(|labels| Series {
            labels,
            timestamps,
            bits,
        })
    };
    (0..series).map(one).filter_map(Result::ok).collect()
}
