//! Work for several CPUs at once. CPU 0 hands it out; the others sleep until there is some.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::cpu::CPUS;
use crate::lock::Lock;
use crate::{firmware, interrupts};

/// What a CPU does, told its number among those that do it.
type Work<'w> = dyn Fn(usize) + Sync + 'w;

struct Job {
    work: *const Work<'static>,
    number: usize,
}

// SAFETY: the work may be shared, and outlives the job: `run` waits for its end.
unsafe impl Send for Job {}

static SEATS: [Lock<Option<Job>>; CPUS] = [const { Lock::new(None) }; CPUS];
/// CPUs that are at work.
static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// Turns CPUs 1 to `members` on.
pub(crate) fn assemble(members: usize) {
    for cpu in 1..=members {
        firmware::turn_on(cpu).unwrap_or_else(|error| panic!("CPU {cpu} does not start: {error:#x}"));
    }
}

/// What CPUs 1 and up do for ever.
pub(crate) fn serve(cpu: usize) -> ! {
    loop {
        let job = SEATS[cpu].lock().take();
        match job {
            Some(Job { work, number }) => {
                // SAFETY: `run` keeps the work alive until all members are done with it.
                unsafe { (*work)(number) };
                AT_WORK.fetch_sub(1, Ordering::AcqRel);
                interrupts::call(0);
            }
            None => interrupts::sleep(),
        }
    }
}

/// Has `members` CPUs do `work`, while this one does `beside`. Returns when all have come to their ends.
pub(crate) fn run<T>(members: usize, work: &Work<'_>, beside: impl FnOnce() -> T) -> T {
    let work = core::ptr::from_ref(work);
    // SAFETY: only the lifetime changes, and this function does not return while anybody uses the pointer; a panic ends
    // the machine.
    let work = unsafe { core::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
    AT_WORK.store(members, Ordering::Release);
    for number in 0..members {
        *SEATS[number + 1].lock() = Some(Job { work, number });
        interrupts::call(number + 1);
    }
    let value = beside();
    while AT_WORK.load(Ordering::Acquire) != 0 {
        interrupts::sleep();
    }
    value
}
