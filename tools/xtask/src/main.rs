//! The one door to everything that is not plain cargo: `cargo xtask COMMAND`.
//!
//! Each command looks first for what the machine lacks and says in one line how to get it, then does its whole job,
//! and exits non-zero when that fails. It needs nothing but cargo itself, so that it runs where nothing is installed.

mod fuzz;
mod machine;

use std::process::{Command, ExitCode};

use machine::Machine;

const HELP: &str = "\
cargo xtask COMMAND

  demo     checks the machine, then runs the quickstart; its last line is `ok`
  test     checks the machine, then runs the whole test suite
  lint     format, clippy with warnings as errors on all targets and features
  docs     builds the documentation with warnings as errors
  msrv     checks the library crates with the oldest supported compiler, if rustup has it
  bench    bench [echo] [tls] [memory] [instructions] [head-to-head] [checkout] [checkout-instructions] [balance]
           [balance-instructions] [layers] [sticky] [http] [discover] [--json] [--quick] [--docs]: towline beside its peers; --quick ends within two minutes once
           it is built, --docs writes docs/benchmarks.md; checkout-instructions and balance-instructions --check fail when
           a checkout or a call takes 5 % more instructions than are recorded, --record records them
  sim      sim [fidelity] [s1] [s2] [s2-retry] [s3] … [s12] [--seeds N] [--json] [--check] [--docs]: balancers, retries and
           sessions beside others' in virtual time (seconds for each scenario); --check says which goals are held over
           20 seeds and fails when one is missed (minutes), --docs writes their sections and pictures under docs/
  tls-matrix
           tls-matrix [--docs]: every way in which a peer's certificate or handshake can be wrong, and what either library
           makes of it; --docs writes the table in docs/tls.md
  soak     soak transport: ten million calls against a server without manners (minutes); soak pool: two minutes of callers
           who leave and a backend that kills
  model    checks the hand-off between callers, connections and pools in the interleavings of a few threads, with
           two or three preemptions (minutes; --quick: two)
  miri     the swap of the balancer's snapshots under Miri, in eight schedules (minutes), if nightly has it
  fuzz     fuzz [endpoints_file] [frames] [prost_codec] [shared] [source_url] [--seconds N] [--merge]: 15 minutes each unless told otherwise;
           --merge keeps what earlier runs found in tools/fuzz/corpus
  field-bugs
           field-bugs [pool] [balance] [--docs]: replays bugs that users of other pools and balancers met against the
           released peers and against ours, and fails if we have one (half a minute); --docs writes docs/field-bugs.md
  proto    writes the code generated from proto/echo.proto anew
  tools    format and clippy in the workspaces under tools/, the records of instructions, the tests of the
           simulator, the field bugs of balancers, seconds of each fuzzer, the quick model
  ci       lint, test, docs, demo, tools: what .ci/run runs";

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    let done = match command.as_deref() {
        Some("demo") => demo(),
        Some("test") => test(),
        Some("lint") => lint(),
        Some("docs") => docs(),
        Some("msrv") => msrv(),
        Some("soak") => soak(std::env::args().nth(2).as_deref()),
        Some("bench") => bench(std::env::args().skip(2)),
        Some("sim") => sim(std::env::args().skip(2)),
        Some("fuzz") => fuzz::fuzz(std::env::args().skip(2)),
        Some("field-bugs") => field_bugs(std::env::args().skip(2)),
        Some("model") => model(std::env::args().nth(2).as_deref()),
        Some("miri") => miri(),
        Some("proto") => proto(),
        Some("tls-matrix") => tls_matrix(std::env::args().nth(2).as_deref()),
        Some("tools") => tools(),
        Some("ci") => [lint, test, docs, demo, tools].into_iter().try_for_each(|step| step()),
        Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            Ok(())
        }
        other => Err(format!("{}\n\n{HELP}", other.map_or("no command".to_owned(), |c| format!("no command {c:?}")))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<(), String> {
    let machine = Machine::look()?;
    run(cargo(&["run", "--release", "--example", "quickstart"]).args(machine.features()))
}

fn test() -> Result<(), String> {
    let machine = Machine::look()?;
    run(cargo(&["test", "--workspace"]).args(machine.features()))
}

fn lint() -> Result<(), String> {
    let machine = Machine::look()?;
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    let all = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    let least = ["clippy", "--package", "towline", "--no-default-features", "--all-targets", "--", "-D", "warnings"];
    let mut clippy = cargo(&all);
    if machine.features().is_empty() {
        // All features are those that build OpenSSL from source as well, which takes minutes and is not looked at.
        clippy.env("OPENSSL_NO_VENDOR", "1");
    }
    run(&mut clippy)?;
    run(&mut cargo(&least))
}

fn docs() -> Result<(), String> {
    let machine = Machine::look()?;
    run(cargo(&["doc", "--workspace", "--no-deps"]).args(machine.features()).env("RUSTDOCFLAGS", "-D warnings"))
}

/// Libraries promise this version; tools, tests and examples may ask for a later one.
const MSRV: &str = "1.85";

fn msrv() -> Result<(), String> {
    let libraries = [
        "towline",
        "towline-balance",
        "towline-codec",
        "towline-connect",
        "towline-core",
        "towline-discover",
        "towline-http",
        "towline-pool",
        "towline-retry",
        "towline-sticky",
        "towline-test",
        "towline-timeout",
        "towline-tls",
        "towline-transport",
    ];
    let packages = libraries.iter().flat_map(|library| ["--package", *library]);
    run(Command::new("rustup").args(["run", MSRV, "cargo", "check", "--lib"]).args(packages))
}

/// The workspaces that nobody else builds: else they would rot.
fn tools() -> Result<(), String> {
    let machine = Machine::look()?;
    let vendored = machine.feature_of("vendored");
    let tools = [("bench", vendored), ("field-bugs", vec![]), ("fuzz", vec![]), ("model", vec![]), ("sim", vec![])];
    for (tool, features) in tools {
        // Beside the libraries', so that what both need is checked once.
        let (manifest, target) = (format!("tools/{tool}/Cargo.toml"), "target");
        let manifest = ["--manifest-path", manifest.as_str()];
        run(cargo(&["fmt", "--all", "--check"]).args(manifest))?;
        let mut clippy = cargo(&["clippy", "--workspace", "--locked", "--all-targets", "--target-dir", target]);
        run(clippy.args(manifest).args(features).args(["--", "-D", "warnings"]))?;
    }
    bench(["checkout-instructions", "balance-instructions", "--check"].map(str::to_owned).into_iter())?;
    run(&mut cargo(&["test", "--locked", "--manifest-path", "tools/sim/Cargo.toml", "--target-dir", "target/sim"]))?;
    field_bugs(["balance", "layers"].map(str::to_owned).into_iter())?;
    fuzz::fuzz(["--seconds", "5"].map(str::to_owned).into_iter())?;
    model(Some("--quick"))
}

fn bench(args: impl Iterator<Item = String>) -> Result<(), String> {
    let machine = Machine::look()?;
    let mut bench = cargo(&["run", "--release", "--locked", "--quiet", "--manifest-path", "tools/bench/Cargo.toml"]);
    bench.args(["--target-dir", "target"]).args(machine.feature_of("vendored"));
    run(bench.arg("--").args(args))
}

fn sim(args: impl Iterator<Item = String>) -> Result<(), String> {
    Machine::look()?;
    let mut sim = cargo(&["run", "--release", "--locked", "--quiet", "--manifest-path", "tools/sim/Cargo.toml"]);
    run(sim.args(["--target-dir", "target/sim", "--"]).args(args))
}

fn field_bugs(args: impl Iterator<Item = String>) -> Result<(), String> {
    Machine::look()?;
    let mut replay = cargo(&["run", "--locked", "--quiet", "--manifest-path", "tools/field-bugs/Cargo.toml"]);
    run(replay.args(["--target-dir", "target/field-bugs", "--"]).args(args))
}

fn model(option: Option<&str>) -> Result<(), String> {
    let mut model = cargo(&["test", "--workspace", "--manifest-path", "tools/model/Cargo.toml"]);
    model.args(["--target-dir", "target/model"]);
    match option {
        None => {}
        // Nearly every race needs no more preemptions than this.
        Some("--quick") => drop(model.env("LOOM_MAX_PREEMPTIONS", "2")),
        Some(other) => return Err(format!("no option {other}: there is --quick")),
    }
    run(model.args(["--", "models"]))
}

/// Each schedule is one of the seeds. Time is real: the balancer reads a clock as it is made.
fn miri() -> Result<(), String> {
    let miri = |args: &[&str]| {
        let mut rustup = Command::new("rustup");
        rustup.args(["run", "nightly", "cargo", "miri"]).args(args);
        rustup
    };
    if !miri(&["--version"]).output().is_ok_and(|output| output.status.success()) {
        return Err("there is no Miri; add it with: rustup toolchain install nightly --component miri,rust-src".into());
    }
    let mut test = miri(&["test", "--package", "towline-balance", "--test", "swap", "--target-dir", "target/miri"]);
    run(test.env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-many-seeds=0..8"))
}

/// Settings of one's own go before defaults.
fn soak(what: Option<&str>) -> Result<(), String> {
    match what {
        Some("transport") => {
            let mut soak = cargo(&["test", "--release", "--package", "towline-transport", "--test", "soak"]);
            if std::env::var_os("TOWLINE_SOAK_CALLS").is_none() {
                soak.env("TOWLINE_SOAK_CALLS", "10000000");
            }
            run(soak.args(["--", "--nocapture"]))
        }
        Some("pool") => {
            let mut soak = cargo(&["test", "--release", "--package", "towline-pool", "--test", "soak"]);
            if std::env::var_os("TOWLINE_SOAK_SECONDS").is_none() {
                soak.env("TOWLINE_SOAK_SECONDS", "60");
            }
            run(soak.args(["--", "--nocapture"]))
        }
        other => Err(format!("no soak {}: there are `pool` and `transport`", other.unwrap_or("named"))),
    }
}

/// The test that prints it fails where anything is not as it should be.
fn tls_matrix(option: Option<&str>) -> Result<(), String> {
    let machine = Machine::look()?;
    let mut test = cargo(&["test", "--package", "towline-tls", "--test", "it"]);
    match option {
        None => {}
        Some("--docs") => drop(test.env("TOWLINE_WRITE_DOCS", "1")),
        Some(other) => return Err(format!("no option {other}: there is --docs")),
    }
    run(test.args(machine.feature_of("towline-tls/vendored")).args(["each_way_of_being_wrong", "--", "--nocapture"]))
}

fn proto() -> Result<(), String> {
    run(cargo(&[
        "test",
        "--quiet",
        "--package",
        "towline-proto",
        "--package",
        "towline-proto-grpc",
        "--test",
        "generated",
    ])
    .env("TOWLINE_WRITE_GENERATED", "1"))
}

fn cargo(args: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args);
    cargo
}

/// Runs a command, shown first.
fn run(command: &mut Command) -> Result<(), String> {
    let words: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let shown = format!("{program} {}", words.join(" "));
    eprintln!("$ {shown}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}` failed: {status}")),
        Err(error) => Err(format!("`{shown}` cannot be run: {error}")),
    }
}
