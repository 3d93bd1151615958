//! Processes of this same program: the server, and clients that must not inherit another row's heap, or that run under
//! an instrument. None outlives the value that started it, nor the process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::server::Addresses;
use crate::{cores, usage};

/// The first argument of a process that serves.
pub(crate) const SERVE: &str = "child-serve";
/// The first argument of a process that holds idle connections.
pub(crate) const HOLD: &str = "child-hold";
/// The first argument of a process that makes a number of calls.
pub(crate) const CALL: &str = "child-call";
/// The first argument of a process that makes a number of checkouts.
pub(crate) const CHECKOUT: &str = "child-checkout";
/// The first argument of a process that makes a number of calls through a balancer.
pub(crate) const BALANCE: &str = "child-balance";

/// What each of our processes does first.
pub(crate) fn settle() -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("asking to end with the parent")?;
    usage::raise_file_limit()?;
    cores::pin()
}

/// A running server.
pub(crate) struct Server {
    process: Child,
    pub(crate) addresses: Addresses,
}

impl Server {
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = command.arg(SERVE).stdout(Stdio::piped()).spawn().context("starting the server")?;
        let mut line = String::new();
        let read = process.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        match serde_json::from_str(&line) {
            Ok(addresses) => Ok(Self { process, addresses }),
            Err(error) => {
                stop(&mut process);
                bail!("the server did not say where it listens ({read:?}): {error}")
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop(&mut self.process);
    }
}

fn stop(process: &mut Child) {
    // It may have ended by itself, which is as good.
    let _ = process.kill();
    let _ = process.wait();
}

/// Runs a client process to its end: `words` are the program and its arguments. It reads where the server listens
/// from its standard input.
pub(crate) fn run_client<S: AsRef<OsStr>>(words: &[S], addresses: &Addresses) -> Result<Output> {
    let (program, args) = words.split_first().context("no program")?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().context("starting a client process")?;
    let mut stdin = process.stdin.take().context("the client process has no input")?;
    let told = stdin.write_all(&serde_json::to_vec(addresses)?);
    drop(stdin);
    let output = process.wait_with_output()?;
    if !output.status.success() {
        bail!("a client process failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    told.context("telling a client process where the server is")?;
    Ok(output)
}

/// Where the server listens, in a client process.
pub(crate) fn addresses() -> Result<Addresses> {
    serde_json::from_reader(std::io::stdin()).context("reading where the server listens")
}
