//! Blocks of a Prometheus data directory: index (version 2), chunk segments, tombstones.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::bytes::{Cursor, check};
use super::xor;

const INDEX_MAGIC: u32 = 0xBAAA_D700;
const CHUNKS_MAGIC: u32 = 0x85BD_40DD;
const TOMBSTONES_MAGIC: u32 = 0x0130_BA30;
/// The table of contents at the end of the index: six offsets and a checksum.
const TOC_BYTES: u64 = 6 * 8 + 4;
/// Series entries begin at multiples of it, and are referred to by the multiple.
const SERIES_ALIGNMENT: u64 = 16;
/// Most bytes of one series entry or chunk: far more than there can be.
const MAX_ENTRY_BYTES: u64 = 64 << 20;
const ENCODING_XOR: u8 = 1;

/// What `meta.json` says of a block.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockMeta {
    pub(super) ulid: String,
    pub(super) min_time: i64,
    pub(super) max_time: i64,
    #[serde(default)]
    pub(super) stats: BlockStats,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BlockStats {
    pub(super) num_samples: u64,
    pub(super) num_series: u64,
}

/// A series of a block with its samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct BlockSeries {
    pub(super) labels: Vec<(String, String)>,
    /// In time order: milliseconds and exact bits.
    pub(super) samples: Vec<(i64, u64)>,
    /// Chunks that were left out because they hold native histograms.
    pub(super) histogram_chunks: u64,
}

/// The blocks below a data directory, in order of time. A directory that is a block itself counts as well.
pub(super) fn find(directory: &Path) -> anyhow::Result<Vec<(PathBuf, BlockMeta)>> {
    let read_meta = |path: PathBuf| -> anyhow::Result<_> {
        let file = path.join("meta.json");
        let text = std::fs::read(&file).with_context(|| format!("can't read {}", file.display()))?;
        let meta: BlockMeta =
            serde_json::from_slice(&text).with_context(|| format!("{} is no block's", file.display()))?;
        Ok((path, meta))
    };
    if directory.join("meta.json").is_file() {
        return Ok(vec![read_meta(directory.to_owned())?]);
    }
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("can't read {}", directory.display()))?;
    let mut blocks = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // Anything else is the log, the head or a leftover of an interrupted compaction.
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_ulid = name.len() == 26 && name.bytes().all(|b| b.is_ascii_alphanumeric());
        if is_ulid && path.join("meta.json").is_file() {
            blocks.push(read_meta(path)?);
        }
    }
    blocks.sort_by_key(|(_, meta)| (meta.min_time, meta.max_time));
    Ok(blocks)
}

/// Reads the series of one block, in the order of its index.
pub(super) struct Block {
    symbols: Symbols,
    series: BufReader<File>,
    at: u64,
    end: u64,
    segments: Vec<File>,
    deleted: HashMap<u64, Vec<(i64, i64)>>,
    entry: Vec<u8>,
    chunk: Vec<u8>,
}

impl Block {
    pub(super) fn open(directory: &Path) -> anyhow::Result<Block> {
        let index = directory.join("index");
        let opened = File::open(&index)
            .map_err(anyhow::Error::from)
            .and_then(open_index);
        let (file, symbols, at, end) = opened.with_context(|| format!("index {}", index.display()))?;
        let mut series = BufReader::with_capacity(1 << 20, file);
        series.seek(SeekFrom::Start(at))?;
        Ok(Block {
            symbols,
            series,
            at,
            end,
            segments: open_segments(&directory.join("chunks"))?,
            deleted: read_tombstones(&directory.join("tombstones"))?,
            entry: Vec::new(),
            chunk: Vec::new(),
        })
    }

    /// Replaces `out` by the next series; `false` at the end.
    pub(super) fn next(&mut self, out: &mut BlockSeries) -> anyhow::Result<bool> {
        let place = self.at;
        self.next_entry(out)
            .with_context(|| format!("the series at offset {place} of the index"))
    }

