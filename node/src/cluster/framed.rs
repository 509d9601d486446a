//! The frame of the small durable records of this crate: magic, version, checksum, body.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// `magic[4] version[1] crc32c(body)[4 LE] body(postcard)`.
pub(super) fn encode<T: Serialize>(magic: &[u8; 4], version: u8, value: &T) -> Result<Vec<u8>, String> {
    let body = postcard::to_allocvec(value).map_err(|e| e.to_string())?;
    let mut out = Vec::with_capacity(body.len() + 9);
    out.extend_from_slice(magic);
    out.push(version);
    out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// The value, or what does not fit.
pub(super) fn decode<T: DeserializeOwned>(magic: &[u8; 4], version: u8, bytes: &[u8]) -> Result<T, String> {
    let rest = bytes.strip_prefix(magic.as_slice()).ok_or("wrong magic")?;
    let (&found, rest) = rest.split_first().ok_or("too short")?;
    if found != version {
        return Err(format!("version {found}, this binary reads {version}"));
    }
    let (crc, body) = rest.split_first_chunk::<4>().ok_or("too short")?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
        return Err("checksum mismatch".into());
    }
    postcard::from_bytes(body).map_err(|e| e.to_string())
}
