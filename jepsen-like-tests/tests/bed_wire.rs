//! What a bed's wires and disks do, with nothing running on it but this test: cuts, switch, power, space.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quorate_jepsen_like_tests::bed::{Bed, BedOptions, Disturbance, Medium, Peer, Wire, power_off};
use quorate_jepsen_like_tests::report::{number_from_env, say, skip};
use quorate_jepsen_like_tests::wait;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PORT: u16 = 9;
/// What comes takes less on a wire that doesn't delay, even on a busy machine.
const SOON: Duration = Duration::from_secs(2);
/// What was dropped is waited for so long.
const NEVER: Duration = Duration::from_millis(150);
/// A stream that has ended.
const SILENCE: Duration = Duration::from_millis(300);
/// Power cuts of each medium. `QUORATE_TEST_ROUNDS` sets another number.
const CUTS: u64 = 3;

/// An empty bed, or `None`, said visibly, where none can be made.
fn bed(test: &str, options: &BedOptions) -> Result<Option<Bed>> {
    if let Some(missing) = Bed::missing() {
        skip(test, missing);
        return Ok(None);
    }
    // Nothing listens: `true` only has to exist.
    let binary = "/bin/true".into();
    Bed::prepare(&BedOptions {
        binary,
        ..options.clone()
    })
    .map(Some)
}

/// Does something as a process in the node's namespace would. Its sockets stay there.
fn inside<T: Send>(bed: &Bed, peer: Peer, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let Peer::Node(id) = peer else {
        return act();
    };
    let namespace = File::open(bed.namespace(id)?)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            act()
        });
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("the thread panicked"))?
    })
}

fn address(bed: &Bed, peer: Peer) -> Result<SocketAddr> {
    let nodes = bed.nodes();
    let first = nodes.first().context("no node")?;
    let (host, _) = first.http.rsplit_once(':').context("no port")?;
    let (network, _) = host.rsplit_once('.').context("no address")?;
    let last = match peer {
        Peer::Node(id) => id,
        Peer::Clients => 254,
    };
    Ok(format!("{network}.{last}:{PORT}").parse()?)
}

/// A datagram socket of everybody.
struct Ends(Vec<(Peer, SocketAddr, UdpSocket)>);

impl Ends {
    fn of(bed: &Bed) -> Result<Ends> {
        let peers = bed.ids().into_iter().map(Peer::Node).chain([Peer::Clients]);
        let ends = peers.map(|peer| {
            let address = address(bed, peer)?;
            let socket = inside(bed, peer, || Ok(UdpSocket::bind(address)?))?;
            Ok((peer, address, socket))
        });
        Ok(Ends(ends.collect::<Result<_>>()?))
    }

    fn of_peer(&self, peer: Peer) -> Result<&(Peer, SocketAddr, UdpSocket)> {
        let end = self.0.iter().find(|(other, _, _)| *other == peer);
        end.with_context(|| format!("no {peer:?}"))
    }

    fn send(&self, from: Peer, to: Peer, number: u32) -> Result<()> {
        let (address, socket) = (self.of_peer(to)?.1, &self.of_peer(from)?.2);
        socket.send_to(&number.to_le_bytes(), address)?;
        Ok(())
    }

