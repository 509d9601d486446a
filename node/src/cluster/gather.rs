//! Gathers what many streams have ready at the same moment into one message.
//!
//! A message costs both ends tens of microseconds, whatever is in it: tasks woken, HTTP/2 frames, system
//! calls. The groups of a node tend to have something to say at the same time.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{Stream, StreamExt as _};
use quorate_proto::internal::{AppendFrame, AppendFrames};
use tokio::sync::mpsc;

/// A message is sent once it holds so many bytes, whatever else is ready.
const MESSAGE_BYTES: usize = 1 << 20;

/// The frames of one stream.
pub(crate) type Frames = BoxStream<'static, AppendFrame>;

/// A stream of messages, each of what is ready in any of many streams, which may join at any time. Ends when
/// none is left and none can join.
pub(crate) struct Gather {
    joining: mpsc::UnboundedReceiver<Frames>,
    closed: bool,
    streams: SelectAll<Frames>,
    ready: Vec<AppendFrame>,
    bytes: usize,
    /// Other tasks had a turn since the first of `ready` came.
    waited: bool,
}

impl Gather {
    /// Without streams; they join through the sender.
    pub(crate) fn new() -> (mpsc::UnboundedSender<Frames>, Gather) {
        let (join, joining) = mpsc::unbounded_channel();
        let gather = Gather {
            joining,
            closed: false,
            streams: SelectAll::new(),
            ready: Vec::new(),
            bytes: 0,
            waited: false,
        };
        (join, gather)
    }

    fn take_ready(&mut self, cx: &mut Context<'_>) {
        while !self.closed
            && let Poll::Ready(joined) = self.joining.poll_recv(cx)
        {
            match joined {
                Some(stream) => self.streams.push(stream),
                None => self.closed = true,
            }
        }
        while self.bytes < MESSAGE_BYTES
            && let Poll::Ready(Some(frame)) = self.streams.poll_next_unpin(cx)
        {
            self.bytes += frame.payload.len();
            self.ready.push(frame);
        }
    }
}

impl Stream for Gather {
    type Item = AppendFrames;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AppendFrames>> {
        self.take_ready(cx);
        if self.ready.is_empty() {
            return match self.closed && self.streams.is_empty() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            };
        }
        if !self.waited && self.bytes < MESSAGE_BYTES {
            // The groups that were woken along with the first have their turn now.
            self.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited = false;
        self.bytes = 0;
        let frames = std::mem::take(&mut self.ready);
        Poll::Ready(Some(AppendFrames { frames }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u64) -> AppendFrame {
        AppendFrame {
            stream,
            ..AppendFrame::default()
        }
    }

    #[tokio::test]
    async fn what_is_ready_together_travels_together_and_in_order() {
        let (join, mut gather) = Gather::new();
        let (late, frames) = mpsc::unbounded_channel();
        join.send(tokio_stream::iter([frame(1), frame(1)]).boxed())
            .unwrap();
        let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(frames);
        join.send(frames.boxed()).unwrap();
        late.send(frame(2)).unwrap();
        let first = gather.next().await.unwrap();
        assert_eq!(first.frames.len(), 3);
        late.send(frame(3)).unwrap();
        assert_eq!(gather.next().await.unwrap().frames, [frame(3)]);
        drop((late, join));
        assert_eq!(gather.next().await, None);
    }
}
