//! Guests that run beside a test until it is over, or until one of them fails.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::{Scope, ScopedJoinHandle};

use slat_machine::vcpu::RunnerCounts;

use super::common::{TestVcpu, TestVm, page_gpa, vcpu};

/// What a test and its guests share.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    over: AtomicBool,
    accesses: AtomicU64,
}

/// Ends the play when it is dropped, also by a panic: nobody waits for a thread that is gone.
pub(crate) struct Curtain<'s>(&'s Stage);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Relaxed);
    }
}

impl Stage {
    /// Ends the play at the end of the caller's scope.
    pub(crate) fn curtain(&self) -> Curtain<'_> {
        Curtain(self)
    }

    /// Starts guest number `id`, which repeats `act` until the play is over.
    pub(crate) fn guest<'scope, 'm: 'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        vm: &'scope TestVm<'m>,
        id: u32,
        mut act: impl FnMut(&mut TestVcpu<'scope, 'm>) + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, RunnerCounts> {
        scope.spawn(move || {
            let _curtain = self.curtain();
            let mut vcpu = vcpu(vm, id);
            while self.goes_on() {
                act(&mut vcpu);
                self.accesses.fetch_add(1, Relaxed);
            }
            vcpu.counts()
        })
    }

    /// Starts `vcpus` guests, each of which writes to every `stride`th of its own pages below `end`, and reads what it
    /// wrote, until the play is over.
    pub(crate) fn writers<'scope, 'm: 'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        vm: &'scope TestVm<'m>,
        (base, end): (u64, u64),
        (vcpus, stride): (u32, u64),
    ) {
        for id in 0..vcpus {
            let mut value = 0;
            self.guest(scope, vm, id, move |vcpu| {
                value += 1;
                let pages = || (u64::from(id)..end).step_by(vcpus as usize * stride as usize);
                pages().for_each(|page| vcpu.store(page_gpa(base, page), value).unwrap());
                pages().for_each(|page| assert_eq!(vcpu.load(page_gpa(base, page)), Ok(value)));
            });
        }
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.over.load(Relaxed)
    }

    /// Waits until `condition` holds, or until a guest has failed, which its own thread reports.
    pub(crate) fn wait_until(&self, condition: impl Fn() -> bool) {
        while self.goes_on() && !condition() {
            std::thread::yield_now();
        }
    }

    /// Waits until the guests have acted so often: what comes before anybody runs disturbs nobody.
    pub(crate) fn let_guests_act(&self, times: u64) {
        let before = self.accesses.load(Relaxed);
        self.wait_until(|| self.accesses.load(Relaxed) >= before + times);
    }
}
