//! The library that is preloaded into nodes (`shim/faults.c`), and the file by which it is told what to fake.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use super::{Clock, DiskFault, Faked, command};

const SOURCE: &str = include_str!("../../shim/faults.c");
/// The file takes a page, of which most is unused.
const BYTES: u64 = 4096;

/// Where things are in the file, in bytes. All are 8 bytes long, in the machine's order.
mod at {
    pub(super) const SEQUENCE: u64 = 0;
    pub(super) const REAL: u64 = 8;
    pub(super) const MONOTONIC: u64 = 32;
    /// From here: kind of sync fault, its delay, kind of write fault, its delay.
    pub(super) const FAULTS: u64 = 56;
    pub(super) const DEVICE: u64 = 88;
    pub(super) const GENERATION: u64 = 96;
    /// Written by the shim: syncs failed and delayed, writes failed and delayed.
    pub(super) const COUNTS: u64 = 136;
}

/// Compiles the shim into `directory`.
pub(super) fn compile(directory: &Path) -> Result<PathBuf> {
    let (source, library) = (directory.join("faults.c"), directory.join("faults.so"));
    std::fs::write(&source, SOURCE)?;
    let (from, to) = (source.to_str(), library.to_str());
    let (from, to) = from.zip(to).context("the directory's path is not text")?;
    command::run(
        "cc",
        &["-O2", "-Wall", "-Werror", "-shared", "-fPIC", from, "-o", to],
    )?;
    Ok(library)
}

/// The file of one node.
#[derive(Debug)]
pub(super) struct Control {
    file: File,
    sequence: u64,
    generation: u64,
    monotonic: Shown,
}

/// A clock that shows `to` when the true one shows `from`, and runs `rate` times as fast from there.
#[derive(Debug, Clone, Copy)]
struct Shown {
    from_ns: i64,
    to_ns: i64,
    rate: f64,
}

impl Shown {
    const TRUE: Shown = Shown {
        from_ns: 0,
        to_ns: 0,
        rate: 1.0,
    };

    fn at(self, true_ns: i64) -> i64 {
        self.to_ns + ((true_ns - self.from_ns) as f64 * self.rate) as i64
    }

    fn bytes(self) -> Vec<u8> {
        let fields = [
            self.from_ns.to_ne_bytes(),
            self.to_ns.to_ne_bytes(),
            self.rate.to_ne_bytes(),
        ];
        fields.concat()
    }
}

impl Control {
    /// A file that fakes nothing.
    pub(super) fn create(path: &Path) -> Result<Control> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        file.set_len(BYTES)?;
        let mut control = Control {
            file,
            sequence: 0,
            generation: 0,
            monotonic: Shown::TRUE,
        };
        control.set_clocks(Shown::TRUE, Shown::TRUE)?;
        Ok(control)
    }

    /// Says which disk's files are meant.
    pub(super) fn set_device(&mut self, device: u64) -> Result<()> {
        self.write(at::DEVICE, &device.to_ne_bytes())
    }

    /// Sets the wall clock, and has the monotonic one run on at another rate or its own.
    pub(super) fn set_clock(&mut self, clock: Clock) -> Result<()> {
        ensure!(
            clock.rate.is_finite() && clock.rate > 0.0,
            "a clock can't run {} times as fast",
            clock.rate
        );
        let real_ns = now_ns(ClockId::Realtime);
        let offset_ns = clock
            .offset_ms
            .checked_mul(1_000_000)
            .context("an offset beyond 292 years")?;
        let real = if clock.rate == 1.0 && offset_ns == 0 {
            Shown::TRUE
        } else {
            Shown {
                from_ns: real_ns,
                to_ns: real_ns + offset_ns,
                rate: clock.rate,
            }
        };
        // What the monotonic clock has gained it keeps: it never goes back, nor jumps.
        let rate = if clock.monotonic_too { clock.rate } else { 1.0 };
        if rate != self.monotonic.rate {
            let from_ns = now_ns(ClockId::Monotonic);
            let to_ns = self.monotonic.at(from_ns);
            self.monotonic = Shown { from_ns, to_ns, rate };
        }
        self.set_clocks(real, self.monotonic)
    }

    /// Sets what happens to syncs and writes.
    pub(super) fn set_disk(&mut self, fault: DiskFault) -> Result<()> {
        let (sync, sync_ms, write, write_ms): (u64, u64, u64, u64) = match fault {
            DiskFault::None => (0, 0, 0, 0),
            DiskFault::FsyncEio => (1, 0, 0, 0),
            DiskFault::FsyncEioOnce => (2, 0, 0, 0),
            DiskFault::Hang => (3, 0, 0, 0),
            DiskFault::Slow { ms } => (0, ms, 0, 0),
            DiskFault::WriteNoSpace => (0, 0, 1, 0),
            DiskFault::WriteEio => (0, 0, 2, 0),
            DiskFault::SlowWrites { ms } => (0, 0, 0, ms),
        };
        self.generation += 1;
        self.write(at::GENERATION, &self.generation.to_ne_bytes())?;
        self.write(
            at::FAULTS,
            &[sync, sync_ms, write, write_ms].map(u64::to_ne_bytes).concat(),
        )
    }

    /// What the shim has done to all the node's processes since the bed began.
    pub(super) fn faked(&self) -> Result<Faked> {
        let mut counts = [0; 4];
        for (count, at) in counts.iter_mut().zip((at::COUNTS..).step_by(8)) {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, at)?;
            *count = u64::from_ne_bytes(bytes);
        }
        let [syncs_failed, syncs_delayed, writes_failed, writes_delayed] = counts;
        Ok(Faked {
            syncs_failed,
            syncs_delayed,
            writes_failed,
            writes_delayed,
        })
    }

    /// A reader that sees the sequence odd, or changed, reads again.
    fn set_clocks(&mut self, real: Shown, monotonic: Shown) -> Result<()> {
        self.next_sequence()?;
        self.write(at::REAL, &real.bytes())?;
        self.write(at::MONOTONIC, &monotonic.bytes())?;
        self.next_sequence()
    }

    fn next_sequence(&mut self) -> Result<()> {
        self.sequence += 1;
        self.write(at::SEQUENCE, &self.sequence.to_ne_bytes())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).context("can't tell the shim")
    }
}

fn now_ns(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
