//! Sending on by remote write 1.0, with the exact bits of every value.

use std::time::Duration;

use anyhow::{Context as _, bail};
use prost::encoding::{WireType, encode_key, encode_varint};
use quorate_client::SeriesData;

/// Samples in one request.
const REQUEST_SAMPLES: usize = 5_000;
/// Tries of a request before the export fails.
const TRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Gathers series into requests. One is under way at a time, so that a series stays in order.
pub(super) struct Sender {
    agent: ureq::Agent,
    url: String,
    body: Vec<u8>,
    samples: usize,
}

impl Sender {
    pub(super) fn new(url: &str) -> anyhow::Result<Sender> {
        if !url.starts_with("http://") {
            bail!("expected a URL that begins with http://, found {url:?}; TLS is not offered yet");
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST_TIMEOUT))
            .http_status_as_error(false);
        Ok(Sender {
            agent: config.build().into(),
            url: url.to_owned(),
            body: Vec::new(),
            samples: 0,
        })
    }

    pub(super) async fn series(&mut self, series: &SeriesData) -> anyhow::Result<()> {
        let samples: Vec<(i64, f64)> = series
            .timestamps_ms
            .iter()
            .copied()
            .zip(series.values.iter().copied())
            .collect();
        for part in samples.chunks(REQUEST_SAMPLES) {
            push_series(&mut self.body, series.labels.iter(), part);
            self.samples += part.len();
            if self.samples >= REQUEST_SAMPLES {
                self.end().await?;
            }
        }
        Ok(())
    }

    /// Sends what is gathered.
    pub(super) async fn end(&mut self) -> anyhow::Result<()> {
        if self.samples == 0 {
            return Ok(());
        }
        self.samples = 0;
        let body = snap::raw::Encoder::new().compress_vec(&std::mem::take(&mut self.body))?;
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let (agent, url, copy) = (self.agent.clone(), self.url.clone(), body.clone());
            let tried = tokio::task::spawn_blocking(move || post(&agent, &url, &copy)).await?;
            let failure = match tried {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) => error,
            };
            if tries == TRIES {
                return Err(failure).with_context(|| format!("{TRIES} tries"));
            }
            tries += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

enum Failure {
    /// Sending it again may help.
    Passing(anyhow::Error),
    Final(anyhow::Error),
}

fn post(agent: &ureq::Agent, url: &str, body: &[u8]) -> Result<(), Failure> {
    let sent = agent
        .post(url)
        .header("content-type", "application/x-protobuf")
        .header("content-encoding", "snappy")
        .header("x-prometheus-remote-write-version", "0.1.0")
        .header("user-agent", concat!("quorate/", env!("CARGO_PKG_VERSION")))
        .send(body);
    let mut response = match sent {
        Ok(response) => response,
        Err(error) => {
            return Err(Failure::Passing(
                anyhow::Error::new(error).context(url.to_owned()),
            ));
        }
    };
    let status = response.status().as_u16();
    if (200..300).contains(&status) {
        return Ok(());
    }
    let text = response.body_mut().read_to_string().unwrap_or_default();
    let error = anyhow::anyhow!("{url} answered {status}: {}", text.trim());
    match status {
        429 | 500.. => Err(Failure::Passing(error)),
        _ => Err(Failure::Final(error)),
    }
}

/// Appends field 1 of a `prometheus.WriteRequest`.
fn push_series<'a>(
    body: &mut Vec<u8>,
    labels: impl Iterator<Item = (&'a str, &'a str)>,
    samples: &[(i64, f64)],
) {
    let mut series = Vec::with_capacity(64 + samples.len() * 18);
    for (name, value) in labels {
        let mut label = Vec::with_capacity(name.len() + value.len() + 8);
        push_bytes(&mut label, 1, name.as_bytes());
        push_bytes(&mut label, 2, value.as_bytes());
        push_bytes(&mut series, 1, &label);
    }
    for (timestamp_ms, value) in samples {
        let mut sample = Vec::with_capacity(20);
        encode_key(1, WireType::SixtyFourBit, &mut sample);
        sample.extend(value.to_bits().to_le_bytes());
        encode_key(2, WireType::Varint, &mut sample);
        encode_varint(*timestamp_ms as u64, &mut sample);
        push_bytes(&mut series, 2, &sample);
    }
    push_bytes(body, 1, &series);
}

fn push_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_by_our_own_decoder_bit_for_bit() {
        let mut body = Vec::new();
        let odd = f64::from_bits(0x7ff0_0000_0000_0002);
        let labels = [("__name__", "up"), ("job", "ü")];
        push_series(
            &mut body,
            labels.into_iter(),
            &[(-5, 1.5), (1_700_000_000_000, odd)],
        );
        let body = snap::raw::Encoder::new().compress_vec(&body).unwrap();
        let mut batch = quorate_ingest::Batch::default();
        let limits = quorate_ingest::DecodeLimits::DEFAULT;
        quorate_ingest::decode_snappy_write_request(&body, &limits, &mut batch).unwrap();
        let series = batch.get(0).unwrap();
        assert_eq!(series.timestamps(), [-5, 1_700_000_000_000]);
        let bits: Vec<u64> = series.values().iter().map(|value| value.to_bits()).collect();
        assert_eq!(bits, [1.5f64.to_bits(), odd.to_bits()]);
    }

    #[test]
    fn only_plain_http_is_spoken() {
        assert!(Sender::new("https://x/api/v1/write").is_err());
        assert!(Sender::new("http://x/api/v1/write").is_ok());
    }
}