    /// The numbers that arrive within `limit`, until `enough` have.
    fn receive(&self, at: Peer, enough: usize, limit: Duration) -> Result<Vec<u32>> {
        let socket = &self.of_peer(at)?.2;
        let deadline = Instant::now() + limit;
        let mut numbers = Vec::new();
        while numbers.len() < enough && Instant::now() < deadline {
            socket.set_read_timeout(Some((deadline - Instant::now()).max(Duration::from_millis(1))))?;
            let mut bytes = [0; 4];
            match socket.recv(&mut bytes) {
                Ok(_) => numbers.push(u32::from_le_bytes(bytes)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(numbers)
    }

    /// All pairs between which a datagram gets through, one way.
    fn connected(&self, expected: &[(Peer, Peer)]) -> Result<Vec<(Peer, Peer)>> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut connected = Vec::new();
        for pair @ (from, to) in self.pairs() {
            let number = NUMBER.fetch_add(1, Relaxed) as u32;
            self.send(from, to, number)?;
            let limit = if expected.contains(&pair) { SOON } else { NEVER };
            // Late ones of earlier looks are not meant.
            if self.receive(to, 1, limit)?.contains(&number) {
                connected.push(pair);
            }
        }
        Ok(connected)
    }

    fn pairs(&self) -> Vec<(Peer, Peer)> {
        let peers = || self.0.iter().map(|(peer, _, _)| *peer);
        let all = peers().flat_map(|from| peers().map(move |to| (from, to)));
        all.filter(|(from, to)| from != to).collect()
    }

    fn assert_cut(&self, cut: &[(Peer, Peer)]) -> Result<()> {
        let mut expected = self.pairs();
        expected.retain(|pair| !cut.contains(pair));
        let connected = self.connected(&expected)?;
        ensure!(
            connected == expected,
            "{connected:?} are connected, with {cut:?} cut"
        );
        Ok(())
    }

    /// Sends numbers from 0, evenly, and returns what arrives until nothing does any more.
    fn stream(&self, from: Peer, to: Peer, count: u32) -> Result<Vec<u32>> {
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let mut arrived = Vec::new();
                loop {
                    match self.receive(to, 1, SILENCE)?.first() {
                        Some(number) => arrived.push(*number),
                        None => return Ok(arrived),
                    }
                }
            });
            for number in 0..count {
                self.send(from, to, number)?;
                std::thread::sleep(Duration::from_micros(100));
            }
            receiver
                .join()
                .map_err(|_| anyhow::anyhow!("the receiver panicked"))?
        })
    }
}

const A: Peer = Peer::Node(1);
const B: Peer = Peer::Node(2);
const C: Peer = Peer::Node(3);

fn check_cuts(network: Wire) -> Result<()> {
    let options = BedOptions {
        network,
        ..BedOptions::default()
    };
    let Some(bed) = bed("bed_wire", &options)? else {
        return Ok(());
    };
    let ends = Ends::of(&bed)?;
    ends.assert_cut(&[])?;
    bed.cut(&[(A, B)])?;
    ends.assert_cut(&[(A, B)])?;
    // Cuts add up, and are healed one by one.
    let more = [(B, A), (Peer::Clients, C), (B, Peer::Clients)];
    bed.cut(&more)?;
    ends.assert_cut(&[(A, B), (B, A), (Peer::Clients, C), (B, Peer::Clients)])?;
    bed.heal(&[(A, B), (Peer::Clients, C), (A, C)])?;
    ends.assert_cut(&[(B, A), (B, Peer::Clients)])?;
    bed.heal_network()?;
    ends.assert_cut(&[])?;
    bed.link_down(1)?;
    let unplugged: Vec<_> = ends
        .pairs()
        .into_iter()
        .filter(|(from, to)| *from == A || *to == A)
        .collect();
    ends.assert_cut(&unplugged)?;
    bed.link_up(1)?;
    ends.assert_cut(&[])?;
    check_established(&bed)
}

/// A cut stops connections that exist, silently, and healing lets them go on.
fn check_established(bed: &Bed) -> Result<()> {
    let listener = inside(bed, A, || Ok(TcpListener::bind(address(bed, A)?)?))?;
    let mut from = inside(bed, B, || Ok(TcpStream::connect(address(bed, A)?)?))?;
    let (mut to, _) = listener.accept()?;
    let mut bytes = [0; 1];
    from.write_all(b"1")?;
    to.read_exact(&mut bytes)?;
    bed.cut(&[(B, A)])?;
    from.write_all(b"2")?;
    to.set_read_timeout(Some(NEVER))?;
    let error = to
        .read_exact(&mut bytes)
        .err()
        .context("a byte came through the cut")?;
    ensure!(error.kind() == ErrorKind::WouldBlock, "{error}");
    bed.heal_network()?;
    // Repeated after the kernel's own time-out, which doubles.
    to.set_read_timeout(Some(Duration::from_secs(10)))?;
    to.read_exact(&mut bytes)?;
    ensure!(&bytes == b"2", "{bytes:?}");
    Ok(())
}

#[test]
fn a_bridge_is_cut_one_way_or_both_and_healed() -> Result<()> {
    check_cuts(Wire::Bridge)
}

