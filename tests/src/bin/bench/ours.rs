//! The pair under test: `spdy-proxy` and `spdy-agent` as shipped, paired and joined as by hand.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use spdy_tests::programs::{self, Builds, Folder, Program, Proxy};

use crate::load;

/// A proxy and its agent, with the tunnel up.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) agent: Program,
    pub(crate) proxy: Proxy,
    _folder: Folder,
}

impl Pair {
    /// Starts both; the agent serves `root`. `via` may put something into the tunnel's way and
    /// returns the address that the agent dials.
    ///
    /// # Errors
    /// When a program fails or the listing does not answer 200 within 20 s.
    pub(crate) fn start(
        builds: &Builds,
        root: &Path,
        via: impl FnOnce(SocketAddr) -> io::Result<SocketAddr>,
    ) -> io::Result<Self> {
        let folder = Folder::fresh("pair")?;
        let proxy = Proxy::start(builds, &folder.path().join("state"), &[])?;
        let config = folder.path().join("agent.conf");
        let code = proxy.pair("nas1", via(proxy.tunnel)?)?;
        programs::join(builds, &code, &config)?;
        let agent = programs::agent(builds, root, &config, &[])?;
        let end = Instant::now() + Duration::from_secs(20);
        while load::status(proxy.http, "/").ok() != Some(200) {
            if Instant::now() > end {
                let said = (proxy.program.output(), agent.output());
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
/// When a program fails or the tunnels are not up within a minute.
pub(crate) fn idle(builds: &Builds, count: usize) -> io::Result<Idle> {
    let folder = Folder::fresh("idle")?;
    let root = folder.path().join("root");
    fs::create_dir(&root)?;
    let proxy = Proxy::start(builds, &folder.path().join("state"), &[])?;
    let configs = (0..count).map(|number| {
        // A folder each: join keeps the token beside the configuration.
        let own = folder.path().join(number.to_string());
        fs::create_dir(&own)?;
        let config = own.join("agent.conf");
        let code = proxy.pair(&format!("nas{number}"), proxy.tunnel)?;
        programs::join(builds, &code, &config)?;
        Ok(config)
    });
    let configs: Vec<_> = configs.collect::<io::Result<_>>()?;
    let mut agents = Vec::new();
    let mut before = 0;
    for (number, config) in configs.iter().enumerate() {
        if number == count / 10 {
            before = settled(&proxy, &agents)?;
        }
        agents.push(programs::agent(builds, &root, config, &[])?);
    }
    let after = settled(&proxy, &agents)?;
    let tunnels = count - count / 10;
    let agent = agents.iter().map(|agent| Ok(agent.cost()?.resident)).sum::<io::Result<u64>>()?;
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
fn settled(proxy: &Proxy, agents: &[Program]) -> io::Result<u64> {
    let end = Instant::now() + Duration::from_secs(60);
    let mut before = proxy.program.cost()?;
    loop {
        thread::sleep(Duration::from_millis(500));
        let (up, now) = (established(proxy.tunnel)?, proxy.program.cost()?);
        if up >= agents.len() && now == before {
            return Ok(now.resident);
        }
        if Instant::now() > end {
            let first = agents.first().map(Program::output).unwrap_or_default();
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
