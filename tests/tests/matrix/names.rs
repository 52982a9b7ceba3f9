//! A resolver for one name, which answers, keeps silent or takes its time.
//!
//! It owns the server on the agent's machine and how programs are led to it: by a `resolv.conf` of
//! their own.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use spdy_tests::{fixture::TempRoot, netns::Space};

use crate::site::Pace;

/// What the resolver does with a question.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Answers after this time.
    Answers(Ipv4Addr, Duration),
    /// Never answers.
    Dead,
}

/// See the module.
#[derive(Debug)]
pub struct Names {
    manner: Arc<Mutex<Manner>>,
    over: Arc<AtomicBool>,
}

impl Names {
    /// One that answers with this.
    pub fn of(address: Ipv4Addr) -> Self {
        let manner = Manner::Answers(address, Duration::ZERO);
        Self { manner: Arc::new(Mutex::new(manner)), over: Arc::default() }
    }

    /// The name that it knows.
    pub fn name(&self) -> &'static str {
        "proxy.test"
    }

    /// From now on it does this.
    pub fn set(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// Answers on the loopback of a machine.
    pub fn serve(&self, space: &Space) {
        let socket = space.run(|| UdpSocket::bind("127.0.0.1:53").unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (manner, over) = (self.manner.clone(), self.over.clone());
        thread::spawn(move || {
            let mut question = [0; 512];
            while !over.load(Relaxed) {
                let (len, from) = match socket.recv_from(&mut question) {
                    Ok(received) => received,
                    Err(error) => {
                        assert!(matches!(error.kind(), ErrorKind::WouldBlock), "{error}");
                        continue;
                    }
                };
                let manner = *manner.lock().unwrap();
                let Manner::Answers(address, after) = manner else { continue };
                let (answer, socket) = (answer(&question[..len], address), socket.try_clone());
                thread::spawn(move || {
                    thread::sleep(after);
                    // Who asked may be gone.
                    let _ = socket.unwrap().send_to(&answer, from);
                });
            }
        });
    }

    /// The words in front of a program that makes it ask here.
    pub fn before(&self, folder: &TempRoot, pace: Pace) -> Vec<String> {
        let patience = if pace == Pace::Scaled { "options timeout:1 attempts:1\n" } else { "" };
        let conf = format!("nameserver 127.0.0.1\n{patience}");
        let path = folder.write("resolv.conf", conf.as_bytes());
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let words = ["unshare", "--mount", "sh", "-c", script, path.to_str().unwrap()];
        words.map(str::to_owned).to_vec()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}

/// The answer to a question for A; none for anything else.
fn answer(question: &[u8], address: Ipv4Addr) -> Vec<u8> {
    // The name, its closing zero, type and class; what follows is EDNS.
    let name = question[12..].iter().position(|octet| *octet == 0).unwrap();
    let asked = &question[12..12 + name + 5];
    let is_a = asked[name + 1..name + 3] == [0, 1];
    let mut answer = question[..2].to_vec();
    answer.extend_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend_from_slice(asked);
    if is_a {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    answer
}
