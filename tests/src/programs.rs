//! Programs that tests and the bench start: their output line by line, their end, their cost.
//!
//! It starts `spdy-proxy` and `spdy-agent` as an operator does (pair, join, run) and reads what
//! they print; it never looks inside. Each program is ended by its own id when its handle drops.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A program that runs, with its standard error (and output) read line by line.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    lines: Arc<Lines>,
}

impl Program {
    /// Starts `program` with `arguments`, without standard input.
    ///
    /// # Errors
    /// When it cannot be started; the message names the program.
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::spawn(command)
    }

    /// Starts what `command` describes; its three streams are replaced.
    ///
    /// # Errors
    /// When it cannot be started; the message names the program.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        let lines = Arc::new(Lines::default());
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as Box<_>),
            child.stderr.take().map(|stream| Box::new(stream) as Box<_>),
        ];
        lines.lock().open = streams.len();
        for stream in streams.into_iter().flatten() {
            let lines = lines.clone();
            thread::spawn(move || lines.read(stream));
        }
        Ok(Self { name, child, lines })
    }

    /// Id of the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that `wanted` accepts, from the start of the output, and returns what it
    /// made of it.
    ///
    /// # Errors
    /// `TimedOut` after `limit`, `UnexpectedEof` when the program ended its output before; both
    /// show the output so far.
    pub fn wait_for<T>(
        &self,
        limit: Duration,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> io::Result<T> {
        let end = Instant::now() + limit;
        let mut state = self.lines.lock();
        loop {
            if let Some(found) = state.lines.iter().find_map(|line| wanted(line)) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.open == 0 || left.is_zero() {
                let kind = if left.is_zero() {
                    io::ErrorKind::TimedOut
                } else {
                    io::ErrorKind::UnexpectedEof
                };
                let output = state.lines.make_contiguous().join("\n");
                let text = format!("{}: no such line in its output:\n{output}", self.name);
                return Err(io::Error::new(kind, text));
            }
            state = self
                .lines
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for `listening on ADDRESS KIND`, which both programs print per port.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn listening(&self, kind: &str) -> io::Result<SocketAddr> {
        self.wait_for(START, |line| {
            let (_, rest) = line.split_once("listening on ")?;
            let (address, found) = rest.split_once(' ')?;
            if found.split_whitespace().next() == Some(kind) { address.parse().ok() } else { None }
        })
    }

    /// The last lines of the output (at most [`LINES`]).
    #[must_use]
    pub fn output(&self) -> String {
        self.lines.lock().lines.make_contiguous().join("\n")
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(id.ok_or(io::ErrorKind::NotFound)?, signal)?)
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// `TimedOut` after `limit`.
    pub fn wait(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                let text = format!("{} does not end:\n{}", self.name, self.output());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            // The end of a process cannot be awaited with a limit in std.
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, then [`wait`](Self::wait).
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn stop(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// What the process and its children have cost so far.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cost(&self) -> io::Result<Cost> {
        let mut cost = Cost::of(self.id())?;
        for child in children(self.id())? {
            let child = Cost::of(child)?;
            cost.cpu += child.cpu;
            cost.resident += child.resident;
            cost.resident_peak += child.resident_peak;
        }
        Ok(cost)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A program with children (nginx) ends them on SIGTERM, not on SIGKILL.
            let ended = self.stop(GRACE);
            if ended.is_err() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

/// Processor time and memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// User and system time of all its threads, in steps of a clock tick (10 ms).
    pub cpu: Duration,
    /// Resident memory now, in octets.
    pub resident: u64,
    /// Largest resident memory so far, in octets.
    pub resident_peak: u64,
}

impl Cost {
    /// Reads the cost of a process from `/proc`.
    ///
    /// # Errors
    /// When the process is gone or the files have another form.
    pub fn of(id: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The second field is the name in brackets and may hold anything.
        let fields = stat.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?.1;
        let mut ticks = fields.split_whitespace().skip(11).map_while(|field| field.parse().ok());
        let ticks: u64 = ticks.next().unwrap_or(0) + ticks.next().unwrap_or(0);
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let kib = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Ok(Self {
            cpu: Duration::from_nanos(ticks * 1_000_000_000 / per_second),
            resident: kib("VmRSS:") << 10,
            resident_peak: kib("VmHWM:") << 10,
        })
    }
}

fn children(parent: u32) -> io::Result<Vec<u32>> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    Ok(list.split_whitespace().filter_map(|id| id.parse().ok()).collect())
}

/// The two programs, wherever they were built.
#[derive(Clone, Debug)]
pub struct Builds {
    /// Path of `spdy-proxy`.
    pub proxy: PathBuf,
    /// Path of `spdy-agent`.
    pub agent: PathBuf,
}

impl Builds {
    /// The programs of the build that this program belongs to.
    ///
    /// # Errors
    /// `NotFound` when they were not built: `cargo build` in the workspace first.
    pub fn beside() -> io::Result<Self> {
        let own = std::env::current_exe()?;
        // target/PROFILE/bench, target/PROFILE/deps/test-0123
        let profile = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
        let profile = profile.ok_or(io::ErrorKind::NotFound)?;
        Self { proxy: profile.join("spdy-proxy"), agent: profile.join("spdy-agent") }.checked()
    }

    /// The programs as shipped: the proxy of profile `release`, the agent of profile `nas`.
    ///
    /// # Errors
    /// `NotFound` when they were not built; `make bench` builds them.
    pub fn shipped() -> io::Result<Self> {
        let own = std::env::current_exe()?;
        let target = own.ancestors().find(|folder| folder.join("release").is_dir());
        let target = target.ok_or(io::ErrorKind::NotFound)?;
        let agent = target.join("nas").join("spdy-agent");
        Self { proxy: target.join("release").join("spdy-proxy"), agent }.checked()
    }

    fn checked(self) -> io::Result<Self> {
        for path in [&self.proxy, &self.agent] {
            if !path.is_file() {
                let text = format!("{} is not built", path.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, text));
            }
        }
        Ok(self)
    }
}

/// A proxy that runs with a state folder of its own, on ports that the kernel chose.
#[derive(Debug)]
pub struct Proxy {
    /// The running program.
    pub program: Program,
    /// Where HTTP clients connect.
    pub http: SocketAddr,
    /// Where agents connect.
    pub tunnel: SocketAddr,
    build: PathBuf,
    state: PathBuf,
}

impl Proxy {
    /// Starts a proxy; `state` is made. `arguments` come after those for ports and state.
    ///
    /// # Errors
    /// When it does not listen within 20 s.
    pub fn start(builds: &Builds, state: &Path, arguments: &[&str]) -> io::Result<Self> {
        fs::create_dir_all(state)?;
        let mut command = Command::new(&builds.proxy);
        command.args(["--listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0", "--state-dir"]);
        command.arg(state).args(arguments);
        let program = Program::spawn(command)?;
        let http = program.listening("http").or_else(|error| match error.kind() {
            io::ErrorKind::TimedOut => program.listening("https"),
            _ => Err(error),
        })?;
        let tunnel = program.listening("tunnel")?;
        Ok(Self { program, http, tunnel, build: builds.proxy.clone(), state: state.to_owned() })
    }

    /// `spdy-proxy pair`: a join code for `name` that leads to `address`.
    ///
    /// # Errors
    /// When the program fails or prints nothing.
    pub fn pair(&self, name: &str, address: SocketAddr) -> io::Result<String> {
        let mut command = Command::new(&self.build);
        command.args(["pair", name, "--address", &address.to_string()]);
        command.arg("--state-dir").arg(&self.state);
        let output = finished(command, "")?;
        let code = output.lines().last().map(str::trim).filter(|line| !line.is_empty());
        code.map(str::to_owned).ok_or_else(|| io::Error::other("pair printed no join code"))
    }
}

/// `spdy-agent join`: writes the configuration. The code goes through standard input.
///
/// # Errors
/// When the program fails; the message has its output.
pub fn join(builds: &Builds, code: &str, config: &Path) -> io::Result<()> {
    let mut command = Command::new(&builds.agent);
    command.args(["join", "--config"]).arg(config);
    finished(command, &format!("{code}\n")).map(drop)
}

/// Starts an agent that serves `root` with a configuration that [`join`] wrote.
///
/// # Errors
/// When it cannot be started. Whether its tunnel is up is seen at the proxy.
pub fn agent(
    builds: &Builds,
    root: &Path,
    config: &Path,
    arguments: &[&str],
) -> io::Result<Program> {
    let mut command = Command::new(&builds.agent);
    command.arg("-r").arg(root).arg("--config").arg(config).args(arguments);
    Program::spawn(command)
}

/// Runs a command to its end with `input` and returns its standard output.
///
/// # Errors
/// When it fails; the message has its standard error.
pub fn finished(mut command: Command, input: &str) -> io::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // A program that does not read its input may have ended already.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{name}: {}: {said}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A folder that is removed with its contents when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A fresh folder below the system's place for temporary files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn fresh(name: &str) -> io::Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = format!("spdy-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(own);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the place for temporary files is emptied.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug, Default)]
struct Lines {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<String>,
    /// Streams that are not at their end.
    open: usize,
}

impl Lines {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, stream: Box<dyn Read + Send>) {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|octets| octets > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            let mut state = self.lock();
            if state.lines.len() == LINES {
                state.lines.pop_front();
            }
            state.lines.push_back(text);
            self.changed.notify_all();
        }
        self.lock().open -= 1;
        self.changed.notify_all();
    }
}

