//! A model found that joining could be refused while a worker borrowed the last free place to empty it.

mod common;

use common::*;
use slat::vm::{Budget, Config, Vcpu, Vm, Worker};
use std::sync::{Arc, Mutex};

#[test]
fn a_place_that_is_only_borrowed_is_waited_for() {
    let config = Config { vcpus: 1, workers: 2, ..Config::default() };
    let format = slat::format::Arm64::new(40).unwrap();
    let vm = Arc::new(Vm::new(TestHost::new(), format, config).unwrap());
    let mut worker = Worker::new(vm.clone()).unwrap();
    worker.create_slot(slat::host::SlotId(0), slot(0, BLOCK)).unwrap();
    vm.host().translate_with(|_, request| {
        slat::host::Translation::Run(slat::host::Run { largest: slat::addr::Level::PAGE, ..run(request) })
    });
    let mut guest = vcpu(&vm, 0);
    assert!(matches!(guest.fault(gpa(0), slat::host::Access::Write), slat::vm::Outcome::Mapped { .. }));
    let mut other = Worker::new(vm.clone()).unwrap();
    assert!(other.unmap(range(0, BLOCK), Budget::UNLIMITED).unwrap().is_done());
    drop(other); // its place is free, and has something in it

    // While `worker` borrows the place and takes the subtree apart, another thread joins.
    let joining = Arc::new(Mutex::new(None));
    let (thread, target) = (joining.clone(), vm.clone());
    set_hook(move |op| {
        if op != Op::Words {
            return true; // until a table of the subtree is looked at
        }
        let target = target.clone();
        *thread.lock().unwrap() = Some(std::thread::spawn(move || Worker::new(target).map(drop)));
        false
    });
    assert_eq!(worker.reclaim(Budget::UNLIMITED).awaiting, 0);
    let thread = joining.lock().unwrap().take().expect("a subtree was taken apart");
    assert_eq!(thread.join().unwrap(), Ok(()));
    drop((guest, worker));
    let _ = Vcpu::new(vm.clone(), slat::host::VcpuId(0)).unwrap();
}
