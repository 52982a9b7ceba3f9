//! Everything but a handshake: before TLS, in it, and in place of PUT and its answer.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{Agent, PATIENCE, Proxy, Random, TempRoot, wait_until},
    http::{Request, wait_for_agent},
    observe::{descriptors, forget_peak, memory, memory_peak},
    raw::{Name, RawProxy, RawSession},
    wire::tls::dial,
};

use crate::{assert_sound, scaled::ScaledProxy};

#[test]
fn agent_outlives_answers_that_are_none() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let answers: Vec<Vec<u8>> = vec![
        Random::octets(20_000, 9),
        b"HTTP/1.1 200 Connection Established\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(),
        b"HTTP/1.1 000 \r\n\r\n".to_vec(),
        b"SPDY/3.1 200 OK\r\n\r\n".to_vec(),
        [&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'x'; 100_000]].concat(),
        [&b"HTTP/1.1 200 OK\r\n"[..], &b"X: y\r\n".repeat(10_000)].concat(),
        b"HTTP/1.1 200 OK\r\nSpdy-Tunnel: v=1, id=\"\x1b[2J\", can=(\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nSpdy-Tunnel: v=99\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 403 Refused\r\nContent-Length: 12\r\n\r\n\x1b[2Jlevel=x\n".to_vec(),
        b"HTTP/1.1 503 Refused\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n"
            .to_vec(),
        Vec::new(),
    ];
    let hostile: Vec<_> = answers.iter().map(|_| RawProxy::new()).collect();
    let good = Proxy::start(&["--allow-anonymous"]);
    let mut args = vec!["-r".to_owned(), root.path().to_str().unwrap().to_owned()];
    args.extend(["--insecure".to_owned(), "-s".to_owned()]);
    for address in hostile.iter().map(|proxy| proxy.address).chain([good.tunnel]) {
        args.extend(["--proxy".to_owned(), address.to_string()]);
    }
    let agent = Agent::start(&args);
    for (answer, proxy) in answers.iter().zip(&hostile) {
        let (_, writer, put) = proxy.accept().unwrap();
        assert!(put.starts_with("PUT / HTTP/1.1\r\n") && !put.contains("Authorization"), "{put}");
        // It may have read enough before the end.
        let _ = writer.write(answer);
        writer.shutdown();
    }
    for proxy in &hostile {
        let told = format!("event=connect_failed proxy={}", proxy.address);
        agent.program().wait_for(&told, |line| line.contains(&told).then_some(()));
    }
    wait_for_agent(good.http);
    assert_eq!(Request::get("/small").send(good.http).unwrap().text(), "small");
    assert_sound(agent.program());
    assert!(!agent.program().text().contains('\u{1b}'), "escapes reach the terminal");
}

