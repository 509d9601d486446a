//! Plain HTTP to a node or to Prometheus, every status being an answer.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Largest answer taken, in bytes.
const MAX_ANSWER_BYTES: u64 = 1 << 30;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header names (in lower case) and values.
    pub headers: Vec<(String, String)>,
    /// As received.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A client that keeps connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Http {
    agent: ureq::Agent,
    base: String,
}

impl Http {
    /// A client of the server at `address` (`host:port`); each request may take `timeout`.
    pub fn new(address: &str, timeout: Duration) -> Http {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false);
        Http {
            agent: config.build().into(),
            base: format!("http://{address}"),
        }
    }

    /// Gets a path.
    pub fn get(&self, path: &str) -> Result<Answer> {
        let response = self.agent.get(format!("{}{path}", self.base)).call();
        answer(response.with_context(|| format!("GET {}{path}", self.base))?)
    }

    /// Posts a body.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(
            request
                .send(body)
                .with_context(|| format!("POST {}{path}", self.base))?,
        )
    }

    /// Calls Prometheus's API with form parameters and returns `data`.
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters)
            .finish();
        let answer = self.post(
            path,
            &[("content-type", "application/x-www-form-urlencoded")],
            form.as_bytes(),
        )?;
        ensure!(
            answer.status == 200,
            "{path} {parameters:?}: {} {}",
            answer.status,
            answer.text()
        );
        let mut json: Value = serde_json::from_slice(&answer.body)?;
        Ok(json["data"].take())
    }

    /// The value of a figure at `/metrics`: the sum over all series whose line begins with `prefix`.
    pub fn figure(&self, prefix: &str) -> Result<f64> {
        let text = self.get("/metrics")?.text();
        let lines = text.lines().filter(|line| {
            // A whole name, not the beginning of a longer one.
            line.strip_prefix(prefix)
                .is_some_and(|rest| prefix.ends_with('}') || rest.starts_with(['{', ' ']))
        });
        let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        Ok(values.sum())
    }
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Result<Answer> {
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| {
        (
            name.as_str().to_owned(),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        )
    });
    let (status, headers) = (response.status().as_u16(), headers.collect());
    let body = response
        .body_mut()
        .with_config()
        .limit(MAX_ANSWER_BYTES)
        .read_to_vec()?;
    Ok(Answer {
        status,
        headers,
        body,
    })
}

/// Posts a body over a connection of its own in pieces, with a pause before each, and returns the answer
/// however early it comes: a server need not read all of a request that it refuses.
pub fn post_in_pieces(
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    declared_bytes: usize,
    pieces: impl IntoIterator<Item = Vec<u8>>,
    pause: Duration,
    timeout: Duration,
) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {declared_bytes}\r\nconnection: close\r\n"
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    for piece in pieces {
        std::thread::sleep(pause);
        if stream.write_all(&piece).is_err() {
            // It has stopped reading; its answer may wait already.
            break;
        }
    }
    let mut received = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => received.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if received.is_empty() => return Err(error).context("no answer"),
            Err(_) => break,
        }
    }
    parse(&received)
}

fn parse(received: &[u8]) -> Result<Answer> {
    let end = received
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .context("an answer without a head")?;
    let (head, body) = received.split_at(end);
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .context("no status")?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Answer {
        status,
        headers,
        body: body.get(4..).unwrap_or_default().to_vec(),
    })
}
