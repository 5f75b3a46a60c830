//! Programs in Python, for what only a real client or server of somebody else's can show. What they
//! need is installed once, beside what the build makes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::deadline::soon;

/// A Python with everything that a program needs.
pub(crate) struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// The one called `name`, with what `requirements` lists. Made when it is missing, by whichever
    /// test comes first; the others wait for it.
    ///
    /// # Panics
    /// When it cannot be made: what it shows would otherwise be shown by nobody.
    pub(crate) async fn with(name: &'static str, requirements: &'static str) -> Self {
        let making = tokio::task::spawn_blocking(move || Self::make(name, requirements));
        making.await.unwrap()
    }

    fn make(name: &str, requirements: &str) -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let tools = target.join("test-tools");
        std::fs::create_dir_all(&tools).unwrap();
        let lock = File::create(tools.join(format!("{name}.lock"))).unwrap();
        lock.lock().unwrap();
        let folder = tools.join(name);
        let interpreter = folder.join("bin/python");
        // Written last, so that what was begun and not finished is made anew.
        let stamp = folder.join("complete.txt");
        if std::fs::read_to_string(&stamp).is_ok_and(|there| there == requirements) {
            return Self { interpreter };
        }
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
        let list = folder.join("requirements.txt");
        std::fs::write(&list, requirements).unwrap();
        run(Command::new(&interpreter)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(["--only-binary", ":all:", "--requirement"])
            .arg(&list));
        std::fs::write(&stamp, requirements).unwrap();
        Self { interpreter }
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> PathBuf {
        // Below it, `bin/python`.
        self.interpreter.ancestors().nth(2).unwrap().to_owned()
    }

    /// Starts a program of the folder `tests`.
    pub(crate) fn start(&self, program: &str, args: &[&str]) -> Talker {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests")
            .join(program);
        let mut child = tokio::process::Command::new(&self.interpreter)
            .arg(path)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Talker {
            program: program.to_owned(),
            commands: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A program that answers each line of JSON with a line of JSON.
pub(crate) struct Talker {
    program: String,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Talker {
    /// What it says next.
    pub(crate) async fn hear(&mut self) -> Value {
        let line = soon("a line of an answer", self.answers.next_line()).await;
        let line = line
            .unwrap()
            .unwrap_or_else(|| panic!("{} ended", self.program));
        serde_json::from_str(&line).unwrap()
    }

    /// Tells it something, and waits for its answer.
    pub(crate) async fn ask(&mut self, command: Value) -> Value {
        let line = format!("{command}\n");
        self.commands.write_all(line.as_bytes()).await.unwrap();
        self.commands.flush().await.unwrap();
        self.hear().await
    }

    /// Ends it without a word.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}
