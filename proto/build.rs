//! Compiles the `.proto` files with protox, so that no `protoc` has to be installed.

use prost::Message as _;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "quorate/v1/write.proto",
        "quorate/v1/query.proto",
        "quorate/v1/cluster.proto",
        "quorate/internal/v1/internal.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Payloads stay slices of the received message instead of copies.
        .bytes(".quorate.internal.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