#[test]
fn a_switch_is_cut_one_way_or_both_and_healed() -> Result<()> {
    check_cuts(Wire::Switch)
}

fn switched_bed(seed: u64) -> Result<Option<Bed>> {
    let options = BedOptions {
        network: Wire::Switch,
        seed,
        ..BedOptions::default()
    };
    bed("bed_wire", &options)
}

#[test]
fn a_switch_delays_by_link_and_direction() -> Result<()> {
    let Some(bed) = switched_bed(1)? else {
        return Ok(());
    };
    let ends = Ends::of(&bed)?;
    let round_trip = |at: Peer| {
        let mut times_ms = Vec::new();
        for number in 0..11 {
            let began = Instant::now();
            ends.send(A, at, number)?;
            ensure!(ends.receive(at, 1, SOON)? == [number], "lost");
            ends.send(at, A, number)?;
            ensure!(ends.receive(A, 1, SOON)? == [number], "lost");
            times_ms.push(began.elapsed().as_secs_f64() * 1e3);
        }
        // The fastest: on a busy machine, others waited for a processor as well.
        Ok(times_ms.into_iter().fold(f64::INFINITY, f64::min))
    };
    let calm_ms = round_trip(B)?;
    let delay = |delay_ms, only| Disturbance {
        delay_ms,
        only,
        ..Disturbance::default()
    };
    bed.disturb(delay(30, Some((A, B))))?;
    let (one_way_ms, other_ms) = (round_trip(B)?, round_trip(C)?);
    bed.disturb(delay(30, None))?;
    let both_ms = round_trip(B)?;
    bed.calm()?;
    let after_ms = round_trip(B)?;
    say(format_args!(
        "bed_wire: round trips of {calm_ms:.2} ms; {one_way_ms:.1} ms with 30 ms one way, {both_ms:.1} ms both ways, {after_ms:.2} ms after"
    ));
    ensure!(
        calm_ms < 10.0 && other_ms < 10.0 && after_ms < 10.0,
        "undisturbed links are slow"
    );
    ensure!(
        (30.0..45.0).contains(&one_way_ms) && (60.0..80.0).contains(&both_ms),
        "wrong delays"
    );
    ensure!(bed.switched().delayed >= 33, "{:?}", bed.switched());
    Ok(())
}

#[test]
fn a_switch_loses_duplicates_and_reorders_by_its_seed() -> Result<()> {
    const COUNT: u32 = 1_000;
    let lossy = |seed| -> Result<Option<Vec<u32>>> {
        let Some(bed) = switched_bed(seed)? else {
            return Ok(None);
        };
        let ends = Ends::of(&bed)?;
        let only = Some((A, B));
        let calm = Disturbance {
            only,
            ..Disturbance::default()
        };
        bed.disturb(Disturbance {
            loss_percent: 20.0,
            ..calm
        })?;
        let arrived = ends.stream(A, B, COUNT)?;
        ensure!(
            (740..860).contains(&arrived.len()),
            "{} of {COUNT} arrived",
            arrived.len()
        );
        ensure!(
            u64::from(COUNT) - arrived.len() as u64 == bed.switched().lost,
            "{:?}",
            bed.switched()
        );
        bed.disturb(Disturbance {
            duplicate_percent: 10.0,
            ..calm
        })?;
        let twice = ends.stream(A, B, COUNT)?;
        ensure!((1_060..1_140).contains(&twice.len()), "{} arrived", twice.len());
        ensure!(twice.is_sorted(), "duplicates are out of order");
        bed.disturb(Disturbance {
            delay_ms: 5,
            jitter_ms: 5,
            ..calm
        })?;
        let jittered = ends.stream(A, B, COUNT)?;
        ensure!(
            jittered == Vec::from_iter(0..COUNT),
            "jitter lost or reordered something"
        );
        bed.disturb(Disturbance {
            reorder_percent: 10.0,
            ..calm
        })?;
        let mut reordered = ends.stream(A, B, COUNT)?;
        let overtaken = reordered.windows(2).filter(|pair| pair[0] > pair[1]).count();
        ensure!((40..150).contains(&overtaken), "{overtaken} were overtaken");
        reordered.sort_unstable();
        ensure!(reordered == Vec::from_iter(0..COUNT), "reordering lost something");
        say(format_args!(
            "bed_wire: {} of {COUNT} arrived with 20% loss, {} with 10% duplicates; {overtaken} late with 10% reordered",
            arrived.len(),
            twice.len()
        ));
        Ok(Some(arrived))
    };
    let (first, again, other) = (lossy(7)?, lossy(7)?, lossy(8)?);
    ensure!(first == again, "the same seed, other losses");
    ensure!(first.is_none() || first != other, "another seed, the same losses");
    Ok(())
}

