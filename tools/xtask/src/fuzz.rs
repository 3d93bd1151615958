//! Fuzzing with libFuzzer on the stable compiler: coverage is a matter of code generation flags, which stable takes, and
//! findings are panics and an allocator with a limit, which need no sanitizer.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{cargo, run};

const TARGETS: [&str; 5] = ["endpoints_file", "frames", "prost_codec", "shared", "source_url"];
/// What `cargo fuzz` passes, but for the sanitizer.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// What is asked for: targets, seconds for each, and whether to keep what was found.
struct Wish {
    targets: Vec<&'static str>,
    seconds: u64,
    merge: bool,
}

pub(crate) fn fuzz(args: impl Iterator<Item = String>) -> Result<(), String> {
    let wish = Wish::parse(args)?;
    let cxx = Command::new("c++").arg("--version").output();
    if !cxx.is_ok_and(|output| output.status.success()) {
        return Err(
            "libFuzzer needs a C++ compiler (c++); install it, on Debian and Ubuntu with: apt-get install -y g++"
                .into(),
        );
    }
    let host = host()?;
    // Named as a target, so that the flags are not for build scripts.
    let build = ["build", "--release", "--manifest-path", "tools/fuzz/Cargo.toml", "--target-dir", "target/fuzz"];
    run(cargo(&build).args(["--target", &host]).env("RUSTFLAGS", COVERAGE))?;
    for target in wish.targets {
        let program = Path::new("target/fuzz").join(&host).join("release").join(target);
        let (found, kept) = (Path::new("target/fuzz/corpus").join(target), Path::new("tools/fuzz/corpus").join(target));
        for folder in [&found, &kept] {
            std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        if wish.merge {
            run(libfuzzer(&program).arg("-merge=1").args([&kept, &found]))?;
        } else {
            let seconds = format!("-max_total_time={}", wish.seconds);
            run(libfuzzer(&program).args([&seconds, "-print_final_stats=1"]).args([&found, &kept]))?;
        }
    }
    Ok(())
}

fn libfuzzer(program: &PathBuf) -> Command {
    let mut command = Command::new(program);
    command.args(["-verbosity=0", "-artifact_prefix=target/fuzz/", "-rss_limit_mb=512", "-timeout=10"]);
    command
}

impl Wish {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut wish = Self { targets: Vec::new(), seconds: 15 * 60, merge: false };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--merge" => wish.merge = true,
                "--seconds" => {
                    let seconds = args.next().and_then(|seconds| seconds.parse().ok());
                    wish.seconds = seconds.ok_or("--seconds is followed by how many, for each target")?;
                }
                name => match TARGETS.iter().find(|target| **target == name) {
                    Some(target) => wish.targets.push(target),
                    None => return Err(format!("no fuzz target or option {name}: there are {}", TARGETS.join(", "))),
                },
            }
        }
        if wish.targets.is_empty() {
            wish.targets.extend(TARGETS);
        }
        Ok(wish)
    }
}

/// The platform that this compiler builds for.
fn host() -> Result<String, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().map_err(|error| format!("`rustc -vV`: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "`rustc -vV` does not say what it builds for".into())
}
