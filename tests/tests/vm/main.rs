//! The agent's package on an arm64 Debian with systemd, from installation to purge.
//!
//! The proxy is the program of this build on this machine; the NAS is a [`Machine`] that dials it
//! through QEMU's user network. `make test-vm` makes what it needs and names it in the environment:
//! `VM_IMAGE`, a folder of `tests/qemu/image`; `VM_DEB` and `VM_NEWER_DEB`, the agent's package and
//! one of a higher version.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, with its line")]

mod machine;
mod shell;

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use spdy_tests::{
    fixture::{Proxy, TempRoot, wait_within},
    http::Request,
    observe::Debug,
    source::workspace,
};

use crate::machine::{Machine, PATIENCE};

#[test]
#[ignore = "boots a virtual machine: make test-vm"]
fn package_serves_a_home_and_survives_what_a_nas_meets() {
    let [image, deb, newer] = ["VM_IMAGE", "VM_DEB", "VM_NEWER_DEB"].map(|name| {
        PathBuf::from(env::var_os(name).unwrap_or_else(|| panic!("no {name}: use make test-vm")))
    });
    let mut nas = Nas::boot(&image, &deb, &newer);
    nas.step("install", Nas::install);
    nas.step("join", Nas::join);
    nas.step("budgets", Nas::keeps_its_budgets);
    nas.step("told", Nas::tells_how_it_is);
    nas.step("private", Nas::shares_what_only_its_user_may_read);
    nas.step("restart", Nas::restart);
    nas.step("proxy restart", Nas::proxy_restarts);
    nas.step("network cut", Nas::network_cut);
    nas.step("hung", Nas::hangs);
    nas.step("power cut", Nas::power_cut);
    nas.step("upgrade", Nas::upgrade);
    nas.step("secrets", Nas::no_secret_is_told);
    nas.step("purge", Nas::purge);
    nas.shut_down();
}

#[test]
fn scripts_of_the_machine_are_sound() {
    let folder = workspace().join("tests/qemu");
    let scripts = ["run", "image", "finish", "init", "guest/usr/local/sbin/spdy-shell"];
    for script in scripts.map(|name| folder.join(name)) {
        let checked = Command::new("bash").arg("-n").arg(&script).status().unwrap();
        assert!(checked.success(), "{}", script.display());
        match Command::new("shellcheck").arg(&script).output() {
            Ok(said) => assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout)),
            Err(error) => spdy_tests::skip::skipped_part(format_args!("no shellcheck: {error}")),
        }
    }
}

/// The NAS, its proxy and what is known of both.
struct Nas {
    machine: Machine,
    proxy: Option<Proxy>,
    state: TempRoot,
    http: SocketAddr,
    tunnel: SocketAddr,
    /// Names of the packages in the payload.
    deb: String,
    newer: String,
    /// SHA-256 of the film, and of what nobody else may read.
    film: String,
    diary: String,
    /// What must not stand in any log.
    secrets: Vec<String>,
    /// What there was before the installation.
    before: String,
}

impl Nas {
    fn boot(image: &Path, deb: &Path, newer: &Path) -> Self {
        let begin = Instant::now();
        let state = TempRoot::new();
        let proxy = Proxy::start_in(state.path(), &[]);
        let mut machine = Machine::boot(image, &[deb.to_owned(), newer.to_owned()]);
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        // A user as useradd makes one, with a home that nobody else may enter.
        machine.run("useradd --create-home --shell /bin/bash maria && chmod 700 /home/maria");
        machine.run("install -d -o maria -g maria /home/maria/Films");
        let film = machine.run(
            "cd /home/maria/Films && head -c 3000000 /dev/urandom >film.mp4 &&
             chown maria: film.mp4 && sha256sum <film.mp4 | cut -d' ' -f1",
        );
        let diary = machine.run(
            "cd /home/maria && install -d -o maria -g maria -m 700 Diary &&
             echo 'dear diary' | install -o maria -g maria -m 600 /dev/stdin Diary/today.txt &&
             sha256sum <Diary/today.txt | cut -d' ' -f1",
        );
        println!("{:<14} {:5.1} s", "boot", begin.elapsed().as_secs_f32());
        let (http, tunnel) = (proxy.http, proxy.tunnel);
        Self {
            machine,
            proxy: Some(proxy),
            state,
            http,
            tunnel,
            deb: name(deb),
            newer: name(newer),
            film: film.trim().to_owned(),
            diary: diary.trim().to_owned(),
            secrets: Vec::new(),
            before: String::new(),
        }
    }

    fn step(&mut self, name: &str, act: fn(&mut Self)) {
        let begin = Instant::now();
        self.machine.note(&format!("== {name}\n"));
        act(self);
        println!("{name:<14} {:5.1} s", begin.elapsed().as_secs_f32());
    }

