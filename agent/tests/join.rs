//! Join against a proxy with a real certificate.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod fixture;

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use async_io::Timer;
use fixture::{Folder, Proxy, established};
use futures_lite::future::{or, zip};
use spdy_agent::{
    config::{File, Options, settle},
    dial::Timings,
    join::{JoinError, join},
    verify::{Trust, sha256},
};
use spdy_protocol::{handshake::Credentials, join::JoinCode};

fn code(proxy: &Proxy, addresses: &[String]) -> JoinCode {
    JoinCode {
        addresses: addresses.to_vec(),
        origin: "nas1".to_owned(),
        pins: vec![proxy.pin.0],
        secret: [9; 16],
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    async_io::block_on(or(work, async {
        Timer::after(Duration::from_secs(20)).await;
        panic!("test takes too long");
    }))
}

#[test]
fn join_registers_and_writes_what_an_agent_can_start_with() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    // The first address is dead; the second is tried.
    let dead = {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        closed.local_addr().unwrap().to_string()
    };
    let text = code(&proxy, &[dead, proxy.address()]).encode();
    let file = folder.path().join("conf/agent.conf");
    block_on(async {
        let serve = async {
            let mut accepted = proxy.accept().await.unwrap();
            accepted.answer(&established()).await;
            accepted
        };
        let (joined, accepted) = zip(join(&text, Some(&file), Timings::default()), serve).await;
        let joined = joined.unwrap();
        assert_eq!((joined.name.as_str(), joined.address), ("nas1", proxy.address()));
        let hello = accepted.put.hello.unwrap();
        assert!(accepted.put.credentials == Credentials::Join("CQkJCQkJCQkJCQkJCQkJCQ".into()));

        let read = File::load(Some(&file)).unwrap();
        assert_eq!(read.instance, Some(hello.instance));
        let token_file = read.sections[0].1.token_file.clone().unwrap();
        let token = fs::read_to_string(&token_file).unwrap();
        assert_eq!(hello.register, Some(sha256(token.trim().as_bytes())));
        for path in [&file, &token_file] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(folder.path().join("conf")).unwrap().count(), 2);
        assert!(!fs::read_to_string(&file).unwrap().contains(token.trim()));

        let flags = Options { root: Some(folder.path().to_owned()), ..Options::default() };
        let settings = settle(&flags, &read).unwrap();
        assert_eq!(settings.name, "nas1");
        assert_eq!(settings.instance, hello.instance);
        assert!(matches!(&settings.proxies[0].trust, Trust::Pins(pins) if pins == &[proxy.pin]));
        assert_eq!(settings.proxies[0].token.as_ref().unwrap().secret(), token.trim());
    });
}

#[test]
fn failed_join_writes_nothing() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    let file = folder.path().join("conf/agent.conf");
    let join = |text: String| {
        let file = file.clone();
        async move { join(&text, Some(&file), Timings::default()).await.unwrap_err() }
    };
    block_on(async {
        let text = code(&proxy, &[proxy.address()]).encode();
        let refuse = async { proxy.accept().await.unwrap().refuse(403, None).await };
        let (error, ()) = zip(join(text.clone()), refuse).await;
        assert!(error.to_string().contains("used, expired"), "{error}");

        let mut wrong = code(&proxy, &[proxy.address()]);
        wrong.pins = vec![[1; 32]];
        let (error, accepted) = zip(join(wrong.encode()), proxy.accept()).await;
        assert!(error.to_string().contains("no pin matches"), "{error}");
        assert!(accepted.is_err());

        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = join(code(&proxy, &[closed.to_string()]).encode()).await;
        assert!(matches!(error, JoinError::Dial(..)), "{error}");

        assert!(matches!(join("nonsense".to_owned()).await, JoinError::Code(_)));
        let mut mistyped = text.into_bytes();
        let last = mistyped.len() - 1;
        mistyped[last] = if mistyped[last] == b'a' { b'b' } else { b'a' };
        let error = join(String::from_utf8(mistyped).unwrap()).await;
        assert!(matches!(error, JoinError::Code(_)), "{error}");
    });
    assert!(folder.names().is_empty());
}

#[test]
fn existing_configuration_is_kept_and_a_wrong_one_is_not_touched() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    let file = folder.write("agent.conf", "# mine\nnonsense 1\n");
    let text = code(&proxy, &[proxy.address()]).encode();
    block_on(async {
        let error = join(&text, Some(&file), Timings::default()).await.unwrap_err();
        assert!(error.to_string().contains("agent.conf:2: unknown key nonsense"), "{error}");
        assert_eq!(folder.names(), ["agent.conf"]);

        fs::write(&file, "# mine\nroot /srv\ninstance 000102030405060708090a0b0c0d0e0f\n").unwrap();
        let serve = async {
            let mut accepted = proxy.accept().await.unwrap();
            accepted.answer(&established()).await;
            accepted.put.hello.unwrap().instance[15]
        };
        let (joined, last) = zip(join(&text, Some(&file), Timings::default()), serve).await;
        joined.unwrap();
        assert_eq!(last, 15);
        assert!(fs::read_to_string(&file).unwrap().starts_with("# mine\nroot /srv\n"));
    });
}

#[test]
fn two_configurations_of_one_folder_have_a_token_each() {
    let folder = Folder::new();
    let proxy = Proxy::new();
    let text = code(&proxy, &[proxy.address()]).encode();
    let files = ["a.conf", "b.conf"].map(|name| folder.path().join(name));
    let registered = files.each_ref().map(|file| {
        block_on(async {
            let serve = async {
                let mut accepted = proxy.accept().await.unwrap();
                accepted.answer(&established()).await;
                accepted.put.hello.unwrap().register.unwrap()
            };
            let (joined, registered) =
                zip(join(&text, Some(file), Timings::default()), serve).await;
            joined.unwrap();
            registered
        })
    });
    assert_ne!(registered[0], registered[1]);
    for (file, registered) in files.iter().zip(registered) {
        let read = File::load(Some(file)).unwrap();
        let token = fs::read_to_string(read.sections[0].1.token_file.as_ref().unwrap()).unwrap();
        assert_eq!(sha256(token.trim().as_bytes()), registered);
    }
}