    fn next_entry(&mut self, out: &mut BlockSeries) -> anyhow::Result<bool> {
        let padding = self.at.next_multiple_of(SERIES_ALIGNMENT) - self.at;
        if self.at + padding >= self.end {
            return Ok(false);
        }
        self.series.seek_relative(padding as i64)?;
        self.at += padding;
        let reference = self.at / SERIES_ALIGNMENT;
        let length = self.uvarint()?;
        ensure!(length <= MAX_ENTRY_BYTES, "it claims to have {length} bytes");
        self.entry.resize(length as usize + 4, 0);
        self.series.read_exact(&mut self.entry)?;
        self.at += length + 4;
        let (body, crc) = self.entry.split_last_chunk::<4>().context("it is cut short")?;
        check(body, u32::from_be_bytes(*crc))?;
        let mut cursor = Cursor(body);
        out.labels.clear();
        out.samples.clear();
        out.histogram_chunks = 0;
        for _ in 0..cursor.uvarint()? {
            let (name, value) = (cursor.uvarint()?, cursor.uvarint()?);
            let label = (self.symbols.get(name)?, self.symbols.get(value)?);
            out.labels.push((label.0.to_owned(), label.1.to_owned()));
        }
        let mut chunk_ref = 0u64;
        let mut previous_ms = 0i64;
        for number in 0..cursor.uvarint()? {
            // The first by itself, the others by their distance from the one before.
            let (min_ms, length_ms) = match number {
                0 => (cursor.varint()?, cursor.uvarint()?),
                _ => (
                    previous_ms.wrapping_add(cursor.uvarint()? as i64),
                    cursor.uvarint()?,
                ),
            };
            previous_ms = min_ms.wrapping_add(length_ms as i64);
            chunk_ref = match number {
                0 => cursor.uvarint()?,
                _ => chunk_ref.wrapping_add(cursor.varint()? as u64),
            };
            read_chunk(&self.segments, chunk_ref, &mut self.chunk, out)
                .with_context(|| format!("chunk {chunk_ref:#x}"))?;
        }
        if let Some(windows) = self.deleted.get(&reference) {
            let kept = |t: i64| !windows.iter().any(|(from, to)| (*from..=*to).contains(&t));
            out.samples.retain(|(t, _)| kept(*t));
        }
        Ok(true)
    }

    fn uvarint(&mut self) -> anyhow::Result<u64> {
        let mut bytes = Vec::with_capacity(10);
        loop {
            let mut byte = [0];
            self.series.read_exact(&mut byte)?;
            self.at += 1;
            bytes.push(byte[0]);
            if byte[0] & 0x80 == 0 {
                return Cursor(&bytes).uvarint();
            }
            ensure!(bytes.len() < 10, "a number is too long");
        }
    }
}

fn open_index(file: File) -> anyhow::Result<(File, Symbols, u64, u64)> {
    let length = file.metadata()?.len();
    ensure!(length > TOC_BYTES + 5, "it is too short");
    let mut head = [0; 5];
    file.read_exact_at(&mut head, 0)?;
    let mut cursor = Cursor(&head);
    ensure!(cursor.u32()? == INDEX_MAGIC, "it is no index");
    let version = cursor.u8()?;
    ensure!(
        version == 2,
        "it has version {version}; only version 2 is read, which Prometheus has written since 2.1"
    );
    let mut toc = [0; TOC_BYTES as usize];
    file.read_exact_at(&mut toc, length - TOC_BYTES)?;
    let (body, crc) = toc.split_last_chunk::<4>().context("it is too short")?;
    check(body, u32::from_be_bytes(*crc)).context("the table of contents")?;
    let mut cursor = Cursor(body);
    let mut offsets = Vec::with_capacity(6);
    for _ in 0..6 {
        offsets.push(cursor.u64()?);
    }
    let (symbols, series) = (offsets[0], offsets[1]);
    // What follows the series depends on the version of Prometheus.
    let end = offsets.iter().copied().filter(|offset| *offset > series).min();
    let end = end.context("it has nothing behind its series")?;
    ensure!(end <= length, "its table of contents points behind its end");
    let symbols = Symbols::read(&file, symbols, length).context("the symbol table")?;
    Ok((file, symbols, series, end))
}

/// The strings that labels are made of.
struct Symbols {
    bytes: Vec<u8>,
    /// Where each begins and ends.
    places: Vec<(u32, u32)>,
}

impl Symbols {
    fn read(file: &File, offset: u64, most: u64) -> anyhow::Result<Symbols> {
        let mut head = [0; 4];
        file.read_exact_at(&mut head, offset)?;
        let length = u64::from(u32::from_be_bytes(head));
        ensure!(length + 8 <= most, "it claims to have {length} bytes");
        let mut bytes = vec![0; length as usize + 4];
        file.read_exact_at(&mut bytes, offset + 4)?;
        let (body, crc) = bytes.split_last_chunk::<4>().context("it is cut short")?;
        check(body, u32::from_be_bytes(*crc))?;
        let mut cursor = Cursor(body);
        let count = cursor.u32()?;
        let mut places = Vec::new();
        for _ in 0..count {
            let length = usize::try_from(cursor.uvarint()?)?;
            let start = body.len() - cursor.0.len();
            std::str::from_utf8(cursor.take(length)?).context("a string is not UTF-8")?;
            places.push((u32::try_from(start)?, u32::try_from(start + length)?));
        }
        Ok(Symbols { bytes, places })
    }

    fn get(&self, number: u64) -> anyhow::Result<&str> {
        let place = usize::try_from(number).ok().and_then(|at| self.places.get(at));
        let (from, to) = place.with_context(|| format!("there is no symbol {number}"))?;
        let bytes = self.bytes.get(*from as usize..*to as usize).unwrap_or_default();
        Ok(std::str::from_utf8(bytes)?)
    }
}

