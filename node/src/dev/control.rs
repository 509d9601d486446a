//! What `quorate dev restart` and the running supervisor say to each other: one line of JSON each way.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::directory::{NodeEntry, socket};

const MAX_LINE_BYTES: u64 = 64 << 10;

/// A caller has this long to send its line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A restart of a running node waits for its orderly end.
const REPLY_TIMEOUT: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    Restart(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Started(NodeEntry),
    Failed(String),
}

/// A request with the way back to its caller.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: Request,
    answer: OwnedWriteHalf,
}

impl Call {
    pub(super) async fn answer(mut self, reply: &Reply) -> anyhow::Result<()> {
        let line = serde_json::to_string(reply)? + "\n";
        Ok(self.answer.write_all(line.as_bytes()).await?)
    }
}

/// Answers on the directory's socket: each request comes out of the returned channel. Needs the directory's lock.
pub(super) fn listen(dir: &Path) -> anyhow::Result<mpsc::Receiver<Call>> {
    let path = socket(dir);
    // Left by a supervisor that was killed: we hold the lock, so nobody listens there.
    let _gone = std::fs::remove_file(&path);
    let listener =
        UnixListener::bind(&path).with_context(|| format!("can't listen at {}", path.display()))?;
    let (calls, received) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let read = tokio::time::timeout(REQUEST_TIMEOUT, receive(stream)).await;
            // A connection without a request is somebody looking whether we run.
            if let Ok(Ok(call)) = read
                && calls.send(call).await.is_err()
            {
                return;
            }
        }
    });
    Ok(received)
}

async fn receive(stream: UnixStream) -> anyhow::Result<Call> {
    let (read, answer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_LINE_BYTES))
        .read_line(&mut line)
        .await?;
    Ok(Call {
        request: serde_json::from_str(&line)?,
        answer,
    })
}

/// Asks the supervisor of the cluster in `dir`.
pub(super) async fn ask(dir: &Path, request: &Request) -> anyhow::Result<NodeEntry> {
    let stream = UnixStream::connect(socket(dir)).await;
    let stream = stream.with_context(|| format!("no `quorate dev` runs in {}", dir.display()))?;
    let (read, mut write) = stream.into_split();
    write
        .write_all((serde_json::to_string(request)? + "\n").as_bytes())
        .await?;
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(MAX_LINE_BYTES));
    let read = tokio::time::timeout(REPLY_TIMEOUT, reader.read_line(&mut line)).await;
    read.context("`quorate dev` doesn't answer")??;
    match serde_json::from_str(&line).context("`quorate dev` ended before it answered")? {
        Reply::Started(node) => Ok(node),
        Reply::Failed(why) => bail!(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_reaches_the_supervisor_and_its_answer_the_caller() {
        let temp = tempfile::tempdir().unwrap();
        assert!(
            ask(temp.path(), &Request::Restart(1)).await.is_err(),
            "nobody listens yet"
        );
        let mut calls = listen(temp.path()).unwrap();
        drop(std::os::unix::net::UnixStream::connect(socket(temp.path())).unwrap());
        let node = NodeEntry {
            id: 2,
            pid: 9,
            http: "h:1".into(),
            grpc: "g:1".into(),
            dir: "/d".into(),
        };
        let supervisor = async {
            for reply in [Reply::Started(node.clone()), Reply::Failed("no such node".into())] {
                let call = calls.recv().await.unwrap();
                assert_eq!(call.request, Request::Restart(2));
                call.answer(&reply).await.unwrap();
            }
        };
        let caller = async {
            let first = ask(temp.path(), &Request::Restart(2)).await.unwrap();
            let second = ask(temp.path(), &Request::Restart(2)).await.unwrap_err();
            (first, second.to_string())
        };
        let ((), (first, second)) = tokio::join!(supervisor, caller);
        assert_eq!((first, second.as_str()), (node.clone(), "no such node"));
    }
}
