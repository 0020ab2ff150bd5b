//! Time, and what disturbs it: the thread's CPU time, ticks, involuntary context switches, and the choice of CPUs.

use std::time::{Duration, Instant};

/// The CPU time that the calling thread has used.
pub(crate) fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(answer, 0, "threads have CPU clocks");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How often the calling thread was interrupted for another one.
pub(crate) fn interruptions() -> i64 {
    usage().ru_nivcsw
}

/// How often the calling thread went to sleep.
pub(crate) fn sleeps() -> i64 {
    usage().ru_nvcsw
}

fn usage() -> libc::rusage {
    // SAFETY: all zeroes are a value of this plain record, and it is a valid place for the answer.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    }
}

/// How many interrupts this CPU has taken, of all kinds; 0 where the system does not say.
pub(crate) fn interrupts(cpu: usize) -> u64 {
    let table = std::fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let name = format!("CPU{cpu}");
    let Some(column) = table.lines().next().and_then(|head| head.split_whitespace().position(|cpu| cpu == name)) else {
        return 0;
    };
    let counts = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(column + 1)?.parse::<u64>().ok());
    counts.sum()
}

/// A tick counter that is cheap enough to be read around every fault.
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the counter.
    return unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// Nanoseconds a tick, by watching both clocks for a while.
pub(crate) fn tick_length() -> f64 {
    let (start, first) = (Instant::now(), ticks());
    while start.elapsed() < Duration::from_millis(100) {}
    start.elapsed().as_nanos() as f64 / (ticks() - first) as f64
}

/// Two CPUs of this process that are not two threads of one core, if there are such; else the same one twice.
pub(crate) fn two_cpus() -> [usize; 2] {
    let cpus = allowed_cpus();
    let first = cpus[0];
    let second = cpus.iter().copied().find(|&cpu| cpu != first && !siblings(first).contains(&cpu));
    [first, second.unwrap_or(first)]
}

fn allowed_cpus() -> Vec<usize> {
    // SAFETY: all zeroes are an empty set, a valid place for the answer; the bits asked for lie inside it.
    let cpus: Vec<usize> = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
    };
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// The CPUs that share a core with this one, as the system lists them: `0,8` or `0-1`.
fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let list = std::fs::read_to_string(path).unwrap_or_default();
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// Keeps the calling thread on this CPU.
pub(crate) fn pin(cpu: usize) {
    // SAFETY: all zeroes are an empty set, and `cpu` is one that the system has named.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}
