//! The generated code is what `echo.proto` says.

use std::path::Path;

/// Writes the generated code instead of comparing it; set by `cargo xtask proto`.
const WRITE: &str = "TOWLINE_WRITE_GENERATED";

#[test]
fn the_generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = root.parent().unwrap();
    let out = std::env::temp_dir().join(format!("towline-proto-grpc-{}", std::process::id()));
    std::fs::create_dir_all(&out).unwrap();
    let descriptors = protox::compile([proto.join("echo.proto")], [proto]).unwrap();
    tonic_prost_build::configure()
        .build_transport(false)
        .extern_path(".towline.echo.v1.Request", "::towline_proto::Request")
        .extern_path(".towline.echo.v1.Response", "::towline_proto::Response")
        .out_dir(&out)
        .compile_fds(descriptors)
        .unwrap();
    let fresh = std::fs::read_to_string(out.join("towline.echo.v1.rs")).unwrap();
    std::fs::remove_dir_all(&out).unwrap();

    let kept = root.join("src/towline.echo.v1.rs");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&kept, fresh).unwrap();
        return;
    }
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), fresh, "out of date; run `cargo xtask proto`");
}
