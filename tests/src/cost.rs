//! What a running process costs: processor time and memory, as the kernel counts them.
//!
//! It reads `/proc`; it starts and judges nothing.

use std::{fs, io, time::Duration};

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
    /// The cost of one process.
    ///
    /// # Errors
    /// When the process is gone.
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

    /// The cost of a process and its children (not theirs), as for a server with workers.
    ///
    /// # Errors
    /// When one of them is gone.
    pub fn with_children(id: u32) -> io::Result<Self> {
        let mut cost = Self::of(id)?;
        for child in children(id)? {
            let child = Self::of(child)?;
            cost.cpu += child.cpu;
            cost.resident += child.resident;
            cost.resident_peak += child.resident_peak;
        }
        Ok(cost)
    }
}

fn children(parent: u32) -> io::Result<Vec<u32>> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    Ok(list.split_whitespace().filter_map(|id| id.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Instant};

    use super::*;
    use crate::fixture::{PATIENCE, Program};

    #[test]
    fn children_count_where_they_are_asked_for() {
        let script =
            "(i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 60) & echo on; wait";
        let program = Program::start("sh", Command::new("sh").args(["-c", script]));
        program.wait_for("its start", |line| (line == "on").then_some(()));
        let child = children(program.id()).unwrap()[0];
        let start = Instant::now();
        while Cost::of(child).unwrap().cpu < Duration::from_millis(20) {
            assert!(start.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        let (alone, both) =
            (Cost::of(program.id()).unwrap(), Cost::with_children(program.id()).unwrap());
        let id = rustix::process::Pid::from_raw(i32::try_from(child).unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
        assert!(both.cpu >= alone.cpu + Duration::from_millis(20));
        assert!(alone.resident > 100_000 && both.resident > alone.resident);
        assert!(alone.resident_peak >= alone.resident);
    }
}
