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
    /// Written by the shim: syncs failed and delayed, writes failed and delayed, syncs skipped.
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
            DiskFault::FsyncLies => (4, 0, 0, 0),
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
        let mut counts = [0; 5];
        for (count, at) in counts.iter_mut().zip((at::COUNTS..).step_by(8)) {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, at)?;
            *count = u64::from_ne_bytes(bytes);
        }
        let [
            syncs_failed,
            syncs_delayed,
            writes_failed,
            writes_delayed,
            syncs_skipped,
        ] = counts;
        Ok(Faked {
            syncs_failed,
            syncs_delayed,
            writes_failed,
            writes_delayed,
            syncs_skipped,
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

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::{Condvar, Mutex};
    use std::time::{Duration, Instant, SystemTime};

    use super::*;

    const CHILD: &str = "bed::shim::tests::what_a_child_sees";

    /// Run as a child with the shim: prints what its clocks say, and for how long it waits, over a true second.
    #[test]
    #[ignore = "a child of the other tests"]
    fn what_a_child_sees() {
        // The kernel's own word, past the shim.
        let uptime_s = || -> f64 {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            text.split_once(' ').unwrap().0.parse().unwrap()
        };
        let since_1970 = || {
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs_f64()
        };
        let (real_s, monotonic, uptime) = (since_1970(), Instant::now(), uptime_s());
        let (lock, condition) = (Mutex::new(()), Condvar::new());
        let mut waits = 0;
        // Half a second of the shown clock at a time.
        while uptime_s() - uptime < 0.99 {
            let asleep =
                condition.wait_timeout_while(lock.lock().unwrap(), Duration::from_millis(500), |()| true);
            drop(asleep.unwrap());
            waits += 1;
        }
        let elapsed = (
            since_1970() - real_s,
            monotonic.elapsed().as_secs_f64(),
            uptime_s() - uptime,
        );
        println!(
            "child: {real_s} {} {} {} {waits}",
            elapsed.0, elapsed.1, elapsed.2
        );
    }

    /// Start, elapsed real, elapsed monotonic, elapsed truly, all in s; waits for 500 ms.
    fn child(clock: Clock) -> [f64; 5] {
        let directory = tempfile::tempdir().unwrap();
        let library = compile(directory.path()).unwrap();
        let path = directory.path().join("control");
        Control::create(&path).unwrap().set_clock(clock).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([CHILD, "--exact", "--ignored", "--nocapture"]);
        command
            .env("LD_PRELOAD", library)
            .env("QUORATE_SHIM_CONTROL", path);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| Some(line.split_once("child: ")?.1));
        let numbers = line.unwrap_or_else(|| panic!("{text}")).split(' ');
        let numbers: Vec<f64> = numbers.map(|number| number.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    }

    fn now_s() -> f64 {
        now_ns(ClockId::Realtime) as f64 / 1e9
    }

    #[test]
    fn without_faults_clocks_are_true() {
        let [start_s, real_s, monotonic_s, true_s, _] = child(Clock::TRUE);
        assert!((start_s - now_s()).abs() < 60.0);
        assert!((real_s - true_s).abs() < 0.1 && (monotonic_s - true_s).abs() < 0.1);
    }

    #[test]
    fn the_wall_clock_jumps_alone() {
        let hour = Clock {
            offset_ms: -3_600_000,
            ..Clock::TRUE
        };
        let [start_s, real_s, monotonic_s, true_s, _] = child(hour);
        assert!((start_s + 3_600.0 - now_s()).abs() < 60.0, "{start_s}");
        assert!((real_s - true_s).abs() < 0.1 && (monotonic_s - true_s).abs() < 0.1);
    }

    #[test]
    fn clocks_drift_and_waits_with_them() {
        let twice = Clock {
            offset_ms: 0,
            rate: 2.0,
            monotonic_too: true,
        };
        let [_, real_s, monotonic_s, true_s, waits] = child(twice);
        assert!((real_s - 2.0 * true_s).abs() < 0.2, "{real_s} in {true_s}");
        assert!(
            (monotonic_s - 2.0 * true_s).abs() < 0.2,
            "{monotonic_s} in {true_s}"
        );
        assert!((waits - 4.0).abs() <= 1.0, "{waits} waits in {true_s}");
    }

    #[test]
    fn a_monotonic_clock_keeps_what_it_gained() {
        let fast = Shown {
            from_ns: 1_000,
            to_ns: 1_000,
            rate: 1.5,
        };
        let healed = Shown {
            from_ns: 3_000,
            to_ns: fast.at(3_000),
            rate: 1.0,
        };
        assert_eq!((healed.at(3_000), healed.at(4_000)), (4_000, 5_000));
    }
}
