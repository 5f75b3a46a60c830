//! Processes, the cores they run on, and what they use.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
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

/// A process that ends when it is dropped.
pub(crate) struct Process {
    child: Child,
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

    /// Seconds of processor time that all its threads have used.
    pub(crate) fn cpu(&self) -> f64 {
        let stat = self.proc("stat");
        // The name may hold anything; what follows its parenthesis is numbers.
        let (_, numbers) = stat.rsplit_once(')').expect("a name");
        let ticks = numbers.split_whitespace().skip(11).take(2);
        ticks.map(number).sum::<f64>() * TICK
    }

    /// MiB of memory that it has.
    pub(crate) fn memory(&self) -> f64 {
        let status = self.proc("status");
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next())
            .map(number);
        kib.expect("a number of KiB") / 1024.0
    }

    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(path).expect("the process runs")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
