//! The pair under test: `spdy-proxy` and `spdy-agent` as shipped, paired and joined as by hand.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use spdy_tests::{
    cost::Cost,
    fixture::{Program, TempRoot},
    pair::{Builds, PairingProxy},
};

use crate::load;

/// A proxy and its agent, with the tunnel up.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) agent: Program,
    pub(crate) proxy: PairingProxy,
    _folder: TempRoot,
}

impl Pair {
    /// Starts both; the agent serves `root`. `via` may put something into the tunnel's way and
    /// returns the address that the agent dials.
    ///
    /// # Errors
    /// When the listing does not answer 200 within 20 s.
    ///
    /// # Panics
    /// When a program fails.
    pub(crate) fn start(
        builds: &Builds,
        root: &Path,
        via: impl FnOnce(SocketAddr) -> io::Result<SocketAddr>,
    ) -> io::Result<Self> {
        let folder = TempRoot::new();
        let proxy = builds.start_proxy(&folder.path().join("state"), &[]);
        let config = folder.path().join("agent.conf");
        builds.join(&proxy.pair("nas1", via(proxy.tunnel)?), &config);
        let agent = builds.start_agent(root, &config, &[]);
        let end = Instant::now() + Duration::from_secs(20);
        while load::status(proxy.http, "/").ok() != Some(200) {
            if Instant::now() > end {
                let said = (proxy.program.text(), agent.text());
                return Err(io::Error::other(format!("no tunnel:\n{}\n{}", said.0, said.1)));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { agent, proxy, _folder: folder })
    }
}

/// Resident octets of the proxy per idle tunnel, with `count` agents that run as processes.
///
/// The first tenth of them warms up what is made once; the growth by the others is measured.
///
/// # Errors
/// When the tunnels are not up within a minute.
///
/// # Panics
/// When a program fails.
pub(crate) fn idle(builds: &Builds, count: usize) -> io::Result<Idle> {
    let folder = TempRoot::new();
    let root = folder.path().join("root");
    fs::create_dir(&root)?;
    let proxy = builds.start_proxy(&folder.path().join("state"), &[]);
    let configs = (0..count).map(|number| {
        // A folder each: join keeps the token beside the configuration.
        let own = folder.path().join(number.to_string());
        fs::create_dir(&own)?;
        let config = own.join("agent.conf");
        builds.join(&proxy.pair(&format!("nas{number}"), proxy.tunnel), &config);
        Ok(config)
    });
    let configs: Vec<_> = configs.collect::<io::Result<_>>()?;
    let mut agents = Vec::new();
    let mut before = 0;
    for (number, config) in configs.iter().enumerate() {
        if number == count / 10 {
            before = settled(&proxy, &agents)?;
        }
        agents.push(builds.start_agent(&root, config, &[]));
    }
    let after = settled(&proxy, &agents)?;
    let tunnels = count - count / 10;
    let agent =
        agents.iter().map(|agent| Ok(Cost::of(agent.id())?.resident)).sum::<io::Result<u64>>()?;
    Ok(Idle {
        per_tunnel: after.saturating_sub(before) / tunnels as u64,
        agent: agent / count as u64,
        tunnels,
    })
}

/// Memory of idle tunnels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    /// Growth of the proxy's resident memory, in octets.
    pub(crate) per_tunnel: u64,
    /// Resident memory of one agent, shared pages included, in octets.
    pub(crate) agent: u64,
    /// Tunnels that were counted.
    pub(crate) tunnels: usize,
}

/// Resident memory of the proxy once every agent's tunnel is up and there is nothing more to do.
fn settled(proxy: &PairingProxy, agents: &[Program]) -> io::Result<u64> {
    let end = Instant::now() + Duration::from_secs(60);
    let mut before = Cost::of(proxy.program.id())?;
    loop {
        thread::sleep(Duration::from_millis(500));
        let (up, now) = (established(proxy.tunnel)?, Cost::of(proxy.program.id())?);
        if up >= agents.len() && now == before {
            return Ok(now.resident);
        }
        if Instant::now() > end {
            let first = agents.first().map(Program::text).unwrap_or_default();
            let text = format!("{up} of {} tunnels are up; the first: {first}", agents.len());
            return Err(io::Error::other(text));
        }
        before = now;
    }
}

/// Connections that the kernel holds open at `address`.
fn established(address: SocketAddr) -> io::Result<usize> {
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp")?;
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(fields.filter(|fields| fields[1].ends_with(&port) && fields[3] == "01").count())
}
