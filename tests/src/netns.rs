//! A network of three machines in network namespaces: a proxy, a router, an agent with two ways.
//!
//! ```text
//! proxy 10.77.0.1 -- 10.77.0.2 router 10.77.1.1 -- 10.77.1.2 agent
//!                                     10.77.2.1 -- 10.77.2.2
//! ```
//!
//! It owns the namespaces, which end with their value and with this process, and the faults of the
//! ways between them. What runs in them is the tests'. It needs root, `ip`, `ss` and `tc`
//! (iproute2), for translated addresses `nft` (nftables).

use std::{
    fs::{self, File},
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::fixture::finished;

/// A network namespace with its loopback up.
#[derive(Debug)]
pub struct Space {
    /// Ends when its input does, which ends with this process.
    holder: Child,
    file: File,
}

impl Space {
    /// Makes one.
    ///
    /// # Errors
    /// The system does not allow it, or a program is missing.
    pub fn new() -> io::Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo && exec cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn()?;
        let mut ready = [0];
        let read = holder.stdout.as_mut().map(|out| out.read(&mut ready));
        if !matches!(read, Some(Ok(1))) {
            let said = holder.wait_with_output()?.stderr;
            return Err(io::Error::other(String::from_utf8_lossy(&said).trim().to_owned()));
        }
        let file = File::open(format!("/proc/{}/ns/net", holder.id()))?;
        Ok(Self { holder, file })
    }

    /// Moves the calling thread, and all that it starts from now on, into this space.
    ///
    /// # Errors
    /// The system does not allow it.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Does something in this space, programs that it starts included.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter().unwrap_or_else(|error| panic!("the space is closed: {error}"));
                work()
            });
            inside.join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a program of the machine with these words.
    fn tell(&self, program: &str, words: &str) -> String {
        self.run(|| finished(Command::new(program).args(words.split_whitespace()), ""))
    }

    /// Sets a value of the kernel's, by its path below `/proc/sys/net`.
    fn set(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        let written = self.run(|| fs::write(&path, value));
        written.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The three machines.
#[derive(Debug)]
pub struct Network {
    /// Where the proxy runs.
    pub proxy: Space,
    /// Where the agent runs.
    pub agent: Space,
    router: Space,
}

/// Where agents find the proxy.
pub const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
/// Where it may be found instead.
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

impl Network {
    /// Makes it; everything can be reached.
    ///
    /// # Errors
    /// The system does not allow namespaces, or a program is missing.
    pub fn new() -> io::Result<Self> {
        let network = Self { proxy: Space::new()?, agent: Space::new()?, router: Space::new()? };
        let Self { proxy, agent, router } = &network;
        for space in [proxy, agent, router] {
            // What v6 does in its first seconds would be news to an agent.
            space.set("ipv6/conf/default/disable_ipv6", "1");
        }
        for (near, far, space) in
            [("up0", "net0", proxy), ("down1", "net1", agent), ("down2", "net2", agent)]
        {
            let words =
                format!("link add {near} type veth peer name {far} netns {}", space.holder.id());
            router.tell("ip", &words);
        }
        let addresses = [
            (proxy, "net0", "10.77.0.1"),
            (proxy, "net0", "10.77.0.9"),
            (router, "up0", "10.77.0.2"),
            (router, "down1", "10.77.1.1"),
            (router, "down2", "10.77.2.1"),
            (agent, "net1", "10.77.1.2"),
            (agent, "net2", "10.77.2.2"),
        ];
        for (space, link, address) in addresses {
            space.tell("ip", &format!("address add {address}/24 dev {link}"));
            space.tell("ip", &format!("link set {link} up"));
        }
        proxy.tell("ip", "route add default via 10.77.0.2");
        agent.tell("ip", "route add default via 10.77.1.1");
        network.heal();
        Ok(network)
    }

    /// Black hole: the router drops everything and tells nobody.
    pub fn hole(&self) {
        self.router.set("ipv4/ip_forward", "0");
    }

    /// Ends [`hole`](Self::hole).
    pub fn heal(&self) {
        self.router.set("ipv4/ip_forward", "1");
    }

    /// Pulls the agent's cable, which its kernel sees.
    pub fn unplug(&self) {
        self.router.tell("ip", "link set down1 down");
    }

    /// Puts it back.
    pub fn plug(&self) {
        self.router.tell("ip", "link set down1 up");
    }

    /// Resets all connections of the agent (RST).
    pub fn reset(&self) {
        self.agent.tell("ss", "-K -t state established");
    }

    /// Gives the agent another address of the same network, as a lease that was not renewed.
    pub fn renumber(&self) {
        self.agent.tell("ip", "address del 10.77.1.2/24 dev net1");
        self.agent.tell("ip", "address add 10.77.1.77/24 dev net1");
        self.agent.tell("ip", "route replace default via 10.77.1.1");
    }

    /// The agent's first way is dead and its route leads over the second one.
    pub fn reroute(&self) {
        self.router.set("ipv4/conf/down1/forwarding", "0");
        self.router.tell("ip", "route replace blackhole 10.77.1.2/32");
        self.agent.tell("ip", "route replace default via 10.77.2.1");
    }

    /// From now on the agent sends, and receives, at most so many bits in a second.
    pub fn limit(&self, bits: u64) {
        let words = |link: &str| {
            format!("qdisc replace dev {link} root tbf rate {bits}bit burst 4kb limit 16kb")
        };
        self.agent.tell("tc", &words("net1"));
        self.router.tell("tc", &words("down1"));
    }

    /// The router hides the agent's network behind its own address, and forgets a connection that
    /// was silent for `after`: what comes from it then is dropped.
    ///
    /// # Errors
    /// There is no `nft`, or the kernel has no translation.
    pub fn translate(&self, after: Duration) -> io::Result<()> {
        let rules = "table ip nat {
                chain out { type nat hook postrouting priority srcnat;
                    oifname \"up0\" masquerade
                }
            }
            table ip strict {
                set cut { type inet_service; }
                chain through { type filter hook forward priority filter;
                    tcp sport @cut drop
                    tcp dport @cut drop
                    ct state invalid drop
                }
            }";
        let output = self.router.run(|| Command::new("nft").arg(rules).output())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(io::Error::other(said));
        }
        let seconds = after.as_secs().max(1).to_string();
        self.router.set("netfilter/nf_conntrack_tcp_timeout_established", &seconds);
        // A packet out of nothing is no connection.
        self.router.set("netfilter/nf_conntrack_tcp_loose", "0");
        Ok(())
    }

    /// The router of [`translate`](Self::translate) forgets all connections that the agent has
    /// now, and goes on with others.
    pub fn forget(&self) {
        let open = self.agent.tell("ss", "-Htn state established");
        let port =
            |line: &str| line.split_whitespace().nth(2)?.rsplit(':').next().map(str::to_owned);
        let ports: Vec<_> = open.lines().filter_map(port).collect();
        self.router.tell("nft", &format!("add element ip strict cut {{ {} }}", ports.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, process::Command};

    use super::{Network, PROXY, Space};

    #[test]
    fn what_is_started_in_a_space_stays_there() {
        let Ok(space) = Space::new() else { return crate::skip::skipped("no network namespaces") };
        let listener = space.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
        assert!(space.run(|| std::net::TcpStream::connect(address)).is_ok());
        let shown = space.run(|| Command::new("ip").args(["-o", "link"]).output().unwrap());
        assert_eq!(String::from_utf8(shown.stdout).unwrap().lines().count(), 1);
    }

    #[test]
    fn the_machines_reach_each_other_until_they_do_not() {
        let Ok(network) = Network::new() else {
            return crate::skip::skipped("no network namespaces");
        };
        let listener = network.proxy.run(|| TcpListener::bind((PROXY, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let patience = std::time::Duration::from_millis(300);
        let dial =
            || network.agent.run(|| std::net::TcpStream::connect_timeout(&address, patience));
        assert!(dial().is_ok());
        network.hole();
        assert_eq!(dial().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        network.heal();
        assert!(dial().is_ok());
        network.reroute();
        assert!(dial().is_ok());
    }
}
