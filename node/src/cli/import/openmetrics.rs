//! Lines of OpenMetrics text with timestamps, as `promtool tsdb create-blocks-from openmetrics` reads them.

use std::io::BufRead;

use anyhow::{Context as _, ensure};

/// Longest line, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Names and values.
pub(super) type Labels = Vec<(String, String)>;

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) labels: Labels,
    pub(super) timestamp_ms: i64,
    pub(super) bits: u64,
}

/// Reads samples line by line.
pub(super) struct Reader<R> {
    input: R,
    text: String,
    /// Lines read, those without a sample included.
    pub(super) lines: u64,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn new(input: R) -> Reader<R> {
        Reader {
            input,
            text: String::new(),
            lines: 0,
            ended: false,
        }
    }

    /// Leaves lines out that were imported before.
    pub(super) fn skip(&mut self, lines: u64) -> anyhow::Result<()> {
        while self.lines < lines && self.line()? {}
        Ok(())
    }

    /// The next sample; none at `# EOF`, without which the file is not complete.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Line>> {
        while !self.ended {
            ensure!(
                self.line()?,
                "the file ends without \"# EOF\": it is not complete"
            );
            let text = self.text.trim_end_matches(['\n', '\r']);
            if text == "# EOF" {
                self.ended = true;
            } else if !text.is_empty() && !text.starts_with('#') {
                return parse(text)
                    .with_context(|| format!("line {}", self.lines))
                    .map(Some);
            }
        }
        Ok(None)
    }

    fn line(&mut self) -> anyhow::Result<bool> {
        self.text.clear();
        let mut bounded = std::io::Read::take(&mut self.input, MAX_LINE_BYTES);
        let read = bounded
            .read_line(&mut self.text)
            .with_context(|| format!("can't read line {}", self.lines + 1))?;
        ensure!(
            (read as u64) < MAX_LINE_BYTES,
            "line {} is too long",
            self.lines + 1
        );
        self.lines += u64::from(read > 0);
        Ok(read > 0)
    }
}

fn parse(text: &str) -> anyhow::Result<Line> {
    let (head, tail) = text.split_at(end_of_labels(text));
    // An exemplar may follow, which is not kept.
    let mut words = tail.split_ascii_whitespace().take_while(|word| *word != "#");
    let value = words.next().context("it has no value")?;
    let timestamp = words.next().context("it has no timestamp")?;
    ensure!(words.next().is_none(), "something follows its timestamp");
    let timestamp_ms = parse_seconds(timestamp)
        .with_context(|| format!("expected a timestamp in seconds, found {timestamp:?}"))?;
    let line = format!("{head} {value}");
    let sample = quorate_ingest::TextParser::new(&line, timestamp_ms)
        .next()
        .context("it is empty")??;
    Ok(Line {
        labels: sample
            .label_pairs()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        timestamp_ms,
        bits: sample.value.to_bits(),
    })
}

/// Where the name and its braces end.
fn end_of_labels(text: &str) -> usize {
    let (mut quoted, mut escaped, mut open) = (false, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' => open = true,
            b'}' => return at + 1,
            b' ' | b'\t' if !open && !text[at..].trim_start().starts_with('{') => return at,
            _ => {}
        }
    }
    text.len()
}

/// Seconds with up to three digits behind the point, and more that are cut off, as Prometheus does.
/// Also whole numbers with an exponent, as programs print large ones.
fn parse_seconds(text: &str) -> Option<i64> {
    if text.bytes().any(|byte| matches!(byte, b'e' | b'E')) {
        let ms = (text.parse::<f64>().ok()? * 1_000.0).round();
        return (ms.abs() < 9e15).then_some(ms as i64);
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = whole
        .bytes()
        .chain(fraction.bytes())
        .all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits {
        return None;
    }
    let mut ms = 0;
    for place in 0..3 {
        ms = ms * 10 + i64::from(fraction.as_bytes().get(place).map_or(0, |digit| digit - b'0'));
    }
    Some(sign * whole.parse::<i64>().ok()?.checked_mul(1_000)?.checked_add(ms)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Vec<Line>> {
        let mut reader = Reader::new(text.as_bytes());
        let mut lines = Vec::new();
        while let Some(line) = reader.next()? {
            lines.push(line);
        }
        Ok(lines)
    }

    #[test]
    fn samples_are_read_with_their_times() {
        let text = "# HELP a b\n# TYPE a counter\na_total{x=\"y } # \\\" {\",z=\"\"} 1.5 1700000000.123 # {trace=\"1\"} 1 2\n\
                    b NaN 17\nb{} -Inf -1.5\nc 1 1.7e9\n# EOF\n";
        let lines = read(text).unwrap();
        let times: Vec<i64> = lines.iter().map(|line| line.timestamp_ms).collect();
        assert_eq!(times, [1_700_000_000_123, 17_000, -1_500, 1_700_000_000_000]);
        assert_eq!(lines[0].labels[1], ("x".into(), "y } # \" {".into()));
        assert_eq!(lines[0].bits, 1.5f64.to_bits());
        assert!(f64::from_bits(lines[1].bits).is_nan());
        assert_eq!(f64::from_bits(lines[2].bits), f64::NEG_INFINITY);
    }

    #[test]
    fn what_is_wrong_names_the_line() {
        for (text, what) in [
            ("a 1 5\n", "# EOF"),
            ("a 1\n# EOF\n", "line 1: it has no timestamp"),
            ("\na\n# EOF\n", "line 2: it has no value"),
            ("a 1 x\n# EOF\n", "expected a timestamp"),
            ("a 1 2 3\n# EOF\n", "something follows"),
            ("{x=\"1\"} 1 2\n# EOF\n", "line 1"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(what), "{text:?}: {error}");
        }
    }

    #[test]
    fn lines_are_left_out_by_number() {
        let mut reader = Reader::new("a 1 1\n# x\na 2 2\n# EOF\n".as_bytes());
        reader.skip(2).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().timestamp_ms, 2_000);
        assert_eq!((reader.next().unwrap(), reader.lines), (None, 4));
    }
}
