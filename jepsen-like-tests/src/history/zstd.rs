//! zstd as a stream. Over `zstd-safe` directly: the crate `zstd` would switch on a feature of `zstd-sys`, which
//! RocksDB links too, and RocksDB would be compiled anew.

use std::fmt;
use std::io::{self, BufRead, Read, Write};

use zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer, ResetDirective};

/// Cheap, and lines of a history are much alike.
const LEVEL: i32 = 3;
/// Room for compressed bytes.
const BUFFER: usize = 1 << 17;

/// Compresses what is written to it. What [`Write::flush`] returned for can be read back, whatever happens next.
pub(super) struct Encoder<W: Write> {
    out: W,
    context: CCtx<'static>,
    buffer: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    /// Compresses into `out`.
    pub(super) fn new(out: W) -> io::Result<Encoder<W>> {
        let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        context
            .set_parameter(CParameter::CompressionLevel(LEVEL))
            .map_err(failed)?;
        context
            .set_parameter(CParameter::ChecksumFlag(true))
            .map_err(failed)?;
        Ok(Encoder {
            out,
            context,
            buffer: vec![0; BUFFER],
        })
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.drain(|context, out| context.end_stream(out))?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Writes out what `step` yields until nothing is left.
    fn drain(
        &mut self,
        mut step: impl FnMut(&mut CCtx<'static>, &mut OutBuffer<'_, [u8]>) -> zstd_safe::SafeResult,
    ) -> io::Result<()> {
        loop {
            let mut out = OutBuffer::around(self.buffer.as_mut_slice());
            let left = step(&mut self.context, &mut out).map_err(failed)?;
            let written = out.pos();
            self.out
                .write_all(self.buffer.get(..written).unwrap_or_default())?;
            if left == 0 {
                return Ok(());
            }
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut input = InBuffer::around(bytes);
        while input.pos() < bytes.len() {
            let mut out = OutBuffer::around(self.buffer.as_mut_slice());
            self.context
                .compress_stream(&mut out, &mut input)
                .map_err(failed)?;
            let written = out.pos();
            self.out
                .write_all(self.buffer.get(..written).unwrap_or_default())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.drain(|context, out| context.flush_stream(out))?;
        self.out.flush()
    }
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

/// Decompresses what it reads. A stream that was cut short gives what it has, and then an
/// [`io::ErrorKind::UnexpectedEof`].
pub(super) struct Decoder<R> {
    input: R,
    context: DCtx<'static>,
    /// Whether the last frame is complete.
    complete: bool,
}

impl<R: BufRead> Decoder<R> {
    /// Decompresses `input`.
    pub(super) fn new(input: R) -> io::Result<Decoder<R>> {
        let mut context = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        context.reset(ResetDirective::SessionOnly).map_err(failed)?;
        Ok(Decoder {
            input,
            context,
            complete: true,
        })
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let bytes = self.input.fill_buf()?;
            let ended = bytes.is_empty();
            if ended && self.complete {
                return Ok(0);
            }
            let mut input = InBuffer::around(bytes);
            let mut out = OutBuffer::around(into);
            let left = self
                .context
                .decompress_stream(&mut out, &mut input)
                .map_err(failed)?;
            let (taken, given) = (input.pos(), out.pos());
            self.input.consume(taken);
            self.complete = left == 0;
            if given > 0 {
                return Ok(given);
            }
            if ended {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the stream was cut short",
                ));
            }
        }
    }
}

impl<R> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

fn failed(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        let lines = (0..50_000_u32).map(|n| format!("line {n} {}\n", n.wrapping_mul(2_654_435_761)));
        lines.collect::<String>().into_bytes()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut encoder = Encoder::new(Vec::new()).unwrap();
        let text = text();
        for piece in text.chunks(7_777) {
            encoder.write_all(piece).unwrap();
        }
        let bytes = encoder.finish().unwrap();
        assert!(bytes.len() < text.len() / 2);
        let mut read = Vec::new();
        Decoder::new(bytes.as_slice())
            .unwrap()
            .read_to_end(&mut read)
            .unwrap();
        assert!(read == text);
    }

    #[test]
    fn what_was_flushed_survives_a_cut() {
        let mut encoder = Encoder::new(Vec::new()).unwrap();
        let text = text();
        let (safe, lost) = text.split_at(text.len() / 2);
        encoder.write_all(safe).unwrap();
        encoder.flush().unwrap();
        let kept = encoder.out.len();
        encoder.write_all(lost).unwrap();
        let bytes = encoder.out.get(..kept).unwrap().to_vec();
        let mut read = Vec::new();
        let error = Decoder::new(bytes.as_slice())
            .unwrap()
            .read_to_end(&mut read)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(read == safe);
    }

    #[test]
    fn a_damaged_byte_is_seen() {
        let mut encoder = Encoder::new(Vec::new()).unwrap();
        encoder.write_all(&text()).unwrap();
        let mut bytes = encoder.finish().unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        assert!(
            Decoder::new(bytes.as_slice())
                .unwrap()
                .read_to_end(&mut Vec::new())
                .is_err()
        );
    }
}