/// Run in a node's place: appends numbers to `WRITER_FILE` until it is killed, each synced before it counts, or
/// not, and keeps how many count in `WRITER_COUNT`, which is on another disk.
#[test]
#[ignore = "a child of other tests"]
fn a_writer() -> Result<()> {
    let path = std::env::var("WRITER_FILE")?;
    let sync = std::env::var("WRITER_SYNC")? == "true";
    let count = File::create(std::env::var("WRITER_COUNT")?)?;
    let mut file = File::create(&path)?;
    File::open(Path::new(&path).parent().context("no directory")?)?.sync_all()?;
    for number in 0_u64.. {
        file.write_all(&number.to_le_bytes())?;
        if sync {
            file.sync_data()?;
        } else {
            std::thread::sleep(Duration::from_micros(20));
        }
        count.write_all_at(&(number + 1).to_le_bytes(), 0)?;
    }
    Ok(())
}

/// A writer in a node's place.
struct Writer {
    file: PathBuf,
    count: PathBuf,
}

impl Writer {
    fn start(bed: &Bed, node: u64, sync: bool) -> Result<Writer> {
        let writer = Writer {
            file: bed.mountpoint(node)?.join("records"),
            count: bed.directory().join(format!("count-{node}")),
        };
        let mut arguments = vec![
            format!("WRITER_FILE={}", writer.file.display()),
            format!("WRITER_COUNT={}", writer.count.display()),
            format!("WRITER_SYNC={sync}"),
            std::env::current_exe()?.display().to_string(),
        ];
        arguments.extend(["a_writer", "--exact", "--ignored"].map(str::to_owned));
        bed.start_program(node, Path::new("env"), &arguments)?;
        Ok(writer)
    }

    /// Records that count.
    fn counted(&self) -> Result<u64> {
        let bytes = std::fs::read(&self.count)?;
        Ok(u64::from_le_bytes(
            bytes.as_slice().try_into().context("none yet")?,
        ))
    }

    /// The records there are, as far as they are right.
    fn stored(&self) -> Result<u64> {
        let bytes = std::fs::read(&self.file)?;
        let right = bytes.chunks(8).zip(0_u64..);
        Ok(right
            .take_while(|(record, number)| *record == number.to_le_bytes())
            .count() as u64)
    }
}

/// What was synced survives a power cut and what was not is gone: so a missing sync is seen.
fn check_power_cut(medium: Medium) -> Result<()> {
    let options = BedOptions {
        nodes: 2,
        medium,
        disk_mib: 64,
        ..BedOptions::default()
    };
    let Some(bed) = bed("bed_wire", &options)? else {
        return Ok(());
    };
    for round in 1..=number_from_env("QUORATE_TEST_ROUNDS", CUTS) {
        let (careful, careless) = (Writer::start(&bed, 1, true)?, Writer::start(&bed, 2, false)?);
        wait::until("some records", Duration::from_secs(30), || {
            ensure!(
                careful.counted()? >= 100 && careless.counted()? >= 1_000,
                "not yet"
            );
            Ok(())
        })?;
        let began = Instant::now();
        bed.power_cut(&[1, 2])?;
        let took = began.elapsed();
        let (synced, unsynced) = (careful.counted()?, careless.counted()?);
        let lost = synced.saturating_sub(careful.stored()?);
        let gone = unsynced.saturating_sub(careless.stored().unwrap_or(0));
        say(format_args!(
            "bed_wire: {medium:?}, power cut {round} in {took:.0?}: of {synced} synced records {lost} lost, of {unsynced} unsynced ones {gone}"
        ));
        ensure!(lost == 0, "{lost} of {synced} synced records are lost");
        ensure!(gone > 0, "the power cut lost nothing");
        [&careful.count, &careless.count]
            .into_iter()
            .try_for_each(std::fs::remove_file)?;
    }
    Ok(())
}