    fn install(&mut self) {
        self.before = self.machine.run(FILES);
        let said = self.machine.run(&format!("dpkg -i /root/payload/{}", self.deb));
        assert!(said.contains("Setting up spdy-agent"), "{said}");
        // Nothing runs and nothing is wrong before it has joined.
        assert_eq!(self.property("ActiveState"), "inactive");
        assert_eq!(self.machine.run("systemctl is-system-running"), "running\n");
    }

    fn join(&mut self) {
        let address = format!("10.0.2.2:{}", self.tunnel.port());
        let code = self.proxy().pair_via("nas1", address.parse().unwrap());
        // As a user types it, without a line between `join` and the browser.
        self.machine.run(&format!("spdy-agent join {code} --share films=/home/maria/Films"));
        self.secrets.push(code);
        self.secrets.push(self.machine.run("cat /etc/spdy-agent/*.token").trim().to_owned());
        self.proxy().wait_for_tunnel("nas1");
        self.serves();
        assert_eq!(self.property("ActiveState"), "active");
        assert_eq!(self.machine.run("systemctl is-enabled spdy-agent"), "enabled\n");
        let part = Request { headers: &[("Range", "bytes=1000-1999")], ..Request::get(FILM) };
        let part = part.send(self.http).unwrap();
        assert_eq!((part.status, part.len), (206, 1000));
        let of_it = "tail -c +1001 /home/maria/Films/film.mp4 | head -c 1000 | sha256sum";
        assert!(self.machine.run(of_it).starts_with(&part.sha256));
        // Nothing was opened to others for it.
        assert_eq!(self.machine.run("stat -c %a:%U /home/maria"), "700:maria\n");
        let as_other = "setpriv --reuid nobody --regid nogroup --clear-groups ls /home/maria";
        assert_ne!(self.machine.try_run(as_other).status, 0);
    }

