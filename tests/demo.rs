//! `portolan demo`: what its guide says can be tried, and what is left when it ends: nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output};

use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::harness::portolan::{Log, command_in, replace, spawn, stderr, stdout};
use crate::harness::{Ask, eventually, fetch, get, soon};

/// A demo that runs, on ports of the system's choice.
struct Demo {
    child: Child,
    out: Log,
    err: Log,
    home: TempDir,
    proxy: SocketAddr,
    admin: SocketAddr,
    switchboard: SocketAddr,
}

const CLOUDS: [&str; 3] = ["aws-virginia", "gcp-iowa", "azure-netherlands"];

impl Demo {
    async fn start() -> Self {
        let home = TempDir::new().unwrap();
        let folder = home.path().join("demo");
        let any = ["--port", "0", "--admin-port", "0", "--clouds-port", "0"];
        let folder_args = ["--folder", folder.to_str().unwrap()];
        let (mut child, out, err) = spawn(&[&["demo"], &any[..], &folder_args].concat());
        eventually("the guide is printed", async || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", err.text());
            }
            out.text().contains("Ctrl-C stops everything").then_some(())
        })
        .await;
        let text = out.text();
        let address = |before: &str| -> SocketAddr {
            let (_, rest) = text
                .split_once(before)
                .unwrap_or_else(|| panic!("no {before}: {text}"));
            let end = rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ':')));
            rest[..end.unwrap_or(rest.len())]
                .trim_end_matches(['.', ','])
                .parse()
                .unwrap()
        };
        Self {
            proxy: address("Portolan serves on http://"),
            admin: address("its admin API on http://"),
            switchboard: address("curl -X POST http://"),
            child,
            out,
            err,
            home,
        }
    }

    fn config(&self) -> PathBuf {
        self.home.path().join("demo/portolan.yaml")
    }

    /// The commands that stand below a heading of the guide.
    fn commands(&self, heading: &str) -> Vec<String> {
        let text = self.out.text();
        let (_, guide) = text.split_once("Try, in another terminal:").unwrap();
        let mut lines = guide.lines().skip_while(|line| !line.contains(heading));
        assert!(lines.next().is_some(), "no `{heading}`: {guide}");
        let commands = lines.take_while(|line| line.starts_with("    "));
        commands.map(|line| line.trim().to_owned()).collect()
    }

    /// Runs what stands below a heading, as somebody would who copies it; what each line printed.
    async fn try_out(&self, heading: &str) -> Vec<String> {
        let mut printed = Vec::new();
        for line in self.commands(heading) {
            let output = shell(self.home.path(), &line).await;
            assert!(output.status.success(), "{line}: {}", stderr(&output));
            printed.push(stdout(&output));
        }
        assert!(!printed.is_empty(), "{heading}");
        printed
    }

    async fn status(&self) -> Value {
        fetch(self.admin, "/api/v1/status").await.json()
    }

    async fn wait_for_pool(&self, pool: &str, up: bool) {
        eventually(&format!("{pool} is up: {up}"), async || {
            let entry = get(self.admin, &format!("/api/v1/pools/{pool}"))
                .await
                .ok()?
                .json();
            (entry["up"] == up).then_some(())
        })
        .await;
    }

    /// How many of so many answers come from each cloud, in the order of [`CLOUDS`].
    async fn answers(&self, count: usize) -> [usize; 3] {
        let mut from = [0; 3];
        for _ in 0..count {
            let text = fetch(self.proxy, "/").await.text();
            let cloud = CLOUDS
                .iter()
                .position(|cloud| text.starts_with(&format!("pretend {cloud},")));
            from[cloud.unwrap_or_else(|| panic!("who is this? {text}"))] += 1;
        }
        from
    }

    /// Ends it, and checks that nothing is left.
    async fn end(mut self, signal: Signal) -> ExitStatus {
        let listening: Vec<SocketAddr> = {
            let clouds = fetch(self.switchboard, "/").await.json();
            let endpoints = clouds
                .as_object()
                .unwrap()
                .values()
                .flat_map(|e| e.as_array().unwrap());
            let addresses = endpoints.map(|e| e["address"].as_str().unwrap().parse().unwrap());
            addresses
                .chain([self.proxy, self.admin, self.switchboard])
                .collect()
        };
        assert_eq!(listening.len(), 9);
        let own = self.child.id();
        assert!(
            children(std::process::id()).contains(&own),
            "are children seen at all?"
        );
        assert_eq!(children(own), Vec::<u32>::new());
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        let status = eventually("it ends", async || self.child.try_wait().unwrap()).await;
        for address in listening {
            assert!(
                TcpStream::connect(address).await.is_err(),
                "{address} still listens"
            );
        }
        assert!(!self.err.text().contains("panicked"), "{}", self.err.text());
        // All that it leaves stands in the folder it was given.
        let left: Vec<_> = std::fs::read_dir(self.home.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["demo"]);
        status
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("=== the demo said:\n{}", self.err.text());
        }
    }
}

