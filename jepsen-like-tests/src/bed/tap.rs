//! Network devices whose other end is a file.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Result, ensure};

/// The kernel's `struct ifreq`, as far as it is used here.
#[repr(C)]
#[derive(Debug)]
struct Request {
    name: [u8; 16],
    flags: i16,
    unused: [u8; 22],
}

const IFF_TAP: i16 = 0x0002;
/// Frames alone, with nothing before them.
const IFF_NO_PI: i16 = 0x1000;

/// Makes a device that carries Ethernet frames and is gone when the file is closed. Reads don't block.
pub(super) fn open(device: &str) -> Result<File> {
    let mut request = Request {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI,
        unused: [0; 22],
    };
    ensure!(device.len() < request.name.len(), "{device} is too long a name");
    for (to, from) in request.name.iter_mut().zip(device.bytes()) {
        *to = from;
    }
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits())?;
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(nonblocking)
        .open("/dev/net/tun")?;
    set(&file, request)?;
    Ok(file)
}

/// `TUNSETIFF`.
#[allow(unsafe_code)] // there is no safe call for it
fn set(file: &File, request: Request) -> rustix::io::Result<()> {
    const TUNSETIFF: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
    // SAFETY: the kernel reads and writes a struct ifreq, whose size `Request` has, through the pointer; on a
    // file of /dev/net/tun this opcode means nothing else. What it writes is dropped.
    unsafe {
        let setter = rustix::ioctl::Setter::<TUNSETIFF, Request>::new(request);
        rustix::ioctl::ioctl(file, setter)
    }
}
