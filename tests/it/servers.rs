//! Servers that others wrote, each a process on a free port of loopback. Where one is not installed, its tests are
//! skipped with a line; `tests/servers.sh` installs them.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long one may take until it accepts connections.
const UP_WITHIN: Duration = Duration::from_secs(10);
/// How often one that ends at once, as where somebody took its port, is started.
const TRIES: usize = 3;

/// A process that ends with the test.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    process: Child,
    // Goes after the process that writes to it.
    _directory: Directory,
}

impl Server {
    /// Kills it: its connections end without a word of HTTP, and its port refuses from here on.
    pub(crate) async fn stop(&mut self) {
        self.process.start_kill().unwrap();
        self.process.wait().await.unwrap();
    }
}

/// What a server reads and writes, gone with it.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("towline-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn put(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // The process was killed, and not waited for: it may be writing still.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Ready when it accepts. One whose port somebody took meanwhile ends at once, and gets another.
async fn start(name: &str, installed_by: &str, command: impl Fn(&Directory, SocketAddr) -> Command) -> Option<Server> {
    let mut said = String::new();
    for _ in 0..TRIES {
        let directory = Directory::new();
        let log = directory.put("log", "");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = command(&directory, address);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap()).kill_on_drop(true);
        let mut process = match command.spawn() {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // The harness keeps back what `eprintln!` says in a test that passes.
                let _ = writeln!(std::io::stderr(), "skipped: {name} is not installed; run {installed_by}");
                return None;
            }
            Err(error) => panic!("{name}: {error}"),
        };
        let began = Instant::now();
        while process.try_wait().unwrap().is_none() {
            if TcpStream::connect(address).await.is_ok() {
                return Some(Server { address, process, _directory: directory });
            }
            assert!(began.elapsed() < UP_WITHIN, "{name} accepts nothing: {}", fs::read_to_string(&log).unwrap());
            sleep(Duration::from_millis(5)).await;
        }
        said = fs::read_to_string(&log).unwrap();
    }
    panic!("{name} does not stay up: {said}");
}

/// nginx with `locations`, directives of a `server`. With `listen_options` of `"http2"` it speaks nothing else there.
pub(crate) async fn nginx(locations: &str, listen_options: &str) -> Option<Server> {
    start("nginx", "tests/servers.sh", |directory, address| {
        let here = directory.0.display();
        // One process, since a worker would outlive a master that is killed.
        let config = format!(
            "daemon off; master_process off; pid {here}/nginx.pid; error_log stderr;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/fastcgi;
                uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
                server {{
                    listen {address} {listen_options};
                    {locations}
                }}
            }}"
        );
        let mut command = Command::new("nginx");
        command.arg("-c").arg(directory.put("nginx.conf", &config)).arg("-p").arg(&directory.0);
        command
    })
    .await
}

/// nghttpd, which speaks h2c only, serves these files (name, contents), and sends the body of a POST back.
pub(crate) async fn nghttpd(files: &[(&str, &str)]) -> Option<Server> {
    start("nghttpd", "tests/servers.sh", |directory, address| {
        for (name, contents) in files {
            directory.put(&format!("htdocs/{name}"), contents);
        }
        let root = directory.0.join("htdocs");
        fs::create_dir_all(&root).unwrap();
        let mut command = Command::new("nghttpd");
        // Without an address it listens on every one it can get, and does not mind that it got no IPv4.
        command.args(["--no-tls", "--echo-upload", "--address"]).arg(address.ip().to_string());
        command.arg("--htdocs").arg(root).arg(address.port().to_string());
        command
    })
    .await
}

/// dnsmasq, which answers for what ends with `.test` and knows nobody to ask for the rest.
pub(crate) struct Dnsmasq {
    pub(crate) address: SocketAddr,
    directory: Directory,
    process: Option<Child>,
}

