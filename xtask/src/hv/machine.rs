//! The emulated machine.

use anyhow::{Context, bail};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How a machine is started.
pub(super) struct Machine {
    pub(super) emulator: PathBuf,
    pub(super) hypervisor: PathBuf,
    /// The CPU's model.
    pub(super) cpu: String,
    /// CPUs, that of the manager included.
    pub(super) cpus: u32,
    pub(super) gibibytes: u32,
    /// Files, and where the loader puts them.
    pub(super) loaded: Vec<(PathBuf, u64)>,
    /// One instruction a nanosecond, one CPU at a time: exact counts.
    pub(super) counted: bool,
    pub(super) arguments: String,
    /// How long it may take.
    pub(super) limit: Duration,
    /// Whether what it prints is printed.
    pub(super) echo: bool,
}

/// What a machine came to.
pub(super) struct Ran {
    pub(super) lines: Vec<String>,
    /// The status that it powered off with.
    pub(super) status: i32,
}

impl Ran {
    /// What follows `start` in the first line that has it.
    pub(super) fn after(&self, start: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| Some(line.split_once(start)?.1.trim()))
    }

    /// An error with the last lines, unless it powered off well.
    pub(super) fn succeeded(&self) -> anyhow::Result<()> {
        if self.status == 0 {
            return Ok(());
        }
        let tail = self.lines.len().saturating_sub(12);
        bail!("the machine powered off with status {}:\n  {}", self.status, self.lines[tail..].join("\n  "))
    }
}

impl Machine {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.emulator);
        // No device that reads memory by itself: its addresses would be the machine's, not the guest's.
        command.args(["-M", "virt,virtualization=on,gic-version=3,highmem=off,its=off", "-cpu", &self.cpu]);
        command.args(["-smp", &self.cpus.to_string(), "-m", &format!("{}G", self.gibibytes)]);
        command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-monitor", "none"]);
        command.args(["-semihosting-config", "enable=on,target=native"]);
        if self.counted {
            command.args(["-icount", "shift=0"]);
        }
        for (file, address) in &self.loaded {
            command.args(["-device", &format!("loader,file={},addr={address:#x},force-raw=on", file.display())]);
        }
        command.arg("-kernel").arg(&self.hypervisor).args(["-append", &self.arguments]);
        command
    }

    /// Runs it until it powers off.
    pub(super) fn run(&self) -> anyhow::Result<Ran> {
        let mut child = self.command().stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("the emulator")?;
        let out = child.stdout.take().context("the emulator's output")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let (end, mut lines) = (Instant::now() + self.limit, Vec::new());
        loop {
            match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if self.echo {
                        println!("   {line}");
                    }
                    lines.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    child.kill()?;
                    child.wait()?;
                    let tail = lines.len().saturating_sub(12);
                    bail!("the machine did not power off in {:?}:\n  {}", self.limit, lines[tail..].join("\n  "));
                }
            }
        }
        let status = child.wait()?.code().unwrap_or(-1);
        Ok(Ran { lines, status })
    }
}
