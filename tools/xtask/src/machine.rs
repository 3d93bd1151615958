//! What the machine has: a C compiler, OpenSSL's headers, or what it takes to build OpenSSL from source.

use std::process::{Command, Stdio};

/// What was found.
pub(crate) struct Machine {
    /// Builds OpenSSL from source, because the system has no headers.
    vendored: bool,
}

/// What has to be there, and how to find out.
struct Tool {
    name: &'static str,
    args: &'static [&'static str],
    /// Debian's package.
    package: &'static str,
}

const COMPILER: Tool = Tool { name: "cc", args: &["--version"], package: "gcc" };
/// OpenSSL's build scripts; Debian's `perl-base` alone lacks the modules.
const FROM_SOURCE: [Tool; 2] = [
    Tool { name: "perl", args: &["-MFindBin", "-MIPC::Cmd", "-MFile::Compare", "-e", "1"], package: "perl" },
    Tool { name: "make", args: &["--version"], package: "make" },
];

impl Tool {
    fn is_there(&self) -> bool {
        succeeds(self.name, self.args)
    }
}

impl Machine {
    /// Looks around; the error is the one line that installs what is missing.
    pub(crate) fn look() -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Ok(Self { vendored: false }); // The system's own TLS library.
        }
        if !COMPILER.is_there() {
            return Err(install("there is no C compiler (cc)", &[&COMPILER]));
        }
        if has_openssl_headers() {
            return Ok(Self { vendored: false });
        }
        let missing: Vec<_> = FROM_SOURCE.iter().filter(|tool| !tool.is_there()).collect();
        if missing.is_empty() {
            eprintln!("no OpenSSL headers here: building OpenSSL from source, which takes some minutes the first time");
            eprintln!("(quicker: apt-get install -y libssl-dev pkg-config)");
            return Ok(Self { vendored: true });
        }
        let headers = Tool { name: "", args: &[], package: "libssl-dev pkg-config" };
        Err(install("there are no OpenSSL headers, nor what it takes to build OpenSSL from source", &[&headers]))
    }

    /// Cargo's arguments for this machine.
    pub(crate) fn features(&self) -> &'static [&'static str] {
        if self.vendored { &["--features", "towline-tls/vendored,towline-testbed/vendored"] } else { &[] }
    }

    /// Cargo's arguments for a package whose `feature` builds OpenSSL from source.
    pub(crate) fn feature_of<'a>(&self, feature: &'a str) -> Vec<&'a str> {
        if self.vendored { vec!["--features", feature] } else { Vec::new() }
    }
}

fn has_openssl_headers() -> bool {
    std::env::var_os("OPENSSL_DIR").is_some() || succeeds("pkg-config", &["--exists", "openssl"])
}

fn install(what: &str, tools: &[&Tool]) -> String {
    let packages: Vec<_> = tools.iter().map(|tool| tool.package).collect();
    format!("{what}; install it, on Debian and Ubuntu with: apt-get install -y {}", packages.join(" "))
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