impl Dnsmasq {
    /// With these lines of configuration beside what it needs to live.
    pub(crate) async fn start(config: &str) -> Option<Self> {
        let directory = Directory::new();
        directory.put("hosts", "");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut dnsmasq = Self { address, directory, process: None };
        match dnsmasq.restart(config).await {
            Ok(()) => Some(dnsmasq),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // The harness keeps back what `eprintln!` says in a test that passes.
                let _ = writeln!(std::io::stderr(), "skipped: dnsmasq is not installed; run tests/servers.sh");
                None
            }
            Err(error) => panic!("dnsmasq: {error}"),
        }
    }

    /// Stops it, and starts it at the same address. Fails only if there is none.
    pub(crate) async fn restart(&mut self, config: &str) -> std::io::Result<()> {
        self.stop().await;
        let here = self.directory.0.display();
        let port = self.address.port();
        let ttl = if config.contains("local-ttl") { "" } else { "local-ttl=1" };
        let config = self.directory.put(
            "dnsmasq.conf",
            &format!(
                "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nuser=root\npid-file=\nno-resolv\nno-hosts\n\
                 addn-hosts={here}/hosts\nlocal=/test/\n{ttl}\n{config}\n"
            ),
        );
        let log = self.directory.put("log", "");
        let began = Instant::now();
        loop {
            let mut command = Command::new("dnsmasq");
            command.arg("--keep-in-foreground").arg(format!("--conf-file={}", config.display()));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).kill_on_drop(true);
            let mut process = command.spawn()?;
            // It ends at once while its port is taken, be it by what is left of the one before.
            while process.try_wait()?.is_none() {
                if TcpStream::connect(self.address).await.is_ok() {
                    self.process = Some(process);
                    return Ok(());
                }
                sleep(Duration::from_millis(5)).await;
            }
            assert!(began.elapsed() < UP_WITHIN, "dnsmasq does not stay up: {}", fs::read_to_string(&log)?);
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.start_kill().unwrap();
            process.wait().await.unwrap();
        }
    }

    /// It knows these hosts from now on, each a line of an address and a name.
    pub(crate) async fn hosts(&self, hosts: &str) {
        self.directory.put("hosts", hosts);
        let id = self.process.as_ref().and_then(Child::id).expect("it runs");
        let status = Command::new("kill").args(["-HUP", &id.to_string()]).status().await.unwrap();
        assert!(status.success());
    }
}

/// What Envoy is to do wrong. `"abort: { … }"` becomes one with that fault and no more.
#[derive(Clone, Debug, Default)]
pub(crate) struct EnvoyOptions {
    /// Settings of its fault filter, one a line, in YAML's flow style. `abort: { percentage: { numerator: 100 },
    /// header_abort: {} }` leaves it to each request's `x-envoy-fault-abort-request` or `…-grpc-request`.
    pub(crate) fault: String,
    /// The streams over it are refused, as are those that come before its SETTINGS were read.
    pub(crate) max_concurrent_streams: Option<u32>,
    /// GOAWAY that ends nothing with the answer to so many, and the one that does `drain` later.
    pub(crate) max_requests_per_connection: Option<u32>,
    /// The same two, by age.
    pub(crate) max_connection_duration: Option<Duration>,
    /// Between the two GOAWAYs; 5 s by default.
    pub(crate) drain: Option<Duration>,
}

impl From<&str> for EnvoyOptions {
    fn from(fault: &str) -> Self {
        Self { fault: fault.to_owned(), ..Self::default() }
    }
}

impl EnvoyOptions {
    fn config(&self, address: SocketAddr, upstream: SocketAddr) -> String {
        let seconds = |duration: Duration| format!("{}s", duration.as_secs_f64());
        let drain = self.drain.map(|drain| format!("drain_timeout: {}", seconds(drain))).unwrap_or_default();
        let streams = self.max_concurrent_streams.map(|n| format!("max_concurrent_streams: {n}")).unwrap_or_default();
        let limits = [
            self.max_requests_per_connection.map(|requests| format!("max_requests_per_connection: {requests}")),
            self.max_connection_duration.map(|age| format!("max_connection_duration: {}", seconds(age))),
        ];
        let limits = limits.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let settings = self.fault.lines().map(str::trim).filter(|line| !line.is_empty());
        let faults = settings.map(|line| format!("\n              {line}")).collect::<String>();
        let (listen, connect) = (socket(address), socket(upstream));
        // No timeout of its own (it would be 15 s): the deadlines are ours. No shared port: that it is taken must show.
        format!(
            r#"
static_resources:
  listeners:
  - address: {listen}
    enable_reuse_port: false
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: it
          codec_type: HTTP2
          {drain}
          common_http_protocol_options: {{ {limits} }}
          http2_protocol_options: {{ {streams} }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: upstream, timeout: 0s }} }}]
          http_filters:
          - name: envoy.filters.http.fault
            typed_config:
              "@type": {TYPES}.filters.http.fault.v3.HTTPFault{faults}
          - name: envoy.filters.http.router
            typed_config: {{ "@type": {TYPES}.filters.http.router.v3.Router }}
  clusters:
  - name: upstream
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {TYPES}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: upstream
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {connect} }} }}] }}]
"#
        )
    }
}

const TYPES: &str = "type.googleapis.com/envoy.extensions";

fn socket(address: SocketAddr) -> String {
    format!("{{ socket_address: {{ address: {:?}, port_value: {} }} }}", address.ip().to_string(), address.port())
}

/// Envoy, h2c on both sides, between us and `upstream`, to fail there as `options` say: a proxy's errors, resets and
/// GOAWAYs are not those of the server behind it.
pub(crate) async fn envoy(upstream: SocketAddr, options: impl Into<EnvoyOptions>) -> Option<Server> {
    let options = options.into();
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers/envoy");
    let program = if fetched.is_file() { fetched } else { "envoy".into() };
    start("envoy", "tests/servers.sh envoy", |directory, address| {
        let mut command = Command::new(&program);
        command.arg("-c").arg(directory.put("envoy.yaml", &options.config(address, upstream)));
        // Hot restart is what would need a base id that no other has.
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]);
        command
    })
    .await
}
