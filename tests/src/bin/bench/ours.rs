//! The pair under test: `spdy-proxy` and `spdy-agent` as shipped, paired and joined as by hand.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use spdy_tests::fixture::{Agent, Builds, Pair, Proxy, TempRoot, join};

/// Starts both programs; the agent serves `root`. `via` may put something into the tunnel's way
/// and returns the address that the agent dials.
///
/// # Errors
/// Those of `via`.
pub(crate) fn start(
    builds: &Builds,
    root: &Path,
    via: impl FnOnce(SocketAddr) -> io::Result<SocketAddr>,
) -> io::Result<Pair> {
    let proxy = Proxy::of(builds, &[]);
    let address = via(proxy.tunnel)?;
    Ok(Pair::join(proxy, address, root, &[]))
}

/// Resident octets of the proxy per idle tunnel, with `count` agents that run as processes.
///
/// The first tenth of them warms up what is made once; the growth by the others is measured.
///
/// # Errors
/// When the tunnels are not up within a minute.
pub(crate) fn idle(builds: &Builds, count: usize) -> io::Result<Idle> {
    let folder = TempRoot::new();
    let root = folder.join("root");
    fs::create_dir(&root)?;
    let proxy = Proxy::of(builds, &[]);
    let configs: Vec<_> = (0..count)
        .map(|number| {
            let config = folder.join(&format!("agent-{number}.conf"));
            join(builds, &proxy.pair(&format!("nas{number}")), &config);
            config
        })
        .collect();
    let mut agents = Vec::new();
    let mut before = 0;
    for (number, config) in configs.iter().enumerate() {
        if number == count / 10 {
            before = settled(&proxy, number)?;
        }
        agents.push(Agent::joined(builds, &root, config, &[]));
    }
    let after = settled(&proxy, count)?;
    let tunnels = count - count / 10;
    let agent =
        agents.iter().map(|agent| Ok(agent.program().cost()?.resident)).sum::<io::Result<u64>>()?;
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

/// Resident memory of the proxy once `tunnels` connections are up and it has nothing more to do.
fn settled(proxy: &Proxy, tunnels: usize) -> io::Result<u64> {
    let end = Instant::now() + Duration::from_secs(60);
    let mut before = proxy.program().cost()?;
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = proxy.program().cost()?;
        if established(proxy.tunnel)? >= tunnels && now == before {
            return Ok(now.resident);
        }
        if Instant::now() > end {
            let text = format!("{} of {tunnels} tunnels are up", established(proxy.tunnel)?);
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
