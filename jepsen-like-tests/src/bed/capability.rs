//! What a bed needs of the machine.

use std::path::Path;
use std::sync::OnceLock;

use super::command;

/// Tools, and the Debian packages they are in.
const TOOLS: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
    ("mountpoint", "util-linux"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
    ("cc", "gcc"),
];
const DEVICES: [&str; 3] = ["/dev/loop-control", "/dev/net/tun", "/dev/shm"];
/// Everything that a bed's network consists of, in a namespace that ends with this shell.
const TRIAL: &str = "ip link add name bed type bridge && \
     ip link add name port type veth peer name other && \
     ip link set port master bed && \
     nft 'table bridge bed { set pairs { type ifname . ifname; };
          chain between { type filter hook forward priority 0; iifname . oifname @pairs drop; }; }'";

/// Why no bed can be made here.
pub(super) fn missing() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    FOUND.get_or_init(find_missing).clone()
}

fn find_missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("this takes root: namespaces, loop devices and mounts".to_owned());
    }
    if let Some((tool, package)) = TOOLS.iter().find(|(tool, _)| !command::exists(tool)) {
        return Some(format!("there is no {tool}: install {package}"));
    }
    if let Some(device) = DEVICES.iter().find(|device| !Path::new(device).exists()) {
        return Some(format!("there is no {device}"));
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known
        .lines()
        .any(|line| line.trim_start_matches("nodev").trim() == "ext4")
    {
        return Some("the kernel knows no ext4".to_owned());
    }
    let trial = command::run("unshare", &["--net", "--", "sh", "-c", TRIAL]);
    trial
        .err()
        .map(|error| format!("no namespace with a bridge and packet filters can be made: {error:#}"))
}
