//! What the kernel says of a process: CPU time, memory, descriptors; and which core it may run on.

use std::fs;
use std::io;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// What the kernel did not tell.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process is gone, or belongs to somebody else.
    #[error("cannot read {path}: does process {pid} still run, and as the same user?")]
    Read {
        /// The process.
        pid: u32,
        /// The file.
        path: String,
        /// What the system answered.
        source: io::Error,
    },
    /// A file of the kernel that does not look as documented.
    #[error("cannot understand {path}")]
    Understand {
        /// The file.
        path: String,
    },
    /// A core that this process may not use.
    #[error("cannot run on core {core} alone")]
    Pin {
        /// The core.
        core: usize,
        /// What the system answered.
        source: io::Error,
    },
}

fn read(pid: u32, path: String) -> Result<(String, String), Error> {
    match fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(Error::Read { pid, path, source }),
    }
}

/// The CPU time that all threads of a process that live now have used, in user space and in the kernel on its behalf.
///
/// Only `schedstat` counts in nanoseconds; `stat` counts in hundredths of a second.
///
/// # Errors
/// When the process is gone.
pub fn cpu_time(pid: u32) -> Result<Duration, Error> {
    let tasks = format!("/proc/{pid}/task");
    let failed = |source| Error::Read { pid, path: tasks.clone(), source };
    let mut nanoseconds = 0;
    for task in fs::read_dir(&tasks).map_err(failed)? {
        let path = task.map_err(failed)?.path().join("schedstat");
        // A thread that has ended since the directory was read takes its time with it.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let running = text.split_whitespace().next().and_then(|first| first.parse::<u64>().ok());
        nanoseconds +=
            running.ok_or_else(|| Error::Understand { path: path.to_string_lossy().into_owned() })?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The proportional set size of a process, in bytes: its own pages, and its share of those that it shares.
///
/// # Errors
/// When the process is gone.
pub fn memory(pid: u32) -> Result<u64, Error> {
    let (path, text) = read(pid, format!("/proc/{pid}/smaps_rollup"))?;
    field(&text, "Pss:").map(|kib| kib * 1024).ok_or(Error::Understand { path })
}

/// How many descriptors a process may open.
///
/// # Errors
/// When the process is gone.
pub fn descriptor_limit_of(pid: u32) -> Result<u64, Error> {
    let (path, text) = read(pid, format!("/proc/{pid}/limits"))?;
    match text.lines().find_map(|line| line.strip_prefix("Max open files")) {
        Some(line) => {
            Ok(line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(u64::MAX))
        }
        None => Err(Error::Understand { path }),
    }
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Raises this process's own descriptor limit as far as it may go, and returns it. Children inherit it.
pub fn descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// The cores that this thread may use.
pub fn cores() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// Keeps this thread, and threads and processes that it starts from now on, to one core.
///
/// # Errors
/// When there is no such core, or it is not ours to use.
pub fn pin(core: usize) -> Result<(), Error> {
    let mut set = CpuSet::new();
    if core < CpuSet::MAX_CPU {
        set.set(core);
    }
    sched_setaffinity(None, &set).map_err(|error| Error::Pin { core, source: error.into() })
}

/// What this machine is, for the head of a report: kernel, cores, processor.
pub fn machine() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!("Linux {}, {} cores, {model}", release.trim(), cores().len())
}

/// The first line of what a program says of its version, or `None` where it cannot be run.
pub fn version(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    // nginx tells its version on stderr.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    said.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fields_number_stands_after_its_name() {
        let text =
            "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:    1844 kB\nPss:     512 kB\nPss_Dirty: 7 kB\n";
        assert_eq!((field(text, "Pss:"), field(text, "Swap:")), (Some(512), None));
    }

    #[test]
    fn work_costs_cpu_time_and_memory() {
        let pid = std::process::id();
        let (before, small) = (cpu_time(pid).unwrap(), memory(pid).unwrap());
        let pages = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(cpu_time(pid).unwrap() > before);
        assert!(memory(pid).unwrap() > small + (32 << 20));
        drop(pages);
    }

    #[test]
    fn descriptors_of_this_process_are_those_that_it_raised() {
        let limit = descriptor_limit();
        assert_eq!(descriptor_limit_of(std::process::id()).unwrap(), limit);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(matches!(cpu_time(u32::MAX), Err(Error::Read { .. })));
        assert!(matches!(memory(u32::MAX), Err(Error::Read { .. })));
    }
}