fn open_segments(directory: &Path) -> anyhow::Result<Vec<File>> {
    let mut segments = Vec::new();
    loop {
        let path = directory.join(format!("{:06}", segments.len() + 1));
        if !path.is_file() {
            return Ok(segments);
        }
        let segment = File::open(&path).with_context(|| format!("can't open {}", path.display()))?;
        let mut head = [0; 8];
        let readable = segment.read_exact_at(&mut head, 0);
        let magic = head.first_chunk::<4>().copied().map(u32::from_be_bytes);
        ensure!(
            readable.is_ok() && magic == Some(CHUNKS_MAGIC) && head[4] == 1,
            "{} is no segment of chunks",
            path.display()
        );
        segments.push(segment);
    }
}

fn read_chunk(
    segments: &[File],
    reference: u64,
    buffer: &mut Vec<u8>,
    out: &mut BlockSeries,
) -> anyhow::Result<()> {
    let (segment, offset) = (reference >> 32, reference & 0xffff_ffff);
    let file = usize::try_from(segment).ok().and_then(|at| segments.get(at));
    let file = file.with_context(|| format!("there is no segment {}", segment + 1))?;
    buffer.resize(4_096, 0);
    let mut read = read_up_to(file, buffer, offset)?;
    let mut cursor = Cursor(buffer.get(..read).unwrap_or_default());
    let length = cursor.uvarint()?;
    ensure!(length <= MAX_ENTRY_BYTES, "it claims to have {length} bytes");
    let head = read - cursor.0.len();
    let whole = head + 1 + length as usize + 4;
    if whole > read {
        buffer.resize(whole, 0);
        read = read_up_to(file, buffer, offset)?;
    }
    let bytes = buffer.get(head..whole.min(read)).unwrap_or_default();
    ensure!(bytes.len() == whole - head, "it is cut short");
    let (body, crc) = bytes.split_last_chunk::<4>().context("it is cut short")?;
    check(body, u32::from_be_bytes(*crc))?;
    match body.split_first() {
        Some((&ENCODING_XOR, data)) => xor::decode(data, &mut out.samples),
        Some((2 | 3, _)) => {
            out.histogram_chunks += 1;
            Ok(())
        }
        Some((encoding, _)) => bail!("it has the unknown encoding {encoding}"),
        None => bail!("it is empty"),
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> anyhow::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// The windows that were deleted of each series.
fn read_tombstones(path: &Path) -> anyhow::Result<HashMap<u64, Vec<(i64, i64)>>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    parse_tombstones(&bytes).with_context(|| format!("tombstones {}", path.display()))
}

fn parse_tombstones(bytes: &[u8]) -> anyhow::Result<HashMap<u64, Vec<(i64, i64)>>> {
    let mut cursor = Cursor(bytes);
    ensure!(cursor.u32()? == TOMBSTONES_MAGIC, "it begins with something else");
    let version = cursor.u8()?;
    ensure!(version == 1, "it has the unknown version {version}");
    let (body, crc) = cursor.0.split_last_chunk::<4>().context("it is cut short")?;
    check(body, u32::from_be_bytes(*crc))?;
    let mut cursor = Cursor(body);
    let mut deleted: HashMap<u64, Vec<(i64, i64)>> = HashMap::new();
    while !cursor.0.is_empty() {
        let series = cursor.uvarint()?;
        let window = (cursor.varint()?, cursor.varint()?);
        deleted.entry(series).or_default().push(window);
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tombstones_are_read_and_damage_is_seen() {
        // Series 9 from -1 to 300, series 2 from 5 to 5.
        let body = [9, 1, 0xd8, 0x04, 2, 10, 10];
        let mut bytes = TOMBSTONES_MAGIC.to_be_bytes().to_vec();
        bytes.push(1);
        bytes.extend(body);
        bytes.extend(crc32c::crc32c(&body).to_be_bytes());
        let found = parse_tombstones(&bytes).unwrap();
        assert_eq!(found, HashMap::from([(9, vec![(-1, 300)]), (2, vec![(5, 5)])]));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(parse_tombstones(&damaged).is_err(), "{at}");
            assert!(parse_tombstones(&bytes[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_directory_that_holds_no_index_says_so() {
        let directory = tempfile::tempdir().unwrap();
        assert!(find(directory.path()).unwrap().is_empty());
        let error = Block::open(directory.path()).err().unwrap();
        assert!(format!("{error:#}").contains("index"), "{error:#}");
        std::fs::write(directory.path().join("index"), [0; 100]).unwrap();
        let error = Block::open(directory.path()).err().unwrap();
        assert!(format!("{error:#}").contains("it is no index"), "{error:#}");
    }
}
