//! The yardstick: an nginx reverse proxy over a TLS nginx origin, set up as an expert would.
//!
//! One worker each, as our programs have one busy thread each; plain HTTP towards the client and
//! TLS 1.3 with the same cipher between the two. docs/testing.md names each setting's reason.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use spdy_tests::fixture::{Program, TempRoot};

/// Two nginx, running.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) origin: Program,
    pub(crate) proxy: Program,
    pub(crate) address: SocketAddr,
    _folder: TempRoot,
}

impl Pair {
    /// Starts both; the origin serves `root`. `via` may put something between the two and returns
    /// the address that the reverse proxy dials. `stock` leaves out what tunes it.
    ///
    /// # Errors
    /// When nginx is missing or does not start.
    pub(crate) fn start(
        root: &Path,
        stock: bool,
        via: impl FnOnce(SocketAddr) -> io::Result<SocketAddr>,
    ) -> io::Result<Self> {
        let folder = TempRoot::new();
        let certificate = rcgen::generate_simple_self_signed(["origin.test".to_owned()])
            .map_err(io::Error::other)?;
        fs::write(folder.path().join("cert.pem"), certificate.cert.pem())?;
        fs::write(folder.path().join("key.pem"), certificate.signing_key.serialize_pem())?;
        let (origin_address, address) = (free_port()?, free_port()?);
        let path = folder.path().display().to_string();
        let (tuned_origin, tuned_proxy) = if stock { ("", "") } else { (ORIGIN, PROXY) };
        let origin = format!(
            "server {{
                listen {origin_address} ssl reuseport;
                ssl_certificate {path}/cert.pem;
                ssl_certificate_key {path}/key.pem;
                ssl_protocols TLSv1.3;
                ssl_session_cache shared:tls:4m;
                {tuned_origin}
                root {};
            }}",
            root.display()
        );
        let origin = run(folder.path(), "origin", &origin, origin_address)?;
        let upstream = via(origin_address)?;
        let proxy = format!(
            "upstream origin {{
                server {upstream};
                keepalive 256;
                keepalive_requests 10000000;
            }}
            server {{
                listen {address} reuseport;
                location / {{
                    proxy_pass https://origin;
                    proxy_http_version 1.1;
                    proxy_set_header Connection \"\";
                    proxy_ssl_protocols TLSv1.3;
                    proxy_ssl_name origin.test;
                    proxy_ssl_verify on;
                    proxy_ssl_trusted_certificate {path}/cert.pem;
                    {tuned_proxy}
                }}
            }}"
        );
        let proxy = run(folder.path(), "proxy", &proxy, address)?;
        Ok(Self { origin, proxy, address, _folder: folder })
    }
}

impl Drop for Pair {
    /// nginx ends its workers on SIGTERM, not on SIGKILL.
    fn drop(&mut self) {
        for program in [&mut self.proxy, &mut self.origin] {
            // Whoever is gone or does not go has ended or will be killed.
            let _ = program.signal(Signal::TERM);
            let _ = program.ended_within(Duration::from_secs(5));
        }
    }
}

fn run(folder: &Path, name: &str, server: &str, address: SocketAddr) -> io::Result<Program> {
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let path = folder.display();
    let text = format!(
        "{user}
        daemon off;
        worker_processes 1;
        pid {path}/{name}.pid;
        error_log stderr crit;
        events {{ worker_connections 4096; }}
        http {{
            access_log off;
            default_type application/octet-stream;
            sendfile on;
            tcp_nopush on;
            tcp_nodelay on;
            keepalive_requests 10000000;
            client_body_temp_path {path}/{name}-body;
            proxy_temp_path {path}/{name}-proxy;
            fastcgi_temp_path {path}/{name}-fastcgi;
            uwsgi_temp_path {path}/{name}-uwsgi;
            scgi_temp_path {path}/{name}-scgi;
            {server}
        }}\n"
    );
    let file = folder.join(format!("{name}.conf"));
    fs::write(&file, text)?;
    let mut command = Command::new(nginx());
    command.arg("-p").arg(folder).arg("-c").arg(&file).args(["-e", "stderr"]);
    let program = Program::start("nginx", &mut command);
    let end = Instant::now() + Duration::from_secs(10);
    // nginx says nothing when it is ready.
    while TcpStream::connect(address).is_err() {
        if Instant::now() > end {
            return Err(io::Error::other(format!("nginx does not start: {}", program.text())));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(program)
}

/// Debian keeps nginx outside of the path of ordinary users.
fn nginx() -> &'static str {
    if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" }
}

/// nginx takes no port 0: one that was free a moment ago.
fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// What makes the origin cheaper.
const ORIGIN: &str = "output_buffers 2 256k; open_file_cache max=64;";
/// What makes the reverse proxy cheaper.
const PROXY: &str = "proxy_buffers 16 64k; proxy_buffer_size 64k;
    proxy_busy_buffers_size 256k; proxy_max_temp_file_size 0;";
