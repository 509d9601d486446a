//! Golden files of the durable formats: `tests/golden/<name>.hex`.

use std::path::PathBuf;

/// Compares bytes with the golden file. A missing file is written when `QUORATE_WRITE_GOLDEN` is set;
/// a file that differs is never overwritten, because a released format must stay readable.
pub(crate) fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.hex"));
    let lines: Vec<String> = bytes
        .chunks(32)
        .map(|line| line.iter().map(|b| format!("{b:02x}")).collect())
        .collect();
    let text = lines.join("\n") + "\n";
    match std::fs::read_to_string(&path) {
        Ok(golden) => assert_eq!(text, golden, "{name} differs from {}", path.display()),
        Err(_) if std::env::var_os("QUORATE_WRITE_GOLDEN").is_some() => {
            std::fs::write(&path, text).unwrap();
        }
        Err(error) => panic!(
            "{}: {error}; set QUORATE_WRITE_GOLDEN to create it",
            path.display()
        ),
    }
}
