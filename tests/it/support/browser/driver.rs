//! One chromedriver for all tests of a process, which ends with the process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use axum::http::Method;
use fantoccini::wd::WebDriverCompatibleCommand;
use serde_json::Value;
use url::Url;

pub(super) struct Driver {
    port: u16,
    /// Ends when its standard input is closed, which the kernel does however this process ends.
    _process: Child,
    _output: BufReader<ChildStdout>,
}

impl Driver {
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<Driver> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn start() -> Self {
        axe_path();
        let script = "chromedriver --port=0 & driver=$!; read -r _; kill $driver";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("there is a shell");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut lines = output.by_ref().lines().map_while(Result::ok);
        let said = lines.find(|line| line.contains("started successfully on port")).expect("chromedriver starts");
        let port = said.trim_end_matches('.').rsplit(' ').next().and_then(|port| port.parse().ok());
        Self { port: port.expect("chromedriver says its port"), _process: child, _output: output }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends a session without a runtime, for `drop`.
    pub(super) fn end(&self, session: &str) {
        let end = || -> std::io::Result<()> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "DELETE /session/{session} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
            stream.read(&mut [0; 64]).map(|_| ())
        };
        if let Err(error) = end() {
            eprintln!("a browser was not closed: {error}");
        }
    }
}

/// A command of Chromium's that is not part of WebDriver.
#[derive(Debug)]
pub(super) struct Command {
    pub path: &'static str,
    pub body: Value,
}

impl WebDriverCompatibleCommand for Command {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

pub(super) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// The source of axe-core.
pub(super) fn axe() -> &'static str {
    static AXE: OnceLock<String> = OnceLock::new();
    AXE.get_or_init(|| std::fs::read_to_string(axe_path()).expect("scripts/browser has fetched it"))
}

/// The path of axe-core, from the script that installs what the tests of the page need.
fn axe_path() -> &'static Path {
    static FETCHED: OnceLock<PathBuf> = OnceLock::new();
    FETCHED.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/browser");
        let output = std::process::Command::new(script).stderr(Stdio::inherit()).output().expect("it can be run");
        assert!(output.status.success(), "scripts/browser failed");
        String::from_utf8(output.stdout).expect("it prints a path").trim().into()
    })
}