    fn keeps_its_budgets(&mut self) {
        let pid = self.pid();
        // Idle: threads that read the film end by themselves.
        self.wait_in_it(&format!("[ $(ls /proc/{pid}/task | wc -l) -le 2 ]"));
        let status = self.machine.run(&format!("cat /proc/{pid}/status"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let (resident, threads) = (field("VmRSS:") * 1024, field("Threads:"));
        let score = self.machine.run("systemd-analyze security --no-pager spdy-agent | tail -n 1");
        let score: f32 = score
            .split_whitespace()
            .find_map(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("{score}"));
        println!("  resident {resident}, threads {threads}, exposure {score}");
        assert!(resident <= 2_500_000, "{status}");
        assert!(threads <= 2, "{status}");
        assert!(score <= 1.5);
    }

    fn tells_how_it_is(&mut self) {
        let status = self.machine.run("spdy-agent status");
        assert!(status.contains("nas1") && status.contains("films"), "{status}");
        let doctor = self.machine.run("spdy-agent doctor");
        assert!(!doctor.contains("FAIL"), "{doctor}");
        println!("{}{}", indented(&status), indented(&doctor));
    }

    /// A folder of mode 700 with a file of mode 600.
    fn shares_what_only_its_user_may_read(&mut self) {
        self.machine.run("spdy-agent setup --share diary=/home/maria/Diary");
        until("the diary is served", || {
            let answer = Request::get("/diary/today.txt").send(self.http);
            answer.is_ok_and(|it| it.status == 200 && it.sha256 == self.diary)
        });
        self.serves();
    }

    fn restart(&mut self) {
        let before = self.pid();
        self.machine.run("systemctl restart spdy-agent");
        assert_ne!(self.pid(), before);
        self.serves();
    }

    fn proxy_restarts(&mut self) {
        let mut proxy = self.proxy.take().unwrap();
        proxy.program().terminate();
        proxy.program_mut().wait_exit(PATIENCE);
        let (http, tunnel) = (self.http.to_string(), self.tunnel.to_string());
        let ports = ["--listen", &http, "--tunnel-listen", &tunnel];
        self.proxy = Some(Proxy::start_in(self.state.path(), &ports));
        self.serves();
    }

    fn network_cut(&mut self) {
        let before = self.pid();
        self.machine.set_link(false);
        until("the proxy has missed the agent", || Debug::of(self.http).total("tunnels_now") == 0);
        assert_ne!(self.machine.try_run("spdy-agent status").status, 0);
        self.machine.set_link(true);
        self.serves();
        assert_eq!(self.pid(), before);
    }

    /// A process that does nothing any more is replaced by the watchdog.
    fn hangs(&mut self) {
        assert_eq!(self.property("WatchdogUSec"), "1min 30s");
        assert_ne!(self.property("WatchdogTimestampMonotonic"), "0");
        // In less time, until the next start of the system.
        self.machine.run(
            "mkdir -p /run/systemd/system/spdy-agent.service.d &&
             printf '[Service]\\nWatchdogSec=20\\nTimeoutAbortSec=5\\n' \
                 >/run/systemd/system/spdy-agent.service.d/vm.conf &&
             systemctl daemon-reload && systemctl restart spdy-agent",
        );
        let before = self.pid();
        self.serves();
        self.machine.run(&format!("kill -STOP {before}"));
        self.wait_in_it("[ $(systemctl show -P NRestarts spdy-agent) = 1 ]");
        self.serves();
        assert_eq!(self.property("NRestarts"), "1");
        assert_ne!(self.pid(), before);
    }

    fn power_cut(&mut self) {
        self.machine.power_cut();
        self.serves();
        assert_eq!(self.machine.run("systemctl is-system-running"), "running\n");
    }

    fn upgrade(&mut self) {
        let (before, kept) = (self.pid(), self.machine.run(CONFIGURATION));
        self.machine.run(&format!("dpkg -i /root/payload/{}", self.newer));
        let version = self.machine.run("dpkg-query -W -f '${Version}' spdy-agent");
        assert!(self.newer.contains(&version), "{version}");
        assert_ne!(self.pid(), before);
        assert_eq!(self.machine.run(CONFIGURATION), kept);
        self.serves();
    }

    fn no_secret_is_told(&mut self) {
        let mut told = self.machine.run("journalctl --no-pager --output=export --all");
        assert!(told.contains("event=tunnel_up"), "the journal is not that of the agent");
        let pid = self.pid();
        told += &self.machine.run(&format!(
            "spdy-agent status --json; systemctl show spdy-agent
             cat /proc/{pid}/environ /proc/{pid}/cmdline",
        ));
        for secret in &self.secrets {
            assert!(!told.contains(secret), "a secret is in the journal or the status");
        }
    }

    fn purge(&mut self) {
        self.machine.run("dpkg --remove spdy-agent");
        assert_eq!(self.property("ActiveState"), "inactive");
        // A package that is removed keeps what its user wrote; one that is purged does not.
        self.machine.run("test -e /etc/spdy-agent/agent.conf && test ! -e /usr/bin/spdy-agent");
        self.machine.run("dpkg --purge spdy-agent");
        let after = self.machine.run(FILES);
        let (before, after): (Vec<_>, Vec<_>) =
            (self.before.lines().collect(), after.lines().collect());
        let lines = |of: &[&str], without: &[&str]| -> Vec<String> {
            of.iter().filter(|line| !without.contains(line)).map(|line| (*line).into()).collect()
        };
        assert_eq!(
            (lines(&after, &before), lines(&before, &after)),
            (vec![], vec![]),
            "more, less"
        );
        assert_eq!(self.machine.run("systemctl is-system-running"), "running\n");
    }

    fn shut_down(mut self) {
        let peak = self.machine.shut_down();
        println!("memory of QEMU {} MiB", peak >> 20);
    }

    /// Waits until a visitor gets the film as it is.
    fn serves(&self) {
        until("the film is served", || self.served());
    }

    fn served(&self) -> bool {
        let answer = Request::get(FILM).send(self.http);
        answer.is_ok_and(|answer| {
            assert!(answer.status != 200 || answer.sha256 == self.film, "another film: {answer:?}");
            answer.status == 200
        })
    }

    /// Waits until a command succeeds in the machine.
    fn wait_in_it(&mut self, command: &str) {
        let limit = PATIENCE.as_secs() / 2;
        self.machine.run(&format!("timeout {limit} bash -c 'until {command}; do sleep 0.5; done'"));
    }

    fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().unwrap()
    }

    fn pid(&mut self) -> String {
        self.property("MainPID")
    }

    fn property(&mut self, name: &str) -> String {
        self.machine.run(&format!("systemctl show -P {name} spdy-agent")).trim().to_owned()
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    wait_within(PATIENCE, Duration::from_millis(200), what, is_so);
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

const FILM: &str = "/films/film.mp4";

const CONFIGURATION: &str = "cat /etc/spdy-agent/*";

/// Every file, its kind, owner and mode, and who there is; not what the system writes by itself.
const FILES: &str = r"
    find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/tmp \
        -o -path /var/log -o -path /var/lib/dpkg -o -path /var/cache -o -path /var/lib/systemd \) \
        -prune -o ! -name '*-' -printf '%p %y %m %u %g\n' | sort
    cat /etc/passwd /etc/group";
