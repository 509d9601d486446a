//! A node's disk: an ext4 file system on a loop device, which can lose power, fill up, and be made anew.

use std::ffi::CStr;
use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FallocateFlags, OFlags, fallocate, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{Medium, command};
use crate::wait;

/// Without `noauto_da_alloc`, ext4 forgives programs that rename a file without having synced it.
const OPTIONS: &CStr = c"noauto_da_alloc";
/// A process that was just killed may hold its files for a moment.
const UNMOUNT: Duration = Duration::from_secs(20);
const FILLER: &str = "filler";
/// Major number of loop devices.
const LOOP_MAJOR: u32 = 7;
/// The smallest piece of filler.
const BLOCK: u64 = 4096;

/// The file behind a loop device.
#[derive(Debug)]
pub(super) struct Image;

impl Image {
    pub(super) fn path_in(directory: &Path, node: u64) -> PathBuf {
        directory.join(format!("node-{node}.img"))
    }
}

/// A mounted disk.
#[derive(Debug)]
pub(super) struct Disk {
    device: PathBuf,
    mountpoint: PathBuf,
    options: &'static CStr,
}

impl Disk {
    /// Makes an image, attaches it, puts a file system on it and mounts it.
    pub(super) fn create(image: &Path, mountpoint: PathBuf, medium: Medium, mib: u64) -> Result<Disk> {
        File::create_new(image)
            .and_then(|file| file.set_len(mib << 20))
            .with_context(|| image.display().to_string())?;
        let direct = match medium {
            Medium::Memory => "--direct-io=off",
            // Without it, what the node syncs would stop in the page cache of the file behind the device.
            Medium::Disk => "--direct-io=on",
        };
        let image = image.to_str().context("the image's path is not text")?;
        let device = command::run("losetup", &["--find", "--show", direct, image])?;
        std::fs::create_dir(&mountpoint)?;
        let disk = Disk {
            device: PathBuf::from(device.trim()),
            mountpoint,
            options: OPTIONS,
        };
        disk.format()?;
        disk.mount()?;
        Ok(disk)
    }

    pub(super) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The number of its device, as `stat` shows it for every file on it.
    pub(super) fn number(&self) -> Result<u64> {
        Ok(std::fs::metadata(&self.mountpoint)?.dev())
    }

    /// Replaces everything on it by an empty file system.
    pub(super) fn wipe(&self) -> Result<()> {
        self.unmount()?;
        self.format()?;
        self.mount()
    }

    /// Mounts it from now on as ext4 is mounted where nobody says anything.
    pub(super) fn mount_by_default(&mut self) -> Result<()> {
        self.unmount()?;
        self.options = c"";
        self.mount()
    }

    /// Everything at once is as it would be after a power cut: what was not synced is gone. Processes must
    /// not run any more, and fail to do anything from here on. See [`Disk::power_on`].
    pub(super) fn power_off(&self) -> Result<()> {
        power_off(&self.mountpoint)
    }

    /// Mounts again what [`Disk::power_off`] cut off.
    pub(super) fn power_on(&self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Takes all space but about `leave_bytes`.
    pub(super) fn fill(&self, leave_bytes: u64) -> Result<()> {
        let filler = File::options()
            .create(true)
            .append(true)
            .open(self.mountpoint.join(FILLER))?;
        let mut piece = u64::MAX;
        loop {
            let free = self.free_bytes()?;
            // Blocks that list blocks take space as well, so the last pieces are found by trying.
            piece = piece.min(free.saturating_sub(leave_bytes)) / BLOCK * BLOCK;
            if piece == 0 {
                return Ok(());
            }
            let length = filler.metadata()?.len();
            match fallocate(&filler, FallocateFlags::empty(), length, piece) {
                Ok(()) => piece = u64::MAX,
                Err(Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(error).context("can't fill the disk"),
            }
        }
    }

    /// Gives back what [`Disk::fill`] took.
    pub(super) fn free(&self) -> Result<()> {
        match std::fs::remove_file(self.mountpoint.join(FILLER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("can't free the disk")
            }
            _ => Ok(()),
        }
    }

    /// What is free.
    pub(super) fn free_bytes(&self) -> Result<u64> {
        let space = statvfs(&self.mountpoint)?;
        Ok(space.f_bavail * space.f_frsize)
    }

    fn format(&self) -> Result<()> {
        let device = self.device.to_str().context("the device's path is not text")?;
        // Nothing is left to kernel threads that would write later, and nothing is kept for root.
        let eagerly = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        command::run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", eagerly, device]).map(|_| ())
    }

    fn mount(&self) -> Result<()> {
        mount(
            &self.device,
            &self.mountpoint,
            c"ext4",
            MountFlags::NOATIME,
            self.options,
        )
        .with_context(|| {
            format!(
                "can't mount {} at {}",
                self.device.display(),
                self.mountpoint.display()
            )
        })
    }

    /// Returns when the kernel has let go of the file system. It doesn't while any process has a copy of the
    /// mount, as in a mount namespace made meanwhile; mounted again then, it would be as dead as before.
    fn unmount(&self) -> Result<()> {
        let what = format!("{} to be unmounted", self.mountpoint.display());
        wait::until(&what, UNMOUNT, || {
            Ok(unmount(&self.mountpoint, UnmountFlags::empty())?)
        })?;
        let exclusive = i32::try_from(OFlags::EXCL.bits())?;
        let mut open = File::options();
        open.read(true).custom_flags(exclusive);
        wait::until(&what, UNMOUNT, || {
            open.open(&self.device)
                .map(|_| ())
                .with_context(|| format!("{} is in use elsewhere", self.device.display()))
        })
    }
}

/// Shuts the file system at `mountpoint` down without writing anything back. Refuses all but mounted loop
/// devices: done to the root file system, this would end the machine.
pub fn power_off(mountpoint: &Path) -> Result<()> {
    let own = std::fs::metadata(mountpoint)?.dev();
    let parent = mountpoint
        .parent()
        .with_context(|| format!("{} is the root", mountpoint.display()))?;
    ensure!(
        own != std::fs::metadata("/")?.dev()
            && own != std::fs::metadata(parent)?.dev()
            && rustix::fs::major(own) == LOOP_MAJOR,
        "refusing to shut down {}: no loop device is mounted there",
        mountpoint.display()
    );
    shut_down(&File::open(mountpoint)?)
        .with_context(|| format!("can't shut down the file system at {}", mountpoint.display()))
}

/// `FS_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the journal is flushed.
#[allow(unsafe_code)] // there is no safe call for it
fn shut_down(file_system: &File) -> rustix::io::Result<()> {
    const FS_IOC_SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
    const NOLOGFLUSH: u32 = 2;
    // SAFETY: the kernel reads one u32 through the pointer, and this opcode means nothing else.
    unsafe {
        let shutdown = rustix::ioctl::Setter::<FS_IOC_SHUTDOWN, u32>::new(NOLOGFLUSH);
        rustix::ioctl::ioctl(file_system, shutdown)
    }
}
