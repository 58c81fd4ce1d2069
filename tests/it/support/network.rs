//! A network namespace for processes, as a container has one, with cables to this machine. A cable that is cut carries
//! nothing any more, and neither end is told: what was sent is not acknowledged, and new packets go nowhere.

use std::process::{Command, id};

/// What a cable connects.
#[derive(Debug, Clone, Copy)]
pub enum Cable {
    Servers,
    Receivers,
    /// For probes and requests of the test.
    Test,
}

const CABLES: [Cable; 3] = [Cable::Servers, Cable::Receivers, Cable::Test];

pub struct Network {
    name: String,
}

impl Network {
    /// `None`, with a line that says so, where this machine does not allow namespaces.
    pub fn new() -> Option<Self> {
        let network = Self { name: format!("penr{}", id()) };
        let name = &network.name;
        let mut script = format!("ip netns add {name} && ip -n {name} link set lo up");
        for cable in CABLES {
            let [bridge, here, there] = interfaces(cable);
            script += &format!(
                " && ip link add {bridge} type bridge && ip address add {}/24 dev {bridge} && ip link set {bridge} up
                 ip link add {here} type veth peer name {there} netns {name} &&
                 ip link set {here} master {bridge} && ip link set {here} up &&
                 ip -n {name} address add {}/24 dev {there} && ip -n {name} link set {there} up",
                network.here(cable),
                network.there(cable)
            );
        }
        match run(&script) {
            Ok(()) => Some(network),
            Err(why) => {
                println!("SKIPPED: network namespaces cannot be made here: {why}");
                None
            }
        }
    }

    /// This machine's end.
    pub fn here(&self, cable: Cable) -> String {
        address(cable, 1)
    }

    /// The namespace's end.
    pub fn there(&self, cable: Cable) -> String {
        address(cable, 2)
    }

    /// The command line that starts a program inside the namespace.
    pub fn inside(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    pub fn cut(&self, cable: Cable) {
        let [_, here, _] = interfaces(cable);
        run(&format!("ip link set {here} nomaster")).expect("the cable is plugged in");
    }

    pub fn mend(&self, cable: Cable) {
        let [bridge, here, _] = interfaces(cable);
        run(&format!("ip link set {here} master {bridge}")).expect("the cable was cut");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = run(&format!("ip netns delete {}", self.name));
        for [bridge, here, _] in CABLES.map(interfaces) {
            let _ = run(&format!("ip link delete {here}"));
            let _ = run(&format!("ip link delete {bridge}"));
        }
    }
}

/// An address of the range that is reserved for network tests (RFC 2544). The process id chooses a part of it.
fn address(cable: Cable, host: u8) -> String {
    format!("198.18.{}.{host}", (id() % 64) * 4 + cable as u32)
}

fn interfaces(cable: Cable) -> [String; 3] {
    ["b", "h", "n"].map(|kind| format!("penr{}{kind}{}", id(), cable as u8))
}

fn run(script: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-ec", script]).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "))
}
