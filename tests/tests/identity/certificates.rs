//! Agents that are known by a certificate.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, HandshakeKind,
    client::{ResolvesClientCert, Resumption},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use spdy_protocol::handshake::Credentials;
use spdy_tests::{
    fixture::{Agent, Proxy, TempRoot, wait_until},
    observe::Debug,
    wire::tls::client_config,
};

use crate::{claim::Claim, scaled::ScaledProxy, served, wait_for_state, who};

/// An authority of a test, with its files.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempRoot,
}

/// An agent's certificate with its key.
struct Card {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
    serial: SerialNumber,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let folder = TempRoot::new();
        folder.write("ca.pem", params.self_signed(&key).unwrap().pem().as_bytes());
        Self { issuer: Issuer::new(params, key), folder }
    }

    fn issue(&self, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> Card {
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial.into());
        params.distinguished_name.push(DnType::CommonName, "nas1");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        let (certificate, pem) = (made.der().clone(), made.pem());
        Card { certificate, pem, key, serial: serial.into() }
    }

    fn revoke(&self, cards: &[&Card]) -> PathBuf {
        let revoked = cards.iter().map(|card| RevokedCertParams {
            serial_number: card.serial.clone(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        self.folder.write("crl.pem", list.pem().unwrap().as_bytes())
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }
}

impl Card {
    fn tls(&self) -> Arc<ClientConfig> {
        self.tls_with(&self.key)
    }

    /// Shows the certificate, whoever's key it is.
    fn tls_with(&self, key: &KeyPair) -> Arc<ClientConfig> {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = ring::sign::any_supported_type(&key).unwrap();
        let held = CertifiedKey::new(vec![self.certificate.clone()], key);
        let mut config = client_config().unwrap();
        config.client_auth_cert_resolver = Arc::new(Shown(Arc::new(held)));
        config.resumption = Resumption::in_memory_sessions(8);
        Arc::new(config)
    }
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The status of a handshake, or 0 where TLS refused it.
fn status(proxy: &Proxy, name: &str, tls: &Arc<ClientConfig>) -> u16 {
    let offered = Claim::new(name, Credentials::None).offer_by(proxy.tunnel, tls);
    offered.map_or(0, |offered| offered.status())
}

#[test]
fn certificate_lets_in_whom_it_names_and_nobody_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    let proxy = Proxy::start(&["--client-ca", &authority.path("ca.pem")]);
    let by_name = authority.issue(1, |_| {});
    assert_eq!(status(&proxy, "nas1", &by_name.tls()), 200);
    assert_eq!(status(&proxy, "nas2", &by_name.tls()), 403);
    let by_dns = authority.issue(2, |params| {
        params.subject_alt_names = ["nas2", "anonymous"]
            .map(|name| rcgen::SanType::DnsName(name.try_into().unwrap()))
            .into();
    });
    assert_eq!(status(&proxy, "nas2", &by_dns.tls()), 200);
    assert_eq!(status(&proxy, "nas1", &by_dns.tls()), 403);
    assert_eq!(status(&proxy, "anonymous", &by_dns.tls()), 403);
    // The right certificate with another key, and others' certificates.
    assert_eq!(status(&proxy, "nas1", &by_name.tls_with(&by_dns.key)), 0);
    assert_eq!(status(&proxy, "nas1", &other.issue(1, |_| {}).tls()), 0);
    let expired = authority.issue(3, |params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(status(&proxy, "nas1", &expired.tls()), 0);
    let none = Arc::new(client_config().unwrap());
    assert_eq!(status(&proxy, "nas1", &none), 401);
    // Tokens stay good beside it.
    let claim = Claim::joined(&proxy, "nas3", "token");
    assert_eq!(claim.offer(proxy.tunnel).status(), 200);
    // Nobody visits what has no rule yet.
    wait_for_state(&proxy, "nas1", "away access=locked");
    let _ = proxy.tell(&["access", "nas1", "open"]);
    wait_for_state(&proxy, "nas1", "away access=open");
}

#[test]
fn listed_certificate_is_cut_and_no_resumption_brings_it_back() {
    let authority = Authority::new();
    let (good, listed) = (
        authority.issue(1, |_| {}),
        authority.issue(2, |params| {
            params.distinguished_name.push(DnType::CommonName, "nas2");
        }),
    );
    let crl = authority.revoke(&[]);
    let (ca, crl) = (authority.path("ca.pem"), crl.to_str().unwrap().to_owned());
    let proxy = Proxy::start(&["--client-ca", &ca, "--client-crl", &crl]);
    let (good, tls) = (good.tls(), listed.tls());
    let claim = Claim::new("nas2", Credentials::None);
    let mut held = claim.offer_by(proxy.tunnel, &tls).unwrap();
    let staying = Claim::new("nas1", Credentials::None).offer_by(proxy.tunnel, &good).unwrap();
    assert_eq!((held.status(), staying.status()), (200, 200));
    wait_for_state(&proxy, "nas2", "connected");
    authority.revoke(&[&listed]);
    // The proxy reads again what it was told of.
    let _ = proxy.tell(&["access", "nas2", "open"]);
    assert!(held.is_sent_away());
    wait_for_state(&proxy, "nas2", "away");
    assert!(claim.offer_by(proxy.tunnel, &tls).is_err());
    wait_for_state(&proxy, "nas1", "connected");
    // There is nothing to be resumed by, of the good one either.
    let again = Claim { epoch: 2, ..Claim::new("nas1", Credentials::None) };
    let again = again.offer_by(proxy.tunnel, &good).unwrap();
    assert_eq!((again.status(), again.tls), (200, HandshakeKind::Full));
    // A list that cannot be read changes nothing.
    fs::write(&crl, "garbage").unwrap();
    let mut command = std::process::Command::new(spdy_tests::fixture::binary("spdy-proxy"));
    command.args(["access", "nas1", "open", "--state-dir"]).arg(proxy.state_dir());
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    assert!(claim.offer_by(proxy.tunnel, &tls).is_err());
    drop((held, staying));
    wait_until("the good one is left", || Debug::of(proxy.http).total("tunnels_now") == 1);
}

#[test]
fn list_that_changes_is_found_without_being_told() {
    let authority = Authority::new();
    let card = authority.issue(1, |_| {});
    let crl = authority.revoke(&[]);
    let proxy = ScaledProxy::start(|settings| {
        settings.client_ca = Some(authority.path("ca.pem").into());
        settings.client_crl = Some(crl);
        settings.timings.files = Duration::from_millis(50);
    });
    let claim = Claim::new("nas1", Credentials::None);
    let mut held = claim.offer_by(proxy.tunnel, &card.tls()).unwrap();
    assert_eq!(held.status(), 200);
    authority.revoke(&[&card]);
    assert!(held.is_sent_away());
    assert!(claim.offer_by(proxy.tunnel, &card.tls()).is_err());
}

#[test]
fn revoked_name_needs_another_certificate_and_to_be_paired() {
    let authority = Authority::new();
    let proxy = Proxy::start(&["--client-ca", &authority.path("ca.pem")]);
    let (stolen, new) = (authority.issue(1, |_| {}), authority.issue(2, |_| {}));
    let claim = Claim::new("nas1", Credentials::None);
    let mut held = claim.offer_by(proxy.tunnel, &stolen.tls()).unwrap();
    wait_for_state(&proxy, "nas1", "connected");
    let _ = proxy.tell(&["revoke", "nas1"]);
    assert!(held.is_sent_away());
    for card in [&stolen, &new] {
        assert_eq!(status(&proxy, "nas1", &card.tls()), 403);
    }
    let _code = proxy.pair("nas1");
    assert_eq!(status(&proxy, "nas1", &stolen.tls()), 403);
    assert_eq!(status(&proxy, "nas1", &new.tls()), 200);
}

#[test]
fn agent_shows_its_certificate_to_the_proxy_that_it_trusts() {
    let authority = Authority::new();
    let ca = authority.path("ca.pem");
    let proxy = Proxy::start(&["--client-ca", &ca]);
    let root = served("by certificate");
    let card = authority.issue(1, |_| {});
    let certificate = authority.folder.write("nas1.pem", card.pem.as_bytes());
    let key = authority.folder.write("nas1-key.pem", card.key.serialize_pem().as_bytes());
    let pin = proxy.tell(&["key", "list"]);
    let pin = pin.trim().strip_prefix("active ").unwrap();
    let address = proxy.tunnel.to_string();
    let args = |pin| {
        let root = root.path().to_str().unwrap();
        let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
        ["-r", root, "--proxy", &address, "--pin", pin, "--name", "nas1", "--cert", certificate]
            .into_iter()
            .chain(["--key", key, "-s"])
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let agent = Agent::start(&args(pin));
    proxy.wait_for_tunnel("nas1");
    let _ = proxy.tell(&["access", "nas1", "open"]);
    assert_eq!(who(&proxy), "by certificate");
    let said = agent.program().text() + &proxy.program().text();
    assert!(
        !card.key.serialize_pem().lines().filter(|line| line.len() > 40).any(|l| said.contains(l))
    );
    let _ = proxy.tell(&["revoke", "nas1"]);
    agent.program().wait_for("why", |line| {
        (line.contains("403") && line.contains("the certificate is revoked")).then_some(())
    });
}

#[test]
fn authority_that_cannot_be_read_is_named() {
    let authority = Authority::new();
    let ca = authority.path("ca.pem");
    let garbage = authority.folder.write("garbage", b"garbage").to_str().unwrap().to_owned();
    for (flags, named) in [
        (vec!["--client-ca", "/nonexistent/ca.pem"], "/nonexistent/ca.pem"),
        (vec!["--client-ca", &garbage], garbage.as_str()),
        (vec!["--client-ca", &ca, "--client-crl", &garbage], garbage.as_str()),
        (vec!["--client-ca", &ca, "--client-crl", &ca], ca.as_str()),
    ] {
        let state = TempRoot::new();
        let mut command = std::process::Command::new(spdy_tests::fixture::binary("spdy-proxy"));
        command.args(["--listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0"]);
        let output = command.args(flags).arg("--state-dir").arg(state.path()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(named) && text.lines().count() == 1, "{text}");
    }
}
