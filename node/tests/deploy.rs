//! What stands in `deploy` must work as it stands there, as far as that shows without deploying it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use quorate_node::config::{Config, Loaded, Sources, load};
use serde_json::Value;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("deploy")
        .join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(deploy(path)).unwrap()
}

fn quorate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(args)
        .output()
        .unwrap()
}

/// Runs a tool of the system. `None` if it isn't installed.
fn tool(name: &str, args: &[&str]) -> Option<Output> {
    match Command::new(name).args(args).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("{name} is not installed: not checked");
            None
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The services of the compose file by name, its anchors resolved.
fn services() -> BTreeMap<String, Value> {
    let mut compose: Value = serde_saphyr::from_str(&text("compose/compose.yaml")).unwrap();
    serde_json::from_value(compose["services"].take()).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .map(|items| items.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// What a container's node is configured to.
fn configured(service: &Value) -> Loaded {
    let environment: BTreeMap<String, String> =
        serde_json::from_value(service["environment"].clone()).unwrap();
    let file = text("compose/quorate.yaml");
    let lookup = |name: &str| environment.get(name).cloned();
    let sources = Sources {
        file: Some(("quorate.yaml", &file)),
        environment: Some(&lookup),
        ..Sources::default()
    };
    let loaded = load(&sources).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let used = loaded
        .origins
        .values()
        .filter(|origin| format!("{origin:?}").contains("Environment"));
    assert_eq!(
        used.count(),
        environment.len(),
        "a variable is no key: {environment:?}"
    );
    loaded
}

#[test]
fn the_example_passes_the_check() {
    let path = deploy("quorate.example.yaml");
    let output = quorate(&["check", "config", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_containers_are_one_cluster() {
    let services = services();
    let mut configs: Vec<Config> = Vec::new();
    for (name, service) in &services {
        let loaded = configured(service);
        assert_eq!(loaded.warnings, [], "{name}");
        assert_eq!(service["hostname"], name.as_str());
        let own = loaded
            .config
            .own_peer()
            .unwrap_or_else(|| panic!("{name} is no peer"))
            .clone();
        assert_eq!(
            own.grpc.to_string(),
            format!("{name}:{}", loaded.config.grpc_listen.port())
        );
        assert_eq!(
            own.http.unwrap().to_string(),
            format!("{name}:{}", loaded.config.http_listen.port())
        );
        configs.push(loaded.config);
    }
    assert_eq!(
        configs.iter().map(|config| config.node_id).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert!(configs.windows(2).all(|pair| pair[0].peers == pair[1].peers));
}

#[test]
fn containers_are_mounted_and_published_where_the_node_listens() {
    let mut published = Vec::new();
    for (name, service) in services() {
        let config = configured(&service).config;
        let volumes = strings(&service["volumes"]);
        assert!(
            volumes.contains(&"./quorate.yaml:/etc/quorate/quorate.yaml:ro"),
            "{name}"
        );
        assert!(
            volumes.contains(&format!("{name}:{}", config.data_dir.display()).as_str()),
            "{name}"
        );
        let ports = strings(&service["ports"]);
        let inner: Vec<_> = ports.iter().filter_map(|port| port.rsplit(':').next()).collect();
        assert_eq!(
            inner,
            [
                config.http_listen.port().to_string(),
                config.grpc_listen.port().to_string()
            ]
        );
        assert!(
            ports.iter().all(|port| port.starts_with("127.0.0.1:")),
            "{name} is published beyond loopback"
        );
        let check = strings(&service["healthcheck"]["test"]);
        assert!(
            check.contains(&format!("127.0.0.1:{}", config.grpc_listen.port()).as_str()),
            "{name}"
        );
        published.extend(
            ports
                .iter()
                .filter_map(|port| port.rsplit_once(':'))
                .map(|(outer, _)| outer.to_owned()),
        );
    }
    let count = published.len();
    published.sort();
    published.dedup();
    assert_eq!((published.len(), count), (6, 6));
}

#[test]
fn commands_in_containers_and_units_exist() {
    let container = text("compose/Containerfile");
    let command = container
        .lines()
        .find_map(|line| line.strip_prefix("CMD "))
        .unwrap();
    let command: Vec<String> = serde_json::from_str(command).unwrap();
    let unit = text("systemd/quorate.service");
    let started = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/quorate "))
        .unwrap();
    assert_eq!(command.join(" "), started);
    let health = services().into_values().next().unwrap();
    let health: Vec<String> = strings(&health["healthcheck"]["test"])
        .into_iter()
        .map(Into::into)
        .collect();
    assert_eq!(health[..2], ["CMD", "/usr/bin/quorate"]);
    for subcommand in [vec!["server"], vec!["cluster", "status"]] {
        let args: Vec<&str> = subcommand.iter().copied().chain(["--help"]).collect();
        let output = quorate(&args);
        assert!(output.status.success(), "{subcommand:?}: {}", said(&output));
        let flags = command
            .iter()
            .chain(&health)
            .filter(|word| word.starts_with("--"));
        let known = flags.filter(|flag| said(&output).contains(flag.as_str())).count();
        assert!(known > 0, "{subcommand:?} knows none of the flags it is given");
    }
}

#[test]
fn the_unit_gives_the_node_its_time_and_its_directory() {
    let unit = text("systemd/quorate.service");
    let setting = |name: &str| {
        unit.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .unwrap()
    };
    let defaults = Config::default();
    let stop: u64 = setting("TimeoutStopSec").parse().unwrap();
    assert!(stop > defaults.shutdown_timeout.as_secs());
    assert_eq!(
        Path::new("/var/lib").join(setting("StateDirectory")),
        defaults.data_dir
    );
    assert_eq!(setting("Type"), "notify");
}

#[test]
fn systemd_takes_the_unit() {
    // It wants the binary to be there.
    let unit = text("systemd/quorate.service").replace("/usr/bin/quorate", env!("CARGO_BIN_EXE_quorate"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("quorate.service");
    std::fs::write(&path, unit).unwrap();
    let path = path.to_str().unwrap();
    let Some(output) = tool("systemd-analyze", &["verify", path]) else {
        return;
    };
    let complaints: Vec<String> = said(&output)
        .lines()
        .filter(|line| line.contains("quorate.service"))
        .map(Into::into)
        .collect();
    assert_eq!(complaints, Vec::<String>::new());
}

#[test]
fn prometheus_takes_the_example() {
    let path = deploy("prometheus.yml");
    let Some(output) = tool("promtool", &["check", "config", path.to_str().unwrap()]) else {
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
    let config: Value = serde_saphyr::from_str(&text("prometheus.yml")).unwrap();
    let url = config["remote_write"][0]["url"].as_str().unwrap();
    assert_eq!(
        url,
        format!("http://{}/api/v1/write", Config::default().http_listen)
    );
}
