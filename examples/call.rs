//! A client for backends that already run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use tokio::time::Instant;
use towline::tls::TlsConfig;
use towline::{Call, Client, Endpoint, Error};
use towline_examples::{Events, Latencies, init_tracing, progress_bar, report, table};
use towline_proto::{Request, Response};
use towline_testbed::ById;

/// Calls backends of the echo protocol.
#[derive(Parser)]
struct Options {
    /// An endpoint, written as HOST:PORT; may be given several times.
    #[arg(long = "endpoint", required = true)]
    endpoints: Vec<String>,
    /// Speak TLS, and trust the certificates in this PEM file.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The name that certificates must carry, if not the host that is dialled.
    #[arg(long)]
    tls_name: Option<String>,
    /// Sessions to spread the calls over.
    #[arg(long, default_value_t = 10)]
    sessions: u64,
    /// Calls to make.
    #[arg(long, default_value_t = 1_000)]
    calls: u64,
    /// Calls in flight at once.
    #[arg(long, default_value_t = 16)]
    concurrency: u64,
    /// Send many calls over one connection per endpoint, instead of one at a time.
    #[arg(long)]
    multiplexed: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    init_tracing();
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", report(error));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Error> {
    let events = Events::default();
    let mut builder = Client::<Request, Response>::builder().observer(events.clone());
    for endpoint in &options.endpoints {
        let mut endpoint: Endpoint = endpoint.parse()?;
        if let Some(name) = &options.tls_name {
            endpoint = endpoint.with_tls_name(name.as_str());
        }
        builder = builder.endpoint(endpoint);
    }
    builder = match &options.ca {
        Some(path) => builder.tls(TlsConfig::builder().root_pem_file(path).build()?),
        None => builder.plaintext(),
    };
    if options.multiplexed {
        builder = builder.multiplexed(ById);
    }
    let client = builder.build()?;

    let (next, bar, start) = (Arc::new(AtomicU64::new(0)), progress_bar(options.calls), Instant::now());
    let callers: Vec<_> = (0..options.concurrency.max(1))
        .map(|_| {
            let (client, next, bar) = (client.clone(), next.clone(), bar.clone());
            let (calls, sessions) = (options.calls, options.sessions.max(1));
            tokio::spawn(async move {
                let mut latencies = Latencies::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= calls {
                        return Ok::<_, Error>(latencies);
                    }
                    let request = Request { id: number.to_string(), payload: format!("payload of {number}").into() };
                    let call = Call::new(request).with_session((number % sessions).to_string()).idempotent();
                    let sent = Instant::now();
                    client.send(call).await?;
                    latencies.record(sent.elapsed());
                    bar.inc(1);
                }
            })
        })
        .collect();
    let mut latencies = Latencies::default();
    for caller in callers {
        match caller.await {
            Ok(noted) => latencies.merge(&noted?),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
    bar.finish_and_clear();
    print!("{}", table(&client, &events, &latencies, start.elapsed()));
    client.close().await;
    Ok(())
}