/// Lines of output that are kept.
pub const LINES: usize = 10_000;
/// How long a program may take until it listens.
const START: Duration = Duration::from_secs(20);
/// How long a program may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::start(Path::new("/bin/sh"), ["-c", script]).unwrap()
    }

    #[test]
    fn the_port_of_each_kind_is_read_from_the_output() {
        let program = shell(
            "echo 'listening on 127.0.0.1:1443 http' >&2
             echo 'level=info listening on [::1]:1444 tunnel' >&2; exec sleep 60",
        );
        assert_eq!(program.listening("tunnel").unwrap(), "[::1]:1444".parse().unwrap());
        assert_eq!(program.listening("http").unwrap(), "127.0.0.1:1443".parse().unwrap());
    }

    #[test]
    fn a_program_that_ends_without_the_line_is_an_error_with_its_output() {
        let program = shell("echo no such folder >&2; exit 64");
        let error = program.listening("http").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("no such folder"));
    }

    #[test]
    fn cost_counts_processor_time_and_memory_of_children_too() {
        let program = shell("(while :; do :; done) & echo ready; wait");
        program.wait_for(START, |line| (line == "ready").then_some(())).unwrap();
        let start = Instant::now();
        while program.cost().unwrap().cpu < Duration::from_millis(50) {
            assert!(start.elapsed() < START);
            thread::yield_now();
        }
        assert!(program.cost().unwrap().resident > 100_000);
        let child = children(program.id()).unwrap()[0];
        kill_process(Pid::from_raw(i32::try_from(child).unwrap()).unwrap(), Signal::KILL).unwrap();
    }

    #[test]
    fn a_failed_command_shows_what_it_said() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read line; echo \"got $line\" >&2; exit 3"]);
        let error = finished(command, "code\n").unwrap_err();
        assert!(error.to_string().contains("got code"));
    }
}