#[test]
fn what_is_no_handshake_costs_the_proxy_nothing() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let proxy = Proxy::start(&["--allow-anonymous"]);
    let _agent = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    let id = proxy.program().id();
    let (idle, open) = (memory(id), descriptors(id));
    forget_peak(id);
    // In place of TLS.
    for octets in [
        Random::octets(100_000, 11),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xff],
        vec![0; 100_000],
        Vec::new(),
    ] {
        let mut socket = TcpStream::connect(proxy.tunnel).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = socket.write_all(&octets);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        // An alert, then the end; or a reset, where octets were left unread.
        let ended = socket.read_to_end(&mut Vec::new());
        assert!(ended.is_ok_and(|len| len < 100) || octets.len() > 50_000);
    }
    // In place of PUT.
    let endless = |line: &str| line.repeat(1_000_000 / line.len());
    for (put, status) in [
        (String::from_utf8_lossy(&Random::octets(1_000, 12)).into_owned() + "\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "400"),
        ("PUT / HTTP/1.1\r\nHost: x\r\nAuthorization: Magic x\r\n\r\n".to_owned(), "400"),
        ("PUT / HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n".to_owned(), "431"),
        ("PUT / HTTP/1.1\r\nSpdy-Tunnel: v=2\r\n\r\n".to_owned(), "426"),
        ("PUT / HTTP/1.1\r\nSpdy-Tunnel: v=1, origin=\"A B\"\r\n\r\n".to_owned(), "400"),
        (format!("PUT / HTTP/1.1\r\n{}", endless("X: y\r\n")), "431"),
        (format!("PUT / HTTP/1.1\r\nX: {}", endless("x")), "431"),
        (format!("PUT /{}", endless("x")), "431"),
        (endless("x"), "4"),
    ] {
        let (mut reader, writer) = dial(proxy.tunnel).unwrap();
        // It need not be read to its end.
        let _ = writer.write(put.as_bytes());
        let mut answer = Vec::new();
        let mut piece = [0; 1_024];
        while let Ok(len @ 1..) = reader.read(&mut piece) {
            answer.extend_from_slice(&piece[..len]);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        // A reset may have overtaken the answer to what was too long.
        let told = answer.starts_with(&format!("HTTP/1.1 {status}"));
        assert!(told || put.len() > 50_000 && answer.is_empty(), "{put:.60}: {answer}");
    }
    let credentials = "PUT / HTTP/1.1\r\nAuthorization: Bearer x\r\nSpdy-Tunnel: v=1, \
                       origin=\"nobody\", instance=:AAAAAAAAAAAAAAAAAAAAAA==:, \
                       run=:AAAAAAAAAAA=:, epoch=1, can=()\r\nContent-Length: 0\r\n\r\n";
    let (mut reader, writer) = dial(proxy.tunnel).unwrap();
    writer.write(credentials.as_bytes()).unwrap();
    let mut start = [0; 12];
    reader.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 401");

    assert_eq!(Request::get("/small").send(proxy.http).unwrap().text(), "small");
    let grown = memory_peak(id).saturating_sub(idle);
    println!("the proxy grew by at most {} KiB", grown >> 10);
    assert!(grown < 4 << 20, "{grown}");
    wait_until("their sockets are closed", || descriptors(id) <= open + 1);
    assert_sound(proxy.program());
}

#[test]
fn half_open_handshakes_hold_nobody_up_for_long() {
    let root = TempRoot::new();
    root.write("small", b"small");
    let proxy = ScaledProxy::start(|settings| {
        settings.timings.handshake = Duration::from_millis(500);
    });
    let _first = Agent::serve(root.path(), proxy.tunnel);
    wait_for_agent(proxy.http);
    // Nothing; the start of TLS; a record that never ends. 64 may shake hands at a time.
    let mut half_open = Vec::new();
    for n in 0..200 {
        let mut socket = TcpStream::connect(proxy.tunnel).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let start: &[u8] = [&[][..], &[0x16, 3, 1], &[0x16, 3, 1, 0x40, 0, 1]][n % 3];
        socket.write_all(start).unwrap();
        half_open.push(socket);
    }
    // Who is through is served as before.
    let asked = Instant::now();
    assert_eq!(Request::get("/small").send(proxy.http).unwrap().text(), "small");
    assert!(asked.elapsed() < Duration::from_secs(1));
    // Who comes behind them has to wait for his turn, and gets it.
    let asked = Instant::now();
    let late = RawSession::dial(proxy.tunnel, Name::Own).unwrap();
    let waited = asked.elapsed();
    assert!(waited < Duration::from_secs(4), "{waited:?}");
    for mut socket in half_open {
        let ended = socket.read_to_end(&mut Vec::new());
        assert!(ended.is_ok() || ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset);
    }
    late.octets.shutdown();
}

#[test]
fn handshake_that_drips_is_cut_at_its_deadline() {
    let proxy = ScaledProxy::start(|settings| {
        settings.timings.handshake = Duration::from_millis(700);
    });
    let (mut reader, writer) = dial(proxy.tunnel).unwrap();
    let begun = Instant::now();
    let ended = thread::spawn(move || {
        let ended = reader.read(&mut [0; 100]);
        (begun.elapsed(), ended.map_or(0, |len| len))
    });
    // Each octet is life for TCP and none for the handshake.
    while !ended.is_finished() && begun.elapsed() < PATIENCE {
        if writer.write(b"P").is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let (after, len) = ended.join().unwrap();
    assert_eq!(len, 0);
    assert!(after < Duration::from_secs(2), "{after:?}");
}