#[test]
fn power_cuts_lose_what_was_not_synced_in_memory() -> Result<()> {
    check_power_cut(Medium::Memory)
}

#[test]
fn power_cuts_lose_what_was_not_synced_on_disk() -> Result<()> {
    check_power_cut(Medium::Disk)
}

/// A process that has a copy of the mounts, as many tools have for a moment, keeps a file system alive that is
/// dead: mounting it again would bring the corpse back.
#[test]
fn a_power_cut_waits_until_nobody_holds_the_disk() -> Result<()> {
    let options = BedOptions {
        nodes: 1,
        disk_mib: 64,
        ..BedOptions::default()
    };
    let Some(bed) = bed("bed_wire", &options)? else {
        return Ok(());
    };
    let path = bed.mountpoint(1)?.join("some");
    let mut holder = Command::new("unshare");
    holder.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        "echo held; sleep 0.5",
    ]);
    let mut holder = holder.stdout(Stdio::piped()).spawn()?;
    let mut held = [0; 5];
    holder
        .stdout
        .as_mut()
        .context("no output")?
        .read_exact(&mut held)?;
    bed.power_cut(&[1])?;
    std::fs::write(&path, "alive").and_then(|()| File::open(&path)?.sync_all())?;
    holder.wait()?;
    Ok(())
}

#[test]
fn power_is_cut_from_loop_devices_alone() {
    for path in ["/", "/tmp", "/dev/shm", "/proc"] {
        let error = power_off(Path::new(path)).unwrap_err().to_string();
        assert!(
            error.contains("refusing") || error.contains("root"),
            "{path}: {error}"
        );
    }
}

#[test]
fn disks_fill_up_are_freed_and_wiped() -> Result<()> {
    let options = BedOptions {
        nodes: 1,
        disk_mib: 64,
        ..BedOptions::default()
    };
    let Some(bed) = bed("bed_wire", &options)? else {
        return Ok(());
    };
    let path = bed.mountpoint(1)?.join("some");
    let write = |bytes| std::fs::write(&path, vec![1; bytes]).and_then(|()| File::open(&path)?.sync_all());
    write(1 << 20)?;
    bed.fill_disk(1, 2 << 20)?;
    let left = bed.free_bytes(1)?;
    ensure!((1 << 20..=2 << 20).contains(&left), "{left} bytes are left");
    bed.fill_disk(1, 0)?;
    let error = write(3 << 20).err().context("a full disk took a file")?;
    ensure!(error.kind() == ErrorKind::StorageFull, "{error}");
    bed.free_disk(1)?;
    write(3 << 20)?;
    bed.wipe(1)?;
    ensure!(!path.exists(), "a wiped disk has a file");
    write(3 << 20)?;
    Ok(())
}

#[test]
fn a_bed_that_is_kept_leaves_logs_and_images_alone() -> Result<()> {
    let options = BedOptions {
        nodes: 1,
        disk_mib: 64,
        keep: true,
        ..BedOptions::default()
    };
    let Some(bed) = bed("bed_wire", &options)? else {
        return Ok(());
    };
    let (directory, mountpoint) = (bed.directory().to_owned(), bed.mountpoint(1)?);
    std::fs::write(mountpoint.join("some"), "data")?;
    bed.start_program(1, Path::new("echo"), &["words".to_owned()])?;
    bed.await_exit(1, SOON)?;
    let log = bed.log(1)?;
    bed.stop()?;
    let images = Path::new("/dev/shm").join(directory.file_name().context("no name")?);
    let image = std::fs::metadata(images.join("node-1.img"));
    let (log, unmounted) = (
        std::fs::read_to_string(log),
        std::fs::read_dir(&mountpoint)?.next().is_none(),
    );
    std::fs::remove_dir_all(&images)?;
    std::fs::remove_dir_all(&directory)?;
    ensure!(
        log? == "words\n" && image?.len() == 64 << 20 && unmounted,
        "not as it was left"
    );
    Ok(())
}
