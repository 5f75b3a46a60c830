//! Processes, the cores they run on, and what they use.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// The unit of times in `/proc`: a hundredth of a second wherever Linux runs.
const TICK: f64 = 0.01;

/// A core for the proxy, and another one for everybody else.
pub(crate) struct Cores {
    all: CpuSet,
    first: Option<[CpuSet; 2]>,
}

impl Cores {
    /// Of the cores that this program may use, the first two; none are set apart if there is only
    /// one.
    pub(crate) fn share_out() -> Self {
        let all = sched_getaffinity(Pid::from_raw(0)).expect("the cores of this process");
        let mut usable = (0..CpuSet::count()).filter(|core| all.is_set(*core).unwrap_or(false));
        let mut alone = || {
            let mut set = CpuSet::new();
            set.set(usable.next()?).ok()?;
            Some(set)
        };
        let first = alone().zip(alone()).map(|(proxy, others)| [proxy, others]);
        Self { all, first }
    }

    pub(crate) fn proxy(&self) -> &CpuSet {
        self.first.as_ref().map_or(&self.all, |[proxy, _]| proxy)
    }

    pub(crate) fn others(&self) -> &CpuSet {
        self.first.as_ref().map_or(&self.all, |[_, others]| others)
    }
}

/// A process that ends when it is dropped, and those that it began with it.
pub(crate) struct Process {
    pub(crate) child: Child,
    said: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it on these cores.
    pub(crate) fn start(command: &mut Command, cores: &CpuSet) -> Self {
        // A process begins with the cores of the thread that starts it.
        let this = Pid::from_raw(0);
        let own = sched_getaffinity(this).expect("the cores of this thread");
        sched_setaffinity(this, cores).expect("cores that this process may use");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        sched_setaffinity(this, &own).expect("the cores of before");
        let said = child.stdout.take().expect("its output is ours to read");
        Self {
            child,
            said: BufReader::new(said),
        }
    }

    /// The next line that it says.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.said.read_line(&mut line).expect("its output");
        assert!(read > 0, "it ended too early");
        line.trim_end().to_owned()
    }

    /// It and all that it began, and that these began: masters have workers.
    pub(crate) fn family(&self) -> Vec<u32> {
        family(self.child.id())
    }

    /// Seconds of processor time that all their threads have used, with those that have ended.
    pub(crate) fn cpu(&self) -> f64 {
        let family = self.family().into_iter().filter_map(numbers);
        let ticks = family.map(|numbers| numbers[11..15].iter().sum::<f64>());
        ticks.sum::<f64>() * TICK
    }

    /// MiB of memory that they have; what several share is counted for each.
    pub(crate) fn memory(&self) -> f64 {
        let family = self.family().into_iter();
        let kib = family.filter_map(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let mut lines = status.lines();
            // One that has just ended has none.
            lines.find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .split_whitespace()
                    .next()
                    .map(number)
            })
        });
        kib.sum::<f64>() / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let signal = |pid: u32, signal| {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        };
        // Who is stopped begins nobody new while the others are looked for.
        signal(self.child.id(), Signal::SIGSTOP);
        let family = self.family();
        for pid in &family {
            signal(*pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
        for orphan in &family[1..] {
            // Ours to wait for only if this process takes in orphans.
            let _ = waitpid(Pid::from_raw(orphan.cast_signed()), None);
        }
    }
}

/// A process, those that it began, and those that these began.
pub(crate) fn family(oldest: u32) -> Vec<u32> {
    let mut parents = HashMap::new();
    for entry in std::fs::read_dir("/proc").expect("this is Linux").flatten() {
        let pid = entry.file_name().to_str().and_then(|pid| pid.parse().ok());
        if let Some(pid) = pid
            && let Some(parent) = numbers(pid).and_then(|numbers| numbers.get(1).copied())
        {
            parents.insert(pid, parent as u32);
        }
    }
    let mut family = vec![oldest];
    let mut at = 0;
    while let Some(pid) = family.get(at).copied() {
        let children = parents.iter().filter(|(_, parent)| **parent == pid);
        family.extend(children.map(|(child, _)| *child));
        at += 1;
    }
    family
}

/// The numbers in a process's `stat` that follow its name, the first of them 0 for its state.
fn numbers(pid: u32) -> Option<Vec<f64>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; what follows its parenthesis is a letter, and numbers.
    let (_, numbers) = stat.rsplit_once(')')?;
    let numbers = numbers.split_whitespace();
    Some(numbers.map(|text| text.parse().unwrap_or(0.0)).collect())
}

/// Seconds of processor time that the whole machine has used.
pub(crate) fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").expect("this is Linux");
    let all = stat.lines().next().expect("a first line");
    // user nice system idle iowait irq softirq steal
    let ticks: Vec<f64> = all.split_whitespace().skip(1).take(8).map(number).collect();
    (ticks.iter().sum::<f64>() - ticks[3] - ticks[4]) * TICK
}

fn number(text: &str) -> f64 {
    text.parse().expect("a number")
}