/// The processes that a process has started and that are still there.
fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let path = task.unwrap().path().join("children");
        // A thread may end while it is looked at.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        found.extend(
            text.split_whitespace()
                .map(|pid| pid.parse::<u32>().unwrap()),
        );
    }
    found
}

/// Runs a line in a shell, with as little of the environment as somebody's terminal has.
async fn shell(folder: &Path, line: &str) -> Output {
    let running = tokio::process::Command::new("sh")
        .args(["-c", line])
        .current_dir(folder)
        .env_remove("PORTOLAN_ADMIN")
        .env_remove("PORTOLAN_TOKEN")
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY")
        .env_remove("all_proxy")
        .env_remove("ALL_PROXY")
        .kill_on_drop(true)
        .output();
    soon(line, running).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_it_is_and_how_to_play() {
    let demo = Demo::start().await;
    let text = demo.out.text();
    assert!(
        text.starts_with("Three pretend clouds run on this machine."),
        "{text}"
    );
    assert!(
        text.contains(&demo.config().display().to_string()),
        "{text}"
    );
    // The file that it prints is the one it wrote.
    let written = std::fs::read_to_string(demo.config()).unwrap();
    for line in written.lines().filter(|line| !line.is_empty()) {
        assert!(text.contains(&format!("    {line}\n")), "{line}: {text}");
    }
    let clouds = fetch(demo.switchboard, "/").await.json();
    for cloud in CLOUDS {
        assert_eq!(clouds[cloud].as_array().unwrap().len(), 2, "{cloud}");
        assert!(clouds[cloud][0]["alive"].as_bool().unwrap(), "{cloud}");
        for endpoint in clouds[cloud].as_array().unwrap() {
            let address: SocketAddr = endpoint["address"].as_str().unwrap().parse().unwrap();
            assert!(address.ip().is_loopback(), "{address}");
            let said = fetch(address, "/").await.text();
            assert!(
                said.starts_with(&format!("pretend {cloud}, endpoint ")),
                "{said}"
            );
        }
    }
    for address in [demo.proxy, demo.admin, demo.switchboard] {
        assert!(address.ip().is_loopback(), "{address}");
    }
    // The file is a good one, also for somebody who starts from it.
    let checked = command_in(
        demo.home.path(),
        &["check", "--config", "demo/portolan.yaml"],
    )
    .await;
    assert!(
        stdout(&checked).starts_with(
            "demo/portolan.yaml: fine, and its 2 tests hold
"
        ),
        "{} {}",
        stdout(&checked),
        stderr(&checked)
    );
    assert!(demo.end(Signal::SIGINT).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_shows_who_answers_and_why() {
    let demo = Demo::start().await;
    let once = &demo.try_out("Ask once").await[0];
    assert!(once.starts_with("HTTP/1.1 200"), "{once}");
    for header in [
        "x-portolan-pool: ",
        "x-portolan-endpoint: ",
        "x-portolan-why: ",
        "x-portolan-config: ",
    ] {
        assert!(once.to_lowercase().contains(header), "{header}: {once}");
    }

    let hundred = &demo.try_out("Ask a hundred times").await[0];
    let counts: Vec<(u32, &str)> = hundred
        .lines()
        .map(|line| line.trim().split_once(' ').unwrap())
        .map(|(count, cloud)| (count.parse().unwrap(), cloud))
        .collect();
    let all: u32 = counts.iter().map(|(count, _)| count).sum();
    assert_eq!(all, 100, "{hundred}");
    for (count, cloud) in counts {
        let expected = match cloud {
            "pretend aws-virginia" => 70,
            "pretend gcp-iowa" => 30,
            _ => panic!("{hundred}"),
        };
        assert!(count.abs_diff(expected) <= 1, "{hundred}");
    }

    let german = demo.try_out("Ask as somebody in Germany").await;
    assert!(
        german[0].starts_with("pretend azure-netherlands, endpoint "),
        "{german:?}"
    );
    assert!(
        german[1].contains("DE") && german[1].contains("azure-netherlands"),
        "{german:?}"
    );
    assert!(demo.end(Signal::SIGTERM).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn clouds_die_and_come_back() {
    let demo = Demo::start().await;
    let commands = demo.commands("Kill a cloud");
    let [kill, pools, revive] = commands.as_slice() else {
        panic!("{commands:?}");
    };
    let run = async |line: &str| {
        let output = shell(demo.home.path(), line).await;
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(run(kill).await, "aws-virginia is dead\n");
    // Nobody has to wait for a verdict: what is not answered is asked elsewhere.
    assert_eq!(demo.answers(20).await, [0, 20, 0]);
    demo.wait_for_pool("aws-virginia", false).await;
    let table = run(pools).await;
    let row = table
        .lines()
        .find(|line| line.starts_with("aws-virginia"))
        .unwrap();
    assert!(row.contains("down"), "{table}");
    // Iowa and the Netherlands, when Iowa is gone too.
    let said = Ask::new(Method::POST, "/gcp-iowa/kill")
        .to(demo.switchboard)
        .await
        .unwrap();
    assert_eq!(said.text(), "gcp-iowa is dead\n");
    demo.wait_for_pool("gcp-iowa", false).await;
    assert_eq!(demo.answers(10).await, [0, 0, 10]);
    assert_eq!(run(revive).await, "aws-virginia is back\n");
    Ask::new(Method::POST, "/gcp-iowa/revive")
        .to(demo.switchboard)
        .await
        .unwrap();
    demo.wait_for_pool("aws-virginia", true).await;
    demo.wait_for_pool("gcp-iowa", true).await;
    eventually("all of it is back", async || {
        let entry = get(demo.admin, "/api/v1/pools/aws-virginia")
            .await
            .ok()?
            .json();
        (entry["healthy"] == 2).then_some(())
    })
    .await;
    let [aws, gcp, azure] = demo.answers(100).await;
    assert!(
        aws.abs_diff(70) <= 2 && gcp.abs_diff(30) <= 2 && azure == 0,
        "{aws} {gcp} {azure}"
    );
    assert!(demo.end(Signal::SIGINT).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn single_endpoints_break_and_slow_down() {
    let demo = Demo::start().await;
    let commands = demo.commands("Break or slow down one endpoint only");
    let [fail, slow, revive] = commands.as_slice() else {
        panic!("{commands:?}");
    };
    let clouds = async || fetch(demo.switchboard, "/").await.json();
    let run = async |line: &str| {
        let output = shell(demo.home.path(), line).await;
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        stdout(&output)
    };
    let usual = clouds().await["gcp-iowa"][1]["latency_ms"].clone();
    assert_eq!(run(fail).await, "gcp-iowa/1 answers 503 to everything\n");
    assert_eq!(run(slow).await, "gcp-iowa/2 takes 250 ms\n");
    let now = clouds().await;
    assert_eq!(
        (
            &now["gcp-iowa"][0]["failing"],
            &now["gcp-iowa"][1]["failing"]
        ),
        (&true.into(), &false.into())
    );
    assert_eq!(now["gcp-iowa"][1]["latency_ms"], 250);
    eventually("the broken one is noticed", async || {
        let entry = get(demo.admin, "/api/v1/pools/gcp-iowa").await.ok()?.json();
        (entry["healthy"] == 1 && entry["endpoints"][0]["health"] == "unhealthy").then_some(())
    })
    .await;
    // Half a pool carries 70% of what is asked of it; all of it is still answered, and well.
    for _ in 0..20 {
        assert_eq!(fetch(demo.proxy, "/").await.status, 200);
    }
    assert_eq!(run(revive).await, "gcp-iowa is back\n");
    let now = clouds().await;
    assert_eq!(now["gcp-iowa"][0]["failing"], false);
    assert_eq!(now["gcp-iowa"][1]["latency_ms"], usual);

    for (path, status) in [
        ("/nowhere/kill", 404),
        ("/gcp-iowa/3/kill", 404),
        ("/gcp-iowa/0/kill", 404),
        ("/gcp-iowa/explode", 400),
    ] {
        let answer = Ask::new(Method::POST, path)
            .to(demo.switchboard)
            .await
            .unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    // Looking changes nothing.
    assert_eq!(fetch(demo.switchboard, "/gcp-iowa/kill").await.status, 405);
    assert!(demo.end(Signal::SIGINT).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_are_followed_and_mistakes_are_not() {
    let demo = Demo::start().await;
    assert_eq!(demo.answers(10).await[2], 0);
    let hash = demo.status().await["config"]["hash"].clone();
    demo.try_out("Edit the weights and save").await;
    eventually("the weights are applied", async || {
        let status = demo.status().await;
        (status["config"]["hash"] != hash).then_some(())
    })
    .await;
    let [aws, gcp, _] = demo.answers(100).await;
    assert!(
        aws.abs_diff(10) <= 1 && gcp.abs_diff(90) <= 1,
        "{aws} {gcp}"
    );
    let edited = demo.status().await["config"]["hash"].clone();

    let good = std::fs::read_to_string(demo.config()).unwrap();
    demo.try_out("Break the file and save").await;
    eventually("the mistake is noticed", async || {
        let status = demo.status().await;
        (status["config"]["last_reload"]["outcome"] == "refused").then_some(())
    })
    .await;
    // What the guide lets people look at says what is wrong.
    let commands = demo.commands("Break the file and save");
    let said = stdout(&shell(demo.home.path(), commands.last().unwrap()).await);
    assert!(
        said.contains("refused") && said.contains("us-esat-1"),
        "{said}"
    );
    let status = demo.status().await;
    assert_eq!(status["config"]["hash"], edited);
    let [aws, gcp, _] = demo.answers(100).await;
    assert!(
        aws.abs_diff(10) <= 1 && gcp.abs_diff(90) <= 1,
        "{aws} {gcp}"
    );

    // Mended, and steered as before.
    replace(
        &demo.config(),
        &good.replace("10, gcp-iowa: 90", "50, gcp-iowa: 50"),
    );
    eventually("the mended file is applied", async || {
        let status = demo.status().await;
        (status["config"]["last_reload"]["outcome"] == "applied").then_some(())
    })
    .await;
    let [aws, gcp, _] = demo.answers(100).await;
    assert!(
        aws.abs_diff(50) <= 1 && gcp.abs_diff(50) <= 1,
        "{aws} {gcp}"
    );
    // Reloading keeps the port that the system chose.
    assert_eq!(fetch(demo.proxy, "/").await.status, 200);
    assert!(demo.end(Signal::SIGTERM).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_can_be_used_again_and_others_files_are_left_alone() {
    let demo = Demo::start().await;
    let config = demo.config();
    let before = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        before.replace("70, gcp-iowa: 30", "60, gcp-iowa: 40"),
    )
    .unwrap();
    let home = TempDir::new().unwrap();
    let own = home.path().join("portolan.yaml");
    std::fs::write(&own, "pools: {}\n").unwrap();
    let args = [
        "demo",
        "--port",
        "0",
        "--admin-port",
        "0",
        "--clouds-port",
        "0",
        "--folder",
        ".",
    ];
    let refused = command_in(home.path(), &args).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(
        said.contains("not written by the demo") && said.contains("--folder"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "pools: {}\n");

    // Its own file it writes anew, edits or not.
    let folder = config.parent().unwrap().to_str().unwrap().to_owned();
    let (mut child, out, err) = spawn(&[&args[..8], &[&folder]].concat());
    eventually("it runs a second time", async || {
        out.text().contains("Ctrl-C stops everything").then_some(())
    })
    .await;
    assert!(
        std::fs::read_to_string(&config)
            .unwrap()
            .contains("70, gcp-iowa: 30"),
        "{}",
        err.text()
    );
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    assert!(
        eventually("it ends", async || child.try_wait().unwrap())
            .await
            .success()
    );
    assert!(demo.end(Signal::SIGINT).await.success());
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flag in ["--port", "--admin-port", "--clouds-port"] {
        let home = TempDir::new().unwrap();
        let mut args = vec!["demo", "--folder", "demo"];
        for each in ["--port", "--admin-port", "--clouds-port"] {
            args.extend([each, if each == flag { &port } else { "0" }]);
        }
        let output = command_in(home.path(), &args).await;
        assert_eq!(output.status.code(), Some(1), "{flag}");
        let said = stderr(&output);
        assert!(
            said.contains(&format!("127.0.0.1:{port}")),
            "{flag}: {said}"
        );
        assert!(!stdout(&output).contains("Ctrl-C"), "{flag}");
    }
}
