//! Rows about a proxy, or something in its place, that answers late, wrong or not at all.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use spdy_tests::{
    fixture::{Identity, wait_until},
    raw::RawProxy,
};

use crate::site::{Pace, Site, key_of};

/// Something that stands where the proxy was, until it is dropped.
struct Impostor {
    over: Arc<AtomicBool>,
    taken: Option<JoinHandle<()>>,
}

impl Impostor {
    /// `meet` has what it returns kept until the end.
    fn new<T: 'static>(
        at: SocketAddr,
        meet: impl Fn(&RawProxy, TcpStream) -> io::Result<T> + Send + 'static,
        identity: Identity,
    ) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let taken = thread::spawn(move || {
            let proxy = RawProxy::of(listener, identity);
            let mut kept = Vec::new();
            while let Ok(socket) = proxy.take() {
                if ended.load(Relaxed) {
                    break;
                }
                // An agent that gives up is what is waited for.
                kept.extend(meet(&proxy, socket));
            }
        });
        Self { over, taken: Some(taken) }
    }

    fn leave(mut self, at: SocketAddr) {
        self.over.store(true, Relaxed);
        // Wakes it up.
        drop(TcpStream::connect(at).unwrap());
        self.taken.take().unwrap().join().unwrap();
    }
}

/// A site with an impostor in place of the proxy, then the proxy.
fn behind<T: 'static>(
    pace: Pace,
    name: &str,
    bound: f64,
    meet: impl Fn(&RawProxy, TcpStream) -> io::Result<T> + Send + 'static,
) {
    let site = Site::paired(pace);
    site.kill_proxy();
    let identity = Identity::of_pem(&key_of(&site.state));
    let impostor = Impostor::new(site.tunnel, meet, identity);
    let started = Instant::now();
    site.start_agent();
    wait_until("it says so", || site.agent_said("event=connect_failed") > 0);
    let said = started.elapsed();
    impostor.leave(site.dialled());
    site.start_proxy();
    let back = site.back_at_new(Instant::now());
    // It was away for ten seconds at most: the step in force is 16 s.
    site.row(name, [Some((said, bound)), None, Some((back, 27.0))]);
}

pub fn stall_in_tls(pace: Pace) {
    behind(pace, "TLS stalls", 11.0, |_, socket| Ok(socket));
}

pub fn stall_after_put(pace: Pace) {
    behind(pace, "PUT stalls", 11.0, |proxy, socket| proxy.meet(socket));
}

pub fn refusal_of_put(pace: Pace) {
    behind(pace, "500 on PUT", 2.0, |proxy, socket| {
        let (_, writer, _) = proxy.meet(socket)?;
        writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    });
}

/// The line is so slow that a handshake takes most of its time.
pub fn slow_handshake(pace: Pace) {
    let site = Site::emulated(pace);
    let started = Instant::now();
    site.slow_down(pace.rate(3_000));
    site.start_agent();
    let up = site.back_at_new(started);
    site.row("slow handshake (3 kbit/s)", [None, None, Some((up, 20.0))]);
    assert!(up > pace.time(4.0), "it was not slow");
    assert_eq!(site.agent_said("event=connect_failed"), 0);
}
